"""The protocol of DreamZero's released server, called RoboArena, from either side.

Facts: dreamzero0/dreamzero at ab790c1, `eval_utils/policy_server.py`, `eval_utils/policy_client.py` and
`socket_test_optimized_AR.py`.

* On connecting the server sends a packed map of six entries (:class:`ServerConfig`); other servers of this protocol
  send more.
* A request is a packed map with ``endpoint`` (``infer`` or ``reset``) and, for ``infer``, images, state, ``prompt`` and
  ``session_id``. An image is uint8 [height, width, 3] or [T, height, width, 3].
* ``infer`` is answered by a packed bare float32 array [H, A], ``reset`` by the text "reset successful". A text frame in
  place of an array is an error; the connection is closed with code 1011 behind it.
* vLLM-Omni (`docs/serving/openpi_api.md`) answers ``reset`` by a packed map with that text as ``status``, and says
  errors in a packed map with ``type`` "error" and a ``message``, behind which the connection stays.

Which entry is which camera and which joints follows from the contract (:class:`Names`). Two things the released server
does are errors here, on both sides: a state that is absent (it takes zeros, and relative actions then lead to a pose
near zero) and an answer without joints (it sends zeros).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.inference.protocol.arrays import ProtocolError, pack, unpack
from dreamzero_policy.runtime.contract import ModelSection, RoboArena

RESET_ANSWER = "reset successful"
FRAMES_PER_CALL = 4  # that a block is made of; a server keeps as many of those it was sent
MOST_FRAMES = 64  # of one camera in one request
LARGEST_PX = 4096  # of an image, either way
LONGEST_PROMPT = 4096  # characters
LONGEST_SESSION_ID = 256
ROBOARENA_IMAGE_PX = (180, 320)  # height, width that the released server asks for

# Of a robot with one arm as RoboArena knows it: its entries, in the order of the contract's cameras and groups.
ROBOARENA_CAMERAS = ("exterior_image_0_left", "exterior_image_1_left", "wrist_image_left")
ROBOARENA_GROUPS = {"joint_position": 7, "gripper_position": 1}
IGNORED = ("observation/cartesian_position",)
ACTION_SHAPE_ENTRIES = ("action_horizon", "action_dim")  # in which vLLM-Omni's configuration says rows and columns


class RemoteError(Exception):
    """The server answered with its error: a text, or a map that says so."""


@dataclass(frozen=True)
class ServerConfig:
    """What a server tells a client on connecting. Official clients refuse any other set of entries, so no more are
    sent; what other servers add is kept."""

    image_resolution: tuple[int, int] | None  # height, width to which a client resizes; None: as they are
    needs_wrist_camera: bool
    n_external_cameras: int
    needs_stereo_camera: bool
    needs_session_id: bool
    action_space: str
    further: Mapping[str, Any] = field(default_factory=dict)  # that this protocol does not know; never sent

    def pack(self) -> bytes:
        return pack({name: getattr(self, name) for name in CONFIG_ENTRIES})

    @classmethod
    def unpack(cls, data: bytes | str) -> "ServerConfig":
        """Raises ProtocolError where one of the six entries is absent or of another kind, RemoteError for an error."""
        document = _told(data)
        if not isinstance(document, dict) or not document.keys() >= set(CONFIG_ENTRIES):
            found = sorted(map(str, document)) if isinstance(document, dict) else type(document).__name__
            raise ProtocolError(f"the server's configuration has {str(found)[:400]}, expected {sorted(CONFIG_ENTRIES)}")
        further = {str(name): document.pop(name) for name in document.keys() - set(CONFIG_ENTRIES)}
        size = document["image_resolution"]
        if size is not None:
            if not isinstance(size, list) or len(size) != 2 or not all(_is_count(n, LARGEST_PX) for n in size):
                raise ProtocolError(f"image_resolution is {str(size)[:80]}, expected height and width or nil")
            document["image_resolution"] = tuple(size)
        for name in ("needs_wrist_camera", "needs_stereo_camera", "needs_session_id"):
            if not isinstance(document[name], bool):
                raise ProtocolError(f"{name} is {str(document[name])[:80]}, expected true or false")
        cameras, space = document["n_external_cameras"], document["action_space"]
        if isinstance(cameras, bool) or not isinstance(cameras, int) or not 0 <= cameras <= 2:
            raise ProtocolError(f"n_external_cameras is {str(cameras)[:80]}, expected 0, 1 or 2")
        if not isinstance(space, str):
            raise ProtocolError(f"action_space is {str(space)[:80]}, expected text")
        return cls(**document, further=further)


CONFIG_ENTRIES = tuple(name for name in ServerConfig.__dataclass_fields__ if name != "further")


@dataclass(frozen=True)
class Names:
    """The entries of one contract: ``observation/<…>`` of every camera and every group of the state.

    Where the groups of state and action are RoboArena's (7 joints, a gripper) and there are three cameras, cameras have
    RoboArena's names, in the order of the released server: two outside, then the wrist. Otherwise every camera and
    group has the name it has in the contract. Actions are the contract's groups side by side, in the contract's units.
    A contract whose site says under ``roboarena`` what things are called there is taken at its word.
    """

    cameras: Mapping[str, str]  # camera of the contract -> entry
    state: Mapping[str, tuple[str, int]]  # group of the contract -> entry, width
    action_shape: tuple[int, int]  # rows, columns
    roboarena: bool
    action: tuple[str, ...] = ()  # groups of the contract in the order of the columns

    @classmethod
    def of(cls, model: ModelSection, named: RoboArena | None = None) -> "Names":
        if named is not None:
            return cls._as_named(model, named)
        groups = {group.key: group.width for group in model.state}
        actions = {group.key: group.width for group in model.action}
        count = len(ROBOARENA_CAMERAS)
        roboarena = groups == actions == ROBOARENA_GROUPS and len(model.cameras) == count
        named = ROBOARENA_CAMERAS if roboarena else model.cameras
        return cls(
            cameras={camera: f"observation/{name}" for camera, name in zip(model.cameras, named, strict=True)},
            state={key: (f"observation/{key}", width) for key, width in groups.items()},
            action_shape=(model.chunk.actions, model.action_width),
            roboarena=roboarena,
            action=tuple(actions),
        )

    @classmethod
    def _as_named(cls, model: ModelSection, named: RoboArena) -> "Names":
        widths = {group.key: group.width for group in model.action}
        names = [f"observation/{name}" for name in ROBOARENA_CAMERAS]
        return cls(
            cameras=dict(named.images),
            state={group.key: (named.state[group.key], group.width) for group in model.state},
            action_shape=(model.chunk.actions, sum(widths[key] for key in named.action)),
            roboarena=sorted(named.images.values()) == sorted(names),
            action=named.action,
        )

    @property
    def config(self) -> ServerConfig:
        """What a server of this contract says of itself."""
        return ServerConfig(
            image_resolution=ROBOARENA_IMAGE_PX if self.roboarena else None,
            needs_wrist_camera=self.roboarena,
            n_external_cameras=2 if self.roboarena else 0,
            needs_stereo_camera=False,
            needs_session_id=True,
            action_space="joint_position",
        )

    def require(self, config: ServerConfig) -> None:
        """Raises ProtocolError if a server with this configuration does not want what this contract has."""
        ours = self.config
        for name in ("needs_wrist_camera", "n_external_cameras", "needs_stereo_camera", "action_space"):
            mine, theirs = getattr(ours, name), getattr(config, name)
            if mine != theirs:
                raise ProtocolError(
                    f"the server says {name} = {theirs!r}, this contract gives {mine!r}; serve a checkpoint of the "
                    "contract that the robot runs"
                )
        for name, mine in zip(ACTION_SHAPE_ENTRIES, self.action_shape, strict=True):
            if (theirs := config.further.get(name, mine)) != mine:
                raise ProtocolError(f"the server says {name} = {str(theirs)[:80]}, this contract gives {mine}")


@dataclass(frozen=True)
class Infer:
    """One request for a chunk."""

    images: Mapping[str, NDArray[np.uint8]]  # by camera of the contract, RGB [T, height, width, 3]
    state: NDArray[np.float64]  # [D] in the contract's units and order
    prompt: str  # the instruction; the server applies the template
    session_id: str | None


@dataclass(frozen=True)
class Reset:
    """Forget everything seen."""


def encode_infer(names: Names, request: Infer) -> bytes:
    """What a client sends. One frame goes as [height, width, 3], several with T in front."""
    message: dict[str, Any] = {"endpoint": "infer", "prompt": request.prompt}
    if request.session_id is not None:
        message["session_id"] = request.session_id
    for camera, entry in names.cameras.items():
        images = request.images[camera]
        message[entry] = images[0] if len(images) == 1 else images
    begin = 0
    for entry, width in names.state.values():
        message[entry] = request.state[begin : begin + width].astype(np.float64)
        begin += width
    if names.roboarena:
        message["observation/cartesian_position"] = np.zeros(6)  # no policy reads it, a released server may ask for it
    return pack(message)


def encode_reset() -> bytes:
    return pack({"endpoint": "reset"})


def decode_request(names: Names, data: bytes | str) -> Infer | Reset:
    """What a server received.

    Raises:
        ProtocolError: no such request, or an entry is absent, of another shape or type, or not finite.
    """
    message = _binary(data)
    if not isinstance(message, dict):
        raise ProtocolError(f"a request is a map, got {type(message).__name__}")
    endpoint = message.get("endpoint")
    if not isinstance(endpoint, str) or endpoint not in ("infer", "reset"):
        raise ProtocolError(f"endpoint is {str(endpoint)[:80]!r}, expected 'infer' or 'reset'")
    if endpoint == "reset":
        return Reset()
    prompt, session_id = message.get("prompt"), message.get("session_id")
    if isinstance(session_id, np.ndarray | np.generic) and session_id.size == 1:
        session_id = session_id.item()
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > LONGEST_PROMPT:
        raise ProtocolError(f"prompt is {str(prompt)[:80]!r}, expected a text of up to {LONGEST_PROMPT} characters")
    if session_id is not None:
        if not isinstance(session_id, str | int) or len(str(session_id)) > LONGEST_SESSION_ID:
            raise ProtocolError(
                f"session_id is {str(session_id)[:80]!r}, expected a text of up to {LONGEST_SESSION_ID} characters"
            )
        session_id = str(session_id)
    images = {camera: _images(message, entry) for camera, entry in names.cameras.items()}
    counts = {names.cameras[camera]: len(stack) for camera, stack in images.items()}
    if len(set(counts.values())) > 1:
        raise ProtocolError(f"cameras have different numbers of frames: {counts}")
    state = [_state(message, entry, width) for entry, width in names.state.values()]
    return Infer(images, np.concatenate(state), prompt, session_id)


def encode_actions(actions: NDArray) -> bytes:
    """What a server answers to ``infer``: a bare float32 array [H, A]."""
    return pack(np.ascontiguousarray(actions, np.float32))


def is_reset(data: bytes | str) -> bool:
    """Whether this answer says that everything is forgotten. Raises RemoteError, ProtocolError."""
    if data == RESET_ANSWER:
        return True
    answer = _told(data)
    return isinstance(answer, dict) and answer.get("status") == RESET_ANSWER


def decode_actions(names: Names, data: bytes | str) -> NDArray[np.float32]:
    """What a client received for ``infer``: actions [H, A] in the contract's units, the contract's columns.

    A map with the array as ``actions`` is taken as well; some servers of this protocol send one.

    Raises:
        RemoteError: the server's error came.
        ProtocolError: something else than finite numbers of that shape; a single row is what a released server sends
            when it found no joints.
    """
    answer = _told(data)
    if isinstance(answer, dict):
        answer = answer.get("actions")
    if not isinstance(answer, np.ndarray) or answer.dtype.kind != "f":
        found = answer.dtype if isinstance(answer, np.ndarray) else type(answer).__name__
        raise ProtocolError(f"the server answered with {found}, expected an array of float32")
    if answer.shape != names.action_shape:
        hint = ": zeros, it found no joint action in what the model gave" if not answer.any() else ""
        raise ProtocolError(f"the server answered with {list(answer.shape)}, expected {list(names.action_shape)}{hint}")
    if not np.isfinite(answer).all():
        raise ProtocolError(f"{np.count_nonzero(~np.isfinite(answer))} of {answer.size} actions are not finite")
    return answer.astype(np.float32)


def _binary(data: bytes | str) -> Any:
    if isinstance(data, str):
        raise ProtocolError(f"a text frame {data[:80]!r}, expected a binary one")
    return unpack(data)


def _told(data: bytes | str) -> Any:
    """What a server sent. Raises RemoteError where that is an error."""
    if isinstance(data, str):
        raise RemoteError(data)
    document = unpack(data)
    if isinstance(document, dict) and document.get("type") == "error":
        raise RemoteError(str(document.get("message")))
    return document


def _images(message: Mapping[str, Any], entry: str) -> NDArray[np.uint8]:
    image = message.get(entry)
    if not isinstance(image, np.ndarray):
        raise ProtocolError(f"{entry} is absent or no array; the request has {sorted(map(str, message))[:16]}")
    if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-1] != 3:
        raise ProtocolError(f"{entry} is {image.dtype} {list(image.shape)}, expected uint8 [(T,) height, width, 3]")
    images = image if image.ndim == 4 else image[None]
    if not 1 <= len(images) <= MOST_FRAMES or not all(1 <= size <= LARGEST_PX for size in images.shape[1:3]):
        raise ProtocolError(
            f"{entry} is {list(image.shape)}, expected 1 to {MOST_FRAMES} frames of 1 to {LARGEST_PX} px either way"
        )
    return images


def _state(message: Mapping[str, Any], entry: str, width: int) -> NDArray[np.float64]:
    value = message.get(entry)
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in "fiu":
        raise ProtocolError(
            f"{entry} is absent or no array of numbers, expected {width}; zeros in its place would lead every relative "
            "action to a pose near zero"
        )
    values = np.asarray(value, np.float64).reshape(-1)
    if len(values) != width or not np.isfinite(values).all():
        raise ProtocolError(f"{entry} is {str(values.tolist())[:120]}, expected {width} finite numbers")
    return values


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
