"""Recordings small enough for every test: of a robot that is moved by hand, and of a loop that was live.

The live loop is the node's, on simulated time, with arrival times and latencies that vary; the recorder hears
everything at other times than the loop does. Nothing of `replay/` is used to make a recording.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rosbags.rosbag2 import StoragePlugin

from dreamzero_policy.data.bag_messages import CHUNK
from dreamzero_policy.evaluation.closed_loop import NodeParameters
from dreamzero_policy.evaluation.policies import SessionPolicy
from dreamzero_policy.inference.loading import Policy, load_policy
from dreamzero_policy.inference.sessions import Sessions
from dreamzero_policy.inference.worker_process import checkpoint_hash
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.replay.document import Results
from dreamzero_policy.replay.run import Model, Replay, ReplaySettings
from dreamzero_policy.runtime.chunk import Chunk
from dreamzero_policy.runtime.contract import Contract, load_contract, save_contract
from dreamzero_policy.runtime.embodiment import Embodiment, Quantiles, save_statistics
from dreamzero_policy.runtime.loop import Loop
from dreamzero_policy.runtime.loop_settings import LoopSettings
from dreamzero_policy.runtime.observation import NS_PER_S, ObservationBuffer
from dreamzero_policy.runtime.plan import Plan
from dreamzero_policy.runtime.trained import load_statistics

from ..data.conftest import HEIGHT_PX, WIDTH_PX, BagMaker

CONFIG = Path(__file__).parents[4] / "config"
BEGIN_NS = 100 * NS_PER_S


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def contract() -> Contract:
    """The shipped contract with cells of 16 x 8 pixels, on a site with cameras of 64 x 48."""
    shipped = load_contract(CONFIG / "agibot_g1.yaml")
    view = shipped.model.view.model_copy(update={"width_px": 16, "height_px": 8})
    size = {"width_px": WIDTH_PX, "height_px": HEIGHT_PX}
    cameras = {name: camera.model_copy(update=size) for name, camera in shipped.site.cameras.items()}
    return shipped.model_copy(
        update={
            "model": shipped.model.model_copy(update={"view": view}),
            "site": shipped.site.model_copy(update={"cameras": cameras}),
        }
    )


@pytest.fixture(scope="session")
def write_robot_checkpoint(
    small_config: ModelConfig, write_checkpoint: Callable[[ModelConfig, Path], Path], contract: Contract
) -> Callable[[Path, float], Path]:
    """Writes random weights whose relative actions reach so many radians in the arms."""
    shape = {"latent_channels": 8, "patch_size": 4, "latents_mean": (0.0,) * 8, "latents_std": (1.0,) * 8}
    config = replace(
        small_config,
        geometry=replace(small_config.geometry, actions_per_chunk=24, max_action_dim=32),
        transformer=replace(small_config.transformer, image_condition=False, num_layers=1, ffn_dim=32),
        autoencoder=replace(small_config.autoencoder, **shape),
    )

    def write(folder: Path, reach_rad: float) -> Path:
        write_checkpoint(config, folder)
        save_contract(contract, folder / "contract.yaml")
        reach = np.full(contract.model.action_width, 5e-4)
        reach[:14] = reach_rad
        state = np.full(len(contract.model.state_joints), 3.0)
        save_statistics(folder / "statistics.json", contract, Quantiles(-state, state), Quantiles(-reach, reach))
        return folder

    return write


@pytest.fixture(scope="session")
def checkpoint(write_robot_checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_robot_checkpoint(tmp_path_factory.mktemp("checkpoint"), 0.02)


@pytest.fixture(scope="session")
def policy(checkpoint: Path) -> Policy:
    return load_policy(checkpoint, threads=1)


@pytest.fixture(scope="session")
def embodiment(contract: Contract, checkpoint: Path) -> Embodiment:
    return Embodiment(contract, load_statistics(checkpoint, contract))


@pytest.fixture(scope="session")
def node() -> LoopSettings:
    """The shipped parameters of the node, with two denoising steps."""
    return replace(NodeParameters.load(CONFIG / "policy.yaml").loop, steps=2)


@pytest.fixture
def model(policy: Policy, embodiment: Embodiment, checkpoint: Path) -> Model:
    return Model(Sessions(policy), embodiment, checkpoint_hash(checkpoint))


@pytest.fixture
def play(model: Model, node: LoopSettings) -> Callable[..., dict]:
    """Replays a bag: settings by name, `settings_of_node`, `other`."""

    def play(bag: Path, settings_of_node: LoopSettings = node, other: Model | None = None, **settings: object) -> dict:
        with Results() as results:
            return Replay(model, settings_of_node, ReplaySettings(**settings), results, other).play(bag)

    return play


# What sensors say


@dataclass(frozen=True)
class Said:
    """One message: when it was stamped, when the loop heard it, when the recorder did."""

    stamp_ns: int
    heard_ns: int
    recorded_ns: int
    camera: str  # empty: a joint state
    content: object


def image(camera: int, step: int) -> np.ndarray:
    """Noise of its own for every camera and step."""
    return np.random.default_rng((camera, step)).integers(0, 256, (HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8)


def pose(contract: Contract, seconds: float) -> dict[str, float]:
    """Joint positions in the middle of their limits; the first arm joint moves by 0.05 rad a second."""
    limits = contract.site.limits
    positions = {joint: (limits[joint].lower + limits[joint].upper) / 2 for joint in contract.model.state_joints}
    positions[contract.model.state_joints[0]] += 0.05 * seconds
    return positions


def said(contract: Contract, seconds: float) -> list[Said]:
    """30 Hz images and 100 Hz joint states with jitter, in the order in which the loop hears them."""
    rng, found = np.random.default_rng(0), []

    def add(stamp_ns: int, camera: str, content: object) -> None:
        heard, recorded = (stamp_ns + int(rng.uniform(1e6, 6e6)) for _ in range(2))
        found.append(Said(stamp_ns, heard, recorded, camera, content))

    for i, camera in enumerate(contract.model.cameras):
        for step in range(int(seconds * 30)):
            add(BEGIN_NS + round(step * NS_PER_S / 30) + int(rng.uniform(-4e6, 4e6)), camera, image(i, step))
    for tick in range(int(seconds * 100)):
        stamp_ns = BEGIN_NS + tick * 10_000_000 + int(rng.uniform(-1e6, 1e6))
        add(stamp_ns, "", pose(contract, (stamp_ns - BEGIN_NS) / NS_PER_S))
    return sorted(found, key=lambda message: message.heard_ns)


def write_said(bag: BagMaker, messages: Sequence[Said]) -> None:
    """In the order of recording."""
    for message in sorted(messages, key=lambda message: message.recorded_ns):
        if message.camera:
            bag.image(message.camera, message.stamp_ns, message.content, message.recorded_ns - message.stamp_ns)
        else:
            bag.joints(message.stamp_ns, message.content, message.recorded_ns - message.stamp_ns)


@pytest.fixture(scope="session")
def guided(contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of a robot that is moved by something else, with an instruction beside."""
    folder = tmp_path_factory.mktemp("bags") / "guided"
    with BagMaker(folder, contract) as bag:
        write_said(bag, said(contract, 4.0))
    (folder / "instructions.txt").write_text("touch the cube\n")
    return folder


