"""The ROS world: plans go out as joint trajectories, chunks and predicted video as messages."""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import Image
from trajectory_msgs.msg import JointTrajectory

from dreamzero_msgs.msg import ActionChunk
from dreamzero_policy.ros import qos
from dreamzero_policy.ros.messages import chunk_message, image_message
from dreamzero_policy.ros.trajectory_cdr import trajectory_bytes
from dreamzero_policy.runtime.audience import Audience
from dreamzero_policy.runtime.chunk import Chunk
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.faults import Fault, Trouble
from dreamzero_policy.runtime.outputs import GATE, topics
from dreamzero_policy.runtime.plan import Plan


class RosWorld:
    """A `runtime.world.World` on the node's clock and publishers."""

    def __init__(
        self, node: Node, contract: Contract, checkpoint_hash: str, output: str, observers: Sequence[str]
    ) -> None:
        """`output` is one of outputs.OUTPUTS; `observers` are nodes that listen to trajectories and play nothing."""
        self._node, self._contract, self._checkpoint_hash = node, contract, checkpoint_hash
        self._joints = contract.model.commanded_joints
        self._trajectories = {
            to: node.create_publisher(JointTrajectory, topic, qos.TRAJECTORY)
            for to, topic in topics(contract.site.controllers, output).items()
        }
        self._audiences = {to: Audience.of(node, publisher, observers) for to, publisher in self._trajectories.items()}
        self._chunks = node.create_publisher(ActionChunk, "~/chunk", qos.EVENT)
        self._video = node.create_publisher(Image, "~/predicted_image", qos.EVENT)

    def now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds

    def act(self, plan: Plan) -> None:
        messages = trajectory_bytes(plan, self._joints, tuple(self._trajectories), self.now_ns())
        for publisher, message in zip(self._trajectories.values(), messages, strict=True):
            publisher.publish(message)

    def show(self, chunk: Chunk) -> None:
        self._chunks.publish(chunk_message(chunk, self._joints, self._contract.hash, self._checkpoint_hash))

    def show_dream(self, chunk: Chunk, canvas: NDArray[np.uint8]) -> None:
        """Predicted canvases, each stamped with the instant it predicts."""
        model = self._contract.model
        for offset, image in zip(model.chunk.frame_offsets_steps, canvas, strict=True):
            stamp_ns = chunk.instant_ns(model.chunk.actions + offset)
            self._video.publish(image_message(image, stamp_ns, "predicted_canvas"))

    def wants_dream(self) -> bool:
        return self._video.get_subscription_count() > 0

    def absent_controllers(self) -> list[Trouble]:
        """One for every controller, or the gate, that nobody plays."""
        monotonic_ns, troubles = time.monotonic_ns(), []
        for to, publisher in self._trajectories.items():
            if not self._audiences[to].plays(monotonic_ns):
                name = GATE if to.name == GATE else f"controller {to.name}"
                text = f"{name}: nobody who plays it listens on {publisher.topic_name}"
                troubles.append(Trouble(Fault.CONTROLLER_GONE, name, text))
        return troubles

    def destroy(self) -> None:
        for publisher in (*self._trajectories.values(), self._chunks, self._video):
            self._node.destroy_publisher(publisher)
