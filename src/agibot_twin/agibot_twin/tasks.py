"""Tasks at the twin's table: what is asked, in words, and how far it has been done.

One family so far: touch an object with a hand. A task is drawn from the seed that also places the objects, so a seed
names a whole episode. A hand touches an object when the point between its finger pads comes within TOUCH_DISTANCE_M of
the object's centre.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agibot_twin.scene import OBJECTS, TableObject

Hand = Literal["left", "right"]
HANDS: tuple[Hand, ...] = ("left", "right")
HAND_BODIES: Mapping[Hand, str] = {"left": "gripper_l_center_link", "right": "gripper_r_center_link"}

TOUCH_DISTANCE_M = 0.05
REACH_ACROSS_M = 0.03  # how far beyond the middle of the table a hand is sent: farther, the elbow is stretched out
TASK_STREAM = 1  # of a seed's random numbers; the layout of the objects draws from another


@dataclass(frozen=True)
class Touch:
    """Touch an object with a hand."""

    thing: TableObject
    hand: Hand

    @property
    def instruction(self) -> str:
        return f"touch the {self.thing.name.replace('_', ' ')} with the {self.hand} hand"

    def distance_m(self, hand_position: NDArray[np.float64], object_poses: Mapping[str, NDArray[np.float64]]) -> float:
        """From the point between the finger pads [3] to the object's centre."""
        return float(np.linalg.norm(hand_position - object_poses[self.thing.name][:3]))

    @staticmethod
    def progress(distance_m: float, start_distance_m: float) -> float:
        """Share of the way to a touch that has been done, 0 to 1."""
        way = max(start_distance_m - TOUCH_DISTANCE_M, 1e-9)
        return float(np.clip((start_distance_m - distance_m) / way, 0.0, 1.0))

    @staticmethod
    def success(distance_m: float) -> bool:
        return distance_m <= TOUCH_DISTANCE_M


def reaches(hand: Hand, y_m: float) -> bool:
    """Whether a hand is sent to an object at this y: everything on its own side and a little beyond the middle."""
    return (y_m if hand == "left" else -y_m) >= -REACH_ACROSS_M


def sample_touch(seed: int, object_poses: Mapping[str, NDArray[np.float64]]) -> Touch:
    """A task for the scene of this seed: an object, and a hand that reaches it."""
    rng = np.random.default_rng((seed, TASK_STREAM))
    thing = OBJECTS[rng.integers(len(OBJECTS))]
    hands = [hand for hand in HANDS if reaches(hand, object_poses[thing.name][1])]
    return Touch(thing, hands[rng.integers(len(hands))])
