"""Taking over: what the expert does where somebody else stopped, from any posture and with anything in hand.

Where a demonstration would come by anyway, the expert goes on from there: on the way down to the place of work, behind
the object of a push, with what is to be carried in hand. Another way from there would contradict all other
demonstrations, and whoever learns from both would go to and fro. A hand that is down among the objects or has hold of
something is cleared first: it lets go and rises straight. Then the scene is looked at again, since what was let go has
fallen. From anywhere else the way is that of a demonstration that starts there.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from agibot_twin.arms import Floats
from agibot_twin.episodes import PUSH_START_M
from agibot_twin.expert import (
    CLOSED_RAD,
    GRIPPER_JOINT,
    HANDLE_GRASP_M,
    HOVER_M,
    OPEN_RAD,
    PUSH_Z_M,
    TRAY_LIFT_M,
    Expert,
    ExpertError,
    Leg,
    unhurried,
)
from agibot_twin.objects import BIN_CENTRE_M, BIN_SIZE_M, BY_NAME, TRAY, TRAY_HANDLE_SIZE_M, TRAY_SIZE_M
from agibot_twin.robot_model import DRIVEN_JOINTS
from agibot_twin.scene import TABLE_TOP_Z_M
from agibot_twin.tasks import HANDS, LIFT, PLACE, PUSH, Hand, Task, handle_position, side

LOW_Z_M = TABLE_TOP_Z_M + 0.06  # a hand below it rises straight wherever it is
BESIDE_M = 0.075  # from a hand to something's side: nearer, open fingers may touch it
FINGERS_M = 0.035  # a hand higher than this above something passes over it
RISEN_Z_M = TABLE_TOP_Z_M + 0.085  # the lowest start of a demonstration; from below it a hand rises on its way
CLEAR_Z_M = TABLE_TOP_Z_M + 0.12
RISING_S = 0.7
RELEASING_S = 0.8
CLOSING_RAD = 0.8 * OPEN_RAD  # a gripper told to be narrower, with something between its pads, is closing on it
OPEN_ENOUGH_RAD = OPEN_RAD / 2  # a gripper told to be wider may go down over something; it opens on its way
CLOSED_WITHIN_RAD = 0.1  # of its end a gripper's command counts as having arrived there
HELD_M = 0.03  # from the point between the pads to the middle of what they hold, at most: beside it they are farther
HANGING_M, RAISED_M = 0.06, 0.01  # what is raised by so much from the table hangs in the fingers, be it at their tips
# Sideways and in height, of open pads around a small thing that they may close on. Farther up it slips out at the tips,
# farther aside it is pushed or turned; at a joint's stop inverse kinematics itself ends some millimetres off.
FITTING_M = 0.012
# Radius of the way down at its end, and its growth with height. Whoever misses by so little corrects it down there, and
# does not rise and come down again: fingers that are that near have the thing between them, or push it along a little.
CONE_M, CONE_SLOPE = 0.03, 0.5
LOW_M = 0.01  # below its end
ALIGNED_M = 0.02  # in height, of a hand where a demonstration would have it: behind an object, on its way
ABREAST_M = 0.03  # sideways, of a hand behind an object: a push comes back to the middle on its way
AT_THE_BIN_M = 0.08  # sideways from where the thing is dropped: no need to rise any more
INSIDE_M = 0.034  # from a bin's outer side to the middle of a thing that falls inside
# On the way to where the thing is dropped, while it is let go. A hand that stayed would be told to stay on one side of
# a line and to go on on the other: whoever cannot tell on which it is does half of both, and hovers there for good.
DROPPING_M = 0.04
BEHIND_M = (0.02, PUSH_START_M + 0.06)

Poses = Mapping[str, Floats]
Legs = dict[Hand, list[Leg]]


def take_over(
    expert: Expert, task: Task, look: Callable[[], tuple[Poses, Floats]], rng: np.random.Generator
) -> Iterator[Floats]:
    """Commands [N, 20] in one or two phases, each planned from what `look` finds when it begins: body poses [7] and
    joint positions [20].

    Raises:
        ExpertError: the limits are broken however slowly the hands go, or the object is off the table.
    """
    found = find(expert, task, *look())
    legs = expert.legs(task, found.poses, found.joints, rng)
    going_on = on_the_way(task, legs, found)
    if going_on is None and (cleared := clearing(task, found)):
        yield expert.commands(found.joints, cleared, posture="kept")
        found = find(expert, task, *look())
        legs = expert.legs(task, found.poses, found.joints, rng)
        going_on = on_the_way(task, legs, found)
    yield expert.commands(found.joints, going_on or approached(legs, found))


@dataclass(frozen=True, eq=False)
class Found:
    """What the expert finds: poses [7] of bodies, joint positions [20], points between the finger pads [3]."""

    poses: Poses
    joints: Floats
    hands: Mapping[Hand, Floats]

    def closing(self, hand: Hand) -> bool:
        """Whether a gripper is told to close."""
        return self.opening_rad(hand) < CLOSING_RAD

    def opening_rad(self, hand: Hand) -> float:
        return float(self.joints[DRIVEN_JOINTS.index(GRIPPER_JOINT[hand])])

    def holds(self, hand: Hand, thing: str) -> bool:
        """Whether a closing gripper has a thing, or the tray's handle on its side, between the pads."""
        return self.closing(hand) and self._is_at(hand, thing)

    def is_over_the_bin(self, hand: Hand, thing: str) -> bool:
        """Whether a hand has a thing, its gripper closing or opening already, and may let it fall into the bin."""
        place = self.poses[thing][:3]
        inside = np.abs(place[:2] - BIN_CENTRE_M) <= np.array(BIN_SIZE_M[:2]) / 2 - INSIDE_M
        above = place[2] > TABLE_TOP_Z_M + BIN_SIZE_M[2]
        return bool(inside.all() and above and self._is_at(hand, thing))

    def fits(self, hand: Hand, goal: Floats) -> bool:
        """Whether a hand is where it grasps at `goal`."""
        height = self.hands[hand][2] - goal[2]
        return _aside(goal, self.hands[hand]) <= FITTING_M and abs(height) <= FITTING_M

    def is_low(self, hand: Hand) -> bool:
        """Whether a hand's fingers may be among what is on the table, which a way sideways would sweep along."""
        here = self.hands[hand]
        if here[2] < LOW_Z_M:
            return True
        sides = [
            (_aside(pose, here), BY_NAME[name].half_size_m[0], pose[2] + BY_NAME[name].half_height_m)
            for name, pose in self.poses.items()
            if name != TRAY
        ]
        if TRAY in self.poses:
            length, _, height = TRAY_HANDLE_SIZE_M
            handles = [handle_position(self.poses[TRAY], which) for which in HANDS]
            sides += [(_aside(handle, here), length / 2, handle[2] + height / 2) for handle in handles]
        half_bin = np.array(BIN_SIZE_M[:2]) / 2
        nearest = np.clip(here[:2], BIN_CENTRE_M - half_bin, BIN_CENTRE_M + half_bin)
        sides.append((_aside(nearest, here), 0.0, TABLE_TOP_Z_M + BIN_SIZE_M[2]))
        return any(aside <= radius + BESIDE_M and here[2] < top + FINGERS_M for aside, radius, top in sides)

    def _is_at(self, hand: Hand, thing: str) -> bool:
        """Whether a thing is so near that a hand has it, if any: between its pads, or raised and at their tips."""
        raised = thing != TRAY and self.poses[thing][2] > TABLE_TOP_Z_M + BY_NAME[thing].half_height_m + RAISED_M
        distance = np.linalg.norm(self._middle(hand, thing) - self.hands[hand])
        return bool(distance <= (HANGING_M if raised else HELD_M))

    def _middle(self, hand: Hand, thing: str) -> Floats:
        pose = self.poses[thing]
        return handle_position(pose, hand) + [0.0, 0.0, HANDLE_GRASP_M] if thing == TRAY else pose[:3]


