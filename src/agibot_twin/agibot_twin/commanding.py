"""Commands for all driven joints, handed to the twin's trajectory controllers."""

import numpy as np
from numpy.typing import NDArray

from agibot_twin.arms import STEP_S
from agibot_twin.expert import velocities
from agibot_twin.robot_model import DRIVEN_JOINTS
from agibot_twin.trajectory_controller import NS_PER_S, JointTarget, Trajectory, TrajectoryPoint
from agibot_twin.world import TwinWorld

Floats = NDArray[np.float64]


def follow(world: TwinWorld, commands: Floats) -> None:
    """Hand every controller its share of the commands [N, 20]; row 0 is due now."""
    speeds = velocities(commands)
    for name, controller in world.controllers.items():
        columns = [DRIVEN_JOINTS.index(joint) for joint in controller.joints]
        points = [
            TrajectoryPoint(round(step * STEP_S * NS_PER_S), JointTarget(position[columns], speed[columns]))
            for step, (position, speed) in enumerate(zip(commands, speeds, strict=True))
        ]
        world.follow(name, Trajectory(controller.joints, points))
