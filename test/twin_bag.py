"""A bag of the twin: demonstrations of its expert, one behind the other, as a robot's recorder would have them.

Every camera at 30 Hz (JPEG), joint states at 100 Hz, and to every controller the expert's trajectory when it begins.
Messages are recorded a few milliseconds after their stamps, cameras later than joints. Between two demonstrations the
scene is laid out anew, as a person would between two takes; the clock goes on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import cv2
import numpy as np
from rosbags.typesys import Stores, get_typestore

from agibot_twin.suite import TwinSuite
from dreamzero_policy.runtime.contract import Contract, Controller
from dreamzero_policy.runtime.observation import NS_PER_S

BEGIN_NS = 1_700_000_000_000_000_000
JOINTS_HZ, FRAMES_HZ = 100, 30
CAMERAS_LATE_NS, JOINTS_LATE_NS, COMMANDS_LATE_NS = 12_000_000, 1_000_000, 500_000
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
DURATION = "builtin_interfaces/msg/Duration"
QUALITY = 90  # of JPEG
STATES, TRAJECTORY = "sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory"
TYPES = get_typestore(Stores.ROS2_JAZZY)


@dataclass(frozen=True)
class Said:
    """A message as a recorder hears it."""

    topic: str
    kind: str
    recorded_ns: int
    data: bytes  # CDR


def said_by_twin(contract: Contract, seconds: float) -> Iterator[Said]:
    """All messages of so many seconds, in the order of recording."""
    suite = TwinSuite()
    waiting: list[Said] = []
    try:
        for message in _as_it_happens(suite, contract, round(seconds * JOINTS_HZ)):
            waiting.append(message)
            waiting.sort(key=lambda one: one.recorded_ns)
            while waiting[0].recorded_ns + CAMERAS_LATE_NS < waiting[-1].recorded_ns:
                yield waiting.pop(0)
        yield from waiting
    finally:
        suite.close()


def with_raw_images(message: Said) -> Said:
    """The same picture, uncompressed and on the topic of such ones."""
    if message.kind != COMPRESSED:
        return message
    compressed = TYPES.deserialize_cdr(message.data, COMPRESSED)
    image = cv2.imdecode(compressed.data, cv2.IMREAD_COLOR)
    height, width = image.shape[:2]
    raw = TYPES.types[IMAGE](compressed.header, height, width, "bgr8", 0, 3 * width, image.ravel())
    return replace(
        message,
        topic=message.topic.removesuffix("/compressed"),
        kind=IMAGE,
        data=bytes(TYPES.serialize_cdr(raw, IMAGE)),
    )


def _as_it_happens(suite: TwinSuite, contract: Contract, ticks: int) -> Iterator[Said]:
    """In the order of stamps; a tick is the time from one joint state to the next."""
    tick = frame = 0
    for seed in count():
        suite.reset("seen", seed)
        if (shown := suite.demonstration(contract)) is None:
            continue
        joints, rows = shown
        due_ns = [round((row + 1) * NS_PER_S / contract.model.action_hz) for row in range(len(rows))]
        suite.follow(joints, due_ns, rows, None)
        begin_ns = _tick_ns(tick)
        for controller in contract.site.controllers:
            yield _trajectory(
                begin_ns, controller, due_ns, rows[:, [joints.index(joint) for joint in controller.joints]]
            )
        while suite.now_ns() < due_ns[-1]:
            if tick == ticks:
                return
            yield _states(contract, _tick_ns(tick), joints, suite.observe(images=False).joints.positions)
            tick += 1
            while (frame_ns := BEGIN_NS + round(frame * NS_PER_S / FRAMES_HZ)) < _tick_ns(tick):
                suite.advance_to(frame_ns - begin_ns)
                for camera, image in suite.observe(images=True).images.items():
                    yield _picture(contract, frame_ns, camera, image)
                frame += 1
            suite.advance_to(_tick_ns(tick) - begin_ns)


def _tick_ns(tick: int) -> int:
    return BEGIN_NS + tick * NS_PER_S // JOINTS_HZ


def _states(contract: Contract, stamp_ns: int, joints: Sequence[str], positions: np.ndarray) -> Said:
    none = np.empty(0)
    message = TYPES.types[STATES](_header(stamp_ns), list(joints), positions.copy(), none, none)
    return _said(contract.site.joint_states.topic, STATES, stamp_ns + JOINTS_LATE_NS, message)


def _picture(contract: Contract, stamp_ns: int, camera: str, image: np.ndarray) -> Said:
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].ravel()
    message = TYPES.types[COMPRESSED](_header(stamp_ns), "rgb8; jpeg compressed bgr8", data)
    topic = f"{contract.site.cameras[camera].topic}/compressed"
    return _said(topic, COMPRESSED, stamp_ns + CAMERAS_LATE_NS, message)


def _trajectory(sent_ns: int, controller: Controller, due_ns: Sequence[int], rows: np.ndarray) -> Said:
    point, duration = (TYPES.types[kind] for kind in ("trajectory_msgs/msg/JointTrajectoryPoint", DURATION))
    none = np.empty(0)
    points = [
        point(row.copy(), none, none, none, duration(*divmod(after_ns, NS_PER_S)))
        for after_ns, row in zip(due_ns, rows, strict=True)
    ]
    message = TYPES.types[TRAJECTORY](_header(0), list(controller.joints), points)
    return _said(f"{controller.name}/joint_trajectory", TRAJECTORY, sent_ns + COMMANDS_LATE_NS, message)


def _said(topic: str, kind: str, recorded_ns: int, message: object) -> Said:
    return Said(f"/{topic.lstrip('/')}", kind, recorded_ns, bytes(TYPES.serialize_cdr(message, kind)))


def _header(stamp_ns: int) -> object:
    stamp = TYPES.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, NS_PER_S))
    return TYPES.types["std_msgs/msg/Header"](stamp, "")
