"""The recorder: topics into a rosbag2 MCAP bag, byte for byte as they arrived, without a ROS installation.

Jazzy's serializer leaves spare, uninitialised bytes behind messages that end in an empty array, and standard readers
refuse them. Every message is therefore cut to the length its type really uses; nothing else is touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float32, Float32MultiArray
from trajectory_msgs.msg import JointTrajectory

from dreamzero_msgs.msg import ActionChunk, PolicyStatus
from dreamzero_policy.ros import qos
from dreamzero_policy.runtime.contract import Contract

FRAMES = QoSProfile(depth=60, reliability=qos.EVENT.reliability)


@dataclass(frozen=True)
class Topic:
    """Something to record."""

    name: str
    kind: type
    profile: QoSProfile


def topics_of_a_run(contract: Contract, node_name: str) -> list[Topic]:
    """What a run is made of: what the policy saw, what it wanted, what was sent."""
    cameras = contract.site.cameras.values()
    return [
        *(Topic(f"{camera.topic}/compressed", CompressedImage, FRAMES) for camera in cameras),
        Topic(contract.site.joint_states.topic, JointState, FRAMES),
        *(
            Topic(f"{controller.name}/joint_trajectory", JointTrajectory, qos.EVENT)
            for controller in contract.site.controllers
        ),
        Topic(f"{node_name}/chunk", ActionChunk, qos.EVENT),
        Topic(f"{node_name}/status", PolicyStatus, qos.EVENT),
        Topic(f"{node_name}/predicted_image", Image, FRAMES),
        Topic(f"{node_name}/surprise", Float32, qos.EVENT),
        Topic(f"{node_name}/surprise_cells", Float32MultiArray, qos.EVENT),
    ]


class Recorder:
    """Subscribes through a node and writes until closed."""

    def __init__(self, node: Node, folder: Path, topics: Sequence[Topic]) -> None:
        """Open the bag; `folder` must not exist yet."""
        self._node = node
        self._types = recording_types()
        self.heard: set[str] = set()  # names of topics of which at least one message was written
        self._writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._subscriptions = [self._record(topic) for topic in topics]

    def close(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._writer.close()

    def _record(self, topic: Topic):
        package, name = topic.kind.__module__.split(".")[0], topic.kind.__name__
        full_name = self._node.resolve_topic_name(topic.name)
        connection = self._writer.add_connection(full_name, f"{package}/msg/{name}", typestore=self._types)

        def receive(data: bytes) -> None:
            now_ns = self._node.get_clock().now().nanoseconds
            ends_in_pixels = topic.kind in (CompressedImage, Image)  # never empty, so nothing is left behind them
            exact = data if ends_in_pixels else trimmed(data, connection.msgtype, self._types)
            self._writer.write(connection, now_ns, exact)
            self.heard.add(topic.name)

        return self._node.create_subscription(topic.kind, topic.name, receive, topic.profile, raw=True)


def recording_types() -> Typestore:
    """Jazzy's message types and this stack's own."""
    types = get_typestore(Stores.ROS2_JAZZY)
    for path in sorted((Path(get_package_share_directory("dreamzero_msgs")) / "msg").glob("*.msg")):
        types.register(get_types_from_msg(path.read_text(), f"dreamzero_msgs/msg/{path.stem}"))
    return types


def trimmed(data: bytes, kind: str, types: Typestore) -> bytes:
    """A little-endian CDR message without spare bytes behind its last field."""
    definition = types.get_msgdef(kind)
    _, used = definition.deserialize_cdr_le(memoryview(data)[4:], 0, definition.cls, types)
    return data[: 4 + used]
