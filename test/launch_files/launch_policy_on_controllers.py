"""On a real installation: robot.launch.py with real ros2_control, the shipped policy, and ten chunks that are executed.

launch_test test/launch_files/launch_policy_on_controllers.py                                   # hardware:=mock
launch_test test/launch_files/launch_policy_on_controllers.py hardware:=twin use_sim_time:=true # without ros2_control

This file stands in for the cameras (the twin has its own), for the joystick nobody, and for the person who opens the
gate.
"""

import time
import unittest
from collections.abc import Callable

import cv2
import launch_testing.actions
import launch_testing.asserts
import launch_testing.markers
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CompressedImage, JointState
from std_srvs.srv import Trigger

from dreamzero_msgs.msg import ActionChunk
from launch import LaunchDescription

CHUNKS = 10
CONTROLLERS = {
    "joint_state_broadcaster",
    "dual_arm_controller",
    "left_gripper_controller",
    "right_gripper_controller",
    "head_controller",
    "waist_controller",
}
TIMEOUT_S = 240.0


@launch_testing.markers.keep_alive
def generate_test_description() -> LaunchDescription:
    """The stack as it is launched on a robot, with the policy activated at once."""
    arguments = {
        "hardware": LaunchConfiguration("hardware"),
        "use_sim_time": LaunchConfiguration("use_sim_time"),
        "deadman": "none",
        "activate": "true",
        "prompt": "touch the red cube with the left hand",
    }
    robot = PathJoinSubstitution([FindPackageShare("dreamzero"), "launch", "robot.launch.py"])
    return LaunchDescription(
        [
            DeclareLaunchArgument("hardware", default_value="mock", description="As of robot.launch.py."),
            DeclareLaunchArgument("use_sim_time", default_value="false", description="As of robot.launch.py."),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(robot), launch_arguments=arguments.items()),
            launch_testing.actions.ReadyToTest(),
        ]
    )


class TestPolicyOnControllers(unittest.TestCase):
    """In the order of their names."""

    @classmethod
    def setUpClass(cls) -> None:
        rclpy.init()
        cls.node = rclpy.create_node("surroundings")
        cls.executor = SingleThreadedExecutor()
        cls.executor.add_node(cls.node)
        noise = np.random.default_rng(7)
        pictures = [noise.integers(100, 140, (240, 320, 3), np.uint8) for _ in range(8)]
        cls.pictures = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]
        cls.joints: dict[str, float] = {}
        cls.chunks: list[ActionChunk] = []
        cls.passed = 0  # trajectories that the gate let through, as it says itself
        cls.node.create_subscription(JointState, "joint_states", cls.hear_joints, 10)
        cls.node.create_subscription(ActionChunk, "policy_node/chunk", cls.chunks.append, 10)
        cls.node.create_subscription(DiagnosticArray, "/diagnostics", cls.hear_diagnostics, 10)
        cls.frames = 0

    @classmethod
    def tearDownClass(cls) -> None:
        cls.executor.shutdown()
        cls.node.destroy_node()
        rclpy.shutdown()

    @classmethod
    def hear_joints(cls, message: JointState) -> None:
        cls.joints |= dict(zip(message.name, message.position, strict=True))

    @classmethod
    def hear_diagnostics(cls, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.endswith("safety_gate: gate"):
                cls.passed = int({pair.key: pair.value for pair in status.values}["passed"])

    def spin_until(self, condition: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + TIMEOUT_S
        while not condition():
            self.assertLess(time.monotonic(), until, f"timed out waiting until {what}")
            self.executor.spin_once(timeout_sec=0.1)

    def call(self, kind: type, name: str, request: object) -> object:
        client = self.node.create_client(kind, name)
        self.spin_until(client.service_is_ready, f"there is {name}")
        answer = client.call_async(request)
        self.spin_until(answer.done, f"{name} answers")
        return answer.result()

    def test_1_every_controller_becomes_active(self, test_args: dict[str, str]) -> None:
        if test_args.get("hardware", "mock") == "twin":
            self.skipTest("the twin has its controllers inside")
        from controller_manager_msgs.srv import ListControllers

        def active() -> bool:
            found = self.call(ListControllers, "controller_manager/list_controllers", ListControllers.Request())
            return {controller.name for controller in found.controller if controller.state == "active"} >= CONTROLLERS

        self.spin_until(active, "all controllers are active")
        self.spin_until(lambda: len(self.joints) >= 20, "all joints are heard")

    def test_2_ten_chunks_of_the_policy_are_executed(self, test_args: dict[str, str]) -> None:
        if test_args.get("hardware", "mock") != "twin":
            cameras = [
                self.node.create_publisher(CompressedImage, f"{name}/color/image_raw/compressed", 5)
                for name in ("head", "hand_left", "hand_right")
            ]
            self.node.create_timer(1 / 30, lambda: self.film(cameras))
        self.spin_until(lambda: len(self.joints) >= 20, "all joints are heard")
        self.spin_until(lambda: self.call(Trigger, "safety_gate/open", Trigger.Request()).success, "the gate opens")
        before, unheard = dict(self.joints), len(self.accepted())  # a closed gate lets nothing through
        self.spin_until(lambda: len(self.accepted()) - unheard >= CHUNKS, f"{CHUNKS} chunks are accepted")
        trajectories = CHUNKS * len(CONTROLLERS - {"joint_state_broadcaster"})  # a chunk is one for each controller
        self.spin_until(lambda: self.passed >= trajectories, f"{trajectories} trajectories have passed the gate")
        self.assertEqual([chunk.chunk_index for chunk in self.chunks], list(range(len(self.chunks))))
        moved = max(abs(self.joints[joint] - before[joint]) for joint in before)
        self.assertGreater(moved, 1e-3, "the robot has moved")

    def accepted(self) -> list[ActionChunk]:
        return [chunk for chunk in self.chunks if chunk.verdict == ActionChunk.ACCEPTED]

    def film(self, cameras: list[object]) -> None:
        """One picture of every camera: nothing to be seen in it, but the noise of a sensor."""
        type(self).frames += 1
        for camera in cameras:
            message = CompressedImage(format="bgr8; jpeg compressed bgr8", data=self.pictures[self.frames % 8])
            message.header.stamp = self.node.get_clock().now().to_msg()
            camera.publish(message)


@launch_testing.post_shutdown_test()
class TestShutdown(unittest.TestCase):
    def test_policy_and_gate_end_by_themselves(self, proc_info: object) -> None:
        for name in ("policy_node", "safety_gate"):
            launch_testing.asserts.assertExitCodes(proc_info, process=name)
