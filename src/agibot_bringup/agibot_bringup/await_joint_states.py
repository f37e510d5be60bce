"""await_joint_states: ends with success once a topic has brought a state of every driven joint.

    ros2 run agibot_bringup await_joint_states --ros-args -r joint_states:=robot_joint_states -p timeout_s:=30.0

Launch files start afterwards what needs it: controllers begin where the hardware says that the joints are, and the
policy where the controllers say so, and before the first message neither is known. With `require_listener` it also
waits until somebody else hears the topic, as the hardware of ros2_control must before controllers ask it; recorders and
displays do not count. Ends with status 1 and one line if that has not come in time.
"""

import math
import sys
import time

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState

from agibot_bringup.description import load_home
from dreamzero_policy.runtime.audience import OBSERVERS, Audience

SETTLED_S = 0.5  # of messages after the listener was seen, so that it has heard one


def main() -> int:
    """Wait."""
    rclpy.init()
    node = Node("await_joint_states")
    timeout_s = node.declare_parameter("timeout_s", 60.0).value
    require_listener = node.declare_parameter("require_listener", False).value
    wanted = set(load_home())
    missing = set(wanted)

    def hear(message: JointState) -> None:
        known = {n for n, value in zip(message.name, message.position, strict=False) if math.isfinite(value)}
        missing.clear()
        missing.update(wanted - known)
        heard.append(message)

    heard: list[JointState] = []
    subscription = node.create_subscription(JointState, "joint_states", hear, qos_profile_sensor_data)
    topic, until = subscription.topic_name, time.monotonic() + timeout_s
    complete_s: float | None = None  # since when there is all that is waited for
    absent = require_listener
    audience = Audience(
        lambda: node.count_subscribers(topic),
        lambda: [listener.node_name for listener in node.get_subscriptions_info_by_topic(topic)],
        (*OBSERVERS, node.get_name()),
    )
    try:
        while time.monotonic() < until and (complete_s is None or time.monotonic() - complete_s < SETTLED_S):
            rclpy.spin_once(node, timeout_sec=0.1)
            absent = require_listener and not audience.plays(time.monotonic_ns())
            if missing or absent:
                complete_s = None
            elif complete_s is None:
                complete_s = time.monotonic()
    except (KeyboardInterrupt, ExternalShutdownException):
        return 1
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    if missing:
        what = f"without {len(missing)} of {len(wanted)} joints" if heard else "nothing"
        print(f"await_joint_states: {what} on {topic} within {timeout_s:g} s", file=sys.stderr)
    elif absent:
        print(
            f"await_joint_states: nobody else hears {topic} within {timeout_s:g} s (recorders do not count): "
            "is ros2_control running?",
            file=sys.stderr,
        )
    return 1 if missing or absent else 0


if __name__ == "__main__":
    sys.exit(main())
