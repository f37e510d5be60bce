"""The scripted expert: smooth hand paths for every task, turned into joint commands that respect the robot's limits.

A task becomes one list of legs for each hand that it needs. On a leg a hand moves along a minimum-jerk path to a
point, sideways before down, up before sideways or straight, and its gripper goes to an opening. Inverse kinematics
(arms.py) follows the paths; an arm that is not needed, the head and the waist keep still. A demonstration whose
commands come near a velocity or acceleration limit is planned again, slower: whoever imitates it starts from rest where
it is in motion, and needs the room.

A demonstration ends where its task is done, at rest: on its way back a hand would pass the places where it went to
work, and a picture of it there would not tell which way it goes.

Half of the demonstrations start with the hand at work anywhere over the table, and half make a detour on purpose: they
set out for a place beside the right one and correct it on the way down. So whoever learns from them sees the way from
everywhere, and how errors are mended.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from agibot_twin.arms import COMMAND_HZ, STEP_S, Arms, Floats
from agibot_twin.episodes import PUSH_END_M, PUSH_START_M
from agibot_twin.objects import BIN_CENTRE_M, BY_NAME
from agibot_twin.robot_model import DRIVEN_JOINTS
from agibot_twin.scene import TABLE_TOP_Z_M
from agibot_twin.tasks import HAND_BODIES, LIFT, PLACE, PUSH, TAP, TOUCH, Hand, Task, handle_position, side
from dreamzero_policy.runtime.contract import Contract

Posture = Literal["eased", "kept"]  # what joints and hands' attitudes strive for: see `Expert.commands`

EXPERT_STREAM = 1  # of a seed's random numbers
SMOOTHING_STEPS = 2.0  # standard deviation of the filter over joint commands
LIMIT_SHARE = 0.6  # of the velocity and acceleration limits that a demonstration may use
STRETCH = 1.1  # of all durations where a demonstration needs more, at least
SLOWEST = 8.0  # times longer; what needs more is a jump, and no time is long enough
START_SPREAD_M = np.array([0.05, 0.05, 0.04])  # of a hand's start around its home
AFAR_SHARE = 0.5  # of the demonstrations start anywhere in a box, counted towards the hand's own side
AFAR_FROM_M = np.array([0.44, 0.0, TABLE_TOP_Z_M + 0.11])
AFAR_TO_M = np.array([0.66, 0.42, TABLE_TOP_Z_M + 0.24])
APART_M = 0.08  # that both hands stay from the middle where both are at work
REACHING_S = 2.0  # to bring the hands to their start, in planning
SWIFTEST_M_S = 0.55  # of a hand at the fastest point of a long leg

HOVER_M = 0.07  # above the place where a hand goes down
GRASP_Z_M = TABLE_TOP_Z_M + 0.028  # of the point between the pads: the tips clear the table
PUSH_Z_M = TABLE_TOP_Z_M + 0.035
HANDLE_GRASP_M = 0.010  # above the middle of a handle
TRAY_LIFT_M = 0.10
CARRY_Z_M = TABLE_TOP_Z_M + 0.14
DROP_Z_M = TABLE_TOP_Z_M + 0.10
DROP_AHEAD_M = -0.01  # from the bin's middle
DROP_SIDE_M = 0.04  # towards the hand's own side of the bin's middle
OPEN_RAD, CLOSED_RAD = 0.773, 0.012  # gripper joint
RESTING_S = 0.9  # at the end: longer than a chunk, so that staying is part of what is shown
DETOUR_SHARE = 0.5
DETOUR_M = 0.025  # standard deviation along x and y

GRIPPER_JOINT: Mapping[Hand, str] = {
    "left": "idx41_gripper_l_outer_joint1",
    "right": "idx81_gripper_r_outer_joint1",
}


class ExpertError(RuntimeError):
    """No path inside the limits was found; the message names the worst joint and both values."""


@dataclass(frozen=True)
class CommandLimits:
    """Largest speed and acceleration of each driven joint, in the order of DRIVEN_JOINTS [rad, m; s]."""

    velocity: Floats
    acceleration: Floats


def command_limits(contract: Contract) -> CommandLimits:
    """The contract's limits in the order of the driven joints."""
    limits = [contract.site.limits[joint].usable for joint in DRIVEN_JOINTS]
    return CommandLimits(
        np.array([limit.velocity for limit in limits]), np.array([limit.acceleration for limit in limits])
    )