def find(expert: Expert, task: Task, poses: Poses, joints: Floats) -> Found:
    height_m = poses[task.thing][2] - TABLE_TOP_Z_M
    if height_m < 0:
        raise ExpertError(f"the {task.thing} is {-height_m:.2f} m below the table's top")
    return Found(poses, joints, {hand: expert.arms.hand_position(hand, joints) for hand in HANDS})


def on_the_way(task: Task, legs: Legs, found: Found) -> Legs | None:
    """What is left of a demonstration's legs if the hands are where it comes by, None if they are not."""
    if task.family == PLACE and found.is_over_the_bin(task.hand, task.thing):
        return {hand: _dropped(own[4:], found, hand) for hand, own in legs.items()}
    grasps = all(found.holds(hand, task.thing) for hand in legs)
    if task.family == PLACE and _is_above(goal := legs[task.hand][1].goal, task.hand, found):
        grasps = found.fits(task.hand, goal)
    if task.family in (PLACE, LIFT) and grasps:
        # Standing still is not shown where whoever was at work may have stood still for good.
        closed = all(found.opening_rad(hand) <= CLOSED_RAD + CLOSED_WITHIN_RAD for hand in legs)
        carried = _placed if task.family == PLACE else _lifted
        return {hand: carried(own[2:], found, hand)[closed:] for hand, own in legs.items()}
    if task.family == PUSH and _is_behind(task, found):
        return {hand: own[2:] for hand, own in legs.items()}
    if all(_is_above(own[1].goal, hand, found) for hand, own in legs.items()):
        return {hand: own[1:] for hand, own in legs.items()}
    return None


