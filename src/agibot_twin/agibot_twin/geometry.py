"""The G1's shape for the runtime's limits: where its hands are, and how near its parts come to each other.

Kinematics and collision shapes are those of the twin, without table and objects. What may touch is what may touch
there: each arm the other arm and the body, never itself, and the shoulders not the torso they turn in.

Found by others through the entry point group `dreamzero.geometries`.
"""

from collections.abc import Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray

from agibot_bringup.description import load_home, load_urdf
from agibot_twin.robot_model import DRIVEN_JOINTS, place_followers, robot_spec
from agibot_twin.tasks import HAND_BODIES

Floats = NDArray[np.float64]


class TwinGeometry:
    """A `dreamzero_policy.runtime.geometry.Geometry`. For one thread."""

    hands = tuple(HAND_BODIES)

    def __init__(self, joints: Sequence[str]) -> None:
        """`joints`: the columns of all positions. Raises ValueError for one that the robot has not."""
        if unknown := sorted(set(joints) - set(DRIVEN_JOINTS)):
            raise ValueError(f"the AgiBot G1 has no driven joints {unknown}, only {list(DRIVEN_JOINTS)}")
        self._model = robot_spec(load_urdf()).compile()
        self._data = mujoco.MjData(self._model)
        for joint, position in load_home().items():
            self._data.qpos[self._model.joint(joint).qposadr[0]] = position
        self._columns = np.array([self._model.joint(joint).qposadr[0] for joint in joints])

    def hand_positions(self, hand: str, positions: Floats) -> Floats:
        """The point between a hand's finger pads [T, 3] at joint positions [T, J], in the robot's base frame [m]."""
        body = self._model.body(HAND_BODIES[hand]).id
        places = np.empty((len(positions), 3))
        for place, joints in zip(places, positions, strict=True):
            self._pose(joints)
            place[:] = self._data.xpos[body]
        return places

    def self_distances(self, positions: Floats, reach_m: float) -> tuple[Floats, list[str]]:
        """Distance [T] of the two nearest parts that must not touch [m], and their names.

        Negative where they overlap; `reach_m` and an empty name where none are nearer.
        """
        model, data = self._model, self._data
        model.geom_margin[:] = reach_m  # contacts are found from here on
        distances, names = np.full(len(positions), reach_m), [""] * len(positions)
        for look, joints in enumerate(positions):
            self._pose(joints)
            mujoco.mj_collision(model, data)
            if data.ncon == 0:
                continue
            nearest = int(np.argmin(data.contact.dist))
            if data.contact.dist[nearest] < reach_m:
                distances[look] = data.contact.dist[nearest]
                names[look] = " and ".join(self._body_of(geom) for geom in data.contact.geom[nearest])
        return distances, names

    def _pose(self, joints: Floats) -> None:
        self._data.qpos[self._columns] = joints
        place_followers(self._model, self._data.qpos)
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)

    def _body_of(self, geom: int) -> str:
        return self._model.body(self._model.geom_bodyid[geom]).name
