"""What the stack's recorder writes over DDS, training reads: the frames that the policy's chunks name."""

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from dreamzero_policy.data.bags import BagSource
from dreamzero_policy.runtime.embodiment import without_statistics
from dreamzero_policy.runtime.observation import NS_PER_S, ObservationBuffer

from .conftest import picture

rclpy = pytest.importorskip("rclpy")
pytestmark = pytest.mark.stack


def test_a_bag_of_the_stacks_own_recorder_gives_the_frames_that_the_chunks_name(tmp_path: Path, contract):
    from sensor_msgs.msg import CompressedImage, JointState
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    from dreamzero_msgs.msg import ActionChunk
    from dreamzero_policy.ros.messages import to_stamp
    from dreamzero_policy.ros.recorder import Recorder, topics_of_a_run

    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("recorded_bags_test", namespace=f"bag_{time.time_ns()}", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    site, model = contract.site, contract.model
    publishers = {
        topic: node.create_publisher(kind, topic, 100)
        for topic, kind in [
            *((f"{site.cameras[camera].topic}/compressed", CompressedImage) for camera in model.cameras),
            (site.joint_states.topic, JointState),
            *((f"{controller.name}/joint_trajectory", JointTrajectory) for controller in site.controllers),
            ("policy/chunk", ActionChunk),
        ]
    }
    recorder = Recorder(node, tmp_path / "run", topics_of_a_run(contract, "policy"))
    try:
        deadline = time.monotonic() + 20
        while not all(p.get_subscription_count() for p in publishers.values()) and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.05)
        begin_ns = node.get_clock().now().nanoseconds
        live, robot = ObservationBuffer(without_statistics(contract)), without_statistics(contract)

        def say(topic: str, message: object) -> None:
            publishers[topic].publish(message)
            executor.spin_once(timeout_sec=0.01)

        for controller in site.controllers:
            point = JointTrajectoryPoint(positions=[0.2] * len(controller.joints))
            point.time_from_start.sec = 1
            trajectory = JointTrajectory(joint_names=list(controller.joints), points=[point])
            say(f"{controller.name}/joint_trajectory", trajectory)
        for step in range(40):
            stamp_ns = begin_ns + round(step * NS_PER_S / 30)
            while node.get_clock().now().nanoseconds < stamp_ns:  # commands are timed by when they were recorded
                executor.spin_once(timeout_sec=0.002)
            positions = {joint: 0.1 + step / 1000 for joint in model.state_joints}
            state = JointState(name=list(positions), position=list(positions.values()))  # efforts stay empty
            state.header.stamp = to_stamp(stamp_ns)
            say(site.joint_states.topic, state)
            live.add_joint_state(stamp_ns, stamp_ns, state.name, state.position)
            for i, camera in enumerate(model.cameras):
                image = picture(i, step)
                data = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
                message = CompressedImage(format="png", data=data)
                message.header.stamp = to_stamp(stamp_ns)
                say(f"{site.cameras[camera].topic}/compressed", message)
                live.add_image(camera, stamp_ns, stamp_ns, lambda image=image: image)
        block = live.block(begin_ns + round(36 * NS_PER_S / 30), model.chunk.frame_offsets_steps)
        chunk = ActionChunk(prompt="touch the cube", steps=24, step_s=1 / 30)
        chunk.header.stamp, chunk.start = to_stamp(begin_ns), to_stamp(begin_ns + NS_PER_S)
        say("policy/chunk", chunk)
        while "policy/chunk" not in recorder.heard and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.05)
    finally:
        recorder.close()
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
    source = BagSource(tmp_path / "run", contract)
    assert source.names == ("run.0",)
    recording = source.recording("run.0")
    episode = recording.episode(robot)
    assert recording.instructions == ("touch the cube",)
    # The first command arrived after the first observation, so the grid begins up to a few steps later.
    skipped = 40 - recording.steps
    wanted = 36 - skipped + np.array(model.chunk.frame_offsets_steps)
    canvas = np.stack([robot.picture(images) for images in recording.images(wanted.tolist())])
    np.testing.assert_array_equal(canvas, block.canvas)
    np.testing.assert_array_equal(recording.state[36 - skipped], block.state)
    assert episode.steps == recording.steps
