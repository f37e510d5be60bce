"""Pictures of the scene, rendered off screen on a CPU or GPU.

The environment variable MUJOCO_GL picks the backend, egl or osmesa; where it is not set, the first that is installed.
MuJoCo's own `Renderer` decides at its first import and takes a window system by default, which ends a process without a
screen; so the context is made here, whoever imported MuJoCo before.

The GL context belongs to the thread that made it: build, use and close a `SceneRenderer` in one thread. It renders from
a state of its own that is set from a `SceneState`, so physics may go on meanwhile.
"""

import ctypes.util
import importlib
import os
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from agibot_twin.robot_model import VISUAL_GROUP, CameraOptics

BACKENDS = {"egl": "EGL", "osmesa": "OSMesa"}  # value of MUJOCO_GL: the system's library
SCENE_CAPACITY = 500  # shapes; the scene has some 190

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

    def pixel_of(self, point: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Where a point [3] of the optical frame (z along the view, x right, y down), m, is seen: column and row, px.

        Counted from the first pixel's centre; it may lie outside of the picture. None for what is behind the camera.
        """
        return (self.matrix @ point)[:2] / point[2] if point[2] > 0 else None


class SceneRenderer:
    """Renders cameras of a model, all at one size."""

    def __init__(self, model: mujoco.MjModel, image_size: tuple[int, int]) -> None:
        """`image_size` (width, height) px. Raises RuntimeError where no GL backend works."""
        width, height = image_size
        self._model = model
        self._data = mujoco.MjData(model)
        self._gl = create_gl_context(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._scene = mujoco.MjvScene(model, SCENE_CAPACITY)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_HAZE):
            self._scene.flags[int(flag)] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._visible = mujoco.MjvOption()
        self._visible.geomgroup[:] = 0
        self._visible.geomgroup[VISUAL_GROUP] = 1

    def set_state(self, state: SceneState) -> None:
        """Show this state from now on."""
        self._data.qpos[:] = state.qpos
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)

    def render(self, camera: str) -> Image:
        """Picture [height, width, 3] RGB of the state set last."""
        self._camera.fixedcamid = self._model.camera(camera).id
        mujoco.mjv_updateScene(
            self._model, self._data, self._visible, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
        )
        self._gl.make_current()
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        from_below = np.empty((self._viewport.height, self._viewport.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(from_below, None, self._viewport, self._context)
        return np.ascontiguousarray(from_below[::-1])  # GL's first row is the lowest

    def close(self) -> None:
        """Free the GL context. Call it in the thread that made the renderer, before the interpreter ends."""
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None


def create_gl_context(width: int, height: int) -> Any:
    """A context of MuJoCo's own classes (make_current, free). Raises RuntimeError naming what to install."""
    asked = os.environ.get("MUJOCO_GL", "").lower().strip()
    backend = asked or next((name for name, library in BACKENDS.items() if ctypes.util.find_library(library)), "")
    if backend not in BACKENDS:
        fault = f"MUJOCO_GL is '{asked}', not one of {sorted(BACKENDS)}" if asked else "found neither EGL nor OSMesa"
        raise RuntimeError(f"no off-screen rendering: {fault}; install libegl1 and libgl1-mesa-dri, or libosmesa6")
    # Mesa's software rasteriser starts a thread per core: small pictures gain nothing, neighbours lose cores.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    try:
        return importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
    except Exception as error:
        raise RuntimeError(
            f"no off-screen rendering with {backend} ({type(error).__name__}: {error}); install libegl1 and "
            "libgl1-mesa-dri, or install libosmesa6 and set MUJOCO_GL=osmesa"
        ) from error