@dataclass(frozen=True, eq=False)
class Leg:
    """A hand's way to `goal` [3] in `duration_s` or longer if it is far, with its gripper going to `gripper_rad`
    meanwhile.

    `shape`: "straight", "down" (sideways first) or "up" (up first).
    """

    goal: Floats
    duration_s: float
    shape: str = "straight"
    gripper_rad: float = OPEN_RAD


class Expert:
    """Plans whole demonstrations."""

    def __init__(self, limits: CommandLimits) -> None:
        self.arms = Arms()
        self.limits = limits

    def start_pose(self, task: Task, rng: np.random.Generator) -> Floats:
        """Where a demonstration starts [20]: hands near home, half the time those at work anywhere over the table."""
        afar = rng.random() < AFAR_SHARE
        paths = {}
        for hand in HAND_BODIES:
            begin = self.arms.hand_position(hand, self.arms.home)
            end = begin + rng.uniform(-START_SPREAD_M, START_SPREAD_M)
            if afar and hand in task.hands:
                end = rng.uniform(AFAR_FROM_M, AFAR_TO_M)
                end[1] = side(hand) * (end[1] if len(task.hands) == 1 else max(end[1], APART_M))
            paths[hand] = straight(begin, end, round(REACHING_S * COMMAND_HZ))
        joints = self.arms.follow(self.arms.home, paths)[-1]
        joints[[DRIVEN_JOINTS.index(joint) for joint in GRIPPER_JOINT.values()]] = OPEN_RAD
        return joints

    def demonstrate(self, task: Task, poses: Mapping[str, Floats], start: Floats, rng: np.random.Generator) -> Floats:
        """Commands [N, 20], one every STEP_S, that do the task for bodies at these poses [7] and end at rest.

        Raises:
            ExpertError: the limits are broken however slowly the hands go.
        """
        return self.commands(start, self.legs(task, poses, start, rng))

    def legs(
        self, task: Task, poses: Mapping[str, Floats], start: Floats, rng: np.random.Generator | None
    ) -> dict[Hand, list[Leg]]:
        """What each hand does, from wherever it starts to a rest where the task is done.

        `rng` draws pace and detours; without it there are none.
        """
        return {hand: self._legs(task, hand, poses, start, rng) for hand in task.hands}

    def commands(
        self,
        start: Floats,
        legs: Mapping[Hand, Sequence[Leg]],
        posture: Posture = "eased",
        first: int | None = None,
        easing_s: float = 0.0,
    ) -> Floats:
        """Commands [N, 20] for the hands' legs, as slow as the limits want it.

        Args:
            start: joint positions [20].
            legs: as many for every hand.
            posture: "eased" goes from that of the start to the one that arms strive for over the first leg, "kept"
                stays like the start.
            first: so many rows are wanted and no more. Legs that end before stay where they end; where the last of
                the rows is in motion, what comes behind it is not looked at.
            easing_s: time that "eased" takes at least.

        Raises:
            ExpertError: the limits are broken however slowly the hands go.
        """
        if len(legs) > 1:
            legs = together(legs)
        slower = 1.0
        while True:
            commands = self._commands(start, legs, posture, first, easing_s)
            excess = excesses(commands, self.limits, at_rest=first is None)
            if excess.max() <= LIMIT_SHARE:
                return commands
            # Accelerations fall with the square of the time.
            stretch = max(STRETCH, float(excess.max() / LIMIT_SHARE) ** 0.5)
            if slower * stretch > SLOWEST:
                joint = DRIVEN_JOINTS[int(excess.argmax())]
                raise ExpertError(
                    f"{joint} needs {excess.max():.2f} times its limit, at most {LIMIT_SHARE} are allowed, even when "
                    f"all takes {slower:.1f} times longer"
                )
            slower, easing_s = slower * stretch, easing_s * stretch
            legs = {
                hand: [replace(leg, duration_s=leg.duration_s * stretch) for leg in own] for hand, own in legs.items()
            }

    def _commands(
        self, start: Floats, legs: Mapping[Hand, Sequence[Leg]], posture: Posture, first: int | None, easing_s: float
    ) -> Floats:
        paths = {hand: cut(path_of(self.arms.hand_position(hand, start), own), first) for hand, own in legs.items()}
        ease = np.zeros(max(map(len, paths.values())))
        if posture == "eased":
            steps = max(round(easing_s * COMMAND_HZ), *(steps_of(own[0]) for own in legs.values()))
            ease[:] = cut(minimum_jerk(steps), len(ease))
        commands = smooth(self.arms.follow(start, paths, ease))
        for hand, own in legs.items():
            column = DRIVEN_JOINTS.index(GRIPPER_JOINT[hand])
            commands[:, column] = cut(gripper_of(float(start[column]), own), first)
        return commands

    def _legs(
        self, task: Task, hand: Hand, poses: Mapping[str, Floats], start: Floats, rng: np.random.Generator | None
    ) -> list[Leg]:
        detour, pace = np.zeros(2), 1.0
        if rng is not None:
            detour = rng.normal(0.0, DETOUR_M, 2) if rng.random() < DETOUR_SHARE else detour
            pace = rng.uniform(0.9, 1.15)
        doing = {TOUCH: _touch, TAP: _touch, PUSH: _push, PLACE: _place, LIFT: _lift}[task.family]
        legs = unhurried(self.arms.hand_position(hand, start), doing(task, hand, poses, detour))
        return [replace(leg, duration_s=leg.duration_s * pace) for leg in legs]


