"""What no policy could foresee: an object moved by hand, a camera knocked askew, a hand that is pushed aside and slips.

For trying how well surprise is noticed. Each happens at once, at an instant between two physics steps; the push lasts.
`undo` leaves the model as it was before a camera was turned.
"""

import mujoco
import numpy as np
from numpy.typing import NDArray

from agibot_twin.tasks import HAND_BODIES, Task
from agibot_twin.world import TwinWorld

Floats = NDArray[np.float64]
OBJECT_MOVED, CAMERA_SHIFTED, HAND_SLIPPED = DISTURBANCES = ("object_moved", "camera_shifted", "hand_slipped")
MOVED_M, DROP_M = 0.12, 0.01  # sideways over the table, and down onto it
DIRECTIONS = 8
TURNED_RAD, CAMERA = 0.1, "head"  # about the line upwards and sideways in its picture
PUSH_N, PUSH_NS = 60.0, 400_000_000


class Disturbances:
    """Those of one world."""

    def __init__(self, world: TwinWorld) -> None:
        self._world, self._simulation = world, world.simulation
        self._quaternions = self._simulation.model.cam_quat.copy()
        self._pushed_until_ns: int | None = None

    def undo(self) -> None:
        """Before a new episode."""
        self._simulation.model.cam_quat[:] = self._quaternions
        self._release()

    def happen(self, kind: str, task: Task) -> None:
        """Now. Raises ValueError for an unknown kind."""
        if kind not in DISTURBANCES:
            raise ValueError(f"disturbance is {kind!r}, expected one of {DISTURBANCES}")
        {OBJECT_MOVED: self._move, CAMERA_SHIFTED: self._turn, HAND_SLIPPED: self._push}[kind](task)

    def go_on(self) -> None:
        """To be called as time goes on: a push ends."""
        if self._pushed_until_ns is not None and self._world.now_ns() >= self._pushed_until_ns:
            self._release()

    def _move(self, task: Task) -> None:
        """The task's object to where most room is around it."""
        poses, joint = self._world.object_poses(), self._simulation.model.joint(task.thing)
        others = np.array([pose[:2] for name, pose in poses.items() if name != task.thing]).reshape(-1, 2)
        angles = np.linspace(0, 2 * np.pi, DIRECTIONS, endpoint=False)
        places = poses[task.thing][:2] + MOVED_M * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        room = np.linalg.norm(places[:, None] - others[None], axis=2).min(axis=1, initial=np.inf)
        pose, speed = int(joint.qposadr[0]), int(joint.dofadr[0])
        self._simulation.data.qpos[pose : pose + 2] = places[int(room.argmax())]
        self._simulation.data.qpos[pose + 2] += DROP_M
        self._simulation.data.qvel[speed : speed + 6] = 0.0

    def _turn(self, _: Task) -> None:
        turn, turned = np.empty(4), np.empty(4)
        mujoco.mju_axisAngle2Quat(turn, np.array([1.0, 1.0, 0.0]) / np.sqrt(2), TURNED_RAD)
        quaternion = self._simulation.model.camera(CAMERA).quat
        mujoco.mju_mulQuat(turned, quaternion, turn)
        quaternion[:] = turned

    def _push(self, task: Task) -> None:
        """Every hand of the task, upwards and outwards."""
        for hand in task.hands:
            outwards = 1.0 if hand == "left" else -1.0
            body = self._simulation.data.body(HAND_BODIES[hand])
            body.xfrc_applied[:3] = PUSH_N * np.array([0.0, outwards, 1.0]) / np.sqrt(2)
        self._pushed_until_ns = self._world.now_ns() + PUSH_NS

    def _release(self) -> None:
        self._simulation.data.xfrc_applied[:] = 0.0
        self._pushed_until_ns = None
