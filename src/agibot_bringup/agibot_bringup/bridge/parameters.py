"""The parameters of the bridge: name, default, unit, range and effect of each. config/bridge.yaml shows them all.

All are read when the node is configured and none can be changed while it runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.node import Node

from agibot_bringup.bridge.guard import Settings
from agibot_bringup.bridge.units import Units

ADAPTERS = ("topics", "sdk")

# name: (default, description, allowed (lowest, highest) or None)
PARAMETERS: dict[str, tuple[Any, str, tuple[float, float] | None]] = {
    "contract": (
        "",
        "Path of the contract file with the joints' ranges; empty takes config/agibot_g1.yaml of the installed stack.",
        None,
    ),
    "adapter": (
        "topics",
        "How the robot is spoken to: topics (its ROS 2 topics) or sdk (its maker's Python SDK).",
        None,
    ),
    "rate_hz": (
        100.0,
        "Set points a second that the robot gets at least, of every group that is commanded.",
        (100.0, 500.0),
    ),
    "feedback_timeout_s": (0.2, "Longest silence of a report of the robot [s]; the stream then stops.", (0.02, 2.0)),
    "command_timeout_s": (0.1, "Silence of ros2_control [s] after which the bridge counts as holding.", (0.02, 10.0)),
    "max_step_rad": (
        0.2618,
        "Largest step of a joint [rad], from where it is and from one command to the next; the firmware refuses more "
        "than 0.2618.",
        (0.001, 0.2618),
    ),
    "max_step_m": (0.05, "The same for the lift [m]; the firmware's is not published.", (0.001, 0.55)),
    "max_first_step_rad": (
        0.05,
        "So near to where a joint is the first command after an activation or a reset must be [rad].",
        (0.001, 0.2618),
    ),
    "max_first_step_m": (0.01, "The same for the lift [m].", (0.001, 0.1)),
    "range_tolerance_rad": (0.05, "So far beyond its range a joint may be reported [rad].", (0.0, 0.5)),
    "range_tolerance_m": (0.01, "So far beyond its range the lift may be reported [m].", (0.0, 0.1)),
    "head_unit": ("rad", "Unit of the head's yaw and pitch, reported and told: rad or deg.", None),
    "waist_pitch_unit": ("rad", "Unit of the waist's pitch, reported and told: rad or deg.", None),
    "lift_feedback_unit": ("m", "Unit in which the lift is reported: m, cm or mm.", None),
    "lift_command_unit": ("m", "Unit in which the lift is told: m, cm or mm.", None),
    "gripper_feedback_open": (35.0, "What an open gripper reports.", (-1000.0, 1000.0)),
    "gripper_feedback_closed": (120.0, "What a closed gripper reports.", (-1000.0, 1000.0)),
    "gripper_command_open": (0.0, "What opens a gripper.", (-1000.0, 1000.0)),
    "gripper_command_closed": (120.0, "What closes a gripper.", (-1000.0, 1000.0)),
    "reversed_joints": (
        [""],
        "Joints that the robot counts the other way round, by their URDF names; [''] for none.",
        None,
    ),
    "require_sole_command": (
        True,
        "Refuse to be activated while another node publishes on a topic that commands the robot. Topics only.",
        None,
    ),
    "safe_stop_type": (
        "genie_msgs/msg/SafeStopRequest",
        "Message type of /MotionControlService/SafeStop/request; empty: it is not listened to. Topics only.",
        None,
    ),
}


class ParameterError(ValueError):
    """A parameter has a value that cannot be used; the message names it."""


@dataclass(frozen=True)
class Parameters:
    """The values the node runs with."""

    contract: Path
    adapter: str
    require_sole_command: bool
    safe_stop_type: str
    settings: Settings
    units: Units


def declare(node: Node) -> None:
    """Declare all parameters; rclpy refuses values of the wrong type or out of range."""
    for name, (default, description, allowed) in PARAMETERS.items():
        descriptor = ParameterDescriptor(name=name, description=description)
        if allowed is not None:
            descriptor.floating_point_range = [FloatingPointRange(from_value=allowed[0], to_value=allowed[1], step=0.0)]
        node.declare_parameter(name, default, descriptor)


def read(node: Node, share: Path) -> Parameters:
    """The values, with defaults resolved against the installed stack's share folder.

    Raises:
        ParameterError: an adapter that does not exist.
    """
    values = {name: node.get_parameter(name).value for name in PARAMETERS}
    if values["adapter"] not in ADAPTERS:
        raise ParameterError(f"parameter adapter is {values['adapter']!r}, expected one of {', '.join(ADAPTERS)}")
    return Parameters(
        contract=Path(values["contract"] or share / "config" / "agibot_g1.yaml"),
        adapter=values["adapter"],
        require_sole_command=values["require_sole_command"],
        safe_stop_type=values["safe_stop_type"],
        settings=Settings(
            period_s=1 / values["rate_hz"],
            feedback_timeout_s=values["feedback_timeout_s"],
            command_timeout_s=values["command_timeout_s"],
            max_step_rad=values["max_step_rad"],
            max_step_m=values["max_step_m"],
            max_first_step_rad=values["max_first_step_rad"],
            max_first_step_m=values["max_first_step_m"],
            range_tolerance_rad=values["range_tolerance_rad"],
            range_tolerance_m=values["range_tolerance_m"],
        ),
        units=Units(
            head=values["head_unit"],
            waist_pitch=values["waist_pitch_unit"],
            lift_feedback=values["lift_feedback_unit"],
            lift_command=values["lift_command_unit"],
            gripper_feedback=(values["gripper_feedback_open"], values["gripper_feedback_closed"]),
            gripper_command=(values["gripper_command_open"], values["gripper_command_closed"]),
            reversed_joints=[joint for joint in values["reversed_joints"] if joint],
        ),
    )