# A loop that is live


class VaryingPolicy(SessionPolicy):
    """Answers take from `shortest_s` to 60 ms longer."""

    shortest_s = 0.12

    def next_latency_ns(self) -> int:
        return round((self.shortest_s + 0.02 * (len(self.model_s) % 4)) * NS_PER_S)


class LiveWorld:
    """A world whose chunks and commands are written down."""

    def __init__(self, contract: Contract) -> None:
        self.contract, self.ns = contract, BEGIN_NS
        self.chunks: list[tuple[int, Chunk]] = []
        self.plans: list[tuple[int, Plan]] = []

    def now_ns(self) -> int:
        return self.ns

    def act(self, plan: Plan) -> None:
        self.plans.append((self.ns, plan))

    def show(self, chunk: Chunk) -> None:
        self.chunks.append((self.ns, chunk))

    def show_dream(self, chunk: Chunk, canvas: np.ndarray) -> None:
        pass


@dataclass(frozen=True, eq=False)
class LiveRecording:
    """What happened, to be written into a bag as it is or with a flaw."""

    contract: Contract
    checkpoint_hash: str
    messages: list[Said]
    world: LiveWorld

    def write(self, folder: Path, messages: Sequence[Said] | None = None, plugin=StoragePlugin.MCAP) -> Path:
        """The bag; `messages` in place of what the sensors said."""
        from rclpy.serialization import serialize_message

        from dreamzero_policy.ros.messages import chunk_message

        joints = self.contract.model.commanded_joints
        with BagMaker(folder, self.contract, plugin) as bag:
            write_said(bag, self.messages if messages is None else messages)
            for ns, plan in self.world.plans:
                for controller in self.contract.site.controllers:
                    columns = [joints.index(joint) for joint in controller.joints]
                    points = [
                        ((knot - ns) / NS_PER_S, position[columns], velocity[columns])
                        for knot, position, velocity in zip(plan.knots_ns, plan.positions, plan.velocities, strict=True)
                    ]
                    bag.trajectory(controller.name, ns + 1_500_000, controller.joints, points)
            for ns, chunk in self.world.chunks:
                data = serialize_message(chunk_message(chunk, joints, self.contract.hash, self.checkpoint_hash))
                bag.serialised("/policy_node/chunk", CHUNK, ns + 2_000_000, data)
        return folder


