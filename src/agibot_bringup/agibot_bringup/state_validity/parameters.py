"""Parameters of state_validity: one table, from which they are declared with types, ranges and descriptions.

config/state_validity.yaml shows every one of them; a test holds the two equal.
"""

from dataclasses import dataclass
from pathlib import Path

from rclpy.node import Node

from agibot_bringup.safety_gate.parameters import ParameterError, Table
from agibot_bringup.state_validity.lookout import Settings

# name: (default, description, allowed (lowest, highest) or None)
PARAMETERS: Table = {
    "contract": (
        "",
        "Path of the contract with joints and controllers; empty takes config/agibot_g1.yaml of the installed stack.",
        None,
    ),
    "service": ("check_state_validity", "Whom to ask, a moveit_msgs/srv/GetStateValidity.", None),
    "group": ("", "Planning group whose links are checked; empty: the whole robot.", None),
    "horizon_s": (1.0, "How far ahead states are asked about [s].", (0.1, 10.0)),
    "step_s": (0.05, "Between two states that are asked about [s].", (0.01, 1.0)),
    "period_s": (0.1, "From the beginning of one look to that of the next, at least [s].", (0.02, 1.0)),
    "timeout_s": (0.2, "A question that is not answered within this is a no, and is put anew [s].", (0.02, 5.0)),
}


@dataclass(frozen=True)
class Parameters:
    """The values the node runs with."""

    contract: Path
    service: str
    group: str
    settings: Settings


def read(node: Node, share: Path) -> Parameters:
    """The values, with defaults resolved against the installed stack's share folder.

    Raises:
        ParameterError: steps that are longer than the horizon, or no service.
    """
    values = {name: node.get_parameter(name).value for name in PARAMETERS}
    settings = Settings(**{name: values[name] for name in ("horizon_s", "step_s", "period_s", "timeout_s")})
    if settings.step_s > settings.horizon_s:
        raise ParameterError(f"parameter step_s is {settings.step_s:g}, above horizon_s, {settings.horizon_s:g}")
    if not values["service"]:
        raise ParameterError("parameter service is empty, expected the name of a service")
    contract = Path(values["contract"] or share / "config" / "agibot_g1.yaml")
    return Parameters(contract, values["service"], values["group"], settings)
