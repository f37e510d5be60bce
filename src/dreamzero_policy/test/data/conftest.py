"""A contract with small cameras, and demonstrations whose numbers and colours tell episode, camera and step."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from dreamzero_policy.data.recordings import Images, Recording, action_joints
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.observation import NS_PER_S

ROOT = Path(__file__).resolve().parents[4]
MESSAGES = ROOT / "src" / "dreamzero_msgs" / "msg"
WIDTH_PX, HEIGHT_PX = 64, 48
TYPES = get_typestore(Stores.ROS2_JAZZY)
for message in sorted(MESSAGES.glob("*.msg")):
    TYPES.register(get_types_from_msg(message.read_text(), f"dreamzero_msgs/msg/{message.stem}"))


@pytest.fixture(scope="session")
def contract() -> Contract:
    """The shipped contract on a site with cameras of 64 x 48 pixels."""
    shipped = load_contract(ROOT / "config" / "agibot_g1.yaml")
    small = {
        name: camera.model_copy(update={"width_px": WIDTH_PX, "height_px": HEIGHT_PX})
        for name, camera in shipped.site.cameras.items()
    }
    return shipped.model_copy(update={"site": shipped.site.model_copy(update={"cameras": small})})


def picture(camera: int, step: int) -> np.ndarray:
    """A slanted gradient: the camera sets the red, the step the green level."""
    slope = np.add.outer(np.arange(HEIGHT_PX), np.arange(WIDTH_PX))
    image = np.empty((HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 40 + 60 * camera, 20 + step % 200, slope
    return image


@pytest.fixture
def recorded(contract: Contract) -> Callable[..., Recording]:
    """Makes a recording: state n / 100 + joint / 10 at step n, the command 0.005 beyond, the base at rest."""

    def make(name: str = "first", steps: int = 40, instructions: Sequence[str] = ("touch the cube",)) -> Recording:
        joints = len(contract.model.state_joints)
        state = np.arange(steps)[:, None] / 100 + np.arange(joints) / 10
        action = np.zeros((steps, len(action_joints(contract.model))))
        action[:, :joints] = state + 0.005

        def images(asked: Sequence[int]) -> Iterator[Images]:
            for step in asked:
                yield {camera: picture(i, step) for i, camera in enumerate(contract.model.cameras)}

        return Recording(name, tuple(instructions), state, action, images)

    return make


class BagMaker:
    """Writes a bag as the stack's recorder does: compressed images, joint states, trajectories, chunks."""

    def __init__(
        self,
        folder: Path,
        contract: Contract,
        plugin: StoragePlugin = StoragePlugin.MCAP,
        zstd: CompressionMode = CompressionMode.NONE,
    ) -> None:
        self.contract = contract
        self.writer = Writer(folder, version=9, storage_plugin=plugin)
        if zstd != CompressionMode.NONE:
            self.writer.set_compression(zstd, CompressionFormat.ZSTD)
        self.writer.open()
        self._connections: dict[str, object] = {}

    def __enter__(self) -> "BagMaker":
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def write(
        self, topic: str, kind: str, stamp_ns: int, spare: bytes = b"", late_ns: int = 1_000_000, **fields: object
    ) -> None:
        """One message with a header, recorded some time after its stamp, with spare bytes behind it."""
        header = message("std_msgs/msg/Header", stamp=time(stamp_ns), frame_id="")
        self.raw(topic, kind, stamp_ns + late_ns, message(kind, header=header, **fields), spare)

    def raw(self, topic: str, kind: str, recorded_ns: int, content: object, spare: bytes = b"") -> None:
        self.serialised(topic, kind, recorded_ns, bytes(TYPES.serialize_cdr(content, kind)) + spare)

    def serialised(self, topic: str, kind: str, recorded_ns: int, data: bytes) -> None:
        if topic not in self._connections:
            self._connections[topic] = self.writer.add_connection(topic, kind, typestore=TYPES)
        self.writer.write(self._connections[topic], recorded_ns, data)

    def image(self, camera: str, stamp_ns: int, image: np.ndarray, late_ns: int = 1_000_000) -> None:
        jpeg = cv2.imencode(".png", image[..., ::-1])[1].ravel()
        topic = f"/{self.contract.site.cameras[camera].topic}/compressed"
        self.write(topic, "sensor_msgs/msg/CompressedImage", stamp_ns, b"", late_ns, format="png", data=jpeg)

    def raw_image(self, camera: str, stamp_ns: int, image: np.ndarray, late_ns: int = 1_000_000) -> None:
        height, width = image.shape[:2]
        fields = {"height": height, "width": width, "encoding": "rgb8", "step": 3 * width, "data": image.ravel()}
        topic = f"/{self.contract.site.cameras[camera].topic}"
        self.write(topic, "sensor_msgs/msg/Image", stamp_ns, b"", late_ns, **fields)

    def joints(self, stamp_ns: int, positions: dict[str, float], late_ns: int = 1_000_000) -> None:
        """As Jazzy's serializer writes a message that ends in an empty array: spare bytes of anything behind it."""
        self.write(
            f"/{self.contract.site.joint_states.topic}",
            "sensor_msgs/msg/JointState",
            stamp_ns,
            b"\x07" * 8,
            late_ns,
            name=list(positions),
            position=np.array(list(positions.values())),
            velocity=np.empty(0),
            effort=np.empty(0),
        )

    def trajectory(self, controller: str, recorded_ns: int, joints: Sequence[str], points: Sequence) -> None:
        """Points are (seconds from start, positions, velocities)."""
        kind = "trajectory_msgs/msg/JointTrajectory"
        made = [
            message(
                "trajectory_msgs/msg/JointTrajectoryPoint",
                positions=np.array(positions, dtype=float),
                velocities=np.array(velocities, dtype=float),
                accelerations=np.empty(0),
                effort=np.empty(0),
                time_from_start=message("builtin_interfaces/msg/Duration", **vars_of(round(seconds * NS_PER_S))),
            )
            for seconds, positions, velocities in points
        ]
        header = message("std_msgs/msg/Header", stamp=time(0), frame_id="")
        content = message(kind, header=header, joint_names=list(joints), points=made)
        self.raw(f"/{controller}/joint_trajectory", kind, recorded_ns, content)

    def chunk(self, observation_ns: int, prompt: str, start_ns: int, epoch: int = 0, verdict: int = 0) -> None:
        kind = "dreamzero_msgs/msg/ActionChunk"
        self.write(
            "/policy/chunk",
            kind,
            observation_ns,
            prompt=prompt,
            start=time(start_ns),
            epoch=epoch,
            steps=24,
            step_s=1 / 30,
            verdict=verdict,
        )


def vars_of(instant_ns: int) -> dict[str, int]:
    return {"sec": instant_ns // NS_PER_S, "nanosec": instant_ns % NS_PER_S}


def time(instant_ns: int) -> object:
    return message("builtin_interfaces/msg/Time", **vars_of(instant_ns))


def message(kind: str, **fields: object) -> object:
    """A message whose other fields are empty or zero."""
    made = {}
    for name, described in TYPES.get_msgdef(kind).fields:
        if name in fields:
            made[name] = fields[name]
            continue
        shape, content = described[0].name, described[1]
        if shape == "BASE":
            made[name] = "" if content[0] == "string" else False if content[0] == "bool" else 0
        elif shape == "NAME":
            made[name] = message(content)
        else:
            numeric = content[0][1][0] if content[0][0].name == "BASE" else "string"
            made[name] = [] if numeric == "string" else np.empty(0, numeric)
    return TYPES.types[kind](**made)
