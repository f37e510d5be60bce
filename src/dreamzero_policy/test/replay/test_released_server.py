"""The loop with a server of the released protocol: it sees what the cameras gave, and its answers move the joints."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from dreamzero_policy.evaluation.closed_loop import NodeParameters
from dreamzero_policy.inference.protocol.official import Names
from dreamzero_policy.inference.remote.policy import RemotePolicy
from dreamzero_policy.inference.remote.roboarena import RoboArenaDialogue
from dreamzero_policy.inference.remote.settings import RemoteSettings
from dreamzero_policy.runtime.chunk import Verdict
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.loop import Loop
from dreamzero_policy.runtime.observation import NS_PER_S, ObservationBuffer
from dreamzero_policy.runtime.served import ServedEmbodiment

from ..data.conftest import HEIGHT_PX, WIDTH_PX
from ..inference.remote.released_server import CAMERAS, GRIPPER, JOINTS, ReleasedServer, released
from .conftest import CONFIG, LiveWorld, Said, said
from .test_served_parity import PATIENCE_S, ServedPolicy

SECONDS = 9.0


@pytest.fixture(scope="module")
def franka() -> Contract:
    """With cameras of the size that recordings for tests have."""
    contract = load_contract(CONFIG / "droid_franka.yaml")
    size = {"width_px": WIDTH_PX, "height_px": HEIGHT_PX, "rate_hz": 30.0}
    cameras = {name: camera.model_copy(update=size) for name, camera in contract.site.cameras.items()}
    return contract.model_copy(update={"site": contract.site.model_copy(update={"cameras": cameras})})


@pytest.fixture(scope="module")
def server() -> ReleasedServer:
    server = ReleasedServer()
    server.config["image_resolution"] = (HEIGHT_PX, WIDTH_PX)
    return server


@pytest.fixture(scope="module")
def run(server: ReleasedServer, franka: Contract) -> Iterator[tuple[LiveWorld, list[Said]]]:
    """Nine seconds of the loop, and what the sensors said in them."""
    with released(server) as address:
        settings = RemoteSettings(address, "official")
        remote = RemotePolicy(settings, lambda server: RoboArenaDialogue(server, franka))
        remote.wait_until_ready(PATIENCE_S)
        world, robot = LiveWorld(franka), ServedEmbodiment(franka, Names.of(franka.model, franka.site.roboarena).action)
        policy = ServedPolicy(remote, world.now_ns)
        node = replace(NodeParameters.load(CONFIG / "policy.yaml").loop, steps=1, max_plan_s=3.0)
        loop = Loop(robot, ObservationBuffer(robot), policy, world, node, session="live", sends_images=True)
        messages = said(franka, SECONDS)
        for message in messages:
            while policy.due_ns is not None and policy.due_ns <= message.heard_ns:
                world.ns = policy.due_ns
                loop.advance()
            world.ns = message.heard_ns
            if message.camera:
                content = message.content
                loop.buffer.add_image(message.camera, message.stamp_ns, world.ns, lambda content=content: content)
            else:
                names, positions = list(message.content), list(message.content.values())
                loop.buffer.add_joint_state(message.stamp_ns, world.ns, names, positions)
            if not loop.prompt and message.stamp_ns > messages[0].stamp_ns + NS_PER_S // 5:
                loop.run("Put the marker in the cup")
            loop.advance()
        yield world, messages
        remote.close()


def test_every_chunk_is_executed(run) -> None:
    world, _ = run
    verdicts = [chunk.verdict for _, chunk in world.chunks]
    assert len(verdicts) >= 4 and set(verdicts) == {Verdict.ACCEPTED}
    assert len(world.plans) >= len(verdicts)


def test_the_server_sees_the_very_images_of_the_block_and_the_state_of_its_instant(run, server, franka) -> None:
    world, messages = run
    pictures = {(m.camera, m.stamp_ns): m.content for m in messages if m.camera}
    requests = [request for request in server.requests if request["endpoint"] == "infer"]
    assert len(server.seen) == len(requests) >= len(world.chunks)
    for number, (_, chunk) in enumerate(world.chunks):
        chosen = [0] if number == 0 else [0, 2, 4, 7]
        for camera, entry in zip(franka.model.cameras, CAMERAS, strict=True):
            stamps = chunk.block.frame_stamps_ns[camera]
            expected = np.stack([pictures[camera, stamps[frame]] for frame in chosen])
            np.testing.assert_array_equal(server.seen[number][entry], expected)
        np.testing.assert_allclose(requests[number][JOINTS], chunk.block.state[:7], atol=1e-6)
        np.testing.assert_allclose(requests[number][GRIPPER], chunk.block.state[7:], atol=1e-6)
        assert requests[number]["prompt"] == "Put the marker in the cup"


def test_targets_are_what_the_server_answered_in_radians(run) -> None:
    world, _ = run
    for _, chunk in world.chunks:
        rows = chunk.block.state[:7] + np.linspace(0.001, 0.024, 24)[:, None]
        np.testing.assert_allclose(chunk.positions[:, :7], rows, atol=1e-5)
        np.testing.assert_allclose(chunk.positions[:, 7], chunk.block.positions[7], atol=1e-5)
