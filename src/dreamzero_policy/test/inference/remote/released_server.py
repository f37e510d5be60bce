"""A server that behaves as DreamZero's released one does (socket_test_optimized_AR.py at ab790c1), its traps included.

Written for these tests from the facts of its protocol, with msgpack and websockets alone; nothing of `inference/` is
used. The model is a few lines: every row is the state that was found, plus a step that grows.
"""

import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

CAMERAS = ("observation/exterior_image_0_left", "observation/exterior_image_1_left", "observation/wrist_image_left")
JOINTS, GRIPPER = "observation/joint_position", "observation/gripper_position"
ROWS, FRAMES_PER_CHUNK = 24, 4


def pack(value: object) -> bytes:
    def array(item: object) -> object:
        if isinstance(item, np.ndarray):
            data = {b"data": item.tobytes(), b"dtype": item.dtype.str, b"shape": item.shape}
            return {b"__ndarray__": True, **data}
        return item

    return msgpack.packb(value, default=array)


def unpack(data: bytes) -> object:
    def array(item: dict) -> object:
        if b"__ndarray__" in item:
            return np.ndarray(buffer=item[b"data"], dtype=np.dtype(item[b"dtype"]), shape=item[b"shape"])
        return item

    return msgpack.unpackb(data, object_hook=array)


class ReleasedServer:
    """One model for all connections, as there."""

    def __init__(self) -> None:
        self.config = {
            "image_resolution": (180, 320),
            "needs_wrist_camera": True,
            "n_external_cameras": 2,
            "needs_stereo_camera": False,
            "needs_session_id": True,
            "action_space": "joint_position",
        }
        self.joints_entry = JOINTS  # where it looks for the joints
        self.finds_joints = True  # in what the model gave
        self.finds_gripper = True
        self.fails = ""  # a text to raise with
        self.answer: bytes | str | None = None  # in place of its own
        self.let_go = threading.Event()  # it computes until this is set
        self.let_go.set()
        self.computing = threading.Event()
        self.requests: list[dict] = []
        self.seen: list[dict[str, np.ndarray]] = []  # the frames that the model was shown, by camera
        self.resets = 0
        self._session: str | None = None
        self._buffers: dict[str, list[np.ndarray]] = {}
        self._first = True

    def handle(self, connection: ServerConnection) -> None:
        try:
            connection.send(pack(self.config))
            while True:
                request = unpack(connection.recv())
                endpoint = request.pop("endpoint")
                self.requests.append({"endpoint": endpoint, **request})
                connection.send(self._reset() if endpoint == "reset" else self._infer(request))
        except ConnectionClosed:
            pass
        except Exception:
            connection.send(traceback.format_exc())
            connection.close(1011, "Internal server error. Traceback included in previous frame.")

    def _reset(self) -> str:
        self.resets += 1
        self._begin()
        return "reset successful"

    def _begin(self) -> None:
        self._buffers, self._first = {camera: [] for camera in CAMERAS}, True

    def _infer(self, request: dict) -> bytes | str:
        if request["session_id"] != self._session:
            self._begin()
            self._session = request["session_id"]
        for camera in CAMERAS:
            frames = request[camera]
            self._buffers[camera] += list(frames) if frames.ndim == 4 else [frames]
        count = 1 if self._first else FRAMES_PER_CHUNK
        shown = {}
        for camera, buffer in self._buffers.items():
            padded = [buffer[0]] * max(0, count - len(buffer)) + buffer
            shown[camera] = np.stack(padded[-count:])
        self.seen.append(shown)
        self._first = False
        self.computing.set()
        self.let_go.wait(60)
        if self.fails:
            raise RuntimeError(self.fails)
        return pack(self._actions(request)) if self.answer is None else self.answer

    def _actions(self, request: dict) -> np.ndarray:
        joints = request.get(self.joints_entry, np.zeros(7))
        gripper = request.get(GRIPPER, np.zeros(1))
        if not self.finds_joints:
            return np.zeros((1, 8), np.float32)
        rows = np.linspace(0.001, 0.024, ROWS)[:, None]
        hand = gripper + 0 * rows if self.finds_gripper else np.zeros((ROWS, 1))
        return np.concatenate([joints + rows, hand], axis=1).astype(np.float32)


class OmniServer(ReleasedServer):
    """As vLLM-Omni differs from it (`vllm_omni/entrypoints/openpi/connection.py`): it says more of itself, and resets
    and errors are maps, behind which it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.config |= {"action_horizon": ROWS, "action_dim": 8, "default_action_horizon": ROWS, "model": "a name"}

    def _reset(self) -> bytes:
        return pack({"status": super()._reset()})

    def _infer(self, request: dict) -> bytes:
        try:
            return super()._infer(request)
        except RuntimeError:
            return pack({"type": "error", "message": "Internal inference error"})


def main() -> None:
    """`python released_server.py HOST PORT BUSY_S`: alone, for a process of its own; it computes for so long."""
    host, port, busy_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    server = ReleasedServer()
    server.computing.set = lambda: time.sleep(busy_s)
    with serve(server.handle, host, port, compression=None, max_size=None) as listening:
        print("listening", flush=True)
        listening.serve_forever()


@contextmanager
def released(server: ReleasedServer) -> Iterator[str]:
    """Its address."""
    listening: Server
    with serve(server.handle, "127.0.0.1", 0, compression=None, max_size=None) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{listening.socket.getsockname()[1]}"
        finally:
            server.let_go.set()
            listening.shutdown()
            thread.join(10)


if __name__ == "__main__":
    main()