def _touch(task: Task, hand: Hand, poses: Mapping[str, Floats], detour: Floats) -> list[Leg]:
    goal = poses[task.thing][:3] + [0.0, 0.0, BY_NAME[task.thing].half_height_m]
    return [Leg(_above(goal, detour), 0.9, "down"), Leg(goal, 0.7), Leg(goal, RESTING_S)]


def _push(task: Task, hand: Hand, poses: Mapping[str, Floats], detour: Floats) -> list[Leg]:
    thing, towards = poses[task.thing], side(task.direction)
    beside = np.array([thing[0], thing[1] - towards * PUSH_START_M, PUSH_Z_M])
    end = beside + [0.0, towards * (PUSH_START_M + PUSH_END_M), 0.0]
    return [Leg(_above(beside, 0.6 * detour), 0.9, "down"), Leg(beside, 0.7), Leg(end, 1.2), Leg(end, RESTING_S)]


def _place(task: Task, hand: Hand, poses: Mapping[str, Floats], detour: Floats) -> list[Leg]:
    goal = np.array([*poses[task.thing][:2], GRASP_Z_M])
    over = np.array([BIN_CENTRE_M[0] + DROP_AHEAD_M, BIN_CENTRE_M[1] + side(hand) * DROP_SIDE_M, DROP_Z_M])
    lifted = np.array([*goal[:2], CARRY_Z_M])
    return [
        Leg(_above(goal, detour), 0.9, "down"),
        Leg(goal, 0.8),
        Leg(goal, 0.5, gripper_rad=CLOSED_RAD),
        Leg(lifted, 0.9, gripper_rad=CLOSED_RAD),
        Leg(over, 1.2, "down", gripper_rad=CLOSED_RAD),
        Leg(over, 0.4, gripper_rad=OPEN_RAD),
        Leg(over, RESTING_S),
    ]


def _lift(task: Task, hand: Hand, poses: Mapping[str, Floats], detour: Floats) -> list[Leg]:
    goal = handle_position(poses[task.thing], hand) + [0.0, 0.0, HANDLE_GRASP_M]
    up = goal + [0.0, 0.0, TRAY_LIFT_M]
    return [
        Leg(_above(goal, 0.6 * detour), 0.9, "down"),
        Leg(goal, 0.8),
        Leg(goal, 0.5, gripper_rad=CLOSED_RAD),
        Leg(up, 1.1, gripper_rad=CLOSED_RAD),
        Leg(up, RESTING_S, gripper_rad=CLOSED_RAD),
    ]


