"""Pictures of the scene, rendered off screen on a CPU or GPU.

`MUJOCO_GL` picks the backend. Where it is not set, EGL is taken if it works, else OSMesa. Choose before MuJoCo is
imported for the first time: it reads the variable on import.

The GL context belongs to the thread that made it: build, use and close a `SceneRenderer` in one thread. It renders from
a state of its own that is set from a `SceneState`, so physics may go on meanwhile.
"""

import ctypes.util
import os
from dataclasses import dataclass

if "MUJOCO_GL" not in os.environ:
    os.environ["MUJOCO_GL"] = "egl" if ctypes.util.find_library("EGL") else "osmesa"
# The software rasteriser starts a thread per core by default; small pictures gain nothing and neighbours lose cores.
os.environ.setdefault("LP_NUM_THREADS", "0")

import mujoco
import numpy as np
from numpy.typing import NDArray

from agibot_twin.robot_model import VISUAL_GROUP, CameraOptics

Image = NDArray[np.uint8]  # [height, width, 3], RGB


@dataclass(frozen=True, slots=True, eq=False)
class SceneState:
    """What a picture depends on: the generalised positions at an instant."""

    stamp_ns: int
    qpos: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """Pinhole camera without distortion, px. Pixels are square."""

    width: int
    height: int
    focal_length: float

    @classmethod
    def of(cls, optics: CameraOptics, image_size: tuple[int, int]) -> "Intrinsics":
        """Intrinsics of a camera for pictures of `image_size` (width, height)."""
        width, height = image_size
        return cls(width, height, optics.focal_length_px(width))

    @property
    def matrix(self) -> NDArray[np.float64]:
        """K [3, 3]. The principal point is the picture's centre, counted from the first pixel's centre."""
        f = self.focal_length
        return np.array([[f, 0.0, (self.width - 1) / 2], [0.0, f, (self.height - 1) / 2], [0.0, 0.0, 1.0]])


class SceneRenderer:
    """Renders cameras of a model, all at one size."""

    def __init__(self, model: mujoco.MjModel, image_size: tuple[int, int]) -> None:
        """`image_size` (width, height) px. Raises RuntimeError where no GL backend works."""
        width, height = image_size
        self._model = model
        self._data = mujoco.MjData(model)
        self._visible = mujoco.MjvOption()
        self._visible.geomgroup[:] = 0
        self._visible.geomgroup[VISUAL_GROUP] = 1
        try:
            self._renderer = mujoco.Renderer(model, height=height, width=width)
        except Exception as error:
            raise RuntimeError(
                f"no off-screen rendering with MUJOCO_GL={os.environ['MUJOCO_GL']} ({error}); install libegl1 and "
                "libgl1-mesa-dri, or libosmesa6 and set MUJOCO_GL=osmesa"
            ) from error
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_HAZE):
            self._renderer.scene.flags[int(flag)] = 0

    def set_state(self, state: SceneState) -> None:
        """Show this state from now on."""
        self._data.qpos[:] = state.qpos
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)

    def render(self, camera: str) -> Image:
        """Picture [height, width, 3] RGB of the state set last."""
        self._renderer.update_scene(self._data, camera, self._visible)
        return self._renderer.render()

    def close(self) -> None:
        """Free the GL context. Call it in the thread that made the renderer, before the interpreter ends."""
        self._renderer.close()
