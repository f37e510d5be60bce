"""Advice: what the expert would do next, asked at every chunk of whoever is at work.

Who works in chunks looks, moves for a chunk, stands and looks again: each of its chunks begins at rest. A demonstration
in one go never is where a chunk begins, and shows at the same place a slow motion that sets out and a fast one that
passes. Advice is planned from where the robot stands, without pace or detours of its own, so that it is a function of
what is seen. A leg takes the time that its length needs: the last centimetre of a way is not made in as long as all of
it.

What the expert finds is told apart as in `takeover.py`. Advice is carried out in the very scene, recorded, and then
undone: who asked goes on as if nothing had been said. Where a policy asks, this is dataset aggregation (Ross et al.
2011): the states are those of the policy, the actions the expert's. Where there is no policy yet, the expert stumbles
along by itself (`Stumbling`): its arms miss, at first it may go for the wrong object, and now and then its gripper does
the opposite (noise injection, Laskey et al. 2017).
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from agibot_twin.arms import ARM_JOINTS, COMMAND_HZ, Floats
from agibot_twin.episodes import Episode
from agibot_twin.expert import CLOSED_RAD, GRIPPER_JOINT, OPEN_RAD, Expert, Leg, minimum_jerk
from agibot_twin.robot_model import DRIVEN_JOINTS
from agibot_twin.takeover import Found, Poses, approached, clearing, find, on_the_way
from agibot_twin.tasks import LIFT, PLACE, Hand, Task

BEHIND = 14  # rows planned behind those that are wanted: smoothing reaches some way
EASING_S = 0.6  # to bring an arm's posture back to that of demonstrations
BRISK_S, SHORTEST_S = 2.1, 0.2  # a way of d m takes BRISK_S √d s, and no less than that
GRIPPER_S_RAD = 0.65  # s/rad: time a gripper takes for its way

# Of a stumble: standard deviation of every arm joint's error at the end of a chunk, and its growth with the way there.
NEAR_RAD, FAR_SHARE = 0.008, 0.06
ERROR = (0.1, 1.0)  # an attempt has between so much of that
WRONG_SHARE, WRONG_CHUNKS = 0.25, 3  # of the episodes begin with the wrong object, for so many chunks at most
SLIP_SHARE = 0.06  # of the chunks move the gripper the wrong way


def advice(expert: Expert, task: Task, poses: Poses, joints: Floats, rows: int) -> Floats:
    """Commands [rows, 20] that the expert would give first, for bodies at these poses [7] and a robot at rest.

    Raises:
        ExpertError: the limits are broken however slowly the hands go, or the object is off the table.
    """
    found = find(expert, task, poses, joints)
    legs = expert.legs(task, found.poses, found.joints, None)
    going_on, posture = on_the_way(task, legs, found), "eased"
    if going_on is None and (cleared := clearing(task, found)):
        going_on, posture = cleared, "kept"
    planned = {
        hand: brisk(found.hands[hand], found.opening_rad(hand), own)
        for hand, own in (going_on or approached(legs, found)).items()
    }
    if task.family == PLACE:
        planned = {hand: unhasty(own, found, hand, rows / COMMAND_HZ) for hand, own in planned.items()}
    return expert.commands(joints, planned, posture, first=rows + BEHIND, easing_s=EASING_S)[:rows]


def unhasty(legs: list[Leg], found: Found, hand: Hand, chunk_s: float) -> list[Leg]:
    """The same legs; a grasp waits for the next chunk if the hand is not where it grasps yet.

    Whoever imitates a correction and a grasp in one chunk does less of the first and all of the second.
    """
    for number, (before, leg) in enumerate(pairwise(legs), 1):
        if leg.gripper_rad < before.gripper_rad and not found.fits(hand, before.goal):
            return [*legs[:number], Leg(before.goal, chunk_s, gripper_rad=before.gripper_rad), *legs[number:]]
    return legs


def brisk(begin: Floats, opening_rad: float, legs: list[Leg]) -> list[Leg]:
    """The same legs, each as long as its way wants it and at most as long as it was."""
    hastened = []
    for leg in legs:
        way_s = BRISK_S * float(np.linalg.norm(leg.goal - begin)) ** 0.5
        needed_s = max(way_s, GRIPPER_S_RAD * abs(leg.gripper_rad - opening_rad), SHORTEST_S)
        hastened.append(replace(leg, duration_s=min(leg.duration_s, needed_s)))
        begin, opening_rad = leg.goal, leg.gripper_rad
    return hastened


@dataclass
class Stumbling:
    """The expert at work with errors that are drawn anew at every chunk."""

    expert: Expert
    episode: Episode
    rng: np.random.Generator

    def __post_init__(self) -> None:
        task = self.episode.task
        self._error = self.rng.uniform(*ERROR)
        others = [name for name in self.episode.layout.objects if name != task.thing]
        self._wrong_chunks = 0
        if task.family != LIFT and others and self.rng.random() < WRONG_SHARE:
            self._wrong = str(self.rng.choice(others))
            self._wrong_chunks = int(self.rng.integers(1, WRONG_CHUNKS + 1))

    def commands(self, advised: Floats, poses: Poses, joints: Floats) -> Floats:
        """Commands [rows, 20] of the next chunk: those advised, with errors.

        Raises:
            ExpertError: as `advice`.
        """
        rows, task = len(advised), self.episode.task
        if self._wrong_chunks > 0:
            self._wrong_chunks -= 1
            thing = poses[task.thing].copy()
            thing[:2] = poses[self._wrong][:2]
            advised = advice(self.expert, task, {**poses, task.thing: thing}, joints, rows)
        commands = advised.copy()
        for hand in task.hands:
            arm = [DRIVEN_JOINTS.index(joint) for joint in ARM_JOINTS[hand]]
            way_rad = float(np.abs(advised[-1, arm] - joints[arm]).max())
            error_rad = self.rng.normal(0.0, self._error * (NEAR_RAD + FAR_SHARE * way_rad), len(arm))
            commands[:, arm] += minimum_jerk(rows)[:, None] * error_rad
            if self.rng.random() < SLIP_SHARE:
                column = DRIVEN_JOINTS.index(GRIPPER_JOINT[hand])
                end = OPEN_RAD if joints[column] < OPEN_RAD / 2 else CLOSED_RAD
                commands[:, column] = np.linspace(joints[column], end, rows)
        return commands
