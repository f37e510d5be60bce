"""The unit table: the robot's own vectors, entry by entry, and what each entry means in rad and m.

Every conversion of the bridge is a line of this table, raw = zero + per_si · value, once for what the robot reports and
once for what it is told. What it decides:

    arms            left 1 … 7, then right 1 … 7, rad
    head            yaw, pitch, rad
    waist           pitch, then lift: the reverse of the joints' numbers. Lift in m on the topics, in cm in the SDK
    grippers        a number that says open and one that says closed, straight between them. The joint is the driven
                    (outer) one: 0 rad closed, 0.785 rad open, so the polarity turns around

Sources disagree about the grippers (0 … 120 mm against 0 … 1; reports of 35 … 120 mm) and the lift, and nobody states
the signs of the arms. So each is a parameter, and feedback that cannot be right is refused (see `Entry.doubt`); what a
number cannot tell, a person checks joint by joint before the first motion. Pure: no numpy, no ROS.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

PER_SI = {"rad": 1.0, "deg": 180 / math.pi, "m": 1.0, "cm": 100.0, "mm": 1000.0}
ANGLES, LENGTHS = ("rad", "deg"), ("m", "cm", "mm")
GRIPPER = "gripper"  # the unit of an entry that goes from a number for open to one for closed
OPEN_RAD, CLOSED_RAD = 0.785, 0.0  # of the driven finger joint, in agibot_g1_gripper.xacro


class Group(str, Enum):
    """What the robot takes and reports in one message."""

    ARMS = "arms"
    LEFT_GRIPPER = "left_gripper"
    RIGHT_GRIPPER = "right_gripper"
    HEAD = "head"
    WAIST = "waist"


@dataclass(frozen=True)
class Line:
    """raw = zero + per_si · value."""

    zero: float
    per_si: float
    unit: str

    def raw(self, value: float) -> float:
        return self.zero + self.per_si * value

    def value(self, raw: float) -> float:
        return (raw - self.zero) / self.per_si

    def rate(self, raw_per_s: float) -> float:
        return raw_per_s / self.per_si


@dataclass(frozen=True)
class Entry:
    """One number of one of the robot's vectors."""

    joint: str
    feedback: Line
    command: Line

    def doubt(self, raw: float, lower: float, upper: float, tolerance: float) -> str:
        """Why a report cannot be right under its declared unit, or could as well be in a larger one; else empty.

        `lower`, `upper` and `tolerance` in rad or m.
        """
        value, unit = self.feedback.value(raw), self.feedback.unit
        if lower - tolerance <= value <= upper + tolerance:
            if unit != GRIPPER and abs(self.feedback.per_si) > 1 and lower <= raw <= upper:
                larger = "m" if unit in LENGTHS else "rad"
                return (
                    f"{self.joint} reads {raw:g}: {value:g} {larger} if that is in {unit}, {raw:g} {larger} if it is in"
                    f" {larger}, and both can be. Move the joint until only one of them can be, or correct the unit"
                )
            return ""
        text = f"{self.joint} reads {raw:g}, in {unit} {value:g}; its range is {lower:g} … {upper:g}"
        if unit == GRIPPER:
            return f"{text}. Correct what the robot reports when open and when closed"
        fits = [
            other
            for other in (ANGLES if unit in ANGLES else LENGTHS)
            if other != unit and lower - tolerance <= raw / PER_SI[other] <= upper + tolerance
        ]
        return text + (f". It would fit in {' or '.join(fits)}" if fits else "")


@dataclass(frozen=True)
class Units:
    """What is declared of an installation; see config/bridge.yaml."""

    head: str
    waist_pitch: str
    lift_feedback: str
    lift_command: str
    gripper_feedback: tuple[float, float]  # what is reported when open, when closed
    gripper_command: tuple[float, float]  # what is sent for open, for closed
    reversed_joints: Collection[str] = ()  # the robot counts them the other way round


ARMS = (
    *(f"idx2{i}_arm_l_joint{i}" for i in range(1, 8)),
    *(f"idx6{i}_arm_r_joint{i}" for i in range(1, 8)),
)
YAW, PITCH = "idx11_head_joint1", "idx12_head_joint2"
WAIST_PITCH, LIFT = "idx02_body_joint2", "idx01_body_joint1"
LEFT_GRIPPER, RIGHT_GRIPPER = "idx41_gripper_l_outer_joint1", "idx81_gripper_r_outer_joint1"
JOINTS = (*ARMS, LEFT_GRIPPER, RIGHT_GRIPPER, YAW, PITCH, WAIST_PITCH, LIFT)

Table = Mapping[Group, tuple[Entry, ...]]


def unit_table(units: Units) -> Table:
    """The table of an installation.

    Raises:
        ValueError: a unit or a joint that does not exist, or a gripper that is open and closed at the same number.
    """
    if unknown := sorted(set(units.reversed_joints) - set(JOINTS)):
        raise ValueError(f"reversed_joints names {unknown}, the robot has {list(JOINTS)}")

    def scaled(joint: str, allowed: tuple[str, ...], feedback: str, command: str) -> Entry:
        for what, unit in (("feedback", feedback), ("command", command)):
            if unit not in allowed:
                raise ValueError(f"{joint}: {what} unit is {unit!r}, expected one of {', '.join(allowed)}")
        sign = -1.0 if joint in units.reversed_joints else 1.0
        return Entry(joint, Line(0.0, sign * PER_SI[feedback], feedback), Line(0.0, sign * PER_SI[command], command))

    def gripper(joint: str) -> Entry:
        feedback, command = (
            _between(*ends, joint in units.reversed_joints) for ends in (units.gripper_feedback, units.gripper_command)
        )
        return Entry(joint, feedback, command)

    return {
        Group.ARMS: tuple(scaled(joint, ANGLES, "rad", "rad") for joint in ARMS),
        Group.LEFT_GRIPPER: (gripper(LEFT_GRIPPER),),
        Group.RIGHT_GRIPPER: (gripper(RIGHT_GRIPPER),),
        Group.HEAD: tuple(scaled(joint, ANGLES, units.head, units.head) for joint in (YAW, PITCH)),
        Group.WAIST: (
            scaled(WAIST_PITCH, ANGLES, units.waist_pitch, units.waist_pitch),
            scaled(LIFT, LENGTHS, units.lift_feedback, units.lift_command),
        ),
    }


def _between(at_open: float, at_closed: float, swapped: bool) -> Line:
    if at_open == at_closed:
        raise ValueError(f"a gripper that is open at {at_open:g} cannot be closed at {at_closed:g}")
    if swapped:
        at_open, at_closed = at_closed, at_open
    per_rad = (at_open - at_closed) / (OPEN_RAD - CLOSED_RAD)
    return Line(at_closed - per_rad * CLOSED_RAD, per_rad, GRIPPER)
