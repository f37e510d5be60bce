"""Whatever a model says, and whenever: no motion outside the limits is ever commanded, and every one ends at rest.

Seeded streams of bad and good model outputs on the limits of the G1. One half of them goes chunk upon moving chunk
through splice and limits, early, late and too late; the other goes through the whole loop. What a controller makes of
it is then looked at from outside, a thousand times a second. A short stream here; `make adversarial` takes 10 000
outputs of either kind (ADVERSARIAL_OUTPUTS).
"""

import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dreamzero_policy.runtime.chunk import Chunk, Verdict
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Embodiment, Quantiles, Statistics
from dreamzero_policy.runtime.limits import CONTROL_NS, Limits
from dreamzero_policy.runtime.loop import Loop
from dreamzero_policy.runtime.loop_settings import LoopSettings
from dreamzero_policy.runtime.observation import NS_PER_S, ObservationBuffer
from dreamzero_policy.runtime.plan import Plan, Rows
from dreamzero_policy.runtime.policy import Reply, Request
from dreamzero_policy.runtime.regime import RegimeSettings
from dreamzero_policy.runtime.splice import splice

OUTPUTS = int(os.environ.get("ADVERSARIAL_OUTPUTS", "300"))  # of either kind
LENGTH = 100  # of a stream
REACH_S = 0.15  # at a joint's largest speed: as far as a normalised 1 goes
TICK_NS = NS_PER_S // 30
SETTINGS = LoopSettings(
    steps=4,
    seed=7,
    lead_s=0.06,
    first_point_s=0.05,
    inference_timeout_s=float("inf"),
    smoothing_window=21,
    blend_s=(0.1, 0.2, 0.35, 0.6),
    max_plan_s=1.5,
    limit_easing_share=0.5,
)


def anywhere(embodiment: Embodiment, rng: np.random.Generator) -> np.ndarray:
    """Positions [J] inside the limits."""
    limits = [embodiment.contract.site.limits[joint] for joint in embodiment.contract.model.commanded_joints]
    return np.array([limit.lower + rng.uniform(0.1, 0.9) * (limit.upper - limit.lower) for limit in limits])


class Robot:
    """Follows every plan exactly; all that it was told lies in `commands`, from when a plan begins to hold."""

    def __init__(self, embodiment: Embodiment, rng: np.random.Generator) -> None:
        self.joints, self.rng = embodiment.contract.model.commanded_joints, rng
        self.cameras = embodiment.contract.model.cameras
        self.buffer = ObservationBuffer(embodiment)
        self.ns = 1_000 * NS_PER_S
        self.commands = [Plan.rest(anywhere(embodiment, rng), self.ns)]
        self.chunks: list[Chunk] = []
        self.grey = np.zeros((8, 8, 3), np.uint8)

    def now_ns(self) -> int:
        return self.ns

    def act(self, plan: Plan) -> None:
        self.commands.append(carried_out(self.commands[-1], plan, self.ns))

    def show(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)

    def show_dream(self, chunk: Chunk, canvas: np.ndarray) -> None:
        raise AssertionError("nobody asked for a dream")

    def tick(self) -> None:
        self.ns += TICK_NS
        (position,), _ = self.commands[-1].sample([self.ns])
        self.buffer.add_joint_state(self.ns, self.ns, self.joints, position.tolist())
        for camera in self.cameras:
            self.buffer.add_image(camera, self.ns, self.ns, lambda: self.grey)


class Adversary:
    """Answers late by chance, with whatever comes to its mind."""

    def __init__(self, robot: Robot, width: int, rng: np.random.Generator) -> None:
        self.robot, self.width, self.rng = robot, width, rng
        self.answers: list[tuple[int, Reply]] = []
        self.side = 1.0
        self.settled = 0  # answers that hold rows

    def reset(self, prompt: str, epoch: int) -> None:
        self.answers.clear()

    def submit(self, request: Request) -> None:
        self.side = -self.side
        with np.errstate(all="ignore"):
            rows = anything(self.rng, self.width, self.side).astype(np.float32)
        held = 0 if request.prefix is None else request.prefix.held_rows
        if held:
            rows[:held, request.prefix.columns] = request.prefix.rows[:held]
            self.settled += 1
        reply = Reply(request.epoch, rows, request.steps, 0, request.seed, 1.0, held_rows=held)
        latency_ns = round(self.rng.choice([0.01, 0.15, 0.6, 1.1, 3.0]) * self.rng.uniform(0.5, 1.5) * NS_PER_S)
        self.answers.append((self.robot.ns + latency_ns, reply))

    def dream(self, epoch: int) -> None:
        raise AssertionError("nobody asked for a dream")

    def poll(self) -> Reply | None:
        if self.answers and self.answers[0][0] <= self.robot.ns:
            return self.answers.pop(0)[1]
        return None


