"""The scripted expert: a smooth hand path, turned into joint commands that respect the robot's limits.

The hand moves along minimum-jerk paths, sideways before down on the way to the object and up before sideways on the way
back. Differential inverse kinematics (mink, solved by daqp) follows it one command period at a time; the other arm, the
grippers, the head and the waist keep still. A demonstration whose commands break a velocity or acceleration limit is
planned again, slower.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import mink
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from agibot_bringup.description import load_home, load_urdf
from agibot_twin.robot_model import DRIVEN_JOINTS, robot_spec
from agibot_twin.tasks import HAND_BODIES, Hand, Touch

Floats = NDArray[np.float64]

COMMAND_HZ = 30.0
STEP_S = 1.0 / COMMAND_HZ
ITERATIONS = 5  # of inverse kinematics per command
GAIN = (
    0.5  # of the error that one iteration takes away; a whole step swings to and fro where a joint stands at its stop
)
POSTURE_COST = 0.04  # per rad away from home, against 1 per m of the hand: keeps the arm from folding or stretching out
SWIFTEST_RAD_S = 2.5  # what inverse kinematics may ask of an arm joint; demonstrations are far below
STRETCH = 1.25  # of all durations when limits are broken
ATTEMPTS = 6
PALM_CLEARANCE_M = 0.0  # how far above the top of the object the point between the pads stops
START_SPREAD_M = np.array([0.05, 0.06, 0.04])  # of a hand's start around its home
ARM_JOINTS: Mapping[Hand, tuple[str, ...]] = {
    "left": tuple(name for name in DRIVEN_JOINTS if "_arm_l_" in name),
    "right": tuple(name for name in DRIVEN_JOINTS if "_arm_r_" in name),
}


class ExpertError(RuntimeError):
    """No path inside the limits was found; the message names the worst joint and both values."""


@dataclass(frozen=True)
class CommandLimits:
    """Largest speed and acceleration of each driven joint, in the order of DRIVEN_JOINTS [rad, m; s]."""

    velocity: Floats
    acceleration: Floats


@dataclass(frozen=True)
class Pace:
    """Durations of one demonstration [s]."""

    wait_s: float
    reach_s: float
    dwell_s: float
    retreat_s: float
    rest_s: float

    def slower(self) -> "Pace":
        return Pace(self.wait_s, self.reach_s * STRETCH, self.dwell_s, self.retreat_s * STRETCH, self.rest_s)

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Pace":
        return cls(*rng.uniform([0.0, 1.1, 0.25, 1.1, 0.3], [0.2, 1.6, 0.4, 1.6, 0.7]))


class Arms:
    """Kinematics of both arms: where the hands are, and joint positions that bring one of them somewhere.

    Joint vectors [20] are in the order of DRIVEN_JOINTS.
    """

    def __init__(self) -> None:
        self.model = robot_spec(load_urdf()).compile()
        self._configuration = mink.Configuration(self.model)
        self._columns = np.array([self.model.joint(name).qposadr[0] for name in DRIVEN_JOINTS])
        self.home = np.array([load_home()[name] for name in DRIVEN_JOINTS])
        self._hands = {
            hand: mink.FrameTask(body, "body", position_cost=1.0, orientation_cost=0.03, gain=GAIN, lm_damping=1e-3)
            for hand, body in HAND_BODIES.items()
        }
        posture_cost = np.zeros(self.model.nv)
        posture_cost[[self.model.joint(name).dofadr[0] for name in DRIVEN_JOINTS]] = POSTURE_COST
        self._posture = mink.PostureTask(self.model, cost=posture_cost, gain=GAIN)
        arm_joints = ARM_JOINTS["left"] + ARM_JOINTS["right"]
        self._limits = [
            mink.ConfigurationLimit(self.model),
            mink.VelocityLimit(self.model, dict.fromkeys(arm_joints, SWIFTEST_RAD_S)),
        ]
        self._still = {
            hand: mink.DofFreezingTask(self.model, self._dofs_outside(ARM_JOINTS[hand])) for hand in HAND_BODIES
        }

    def hand_position(self, hand: Hand, joints: Floats) -> Floats:
        """The point between the finger pads [3], m, in the robot's base frame."""
        return self._at(joints).get_transform_frame_to_world(HAND_BODIES[hand], "body").translation()

    def follow(self, hand: Hand, joints: Floats, path: Floats) -> Floats:
        """Joint vectors [N, 20] that take a hand along the points [N, 3], starting near the first one."""
        task = self._hands[hand]
        at_home = self._at(self.home)
        self._posture.set_target_from_configuration(at_home)
        orientation = at_home.get_transform_frame_to_world(HAND_BODIES[hand], "body").rotation()
        configuration = self._at(joints)
        rows = []
        for point in path:
            task.set_target(mink.SE3.from_rotation_and_translation(orientation, point))
            for _ in range(ITERATIONS):
                velocity = mink.solve_ik(
                    configuration,
                    [task, self._posture],
                    STEP_S / ITERATIONS,
                    solver="daqp",
                    damping=1e-4,
                    limits=self._limits,
                    constraints=[self._still[hand]],
                )
                configuration.integrate_inplace(velocity, STEP_S / ITERATIONS)
            rows.append(configuration.q[self._columns].copy())
        return np.array(rows)

    def _at(self, joints: Floats) -> mink.Configuration:
        q = self.model.qpos0.copy()
        q[self._columns] = joints
        self._configuration.update(q)
        return self._configuration

    def _dofs_outside(self, joints: tuple[str, ...]) -> list[int]:
        moving = {int(self.model.joint(name).dofadr[0]) for name in joints}
        return [dof for dof in range(self.model.nv) if dof not in moving]


