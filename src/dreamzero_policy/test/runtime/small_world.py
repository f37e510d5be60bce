"""A small world for the loop: a robot that follows plans exactly and films grey, and a policy that says as told."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dreamzero_policy.runtime.chunk import Chunk
from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.runtime.loop import Loop
from dreamzero_policy.runtime.loop_settings import LoopSettings
from dreamzero_policy.runtime.observation import NS_PER_S, ObservationBuffer, ObservationError
from dreamzero_policy.runtime.plan import Plan
from dreamzero_policy.runtime.policy import Failure, Observed, Purpose, Reply, Request
from dreamzero_policy.runtime.rest import stopping_s

SETTINGS = LoopSettings(
    steps=4,
    seed=7,
    lead_s=0.06,
    first_point_s=0.05,
    inference_timeout_s=5.0,
    smoothing_window=21,
    blend_s=(0.1, 0.2, 0.3, 0.45),
    max_plan_s=1.5,
)
LOOKING_AHEAD_S = 4.0  # two chunks, at half the speed, and a tail
LATENCY_NS = 100_000_000
TICK_NS = NS_PER_S // 300
FRAME_TICKS, JOINT_TICKS = 10, 3  # 30 Hz cameras, 100 Hz joints


class Robot:
    """A world that follows plans exactly and films grey: grey value 2 x frame number."""

    def __init__(self, embodiment: Embodiment) -> None:
        self.embodiment = embodiment
        self.joints = embodiment.contract.model.commanded_joints
        self.ns = 1_000 * NS_PER_S
        self.begin_ns = self.ns
        self.plan = Plan.rest(np.zeros(len(self.joints)) + 0.1, self.ns)
        self.buffer = ObservationBuffer(embodiment)
        self.acts: list[Plan] = []
        self.chunks: list[Chunk] = []
        self.told: list[tuple[int, np.ndarray]] = []  # instants and commanded positions

    def now_ns(self) -> int:
        return self.ns

    def act(self, plan: Plan) -> None:
        self.acts.append(plan)
        before = self.plan.after(self.ns).until(plan.knots_ns[0])  # a controller goes on to the first point
        self.plan = Plan(
            np.append(before.knots_ns[:-1], plan.knots_ns),
            np.concatenate([before.positions[:-1], plan.positions]),
            np.concatenate([before.velocities[:-1], plan.velocities]),
        )

    def show(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)

    def show_dream(self, chunk: Chunk, canvas: np.ndarray) -> None:
        raise AssertionError("nobody asked for a dream")

    def ticks(
        self,
        seconds: float,
        cameras: tuple[str, ...] = ("head", "hand_left", "hand_right"),
        damaged: tuple[str, ...] = (),
    ) -> Iterator[None]:
        for _ in range(round(seconds * NS_PER_S / TICK_NS)):
            self.ns += TICK_NS
            number = round((self.ns - self.begin_ns) / TICK_NS)
            if number % JOINT_TICKS == 0:
                (position,), _ = self.plan.sample([self.ns])
                self.buffer.add_joint_state(self.ns, self.ns, self.joints, position.tolist())
                self.told.append((self.ns, position))
            if number % FRAME_TICKS == 0:
                for camera in cameras:
                    grey = np.full((240, 320, 3), (number // FRAME_TICKS * 2) % 250, np.uint8)
                    decode = refuse if camera in damaged else lambda grey=grey: grey
                    self.buffer.add_image(camera, self.ns, self.ns, decode)
            yield


def refuse() -> np.ndarray:
    raise ObservationError("cut off")


class Scripted:
    """A policy that answers after a while: both arms go to `value` (normalised), the rest stays.

    They accelerate (`power` 2) or go on at an even speed (1).
    """

    def __init__(self, robot: Robot, value: float = 0.0, power: int = 2, latency_ns: int = LATENCY_NS) -> None:
        self.robot, self.value, self.power, self.latency_ns = robot, value, power, latency_ns
        self.prompts: list[tuple[str, int]] = []
        self.requests: list[Request] = []
        self.answers: list[tuple[int, Reply | Observed | Failure]] = []

    def reset(self, prompt: str, epoch: int) -> None:
        self.prompts.append((prompt, epoch))

    def submit(self, request: Request) -> None:
        self.requests.append(request)
        rows = np.zeros((24, 32), np.float32)
        rows[:, :14] = self.value * np.linspace(0, 1, 24, dtype=np.float32)[:, None] ** self.power
        timings_s = {"denoise": 0.01 * request.steps}
        reply = Reply(request.epoch, rows, request.steps, request.steps, request.seed, 1.0, timings_s)
        answer = Observed(request.epoch) if request.purpose is Purpose.OBSERVE else reply
        self.answers.append((self.robot.ns + self.latency_ns, answer))

    def dream(self, epoch: int) -> None:
        raise AssertionError("nobody asked for a dream")

    def poll(self) -> Reply | Observed | Failure | None:
        if self.answers and self.answers[0][0] <= self.robot.ns:
            return self.answers.pop(0)[1]
        return None


def loop_of(robot: Robot, policy: Scripted, **settings: object) -> Loop:
    return Loop(robot.embodiment, robot.buffer, policy, robot, replace(SETTINGS, **settings), session="test")


def run(loop: Loop, robot: Robot, seconds: float, **ticks: object) -> None:
    for _ in robot.ticks(seconds, **ticks):
        loop.advance()


def rest_bound_ns(loop: Loop) -> int:
    """Within what a fault that is known brings the robot to rest, without the tick that may pass before it is."""
    (_,), (speeds,) = loop.plan.sample([loop.world.now_ns() + 50_000_000])
    return round((0.05 + stopping_s(speeds, loop.limits.by_joint) + 2 / 30) * NS_PER_S)


def frame_numbers(robot: Robot, chunk: Chunk) -> list[float]:
    """Of the frames a chunk was predicted from, counted from the robot's first."""
    stamps = np.array(chunk.block.frame_stamps_ns["head"])
    return ((stamps - robot.begin_ns) * 30 / NS_PER_S).round(2).tolist()


def speeds(robot: Robot, after_s: float) -> np.ndarray:
    """Commanded speed of the first arm joint, from so many seconds after the beginning on [rad/s]."""
    told = [(ns, row[0]) for ns, row in robot.told if ns >= robot.begin_ns + after_s * NS_PER_S]
    instants, positions = np.array(told).T
    return np.diff(positions) / (np.diff(instants) / NS_PER_S)