TIME = np.linspace(0, 1, 24)[:, None]


def wave(rng: np.random.Generator, width: int, side: float) -> np.ndarray:
    """What a good model says: begins at the state, moves smoothly."""
    return rng.uniform(0, 1.5) * np.sin(rng.uniform(0.5, 3, width) * TIME) * rng.choice([-1, 1], width)


def with_one(value: float):
    def rows(rng: np.random.Generator, width: int, side: float) -> np.ndarray:
        rows = wave(rng, width, side)
        rows[rng.integers(24), rng.integers(width)] = value
        return rows

    return rows


def step(rng: np.random.Generator, width: int, side: float) -> np.ndarray:
    return wave(rng, width, side) + rng.uniform(-3, 3, width) * (rng.uniform() < TIME)


KINDS = {
    "wave": wave,
    "rest": lambda rng, width, side: np.zeros((24, width)),
    "nan": with_one(np.nan),
    "inf": with_one(-np.inf),
    "huge": with_one(1e30),
    "all_huge": lambda rng, width, side: rng.normal(size=(24, width)) * 10.0 ** rng.uniform(1, 37),
    "noise": lambda rng, width, side: rng.normal(size=(24, width)) * 10.0 ** rng.uniform(-3, 1),
    "wave_and_noise": lambda rng, width, side: wave(rng, width, side) + 0.02 * rng.normal(size=(24, width)),
    "jump": lambda rng, width, side: wave(rng, width, side) + rng.uniform(-2, 2, width),
    "step": step,
    "drift": lambda rng, width, side: wave(rng, width, side) + rng.uniform(0.5, 4) * TIME,  # into the stops
    "alternating": lambda rng, width, side: np.full((24, width), 0.6 * side) * np.minimum(1, 4 * TIME),
    "fast": lambda rng, width, side: np.sin(rng.uniform(5, 60) * TIME) * rng.uniform(0, 2, width),
}


def anything(rng: np.random.Generator, width: int, side: float) -> np.ndarray:
    """Rows [24, width], half of them reasonable; 1 is as far as a joint gets in REACH_S at its largest speed."""
    kind = wave if rng.uniform() < 0.5 else KINDS[rng.choice(list(KINDS))]
    return rng.choice([0.1, 0.5, 1.0]) * kind(rng, width, side)


@pytest.fixture(scope="module")
def embodiment(contract: Contract) -> Embodiment:
    """The G1 with pictures of 8 x 8 pixels: nobody looks at them."""
    document = contract.model_dump()
    document["model"]["view"] |= {"width_px": 8, "height_px": 4}
    for camera in document["site"]["cameras"].values():
        camera |= {"width_px": 8, "height_px": 8}
    contract = Contract.model_validate(document)
    limits, grippers = contract.site.limits, contract.site.grippers
    reach = [
        0.3 if joint in grippers else REACH_S * limits[joint].velocity if joint in limits else 1.0
        for group in contract.model.action
        for joint in group.joints
    ]
    around_zero = [
        Quantiles(-np.array(most), np.array(most)) for most in ([4.0] * len(contract.model.state_joints), reach)
    ]
    return Embodiment(contract, Statistics(*around_zero, ""))


def carried_out(before: Plan, plan: Plan, now_ns: int) -> Plan:
    """The command from now on: as a joint trajectory controller goes from its last command to the first point."""
    position, velocity = before.sample([now_ns])
    return Plan(
        np.append(now_ns, plan.knots_ns),
        np.concatenate([position, plan.positions]),
        np.concatenate([velocity, plan.velocities]),
    )


