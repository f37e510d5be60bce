"""The parameters of safety_gate: name, default, unit, range and effect of each. config/safety_gate.yaml shows them all.

All are read when the node starts and none can be changed while it runs: a gate that is configured anew is started anew.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from agibot_bringup.safety_gate.gate import Settings
from agibot_bringup.safety_gate.trajectory import Bounds
from dreamzero_policy.runtime.audience import OBSERVERS

DEADMEN = ("joy", "heartbeat", "none")
INPUTS = [
    f"wanted/{topic}"
    for topic in (
        "joint_trajectory",
        "dual_arm_controller/joint_trajectory",
        "left_gripper_controller/joint_trajectory",
        "right_gripper_controller/joint_trajectory",
        "head_controller/joint_trajectory",
        "waist_controller/joint_trajectory",
    )
]

# name: (default, description, allowed (lowest, highest) or None)
Table = dict[str, tuple[Any, str, tuple[float, float] | None]]
PARAMETERS: Table = {
    "contract": (
        "",
        "Path of the contract file with joints, limits and controllers; empty takes config/agibot_g1.yaml of the "
        "installed stack.",
        None,
    ),
    "inputs": (
        INPUTS,
        "Topics of wanted trajectories. A message on any of them names all joints of one or more controllers.",
        None,
    ),
    "deadman": ("joy", f"Who must hold on while the gate is open, one of: {', '.join(DEADMEN)}.", None),
    "deadman_topic": ("joy", "Topic of the deadman: sensor_msgs/Joy, or std_msgs/Empty for a heartbeat.", None),
    "deadman_button": (4, "Index of the button in a Joy message.", (0, 63)),
    "deadman_timeout_s": (0.3, "Longest silence of the deadman [s].", (0.05, 10.0)),
    "require_estop": (
        False,
        "The gate opens only after the topic estop was heard to be released, and its silence is a stop.",
        None,
    ),
    "estop_timeout_s": (0.5, "With require_estop: longest silence on estop [s].", (0.05, 60.0)),
    "require_state_validity": (
        False,
        "The gate is open only while the node state_validity says that the states ahead are valid.",
        None,
    ),
    "state_validity_timeout_s": (
        0.5,
        "With require_state_validity: longest silence on state_validity/valid [s].",
        (0.05, 10.0),
    ),
    "observers": (
        list(OBSERVERS),
        "Nodes that listen on a controller's topic and play nothing: names, or shell patterns. A controller is there "
        "when somebody else listens.",
        None,
    ),
    "engage_s": (
        1.0,
        "Time over which what is wanted is blended in, from the first trajectory of a controller after the gate was "
        "opened [s].",
        (0.1, 60.0),
    ),
    "first_point_s": (
        [0.05, 0.1, 0.17],
        "How far ahead the first point of an outgoing trajectory lies [s], tried in order until the limits allow one.",
        None,
    ),
    "max_trajectory_s": (
        10.0,
        "Longest trajectory that passes [s]: how long the robot moves on if this node is killed.",
        (0.2, 600.0),
    ),
    "max_stamp_age_s": (0.2, "A stamp that is not zero may lie so far in the past [s]; 0: not at all.", (0.0, 10.0)),
    "max_stamp_ahead_s": (
        0.5,
        "A stamp that is not zero may lie so far in the future [s]; 0: not at all.",
        (0.0, 10.0),
    ),
    "source_timeout_s": (
        1.0,
        "The source counts as silent when the robot has stood at the end of the last trajectory for so long [s].",
        (0.05, 600.0),
    ),
    "clock_step_s": (0.05, "A system clock that is set by more than this closes the gate [s].", (0.02, 60.0)),
    "clock_jump_s": (
        0.5,
        "A simulated clock that goes forwards by more than this at once closes the gate [s]; backwards by any step.",
        (0.02, 60.0),
    ),
}


class ParameterError(ValueError):
    """A parameter has a value that cannot be used; the message names it."""


@dataclass(frozen=True)
class Parameters:
    """The values the node runs with."""

    contract: Path
    inputs: tuple[str, ...]
    deadman: str
    deadman_topic: str
    deadman_button: int
    deadman_timeout_s: float
    require_estop: bool
    estop_timeout_s: float
    require_state_validity: bool
    state_validity_timeout_s: float
    observers: tuple[str, ...]
    clock_step_s: float
    clock_jump_s: float
    settings: Settings


def declare(node: Node, table: Table = PARAMETERS) -> None:
    """Declare all parameters; rclpy refuses values of the wrong type or out of range."""
    for name, (default, description, allowed) in table.items():
        descriptor = ParameterDescriptor(name=name, description=description, read_only=True)
        if allowed is not None and isinstance(default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(allowed[0]), to_value=int(allowed[1]), step=0)]
        elif allowed is not None:
            descriptor.floating_point_range = [FloatingPointRange(from_value=allowed[0], to_value=allowed[1], step=0.0)]
        node.declare_parameter(name, default, descriptor)


def read(node: Node, share: Path) -> Parameters:
    """The values, with defaults resolved against the installed stack's share folder.

    Raises:
        ParameterError: a choice that does not exist, no inputs, or times that cannot be.
    """
    values = {name: node.get_parameter(name).value for name in PARAMETERS}
    if values["deadman"] not in DEADMEN:
        raise ParameterError(f"parameter deadman is {values['deadman']!r}, expected one of {', '.join(DEADMEN)}")
    if not values["inputs"] or not all(values["inputs"]):
        raise ParameterError(f"parameter inputs is {list(values['inputs'])}, expected one or more topics")
    first_points_s = tuple(values["first_point_s"])
    if not first_points_s or not all(0.02 <= seconds <= 0.5 for seconds in first_points_s):
        raise ParameterError(
            f"parameter first_point_s is {list(first_points_s)}, expected one or more times of 0.02 to 0.5 s"
        )
    return Parameters(
        contract=Path(values["contract"] or share / "config" / "agibot_g1.yaml"),
        inputs=tuple(values["inputs"]),
        deadman=values["deadman"],
        deadman_topic=values["deadman_topic"],
        deadman_button=values["deadman_button"],
        deadman_timeout_s=values["deadman_timeout_s"],
        require_estop=values["require_estop"],
        estop_timeout_s=values["estop_timeout_s"],
        require_state_validity=values["require_state_validity"],
        state_validity_timeout_s=values["state_validity_timeout_s"],
        observers=tuple(values["observers"]),
        clock_step_s=values["clock_step_s"],
        clock_jump_s=values["clock_jump_s"],
        settings=Settings(
            engage_s=values["engage_s"],
            first_points_s=first_points_s,
            bounds=Bounds(values["max_stamp_age_s"], values["max_stamp_ahead_s"], values["max_trajectory_s"]),
            source_timeout_s=values["source_timeout_s"],
        ),
    )
