"""A suite without physics: the robot follows points exactly, and a task is to bring one arm joint to a place.

Time goes in steps of 2 ms as in the twin. Pictures are grey, as bright as the robot's clock is late, with the joint's
position in the red channel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.evaluation.suite import Outcome, TaskInfo
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.embodiment import Floats, Image
from dreamzero_policy.runtime.plan import Plan, smootherstep

CONTRACT = Path(__file__).parents[4] / "config" / "agibot_g1.yaml"
STEP_NS = 2_000_000
HANDS = {"left": "idx21_arm_l_joint1", "right": "idx61_arm_r_joint1"}


@dataclass(frozen=True)
class Joints:
    positions: Floats


@dataclass(frozen=True)
class Seen:
    stamp_ns: int
    joints: Joints
    images: dict[str, Image] = field(default_factory=dict)


class FakeSuite:
    splits = ("seen", "unseen")

    def __init__(self) -> None:
        contract = load_contract(CONTRACT)
        self.cameras = contract.model.cameras
        self.joint_names = tuple(sorted(contract.model.commanded_joints))  # an order of its own
        limits = contract.site.limits
        self.home = np.array([(limits[joint].lower + limits[joint].upper) / 2 for joint in self.joint_names])
        self.pictured_ns: list[int] = []
        self.followed: list[Plan] = []
        self.closed = False

    def reset(self, split: str, seed: int) -> TaskInfo:
        self.ns, self.plan = 0, Plan.rest(self.home, 0)
        hand = ("left", "right")[seed % 2]
        self.joint = self.joint_names.index(HANDS[hand])
        self.goal = 0.3 * (1 if seed % 4 < 2 else -1)
        self.progress, self.pictured_ns, self.followed = 0.0, [], []
        novelty = "seen" if split == "seen" else ("position", "phrasing")[seed % 2]
        return TaskInfo(hand, novelty, f"raise the {hand} arm", 5.0)

    def now_ns(self) -> int:
        return self.ns

    def advance_to(self, instant_ns: int) -> None:
        last_ns = instant_ns // STEP_NS * STEP_NS
        assert last_ns >= self.ns
        instants = np.arange(self.ns, last_ns + 1, STEP_NS)
        moved = self.plan.sample(instants)[0][:, self.joint] - self.home[self.joint]
        self.progress = float(np.clip((moved / self.goal).max(), self.progress, 1.0))
        self.ns = last_ns

    def observe(self, images: bool) -> Seen:
        (positions,), _ = self.plan.sample([self.ns])
        if not images:
            return Seen(self.ns, Joints(positions))
        self.pictured_ns.append(self.ns)
        picture = np.full((240, 320, 3), min(255, self.ns // 50_000_000), np.uint8)
        picture[..., 0] = np.clip(128 + 100 * (positions[self.joint] - self.home[self.joint]), 0, 255)
        return Seen(self.ns, Joints(positions), dict.fromkeys(self.cameras, picture))

    def follow(
        self, joints: Sequence[str], stamps_ns: NDArray[np.int64], positions: Floats, velocities: Floats
    ) -> None:
        order = [list(joints).index(joint) for joint in self.joint_names]
        (here,), (speed,) = self.plan.sample([self.ns])
        later = stamps_ns > self.ns
        self.plan = Plan(
            np.append(self.ns, stamps_ns[later]),
            np.concatenate([here[None], positions[later][:, order]]),
            np.concatenate([speed[None], velocities[later][:, order]]),
        )
        self.followed.append(self.plan)

    def outcome(self) -> Outcome:
        return Outcome(self.progress, self.progress >= 1.0)

    def close(self) -> None:
        self.closed = True


class DemonstratingSuite(FakeSuite):
    """One that knows the way: the joint goes a little beyond its goal within three seconds."""

    def demonstration(self, contract: Contract) -> tuple[tuple[str, ...], Floats]:
        steps = 90
        rows = np.repeat(self.home[None], steps, axis=0)
        rows[:, self.joint] += 1.05 * self.goal * smootherstep(np.linspace(0, 1, steps))
        return self.joint_names, rows


class ShakenSuite(FakeSuite):
    """One in which something can happen; it only takes note."""

    disturbances = ("dark",)
    happened: tuple[tuple[str, int], ...] = ()

    def disturb(self, kind: str) -> None:
        self.happened += ((kind, self.ns),)


class TellingSuite(FakeSuite):
    """One that tells what it commands, which the robot does at once, and also follows straight lines."""

    lines: tuple[NDArray[np.int64], Floats] | None = None

    def follow(
        self, joints: Sequence[str], stamps_ns: NDArray[np.int64], positions: Floats, velocities: Floats | None
    ) -> None:
        if velocities is not None:
            return super().follow(joints, stamps_ns, positions, velocities)
        order = [list(joints).index(joint) for joint in self.joint_names]
        begin, (here,) = self.ns, self.plan.sample([self.ns])[0]
        knots_ns = np.append(begin, stamps_ns)
        rows = np.concatenate([here[None], positions[:, order]])
        # a straight line is what a plan of densely sampled knots with the lines' own slopes follows
        instants = np.unique(np.concatenate([np.arange(begin, knots_ns[-1], STEP_NS), knots_ns]))
        lines = np.array([np.interp(instants, knots_ns, column) for column in rows.T]).T
        slopes = np.gradient(lines, instants / 1e9, axis=0)
        self.plan = Plan(instants, lines, slopes)
        return None

    def commanded(self) -> Floats:
        return self.plan.sample([self.ns])[0][0]
