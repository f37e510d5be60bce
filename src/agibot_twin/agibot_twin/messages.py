"""ROS messages of the twin, to and from arrays. Message packages only, no rclpy."""

from array import array
from collections.abc import Sequence

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory

from agibot_twin import cameras
from agibot_twin.simulation import JointSample
from agibot_twin.trajectory_controller import JointTarget, Trajectory, TrajectoryPoint

NS_PER_S = 1_000_000_000


def to_time(stamp_ns: int) -> Time:
    """Nanoseconds to a message stamp."""
    return Time(sec=stamp_ns // NS_PER_S, nanosec=stamp_ns % NS_PER_S)


def joint_state(stamp_ns: int, names: Sequence[str], joints: JointSample) -> JointState:
    """All three arrays filled: readers of bags trip over empty arrays at a message's end."""
    message = JointState()
    message.header.stamp = to_time(stamp_ns)
    message.name = list(names)
    message.position = array("d", joints.positions.tobytes())
    message.velocity = array("d", joints.velocities.tobytes())
    message.effort = array("d", joints.efforts.tobytes())
    return message


def compressed_image(stamp_ns: int, frame_id: str, picture: cameras.Image, quality: int) -> CompressedImage:
    """A JPEG, described as image_transport describes one. `quality` 1 … 100."""
    encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
    message = CompressedImage(format="rgb8; jpeg compressed bgr8")
    message.header.stamp = to_time(stamp_ns)
    message.header.frame_id = frame_id
    message.data = array("B", encoded.tobytes())
    return message


def raw_image(stamp_ns: int, frame_id: str, picture: cameras.Image) -> Image:
    """An rgb8 image."""
    height, width, channels = picture.shape
    message = Image(height=height, width=width, encoding="rgb8", is_bigendian=0, step=width * channels)
    message.header.stamp = to_time(stamp_ns)
    message.header.frame_id = frame_id
    message.data = array("B", np.ascontiguousarray(picture).tobytes())
    return message


def camera_info(stamp_ns: int, frame_id: str, intrinsics: cameras.Intrinsics) -> CameraInfo:
    """Pinhole without distortion."""
    message = CameraInfo(height=intrinsics.height, width=intrinsics.width, distortion_model="plumb_bob", d=[0.0] * 5)
    message.header.stamp = to_time(stamp_ns)
    message.header.frame_id = frame_id
    matrix = intrinsics.matrix
    message.k = matrix.ravel()
    message.r = np.eye(3).ravel()
    message.p = np.column_stack([matrix, np.zeros(3)]).ravel()
    return message


def trajectory(message: JointTrajectory) -> Trajectory:
    """Contents of a trajectory message; empty arrays become None. Nothing is judged here."""
    points = [
        TrajectoryPoint(
            time_from_start_ns=point.time_from_start.sec * NS_PER_S + point.time_from_start.nanosec,
            target=JointTarget(
                np.array(point.positions, dtype=np.float64),
                np.array(point.velocities, dtype=np.float64) if point.velocities else None,
                np.array(point.accelerations, dtype=np.float64) if point.accelerations else None,
            ),
        )
        for point in message.points
    ]
    stamp = message.header.stamp
    return Trajectory(list(message.joint_names), points, stamp.sec * NS_PER_S + stamp.nanosec)
