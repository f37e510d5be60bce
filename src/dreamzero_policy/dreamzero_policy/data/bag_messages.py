"""Messages of a bag: which topic is what, stamps without decoding, and decoding that matches live operation.

Jazzy's serializer leaves spare bytes behind messages that end in an empty array, which `rosbags` refuses; here a
message is decoded up to its last field and what follows is ignored, so bags of any recorder can be read. Every message
used begins with a header, whose stamp is read off the first bytes.
"""

import struct
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from rosbags.interfaces import Connection
from rosbags.typesys.store import Typestore

from dreamzero_policy.data.bag_errors import DAMAGED
from dreamzero_policy.data.bag_files import Bag
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.runtime.compressed import CUT_OFF, is_cut_off
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Image
from dreamzero_policy.runtime.observation import NS_PER_S, ObservationError

ENCODINGS = ("rgb8", "bgr8")
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CHUNK, STATES = "dreamzero_msgs/msg/ActionChunk", "sensor_msgs/msg/JointState"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"


def stamp_ns(data: bytes | memoryview) -> int:
    """The header's stamp of a message that begins with one."""
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return seconds * NS_PER_S + nanoseconds


def decoded(data: bytes, kind: str, types: Typestore) -> Any:
    """A CDR message; bytes behind its last field are ignored."""
    definition = types.get_msgdef(kind)
    read = definition.deserialize_cdr_le if data[1] & 1 else definition.deserialize_cdr_be
    message, _ = read(memoryview(data)[4:], 0, definition.cls, types)
    return message


def duration_ns(message: Any) -> int:
    return message.sec * NS_PER_S + message.nanosec


def topic_of(bag: Bag, name: str, kinds: tuple[str, ...]) -> Connection | None:
    """The connection of a topic the site names, in whatever namespace it was recorded; None if there is none.

    Of namespaces in each other the outer one counts: what a safety gate lets through, not what it is asked for in
    `wanted/`.

    Raises:
        EpisodeError: several topics fit, or it has another type.
    """
    wanted = "/" + name.lstrip("/")
    found: dict[str, Connection] = {}  # by namespace
    for connection in bag.connections:
        if connection.topic.endswith(wanted):
            found.setdefault(connection.topic.removesuffix(wanted) + "/", connection)
    outer = [space for space in found if not any(space != other and space.startswith(other) for other in found)]
    if len(outer) > 1:
        raise EpisodeError(
            f"bag {bag.path}: {sorted(found[space].topic for space in outer)} all end in {wanted}; keep one of them"
        )
    if not outer:
        return None
    connection = found[outer[0]]
    if connection.msgtype not in kinds:
        raise EpisodeError(
            f"bag {bag.path}: {connection.topic} holds {connection.msgtype}, expected {' or '.join(kinds)}"
        )
    return connection


def required_topic(bag: Bag, topic: str, kinds: tuple[str, ...], what: str, remedy: str = "") -> Connection:
    """The same where there must be one. Raises EpisodeError that says what is missing and what the bag has."""
    found = topic_of(bag, topic, kinds)
    if found is None:
        has = ", ".join(sorted(c.topic for c in bag.connections))
        raise EpisodeError(f"{what} is missing: no topic {topic} in {bag.path}{remedy}. It has {has}")
    return found


def camera_topics(bag: Bag, contract: Contract) -> dict[str, Connection]:
    """Where each camera of a contract was recorded: compressed, as the node reads it by default, or else raw.

    Raises EpisodeError.
    """
    found = {}
    for camera in contract.model.cameras:
        raw = contract.site.cameras[camera].topic
        compressed = f"{raw}/compressed"
        found[camera] = (
            topic_of(bag, compressed, (COMPRESSED,))
            or topic_of(bag, raw, (IMAGE,))
            or required_topic(bag, compressed, (COMPRESSED,), f"camera {camera}", f"; neither is {raw}")
        )
    return found


def image_decoder(camera: str, data: bytes, kind: str, types: Typestore) -> Callable[[], Image]:
    """A function that decodes this message to RGB [height, width, 3]; it raises ObservationError."""

    def decode() -> Image:
        try:
            message = decoded(data, kind, types)
        except DAMAGED as error:
            raise ObservationError(f"camera {camera}: cannot be read: {type(error).__name__}: {error}") from error
        return (_compressed if kind == COMPRESSED else _raw)(camera, message)

    return decode


def _compressed(camera: str, message: Any) -> Image:
    if is_cut_off(memoryview(np.ascontiguousarray(message.data))):
        raise ObservationError(CUT_OFF.format(camera=camera, form=message.format, count=len(message.data)))
    try:
        image = cv2.imdecode(np.asarray(message.data), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ObservationError(f"camera {camera}: compressed image cannot be decoded: {error}") from error
    if image is None:
        raise ObservationError(
            f"camera {camera}: compressed image of format {message.format!r}, {len(message.data)} bytes, "
            "cannot be decoded"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _raw(camera: str, message: Any) -> Image:
    height, width, step = message.height, message.width, message.step
    if message.encoding not in ENCODINGS:
        raise ObservationError(f"camera {camera}: encoding is {message.encoding!r}, expected {' or '.join(ENCODINGS)}")
    if len(message.data) != height * step or step < 3 * width:
        raise ObservationError(
            f"camera {camera}: {len(message.data)} bytes for {height} lines of {step} and {width} pixels"
        )
    rows = np.asarray(message.data).reshape(height, step)[:, : 3 * width].reshape(height, width, 3)
    return np.ascontiguousarray(rows[..., ::-1] if message.encoding == "bgr8" else rows)