def _above(goal: Floats, detour: Floats) -> Floats:
    return goal + [*detour, HOVER_M]


def unhurried(begin: Floats, legs: Sequence[Leg]) -> list[Leg]:
    """The same legs, long ones with the time they need: a minimum-jerk path is at its fastest 15/8 of its mean."""
    slowed = []
    for leg in legs:
        needed_s = 15 / 8 * float(np.linalg.norm(leg.goal - begin)) / SWIFTEST_M_S
        slowed.append(replace(leg, duration_s=max(leg.duration_s, needed_s)))
        begin = leg.goal
    return slowed


def together(legs: Mapping[Hand, Sequence[Leg]]) -> dict[Hand, list[Leg]]:
    """Legs of the same number take the same time, as long as the slower hand needs."""
    durations = [max(leg.duration_s for leg in pair) for pair in zip(*legs.values(), strict=True)]
    return {
        hand: [replace(leg, duration_s=duration) for leg, duration in zip(own, durations, strict=True)]
        for hand, own in legs.items()
    }


def path_of(begin: Floats, legs: Sequence[Leg]) -> Floats:
    """Hand positions [N, 3], one every STEP_S."""
    pieces = []
    for leg in legs:
        s = minimum_jerk(steps_of(leg))
        vertical = {"straight": s, "down": s**2, "up": 1 - (1 - s) ** 2}[leg.shape]
        pieces.append(begin + np.stack([s, s, vertical], axis=1) * (leg.goal - begin))
        begin = leg.goal
    return np.concatenate(pieces)


def gripper_of(begin: float, legs: Sequence[Leg]) -> Floats:
    """Gripper joint [N], rad, one every STEP_S."""
    pieces = []
    for leg in legs:
        pieces.append(begin + minimum_jerk(steps_of(leg)) * (leg.gripper_rad - begin))
        begin = leg.gripper_rad
    return np.concatenate(pieces)


def cut(rows: Floats, count: int | None) -> Floats:
    """So many of the rows, the last of them again and again where there are fewer; all for None."""
    if count is None or len(rows) == count:
        return rows
    return rows[np.minimum(np.arange(count), len(rows) - 1)]


def smooth(commands: Floats) -> Floats:
    """Commands [N, 20] without the corners that a joint makes where it meets its stop; both ends keep their place."""
    return gaussian_filter1d(commands, SMOOTHING_STEPS, axis=0, mode="nearest")


def steps_of(leg: Leg) -> int:
    return max(1, round(leg.duration_s * COMMAND_HZ))


def minimum_jerk(steps: int) -> Floats:
    """From above 0 to 1 in so many steps, with vanishing speed and acceleration at both ends."""
    s = np.arange(1, steps + 1) / steps
    return s**3 * (10 + s * (6 * s - 15))


def straight(begin: Floats, end: Floats, steps: int) -> Floats:
    """Points [steps, 3] of a straight minimum-jerk path."""
    return begin + minimum_jerk(steps)[:, None] * (end - begin)


def velocities(commands: Floats) -> Floats:
    """Joint speeds [N, 20] of a smooth curve through the commands, at rest at both ends."""
    spline = CubicSpline(STEP_S * np.arange(len(commands)), commands, bc_type="clamped")
    speeds = spline(spline.x, 1)
    speeds[[0, -1]] = 0.0  # exactly: a controller refuses a trajectory whose last point moves
    return speeds


def excesses(commands: Floats, limits: CommandLimits, at_rest: bool = True) -> Floats:
    """How much of its velocity or acceleration limit each joint needs [20]; above 1 is too much.

    Commands begin at rest, and end there unless `at_rest` says otherwise.
    """
    zero = np.zeros(commands.shape[1])
    ends = ((1, zero), (1 if at_rest else 2, zero))  # the derivative that vanishes at the begin and at the end
    spline = CubicSpline(STEP_S * np.arange(len(commands)), commands, bc_type=ends)
    fine = np.linspace(0, spline.x[-1], 4 * len(commands))
    speed, acceleration = np.abs(spline(fine, 1)).max(0), np.abs(spline(fine, 2)).max(0)
    return np.maximum(speed / limits.velocity, acceleration / limits.acceleration)
