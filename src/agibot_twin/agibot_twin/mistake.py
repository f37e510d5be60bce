"""A mistake as the prelude of demonstrations: the task is done where its object is not, and given up on the way.

A policy that has learned little goes to where another object stands, or a hand's breadth beside the right one, and goes
down there; perfect demonstrations never show how to come back from that. Asking the policy itself shows its very own
mistakes and costs its inference; these are made without one, and suit a first round of training.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agibot_twin.arms import STEP_S
from agibot_twin.commanding import follow
from agibot_twin.expert import Expert, command_limits
from agibot_twin.layout import ZONE_X_M, ZONE_Y_M, Layout
from agibot_twin.suite import TaskInfo, TwinSuite
from agibot_twin.tasks import LIFT, Task
from agibot_twin.trajectory_controller import NS_PER_S
from dreamzero_policy.runtime.contract import load_contract

Floats = NDArray[np.float64]
MISTAKE_STREAM = 3  # of random numbers
OTHER_SHARE = 0.4  # of the mistakes go to another object, the others beside the right one
BESIDE_M = (0.04, 0.20)
TRAY_BESIDE_M = (0.02, 0.06)  # farther off a handle is out of one hand's reach
STOPPING_S = 0.5  # to come to rest in the middle of a motion


@dataclass(frozen=True, eq=False)
class MistakePrelude:
    """The expert at work on the wrong place. It may be sent to other processes."""

    contract: Path

    def __call__(self, suite: TwinSuite, task: TaskInfo, duration_s: float) -> None:
        """Go for the wrong place for so long, then come to rest. The same for the same scene and duration.

        Raises:
            ExpertError: no path within the limits.
        """
        episode, world = suite.episode, suite.world
        rng = np.random.default_rng((MISTAKE_STREAM, round(1e6 * duration_s)))
        poses = misplaced(episode.task, episode.layout, world.object_poses(), rng)
        commands = self._expert.demonstrate(episode.task, poses, world.observe().joints.positions, rng)
        given_up = given_up_at(commands, duration_s)
        follow(world, given_up)
        suite.advance_to(suite.now_ns() + round(len(given_up) * STEP_S * NS_PER_S))

    @cached_property
    def _expert(self) -> Expert:
        return Expert(command_limits(load_contract(self.contract)))


def misplaced(task: Task, layout: Layout, poses: dict[str, Floats], rng: np.random.Generator) -> dict[str, Floats]:
    """Poses [7] of all bodies, with what the task is about where it is not."""
    wrong = poses[task.thing].copy()
    others = [name for name in layout.objects if name != task.thing]
    if task.family != LIFT and others and rng.random() < OTHER_SHARE:
        wrong[:2] = poses[str(rng.choice(others))][:2]
    else:
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(*(TRAY_BESIDE_M if task.family == LIFT else BESIDE_M))
        wrong[:2] += distance * np.array([np.cos(angle), np.sin(angle)])
        wrong[:2] = np.clip(wrong[:2], *np.array([ZONE_X_M, ZONE_Y_M]).T)
    return {**poses, task.thing: wrong}


def given_up_at(commands: Floats, duration_s: float, stopping_s: float = STOPPING_S) -> Floats:
    """Commands [N, J] up to a time, then slower and slower along the same way to rest, at most all of them."""
    stopping = round(stopping_s / STEP_S)
    first = round(duration_s / STEP_S)
    slower = first + np.cumsum(np.linspace(1, 0, stopping))
    rows = np.concatenate([np.arange(first + 1), slower])
    rows = np.minimum(rows, len(commands) - 1)
    before, share = rows.astype(int), (rows % 1)[:, None]
    return (1 - share) * commands[before] + share * commands[np.minimum(before + 1, len(commands) - 1)]
