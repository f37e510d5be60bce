"""await_joint_states: ends with success once a topic has brought a state of every driven joint.

    ros2 run agibot_bringup await_joint_states --ros-args -r joint_states:=robot_joint_states -p timeout_s:=30.0

Launch files start afterwards what needs it: controllers begin where the hardware says that the joints are, and the
policy where the controllers say so, and before the first message neither is known. Ends with status 1 and one line if
that has not come in time.
"""

import math
import sys
import time

import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState

from agibot_bringup.description import load_home


def main() -> int:
    """Wait."""
    rclpy.init()
    node = Node("await_joint_states")
    timeout_s = node.declare_parameter("timeout_s", 60.0).value
    prefix = node.declare_parameter("prefix", "").value
    wanted = {prefix + joint for joint in load_home()}
    missing = set(wanted)

    def hear(message: JointState) -> None:
        known = {n for n, value in zip(message.name, message.position, strict=False) if math.isfinite(value)}
        missing.clear()
        missing.update(wanted - known)
        heard.append(message)

    heard: list[JointState] = []
    subscription = node.create_subscription(JointState, "joint_states", hear, qos_profile_sensor_data)
    topic, until = subscription.topic_name, time.monotonic() + timeout_s
    try:
        while missing and time.monotonic() < until:
            rclpy.spin_once(node, timeout_sec=0.1)
    except KeyboardInterrupt:
        return 1
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    if missing:
        what = f"without {len(missing)} of {len(wanted)} joints" if heard else "nothing"
        print(f"await_joint_states: {what} on {topic} within {timeout_s:g} s", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
