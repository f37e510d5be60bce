"""Recordings as bags: what a robot of the contract would have recorded, in rosbag2 (MCAP), one bag an episode.

Every step gives a joint state and an image of every camera, stamped with its instant; the clock begins at `BEGIN_S`.
The action of a step is sent to the controllers one step earlier as a trajectory of one point that is due at its
instant, so that it is what the controllers are executing then: reading the bag gives the data set's actions back. What
the contract predicts and never commands (a mobile base) has no topic and is left out. The phrasings stand in
`instructions.txt`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from dreamzero_policy.data.bag_messages import COMPRESSED, IMAGE, STATES, TRAJECTORY
from dreamzero_policy.data.bags import INSTRUCTIONS
from dreamzero_policy.data.recordings import Recording
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Image, without_statistics
from dreamzero_policy.runtime.observation import NS_PER_S

BEGIN_S = 1_000_000_000  # when every bag begins: data sets do not say when they were recorded
Pictures = Literal["jpeg", "png", "raw"]
PICTURES = ("jpeg", "png", "raw")
QUALITY = 95  # of JPEG
TYPES = get_typestore(Stores.ROS2_JAZZY)


class EpisodeBag:
    """A bag under construction."""

    def __init__(self, folder: Path, contract: Contract, pictures: Pictures = "jpeg") -> None:
        """`folder` must not exist yet, its parent must."""
        self._contract, self._pictures = contract, pictures
        self._robot = without_statistics(contract)
        self._writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> "EpisodeBag":
        self._writer.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def state(self, instant_ns: int, state: np.ndarray) -> None:
        """Where the joints are: a state vector [D] of the contract."""
        positions = self._robot.joint_positions(state)
        values, none = np.array(list(positions.values())), np.zeros(len(positions))
        message = TYPES.types[STATES](
            header=_header(instant_ns, ""), name=list(positions), position=values, velocity=none, effort=none
        )
        self._write(f"/{self._contract.site.joint_states.topic.lstrip('/')}", STATES, instant_ns, message)

    def command(self, sent_ns: int, due_ns: int, action: np.ndarray) -> None:
        """Where every controller is told to be at an instant: an action vector [A] of the contract."""
        joints = self._contract.model.commanded_joints
        targets = dict(zip(joints, self._robot.commanded(action), strict=True))
        for controller in self._contract.site.controllers:
            point = TYPES.types["trajectory_msgs/msg/JointTrajectoryPoint"](
                positions=np.array([targets[joint] for joint in controller.joints]),
                velocities=np.empty(0),
                accelerations=np.empty(0),
                effort=np.empty(0),
                time_from_start=TYPES.types["builtin_interfaces/msg/Duration"](*_split(due_ns - sent_ns)),
            )
            message = TYPES.types[TRAJECTORY](_header(0, ""), list(controller.joints), [point])
            self._write(f"/{controller.name}/joint_trajectory", TRAJECTORY, sent_ns, message)

    def image(self, instant_ns: int, camera: str, image: Image) -> None:
        """What a camera sees, RGB [height, width, 3]."""
        if self._pictures == "raw":
            site, (height, width) = self._contract.site.cameras[camera], image.shape[:2]
            header = _header(instant_ns, site.frame_id)
            message = TYPES.types[IMAGE](header, height, width, "rgb8", 0, 3 * width, image.ravel())
            self._write(f"/{site.topic.lstrip('/')}", IMAGE, instant_ns, message)
            return
        suffix, options = (".png", []) if self._pictures == "png" else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].ravel()
        self.encoded(instant_ns, camera, data)

    def encoded(self, instant_ns: int, camera: str, data: np.ndarray) -> None:
        """The same as bytes of an image file."""
        site = self._contract.site.cameras[camera]
        header, form = _header(instant_ns, site.frame_id), f"rgb8; {self._pictures} compressed bgr8"
        topic = f"/{site.topic.lstrip('/')}/compressed"
        self._write(topic, COMPRESSED, instant_ns, TYPES.types[COMPRESSED](header, form, data))

    def _write(self, topic: str, kind: str, recorded_ns: int, message: Any) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, kind, typestore=TYPES)
        self._writer.write(self._connections[topic], recorded_ns, TYPES.serialize_cdr(message, kind))


def write_bag(
    recording: Recording, folder: Path, contract: Contract, pictures: Pictures, progress: Callable[[float], None]
) -> None:
    """A whole recording. `progress` gets the share that is written.

    Raises:
        EpisodeError: an image is missing or cannot be decoded.
    """
    step_ns = NS_PER_S / contract.model.action_hz
    instant_ns = lambda number: BEGIN_S * NS_PER_S + round(number * step_ns)  # noqa: E731
    with EpisodeBag(folder, contract, pictures) as bag:
        bag.command(instant_ns(-1), instant_ns(0), recording.action[0])
        for number, images in enumerate(recording.images(range(recording.steps))):
            if number + 1 < recording.steps:
                bag.command(instant_ns(number), instant_ns(number + 1), recording.action[number + 1])
            bag.state(instant_ns(number), recording.state[number])
            for camera in contract.model.cameras:
                bag.image(instant_ns(number), camera, images[camera])
            progress((number + 1) / recording.steps)
    (folder / INSTRUCTIONS).write_text("\n".join(recording.instructions) + "\n", encoding="utf-8")


def left_out(recording: Recording, contract: Contract) -> float:
    """The largest action of a joint that is predicted and never commanded: what a bag has no topic for."""
    robot = without_statistics(contract)
    kept = robot.as_actions(np.ones(len(contract.model.state_joints))) > 0
    rest = np.abs(recording.action[:, ~kept])
    return float(rest.max()) if rest.size else 0.0


def _header(instant_ns: int, frame: str) -> Any:
    stamp = TYPES.types["builtin_interfaces/msg/Time"](*_split(instant_ns))
    return TYPES.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame)


def _split(duration_ns: int) -> tuple[int, int]:
    return duration_ns // NS_PER_S, duration_ns % NS_PER_S
