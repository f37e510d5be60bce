"""The twin as a suite: scenes with tasks, played in simulated time, for evaluation. No ROS.

Found by others through the entry point group `dreamzero.suites`. A plan given to `follow` is handed to the robot's
trajectory controllers like everybody else's; the task is judged at every control cycle.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agibot_twin.arms import COMMAND_HZ
from agibot_twin.disturbances import DISTURBANCES, Disturbances
from agibot_twin.episodes import SPLITS, Episode, sample_episode
from agibot_twin.expert import EXPERT_STREAM, Expert, ExpertError, command_limits
from agibot_twin.tasks import Judge
from agibot_twin.trajectory_controller import JointTarget, Trajectory, TrajectoryPoint
from agibot_twin.world import CYCLE_NS, Observation, TwinWorld
from dreamzero_policy.runtime.contract import Contract

Floats = NDArray[np.float64]
SETTLE_S = 0.2  # standing at home before an episode begins


@dataclass(frozen=True)
class TaskInfo:
    """What an episode asks. `novelty` says what training never showed: "seen" for nothing."""

    family: str
    novelty: str
    instruction: str
    duration_s: float  # time allowed


@dataclass(frozen=True)
class Outcome:
    """`progress` in [0, 1] is the best so far."""

    progress: float
    success: bool


class TwinSuite:
    """The G1 at its table, with the tasks of `episodes.py`."""

    splits = ("seen", "unseen")
    joint_names = TwinWorld.joint_names
    disturbances = DISTURBANCES

    def __init__(self) -> None:
        self.world = TwinWorld()
        self._disturbances = Disturbances(self.world)
        self._expert: Expert | None = None

    def reset(self, split: str, seed: int) -> TaskInfo:
        """Scene and task of this seed, robot at home, clock at 0. Raises ValueError for an unknown split."""
        if split not in self.splits:
            raise ValueError(f"split is {split!r}, expected one of {self.splits}")
        self._expert_seed = (SPLITS.index(split), seed, EXPERT_STREAM)
        return self.lay_out(sample_episode(split, seed))

    @property
    def episode(self) -> Episode:
        """What was laid out last."""
        return self._episode

    def lay_out(self, episode: Episode) -> TaskInfo:
        """As `reset`, for an episode of any split."""
        self._disturbances.undo()
        self.world.lay_out(episode.layout)
        self.world.step(SETTLE_S)
        self.world.epoch_ns = -self.world.simulation.time_ns
        self._judge = Judge(episode.task, episode.layout, self.world.situation())
        self._episode = episode
        return TaskInfo(episode.task.family, episode.novelty, episode.instruction, episode.allowed_s)

    def now_ns(self) -> int:
        """The suite's clock."""
        return self.world.now_ns()

    def advance_to(self, instant_ns: int) -> None:
        """Physics, control and judgement up to an instant."""
        while (now_ns := self.world.now_ns()) < instant_ns:
            self.world.advance_to(min(now_ns - now_ns % CYCLE_NS + CYCLE_NS, instant_ns))
            if self.world.now_ns() == now_ns:
                return  # less than a physics step is left
            self._disturbances.go_on()
            self._judge.watch(self.world.situation())

    def observe(self, images: bool) -> Observation:
        """Joint states now and, when asked, a picture of every camera."""
        return self.world.observe(images)

    def commanded(self) -> Floats:
        """Where the controllers last told the joints to be [J], in the order of `joint_names`."""
        return self.world.commanded()

    def follow(
        self, joints: Sequence[str], stamps_ns: Sequence[int], positions: Floats, velocities: Floats | None
    ) -> None:
        """From now on follow these points [N, J] at absolute instants; in straight lines without velocities.

        Raises TrajectoryRefused where a controller would refuse it.
        """
        now_ns, column = self.world.now_ns(), {name: i for i, name in enumerate(joints)}
        for name, controller in self.world.controllers.items():
            columns = [column[joint] for joint in controller.joints]
            moving = [None] * len(positions) if velocities is None else [row[columns] for row in velocities]
            points = [
                TrajectoryPoint(int(stamp) - now_ns, JointTarget(position[columns], velocity))
                for stamp, position, velocity in zip(stamps_ns, positions, moving, strict=True)
            ]
            self.world.follow(name, Trajectory(controller.joints, points))

    def outcome(self) -> Outcome:
        """How far the task has been done."""
        return Outcome(self._judge.progress, self._judge.success)

    def demonstration(self, contract: Contract) -> tuple[tuple[str, ...], Floats] | None:
        """The expert's commands [N, J] for the task, one every action step, from where the robot stands after a reset.

        None where the expert finds no way inside the contract's limits.

        Raises:
            ValueError: the contract's actions have another rate than the expert's.
        """
        if contract.model.action_hz != COMMAND_HZ:
            raise ValueError(f"it has {contract.model.action_hz:g} actions a second, the expert {COMMAND_HZ:g}")
        limits = command_limits(contract)
        if self._expert is None:
            self._expert = Expert(limits)
        self._expert.limits = limits
        start, rng = self.world.observe().joints.positions, np.random.default_rng(self._expert_seed)
        try:
            commands = self._expert.demonstrate(self._episode.task, self.world.object_poses(), start, rng)
        except ExpertError:
            return None
        return self.joint_names, commands

    def disturb(self, kind: str) -> None:
        """One of `disturbances` happens now. Raises ValueError for another."""
        self._disturbances.happen(kind, self._episode.task)

    def close(self) -> None:
        """Free the renderer."""
        self.world.close()
