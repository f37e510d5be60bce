"""Kinematics of both arms: where the hands are, and joint positions that bring them somewhere.

Differential inverse kinematics (mink, solved by daqp) follows hand paths one command period at a time, in the arms'
joint ranges less a margin. Whatever is not one of the arms that move keeps still.
"""

import math
from collections.abc import Mapping

import mink
import numpy as np
from numpy.typing import NDArray

from agibot_bringup.description import load_home, load_urdf
from agibot_twin.robot_model import DRIVEN_JOINTS, robot_spec
from agibot_twin.tasks import HAND_BODIES, Hand

Floats = NDArray[np.float64]

COMMAND_HZ = 30.0
STEP_S = 1.0 / COMMAND_HZ
ITERATIONS = 2  # of inverse kinematics per command
GAIN = 0.6  # of the error that one iteration takes away; a whole step swings to and fro where a joint is at its stop
# Per rad away from the posture that arms strive for, against 1 per m of the hand: keeps the arm from folding or
# stretching out. Dearer, and hands end centimetres beside goals where that posture is far; cheaper, and arms turn so
# quickly that the limits stretch their ways.
POSTURE_COST = 0.025
ORIENTATION_COST = 0.015  # per rad, against 1 per m: the hand keeps about the attitude it has at home
# Third joint of the posture that arms strive for, outwards; at home it is at 0.66. So the elbow stands off, and the
# second joint does not come to its stop where a hand goes down in the middle of the table.
ELBOW_RAD = 1.2
SWIFTEST_RAD_S = 2.5  # what inverse kinematics may ask of an arm joint; demonstrations are far below
STOP_MARGIN_RAD = 0.06  # that arm joints keep from their stops

ARM_JOINTS: Mapping[Hand, tuple[str, ...]] = {
    "left": tuple(name for name in DRIVEN_JOINTS if "_arm_l_" in name),
    "right": tuple(name for name in DRIVEN_JOINTS if "_arm_r_" in name),
}


class Arms:
    """Both arms of one robot. Joint vectors [20] are in the order of DRIVEN_JOINTS."""

    def __init__(self) -> None:
        self.model = robot_spec(load_urdf()).compile()
        for joint in (*ARM_JOINTS["left"], *ARM_JOINTS["right"]):
            # Whoever imitates commands at a stop overshoots it, and such a chunk is refused.
            self.model.joint(joint).range += [STOP_MARGIN_RAD, -STOP_MARGIN_RAD]
        self._configuration = mink.Configuration(self.model)
        self._columns = np.array([self.model.joint(name).qposadr[0] for name in DRIVEN_JOINTS])
        self.home = np.array([load_home()[name] for name in DRIVEN_JOINTS])
        self._hands = {
            hand: mink.FrameTask(
                body, "body", position_cost=1.0, orientation_cost=ORIENTATION_COST, gain=GAIN, lm_damping=1e-3
            )
            for hand, body in HAND_BODIES.items()
        }
        posture_cost = np.zeros(self.model.nv)
        posture_cost[[self.model.joint(name).dofadr[0] for name in DRIVEN_JOINTS]] = POSTURE_COST
        self._posture = mink.PostureTask(self.model, cost=posture_cost, gain=GAIN)
        at_home = self._at(self.home)
        self._preferred = at_home.q.copy()
        for hand in HAND_BODIES:
            elbow = self.model.joint(ARM_JOINTS[hand][2]).qposadr[0]
            self._preferred[elbow] = math.copysign(ELBOW_RAD, self._preferred[elbow])
        self._attitude = {
            hand: at_home.get_transform_frame_to_world(body, "body").rotation() for hand, body in HAND_BODIES.items()
        }
        arm_joints = ARM_JOINTS["left"] + ARM_JOINTS["right"]
        self._speed = mink.VelocityLimit(self.model, dict.fromkeys(arm_joints, SWIFTEST_RAD_S))

    def hand_position(self, hand: Hand, joints: Floats) -> Floats:
        """The point between the finger pads [3], m, in the robot's base frame."""
        return self._at(joints).get_transform_frame_to_world(HAND_BODIES[hand], "body").translation()

    def follow(self, joints: Floats, paths: Mapping[Hand, Floats], ease: Floats | None = None) -> Floats:
        """Joint vectors [N, 20] that take hands along their points [N, 3], starting near the first ones.

        Arms strive for home with the elbows farther out, hands for their attitude at home. `ease` [N] is the share of
        the way there, from what they are at `joints`, that they may have gone at each point: from a posture that is not
        inverse kinematics' own, the whole way at once would be a jump.
        """
        tasks = [self._hands[hand] for hand in paths]
        still = mink.DofFreezingTask(self.model, self._dofs_outside(paths))
        configuration = self._at(joints)
        limits = [self._range_around(configuration.q), self._speed]
        begin, attitude = configuration.q.copy(), self._attitude
        begin_attitude = {
            hand: configuration.get_transform_frame_to_world(HAND_BODIES[hand], "body").rotation() for hand in paths
        }
        self._posture.set_target(self._preferred)
        rows = []
        for step, points in enumerate(zip(*paths.values(), strict=True)):
            if ease is not None:
                share = float(ease[step])
                self._posture.set_target(begin + share * (self._preferred - begin))
                attitude = {hand: begin_attitude[hand].interpolate(self._attitude[hand], share) for hand in paths}
            for hand, point in zip(paths, points, strict=True):
                self._hands[hand].set_target(mink.SE3.from_rotation_and_translation(attitude[hand], point))
            for _ in range(ITERATIONS):
                velocity = mink.solve_ik(
                    configuration,
                    [*tasks, self._posture],
                    STEP_S / ITERATIONS,
                    solver="daqp",
                    damping=1e-4,
                    limits=limits,
                    constraints=[still],
                )
                configuration.integrate_inplace(velocity, STEP_S / ITERATIONS)
            rows.append(configuration.q[self._columns].copy())
        return np.array(rows)

    def _at(self, joints: Floats) -> mink.Configuration:
        q = self.model.qpos0.copy()
        q[self._columns] = joints
        self._configuration.update(q)
        return self._configuration

    def _range_around(self, q: Floats) -> mink.ConfigurationLimit:
        """The joints' ranges. Where a posture is outside, up to it: no step would lead back inside at once."""
        limit = mink.ConfigurationLimit(self.model)
        limit.lower, limit.upper = np.minimum(limit.lower, q), np.maximum(limit.upper, q)
        return limit

    def _dofs_outside(self, hands: Mapping[Hand, Floats]) -> list[int]:
        moving = {int(self.model.joint(name).dofadr[0]) for hand in hands for name in ARM_JOINTS[hand]}
        return [dof for dof in range(self.model.nv) if dof not in moving]