@pytest.fixture(scope="session")
def live(
    contract: Contract, embodiment: Embodiment, policy: Policy, checkpoint: Path, node: LoopSettings
) -> Callable[..., LiveRecording]:
    """Runs the node's loop: prompts by the second they are given at. `policy_of` makes a policy in place of the model's
    own from what tells the time."""
    pytest.importorskip("rclpy")
    digest = checkpoint_hash(checkpoint)

    def run(
        seconds: float,
        prompts: dict[float, str],
        settings: LoopSettings = node,
        robot: Embodiment = embodiment,
        model: Policy = policy,
        policy_of: Callable[[Callable[[], int]], VaryingPolicy] | None = None,
    ) -> LiveRecording:
        world = LiveWorld(robot.contract)
        sessions = VaryingPolicy(model, world.now_ns, 0) if policy_of is None else policy_of(world.now_ns)
        loop = Loop(robot, ObservationBuffer(robot), sessions, world, settings, session="live")
        messages, upcoming = said(robot.contract, seconds), dict(prompts)
        for message in messages:
            while sessions.due_ns is not None and sessions.due_ns <= message.heard_ns:
                world.ns = sessions.due_ns
                loop.advance()
            world.ns = message.heard_ns
            for at_s in [at_s for at_s in upcoming if BEGIN_NS + at_s * NS_PER_S <= world.ns]:
                loop.run(upcoming.pop(at_s))
            if message.camera:
                content = message.content
                loop.buffer.add_image(message.camera, message.stamp_ns, world.ns, lambda content=content: content)
            else:
                names, positions = list(message.content), list(message.content.values())
                loop.buffer.add_joint_state(message.stamp_ns, world.ns, names, positions)
            loop.advance()
        return LiveRecording(robot.contract, digest, messages, world)

    return run


@pytest.fixture(scope="session")
def recording(live: Callable[..., LiveRecording]) -> LiveRecording:
    """Two instructions, the second after 5 s: the window of the first is full once."""
    return live(8.0, {0.2: "touch the cube", 5.5: "lift the bowl"})


@pytest.fixture(scope="session")
def live_bag(recording: LiveRecording, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recording.write(tmp_path_factory.mktemp("bags") / "live")
