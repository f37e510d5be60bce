"""A thread that renders and delivers pictures, so that physics and joint states keep their rhythm meanwhile.

It owns the GL context: made, used and freed in this thread. Between the threads goes only a small copy of the state.
"""

import queue
import threading
from collections.abc import Callable, Iterable

import mujoco

from agibot_twin.cameras import Image, SceneRenderer, SceneState

BACKLOG = 2  # states waiting; more would only make pictures older
START_TIMEOUT_S = 60.0

Delivery = Callable[[int, dict[str, Image]], None]  # stamp_ns, camera → picture [height, width, 3] RGB


class RenderThread:
    """Renders all cameras of every offered state and hands the pictures to `deliver`, in this thread."""

    def __init__(
        self, model: mujoco.MjModel, cameras: Iterable[str], image_size: tuple[int, int], deliver: Delivery
    ) -> None:
        """Returns when rendering works. Raises RuntimeError where it does not."""
        self._cameras, self._deliver = tuple(cameras), deliver
        self._states: queue.Queue[SceneState | None] = queue.Queue(BACKLOG)
        self._ready = threading.Event()
        self.error: Exception | None = None  # what ended the thread, if not `close`
        self._thread = threading.Thread(target=self._run, args=(model, image_size), name="render", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_S):
            raise RuntimeError(f"rendering did not start within {START_TIMEOUT_S:.0f} s")
        if self.error is not None:
            raise self.error

    def offer(self, state: SceneState, wait: bool) -> bool:
        """Ask for pictures of a state. False if the thread is behind and this state is skipped (never with `wait`)."""
        while self._thread.is_alive():
            try:
                self._states.put(state, block=wait, timeout=0.5)
                return True
            except queue.Full:
                if not wait:
                    return False
        return False

    def close(self) -> None:
        """Finish the picture at hand, free the GL context, end the thread."""
        while self._thread.is_alive():
            try:
                self._states.put(None, timeout=0.1)
                break
            except queue.Full:
                continue
        self._thread.join()

    def _run(self, model: mujoco.MjModel, image_size: tuple[int, int]) -> None:
        try:
            renderer = SceneRenderer(model, image_size)
        except Exception as error:
            self.error = error
            self._ready.set()
            return
        self._ready.set()
        try:
            while (state := self._states.get()) is not None:
                renderer.set_state(state)
                self._deliver(state.stamp_ns, {camera: renderer.render(camera) for camera in self._cameras})
        except Exception as error:
            self.error = error
        finally:
            renderer.close()
