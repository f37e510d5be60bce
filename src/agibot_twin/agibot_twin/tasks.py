"""Tasks at the twin's table: what is asked, how far it has been done, and when it is done.

Four families, and one that training never names:

* touch  an object with a hand: the point between the finger pads stays near the object's centre for a moment;
* push   an object to the left or right with a hand: it has moved PUSH_M that way;
* place  an object in the bin with a hand: it lies between the bin's walls;
* lift   the tray with both hands: its middle has risen LIFT_M and it is nearly level;
* tap    an object with a hand (unseen verb): a touch that need not last.

Progress is dense, from 0 at the start to 1 when done, and counts the best so far. Left and right are the robot's: left
is +y of its base.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agibot_twin.layout import Layout
from agibot_twin.objects import (
    BIN_CENTRE_M,
    BIN_SIZE_M,
    TRAY,
    TRAY_HANDLE_SIZE_M,
    TRAY_HANDLE_Y_M,
    TRAY_SIZE_M,
)
from agibot_twin.scene import TABLE_TOP_Z_M

Floats = NDArray[np.float64]
Hand = Literal["left", "right"]
Direction = Literal["left", "right"]
HANDS: tuple[Hand, ...] = ("left", "right")
HAND_BODIES: Mapping[Hand, str] = {"left": "gripper_l_center_link", "right": "gripper_r_center_link"}

TOUCH, PUSH, PLACE, LIFT, TAP = "touch", "push", "place", "lift", "tap"
SEEN_FAMILIES = (TOUCH, PUSH, PLACE, LIFT)

TOUCH_DISTANCE_M = 0.05
TOUCH_DWELL_S = 0.2
PUSH_M = 0.06
LIFT_M = 0.05
LARGEST_TILT_RAD = np.radians(25.0)
CARRY_HEIGHT_M = 0.06  # an object this far above its place counts as picked up


@dataclass(frozen=True)
class Task:
    """What is asked. `thing` is a shape's name; `hand` is None for both hands, `direction` for pushes only."""

    family: str
    thing: str
    colour: str = ""
    hand: Hand | None = None
    direction: Direction | None = None

    @property
    def hands(self) -> tuple[Hand, ...]:
        return HANDS if self.hand is None else (self.hand,)


def side(hand_or_direction: str) -> float:
    """+1 for left, −1 for right."""
    return 1.0 if hand_or_direction == "left" else -1.0


def handle_position(tray_pose: Floats, hand: Hand) -> Floats:
    """Middle of the handle [3] that a hand takes, for a tray at a pose [7]."""
    offset = [0.0, side(hand) * TRAY_HANDLE_Y_M, (TRAY_SIZE_M[2] + TRAY_HANDLE_SIZE_M[2]) / 2]
    return tray_pose[:3] + rotation(tray_pose[3:]) @ offset


def rotation(quaternion: Floats) -> Floats:
    """Rotation matrix [3, 3] of a unit quaternion [w x y z]."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@dataclass(frozen=True, eq=False)
class Situation:
    """What a judge looks at: hands [3] and body poses [7] in the base frame at one instant."""

    time_s: float
    hands: Mapping[Hand, Floats]
    poses: Mapping[str, Floats]


class Judge:
    """Follows one task from its first situation on."""

    def __init__(self, task: Task, layout: Layout, first: Situation) -> None:
        if task.thing not in layout.poses:
            raise ValueError(f"the task is about {task.thing}, on the table are {sorted(layout.poses)}")
        self.task, self._first = task, first
        self.progress, self.success = 0.0, False
        self._near_since_s: float | None = None

    def watch(self, now: Situation) -> None:
        """Take a later situation into account."""
        done, progress = {
            TOUCH: self._touch,
            TAP: self._tap,
            PUSH: self._push,
            PLACE: self._place,
            LIFT: self._lift,
        }[self.task.family](now)
        self.success = self.success or done
        self.progress = 1.0 if self.success else max(self.progress, min(progress, 0.999))

    def _touch(self, now: Situation) -> tuple[bool, float]:
        distance = self._distance(now)
        if distance > TOUCH_DISTANCE_M:
            self._near_since_s = None
        elif self._near_since_s is None:
            self._near_since_s = now.time_s
        stayed = self._near_since_s is not None and now.time_s - self._near_since_s >= TOUCH_DWELL_S
        return stayed, self._approach(now)

    def _tap(self, now: Situation) -> tuple[bool, float]:
        return self._distance(now) <= TOUCH_DISTANCE_M, self._approach(now)

    def _push(self, now: Situation) -> tuple[bool, float]:
        moved = side(self.task.direction) * (now.poses[self.task.thing] - self._first.poses[self.task.thing])[1]
        return moved >= PUSH_M, 0.5 * self._approach(now) + 0.5 * float(np.clip(moved / PUSH_M, 0, 1))

    def _place(self, now: Situation) -> tuple[bool, float]:
        thing, start = now.poses[self.task.thing], self._first.poses[self.task.thing]
        inside = np.abs(thing[:2] - BIN_CENTRE_M) < np.array(BIN_SIZE_M[:2]) / 2
        inside = bool(inside.all()) and TABLE_TOP_Z_M < thing[2] < TABLE_TOP_Z_M + BIN_SIZE_M[2]
        raised = float(np.clip((thing[2] - start[2]) / CARRY_HEIGHT_M, 0, 1))
        way = np.linalg.norm(start[:2] - BIN_CENTRE_M)
        carried = float(np.clip(1 - np.linalg.norm(thing[:2] - BIN_CENTRE_M) / way, 0, 1))
        return inside, 0.4 * self._approach(now) + 0.3 * raised + 0.3 * carried * (raised > 0.3)

    def _lift(self, now: Situation) -> tuple[bool, float]:
        tray, start = now.poses[TRAY], self._first.poses[TRAY]
        level = np.arccos(np.clip(rotation(tray[3:])[2, 2], -1, 1)) <= LARGEST_TILT_RAD
        risen = float(np.clip((tray[2] - start[2]) / LIFT_M, 0, 1)) * level
        return risen >= 1.0, 0.5 * self._approach(now) + 0.5 * risen

    def _approach(self, now: Situation) -> float:
        """Share of the way of the hands to what they handle, down to the touching distance; mean over the hands."""
        shares = []
        for hand in self.task.hands:
            way = max(self._reach(self._first, hand) - TOUCH_DISTANCE_M, 1e-9)
            shares.append(np.clip(1 - (self._reach(now, hand) - TOUCH_DISTANCE_M) / way, 0.0, 1.0))
        return float(np.mean(shares))

    def _distance(self, now: Situation) -> float:
        return self._reach(now, self.task.hands[0])

    def _reach(self, now: Situation, hand: Hand) -> float:
        pose = now.poses[self.task.thing]
        target = handle_position(pose, hand) if self.task.thing == TRAY else pose[:3]
        return float(np.linalg.norm(now.hands[hand] - target))