class Expert:
    """Plans whole demonstrations."""

    def __init__(self, limits: CommandLimits) -> None:
        self.arms = Arms()
        self.limits = limits

    def start_pose(self, rng: np.random.Generator) -> Floats:
        """Home with both hands a little elsewhere [20]."""
        joints = self.arms.home.copy()
        for hand in HAND_BODIES:
            begin = self.arms.hand_position(hand, joints)
            end = begin + rng.uniform(-START_SPREAD_M, START_SPREAD_M)
            joints = self.arms.follow(hand, joints, straight(begin, end, 20))[-1]
        return joints

    def demonstrate(self, task: Touch, object_position: Floats, start: Floats, rng: np.random.Generator) -> Floats:
        """Commands [N, 20], one every STEP_S: wait, reach, touch, return towards home, stay.

        Raises:
            ExpertError: the limits are broken however slowly the hand goes.
        """
        pace = Pace.sample(rng)
        home = self.arms.hand_position(task.hand, self.arms.home)
        away = home + rng.uniform(-START_SPREAD_M, START_SPREAD_M) / 2
        begin = self.arms.hand_position(task.hand, start)
        goal = object_position + [0.0, 0.0, task.thing.half_height_m + PALM_CLEARANCE_M]
        for _ in range(ATTEMPTS):
            commands = self.arms.follow(task.hand, start, touch_path(begin, goal, away, pace))
            excess = excesses(commands, self.limits)
            if excess.max() <= 1.0:
                return commands
            pace = pace.slower()
        joint = DRIVEN_JOINTS[int(excess.argmax())]
        raise ExpertError(
            f"{joint} needs {excess.max():.2f} times its limit even when the reach takes {pace.reach_s:.1f} s"
        )


def touch_path(begin: Floats, goal: Floats, away: Floats, pace: Pace) -> Floats:
    """Hand positions [N, 3], one every STEP_S."""
    waits, reaches_, dwells, retreats, rests = (
        max(1, round(duration * COMMAND_HZ))
        for duration in (pace.wait_s, pace.reach_s, pace.dwell_s, pace.retreat_s, pace.rest_s)
    )
    ahead, back = minimum_jerk(reaches_), minimum_jerk(retreats)
    down = np.stack([ahead, ahead, ahead**2], axis=1)  # sideways first
    up = np.stack([back, back, 1 - (1 - back) ** 2], axis=1)  # up first
    return np.concatenate(
        [
            np.repeat(begin[None], waits, 0),
            begin + down * (goal - begin),
            np.repeat(goal[None], dwells, 0),
            goal + up * (away - goal),
            np.repeat(away[None], rests, 0),
        ]
    )


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


def excesses(commands: Floats, limits: CommandLimits) -> Floats:
    """How much of its velocity or acceleration limit each joint needs [20]; above 1 is too much."""
    spline = CubicSpline(STEP_S * np.arange(len(commands)), commands, bc_type="clamped")
    fine = np.linspace(0, spline.x[-1], 4 * len(commands))
    speed, acceleration = np.abs(spline(fine, 1)).max(0), np.abs(spline(fine, 2)).max(0)
    return np.maximum(speed / limits.velocity, acceleration / limits.acceleration)
