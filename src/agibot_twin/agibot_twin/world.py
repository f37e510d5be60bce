"""The twin as a world: a clock, a robot that follows trajectories and is observed, objects that obey physics. No ROS.

The robot's five trajectory controllers run at 100 Hz on the twin's own clock, and the drives follow them without steps:
over each control cycle the command moves in a line to the trajectory's value at the cycle's end. Time advances only
through `advance_to`, in physics steps of 2 ms, so a run is the same however its time is cut into calls.

With `hardware` the world has no controllers: it is told positions by `command`, as the robot's drives are.

Found by others through the entry point group `dreamzero.worlds`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agibot_bringup.description import load_controllers, load_urdf
from agibot_twin.cameras import Image, SceneRenderer, SceneState
from agibot_twin.episodes import sample_episode
from agibot_twin.layout import Layout
from agibot_twin.robot_model import DRIVEN_JOINTS, camera_optics
from agibot_twin.set_points import SetPoints
from agibot_twin.simulation import STEP_NS, JointSample, Simulation, SimulationState
from agibot_twin.tasks import HAND_BODIES, Situation
from agibot_twin.trajectory_controller import Trajectory, TrajectoryController

STEPS_PER_CYCLE = 5  # control at 100 Hz
CYCLE_NS = STEPS_PER_CYCLE * STEP_NS


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What the robot reports at one instant. Arrays are in the order of `TwinWorld.joint_names`."""

    stamp_ns: int
    joints: JointSample
    images: Mapping[str, Image] = field(default_factory=dict)  # camera → [height, width, 3] RGB; empty unless asked


@dataclass(frozen=True, slots=True, eq=False)
class WorldState:
    """Physics and controllers at an instant."""

    simulation: SimulationState
    controllers: Mapping[str, TrajectoryController]