def require_inside(limits: Limits, commands: list[Plan]) -> None:
    """Every command ends at rest; sampled at 1 kHz their sequence keeps the limits, its jerk at 100 Hz in any phase."""
    end_ns = max(plan.end_ns for plan in commands) + NS_PER_S // 10
    samples = []
    for command, following in zip(commands, [*commands[1:], None], strict=True):
        assert (command.velocities[-1] == 0).all(), "ends at rest"
        until_ns = end_ns if following is None else following.knots_ns[0]
        begin_ns = -(-command.knots_ns[0] // 1_000_000) * 1_000_000
        samples.append(command.sample(np.arange(begin_ns, until_ns, 1_000_000))[0])
    positions = np.concatenate(samples)
    assert (positions >= limits.lower - 1e-9).all() and (positions <= limits.upper + 1e-9).all()
    velocities = np.diff(positions, axis=0) * 1e3
    shares = {
        "speed": np.abs(velocities) / limits.velocity,
        "acceleration": np.abs(np.diff(velocities, axis=0)) * 1e3 / limits.acceleration,
        "jerk": np.concatenate([np.abs(np.diff(positions[i::10], 3, axis=0)) for i in range(10)]) * 1e6 / limits.jerk,
    }
    for what, share in shares.items():
        at, joint = np.unravel_index(np.argmax(share), share.shape)
        assert share[at, joint] <= 1 + 1e-4, f"{what} of {limits.joints[joint]}: {share[at, joint]:.4f} of its limit"


@pytest.mark.parametrize("stream", range(-(-OUTPUTS // LENGTH)))
def test_no_chunk_upon_moving_chunk_leaves_the_limits(embodiment: Embodiment, stream: int) -> None:
    rng = np.random.default_rng((stream, 5))
    limits = Limits.of(embodiment.contract)
    joints = limits.joints
    now_ns, verdicts, ways = 1_000 * NS_PER_S, Counter(), Counter()
    commands = [Plan.rest(anywhere(embodiment, rng), now_ns)]
    plan, side = commands[0], 1.0
    for _ in range(LENGTH):
        now_ns += round(rng.uniform(0.02, rng.choice([0.4, 1.2])) * NS_PER_S)
        side = -side
        width = len(joints) if rng.uniform() > 0.05 else rng.integers(1, 40)
        seen_ns = now_ns - round(rng.uniform(0, 0.5) * NS_PER_S)
        with np.errstate(all="ignore"):
            rows = anything(rng, width, side)
        if width == len(joints):
            rows = plan.sample([seen_ns])[0] + REACH_S * limits.velocity * rows
        due = Rows(rows, seen_ns + round(rng.uniform(-0.2, 0.6) * NS_PER_S), TICK_NS)
        earliest_ns = now_ns + round(SETTINGS.lead_s * NS_PER_S)
        first_ns = now_ns + round(SETTINGS.first_point_s * NS_PER_S)
        present = plan.as_sent(now_ns, first_ns, CONTROL_NS)
        spliced = splice(present, due, earliest_ns, SETTINGS.blend_s, limits, SETTINGS.limit_easing_share)
        verdicts[spliced.judgement.verdict] += 1
        ways[spliced.way] += 1
        if spliced.judgement:
            plan = spliced.plan
            commands.append(carried_out(commands[-1], plan.after(first_ns), now_ns))
    print(dict(verdicts), dict(ways))
    require_inside(limits, commands)
    assert len(commands) > 0.1 * LENGTH, "something must be left to execute"


@pytest.mark.parametrize("stream", range(-(-OUTPUTS // LENGTH)))
def test_no_answer_to_the_loop_leads_out_of_the_limits(embodiment: Embodiment, stream: int) -> None:
    rng = np.random.default_rng((stream, 2602))
    robot = Robot(embodiment, rng)
    adversary = Adversary(robot, embodiment.model.action_width, rng)
    loop = Loop(embodiment, robot.buffer, adversary, robot, SETTINGS, session="adversarial")
    loop.run("go")
    while len(robot.chunks) < LENGTH:
        robot.tick()
        loop.advance()
    require_inside(loop.limits, robot.commands)
    verdicts = {chunk.verdict for chunk in robot.chunks}
    assert verdicts >= {Verdict.ACCEPTED, Verdict.REJECTED_NOT_FINITE, Verdict.REJECTED_STEP}
    assert robot.commands[1:], "something must be left to execute"


def test_no_answer_that_continues_the_plan_leads_out_of_the_limits(embodiment: Embodiment) -> None:
    rng = np.random.default_rng(7339)
    robot = Robot(embodiment, rng)
    adversary = Adversary(robot, embodiment.model.action_width, rng)
    together = RegimeSettings("overlap", "two_sessions")
    settings = replace(SETTINGS, regime=together, prefix_conditioning=True)
    loop = Loop(embodiment, robot.buffer, adversary, robot, settings, session="adversarial")
    loop.run("go")
    while len(robot.chunks) < LENGTH:
        robot.tick()
        loop.advance()
    require_inside(loop.limits, robot.commands)
    assert adversary.settled > 0.1 * LENGTH, "something must be held"
    assert sum(chunk.verdict is Verdict.ACCEPTED for chunk in robot.chunks) > 0.1 * LENGTH
