"""The physics: model, state and drives, stepped in fixed time steps of 2 ms. No rendering, no controllers.

Time is an integer number of steps, so that any split of a duration into calls gives the same states.
"""

from copy import copy
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from agibot_bringup.description import load_home, load_urdf
from agibot_twin.layout import Layout, parked
from agibot_twin.objects import COLOURS, OBJECTS, TRAY
from agibot_twin.robot_model import DRIVEN_JOINTS, place_followers, velocity_lead_s
from agibot_twin.scene import TIMESTEP_S, build_spec

Floats = NDArray[np.float64]
STEP_NS = round(TIMESTEP_S * 1e9)
SETTLE_STEPS = 250  # 0.5 s: objects come to rest before time starts


@dataclass(frozen=True, slots=True, eq=False)
class JointSample:
    """The twenty driven joints, in the order of DRIVEN_JOINTS: rad, rad/s, N m (lift: m, m/s, N)."""

    positions: Floats
    velocities: Floats
    efforts: Floats


@dataclass(frozen=True, slots=True, eq=False)
class SimulationState:
    """All that the coming steps depend on."""

    data: mujoco.MjData
    layout: Layout
    steps: int
    command: Floats
    new_command: Floats


class Simulation:
    """The scene in motion. Deterministic: the same layout and targets give the same states, bit for bit."""

    def __init__(self, layout: Layout) -> None:
        urdf = load_urdf()
        self.model = build_spec(urdf).compile()
        self.data = mujoco.MjData(self.model)
        joints = [self.model.joint(name) for name in DRIVEN_JOINTS]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dof = np.array([joint.dofadr[0] for joint in joints])
        bodies = (*(thing.name for thing in OBJECTS), TRAY)
        self._object_qpos = {name: int(self.model.joint(name).qposadr[0]) for name in bodies}
        self._lead_s = velocity_lead_s()
        self.home = np.array([load_home()[name] for name in DRIVEN_JOINTS])
        self.reset(layout)

    def reset(self, layout: Layout) -> None:
        """Home pose, objects as laid out and at rest, time 0."""
        mujoco.mj_resetData(self.model, self.data)
        self._arrange(layout, self.home)
        self._command = self._new_command = self.home.copy()
        self.data.ctrl[:] = self.home
        mujoco.mj_step(self.model, self.data, SETTLE_STEPS)
        self.data.time = 0.0
        self.steps = 0

    def snapshot(self) -> SimulationState:
        """The state now, to come back to."""
        return SimulationState(copy(self.data), self.layout, self.steps, self._command, self._new_command)

    def restore(self, state: SimulationState) -> None:
        """Go on from a snapshot, bit for bit as from there."""
        if state.layout is not self.layout:
            raise ValueError("the snapshot is of another layout: a reset since then changed colours and bodies")
        mujoco.mj_copyData(self.data, self.model, state.data)
        self.steps, self._command, self._new_command = state.steps, state.command, state.new_command

    def show(self, layout: Layout, joints: Floats) -> None:
        """Objects as laid out and joints [20] where they are said to be, whatever is in the way: for pictures alone.

        No physics and no time: `reset` before either goes on.
        """
        self._arrange(layout, joints)
        mujoco.mj_kinematics(self.model, self.data)

    @property
    def time_ns(self) -> int:
        """Time since the reset."""
        return self.steps * STEP_NS

    def advance(self, steps: int) -> None:
        """Hold the drives' present command for a number of steps."""
        mujoco.mj_step(self.model, self.data, steps)
        self.steps += steps

    def ramp_to(self, positions: Floats, velocities: Floats) -> None:
        """Set the command that `advance_ramp` reaches: rad and rad/s [20]."""
        self._command = self._new_command
        self._new_command = positions + self._lead_s * velocities

    def advance_ramp(self, first: int, last: int, of: int) -> None:
        """Steps `first`…`last`-1 out of `of`, in which the command moves in a line to that of `ramp_to`."""
        for step in range(first, last):
            share = (step + 1) / of
            self.data.ctrl[:] = (1 - share) * self._command + share * self._new_command
            mujoco.mj_step(self.model, self.data)
        self.steps += last - first

    def joints(self) -> JointSample:
        """Joint states now. Effort is the drive's pull, with gravity's share included but in lift and grippers."""
        return JointSample(self.data.qpos[self._qpos], self.data.qvel[self._dof], self.data.qfrc_actuator[self._dof])

    def object_poses(self) -> dict[str, Floats]:
        """Pose [x y z qw qx qy qz] of every body on the table in the robot's base frame, m."""
        return {
            name: self.data.qpos[address : address + 7].copy()
            for name, address in self._object_qpos.items()
            if name in self.layout.poses
        }

    def body_position(self, body: str) -> Floats:
        """Position [3] of a body in the robot's base frame, m, as of the last step."""
        return self.data.body(body).xpos.copy()

    def _arrange(self, layout: Layout, joints: Floats) -> None:
        self.layout = layout
        self.data.qpos[self._qpos] = joints
        place_followers(self.model, self.data.qpos)
        for index, (name, address) in enumerate(self._object_qpos.items()):
            self.data.qpos[address : address + 7] = layout.poses.get(name, parked(index))
        for shape, colour in layout.colours.items():
            self.model.geom(shape).rgba[:3] = COLOURS[colour]