class TwinWorld:
    """The G1 at its table.

    epoch_ns: what `now_ns` reads at a reset; all stamps count from it (0 for simulated time, the wall clock's reading
    for a twin that runs in real time).
    """

    joint_names = DRIVEN_JOINTS

    def __init__(
        self,
        *,
        seed: int = 0,
        image_size: tuple[int, int] = (320, 240),
        epoch_ns: int = 0,
        hardware: bool = False,
    ) -> None:
        self.simulation = Simulation(sample_episode("seen", seed).layout)
        self.cameras = camera_optics(load_urdf())
        self.image_size = image_size
        self.epoch_ns = epoch_ns
        self._renderer: SceneRenderer | None = None
        index = {name: i for i, name in enumerate(DRIVEN_JOINTS)}
        self._columns = {
            name: np.array([index[joint] for joint in joints]) for name, joints in load_controllers().items()
        }
        home = self.simulation.home
        self.controllers = {
            name: TrajectoryController(name, joints, home[self._columns[name]])
            for name, joints in ({} if hardware else load_controllers()).items()
        }
        self._set_points = SetPoints(DRIVEN_JOINTS, home) if hardware else None

    def reset(self, seed: int, epoch_ns: int = 0) -> Observation:
        """Home pose, the scene of this seed's seen episode, trajectories forgotten, clock at `epoch_ns`."""
        return self.lay_out(sample_episode("seen", seed).layout, epoch_ns)

    def lay_out(self, layout: Layout, epoch_ns: int = 0) -> Observation:
        """As `reset`, with the objects of a layout."""
        self.simulation.reset(layout)
        self.epoch_ns = epoch_ns
        for name, controller in self.controllers.items():
            controller.hold(self.simulation.home[self._columns[name]])
        if self._set_points is not None:
            self._set_points.hold(self.simulation.home)
        return self.observe()

    def snapshot(self) -> WorldState:
        """Everything that what comes depends on. Not of a world with `hardware`."""
        return WorldState(self.simulation.snapshot(), {name: each.copy() for name, each in self.controllers.items()})

    def restore(self, state: WorldState) -> None:
        """Go back to a snapshot of the same layout, clock included; it may be restored again and again."""
        self.simulation.restore(state.simulation)
        self.controllers = {name: each.copy() for name, each in state.controllers.items()}

    def now_ns(self) -> int:
        """The twin's clock."""
        return self.epoch_ns + self.simulation.time_ns

    def commanded(self) -> NDArray[np.float64]:
        """Where the joints were last told to be [20], in the order of `joint_names`."""
        if self._set_points is not None:
            return self._set_points.update(self.now_ns()).positions.copy()
        positions = np.empty(len(DRIVEN_JOINTS))
        for name, controller in self.controllers.items():
            positions[self._columns[name]] = controller.desired.positions
        return positions

    def follow(self, controller: str, trajectory: Trajectory) -> None:
        """Give a controller a trajectory, taken at its next cycle.

        Raises KeyError for an unknown controller, TrajectoryRefused for a trajectory that it does not follow.
        """
        self.controllers[controller].receive(trajectory, self.now_ns())

    def command(self, names: Sequence[str], positions: Sequence[float]) -> None:
        """Tell the drives of a world with `hardware` where some joints are to be, from the next cycle on.

        Raises:
            CommandRefused: a joint that the robot has not, or not one position for each.
        """
        self._set_points.receive(names, positions, self.now_ns())

    def advance_to(self, instant_ns: int) -> None:
        """Run physics and control up to an instant of the twin's clock (rounded down to a physics step)."""
        simulation = self.simulation
        last_step = (instant_ns - self.epoch_ns) // STEP_NS
        while simulation.steps < last_step:
            within_cycle = simulation.steps % STEPS_PER_CYCLE
            if within_cycle == 0:
                self._control()
            until = min(STEPS_PER_CYCLE, within_cycle + last_step - simulation.steps)
            simulation.advance_ramp(within_cycle, until, STEPS_PER_CYCLE)

    def step(self, duration_s: float) -> None:
        """Run for a duration."""
        self.advance_to(self.now_ns() + round(duration_s * 1e9))

    def observe(self, images: bool = False) -> Observation:
        """Joint states now and, when asked, a picture of every camera."""
        return Observation(self.now_ns(), self.simulation.joints(), self.render() if images else {})

    def render(self) -> dict[str, Image]:
        """A picture of every camera now. Call it from one thread only."""
        if self._renderer is None:
            self._renderer = SceneRenderer(self.simulation.model, self.image_size)
        self._renderer.set_state(self.scene_state())
        return {name: self._renderer.render(name) for name in self.cameras}

    def scene_state(self) -> SceneState:
        """What a renderer elsewhere needs for a picture of this instant."""
        return SceneState(self.now_ns(), self.simulation.data.qpos.copy())

    def object_poses(self) -> dict[str, NDArray[np.float64]]:
        """Pose [x y z qw qx qy qz] of every body on the table in the robot's base frame, m."""
        return self.simulation.object_poses()

    def situation(self) -> Situation:
        """What the judge of a task looks at, now."""
        hands = {hand: self.simulation.body_position(body) for hand, body in HAND_BODIES.items()}
        return Situation(self.simulation.time_ns / 1e9, hands, self.object_poses())

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _control(self) -> None:
        """One cycle of all controllers: where their joints are to be at the cycle's end."""
        now_ns = self.now_ns()
        if self._set_points is not None:
            target = self._set_points.update(now_ns)
            self.simulation.ramp_to(target.positions, target.velocities)
            return
        positions, velocities = np.empty(len(DRIVEN_JOINTS)), np.empty(len(DRIVEN_JOINTS))
        for name, controller in self.controllers.items():
            desired = controller.update(now_ns, now_ns + CYCLE_NS)
            columns = self._columns[name]
            positions[columns], velocities[columns] = desired.positions, desired.velocities
        self.simulation.ramp_to(positions, velocities)