def clearing(task: Task, found: Found) -> Legs:
    """Legs that let go and rise straight where a hand at work needs it; empty where none does."""
    grasping = [hand for hand in task.hands if any(found.holds(hand, thing) for thing in found.poses)]
    low = [hand for hand in task.hands if found.is_low(hand)]
    if not grasping and not low:
        return {}
    legs: Legs = {}
    for hand in task.hands:
        here = found.hands[hand]
        opening_rad = OPEN_RAD if hand in grasping else found.opening_rad(hand)
        up = np.array([*here[:2], max(CLEAR_Z_M, here[2]) if hand in low else here[2]])
        release = [Leg(here, RELEASING_S, gripper_rad=opening_rad)] if grasping else []
        legs[hand] = unhurried(here, [*release, Leg(up, RISING_S, gripper_rad=opening_rad)])
    return legs


def approached(legs: Legs, found: Found) -> Legs:
    """A whole demonstration's legs; hands that are lower than one starts rise on their way."""
    return {
        hand: [replace(own[0], shape="up"), *own[1:]] if found.hands[hand][2] < RISEN_Z_M else own
        for hand, own in legs.items()
    }


def _placed(legs: list[Leg], found: Found, hand: Hand) -> list[Leg]:
    """The legs of a place from closing the gripper on, with the thing where the hand has it."""
    here = found.hands[hand]
    close, lifted, over, *rest = legs
    at_the_bin = _aside(over.goal, here) <= AT_THE_BIN_M and here[2] >= over.goal[2] - ALIGNED_M
    up = [replace(lifted, goal=np.array([*here[:2], lifted.goal[2]]))]
    if at_the_bin or here[2] >= lifted.goal[2] - ALIGNED_M:
        up = []
    return [replace(close, goal=here), *up, over, *rest]


def _dropped(legs: list[Leg], found: Found, hand: Hand) -> list[Leg]:
    """The legs of a place from opening the gripper on, over the bin already."""
    here = found.hands[hand]
    over, *rest = legs
    way = (over.goal - here) * [1.0, 1.0, 0.0]
    inwards = here + way * DROPPING_M / max(float(np.linalg.norm(way)), DROPPING_M)
    return [replace(leg, goal=inwards) for leg in rest]


def _lifted(legs: list[Leg], found: Found, hand: Hand) -> list[Leg]:
    """The legs of a lift from closing the grippers on, to the height where a demonstration ends, level."""
    here = found.hands[hand]
    close, lift, rest = legs
    at_the_end_m = TABLE_TOP_Z_M + TRAY_SIZE_M[2] + TRAY_HANDLE_SIZE_M[2] / 2 + TRAY_LIFT_M  # a handle's middle
    up = here + [0.0, 0.0, at_the_end_m - handle_position(found.poses[TRAY], hand)[2]]
    return [replace(close, goal=here), replace(lift, goal=up), replace(rest, goal=up)]


def _aside(place: Floats, here: Floats) -> float:
    """Distance sideways, m."""
    return float(np.linalg.norm(place[:2] - here[:2]))


def _is_behind(task: Task, found: Found) -> bool:
    """Whether a hand stands low behind the object, ready to push it."""
    ahead = found.poses[task.thing][:3] - found.hands[task.hand]
    aligned = abs(ahead[0]) <= ABREAST_M and abs(found.hands[task.hand][2] - PUSH_Z_M) <= ALIGNED_M
    return aligned and BEHIND_M[0] <= side(task.direction) * ahead[1] <= BEHIND_M[1]


def _is_above(goal: Floats, hand: Hand, found: Found) -> bool:
    """Whether an open hand is inside the cone over its place of work in which demonstrations come down."""
    aside, height = _aside(goal, found.hands[hand]), found.hands[hand][2] - goal[2]
    inside = -LOW_M <= height <= HOVER_M and aside <= CONE_M + CONE_SLOPE * max(height, 0.0)
    return inside and found.opening_rad(hand) >= OPEN_ENOUGH_RAD
