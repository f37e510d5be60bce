"""Where commands go: to each controller its joints, or to the safety gate all of them in one message.

The gate takes or refuses a message as a whole, so that no controller goes on without the others.
"""

from collections.abc import Sequence

from dreamzero_policy.runtime.contract import Controller

OUTPUTS = ("controllers", "gate")  # values of the parameter `output`
GATE = "safety gate"


def topics(controllers: Sequence[Controller], output: str) -> dict[Controller, str]:
    """Who is told which joints, and on which topic (relative). `output` is one of OUTPUTS."""
    if output == "gate":
        joints = tuple(joint for controller in controllers for joint in controller.joints)
        return {Controller(name=GATE, joints=joints): "wanted/joint_trajectory"}
    return {controller: f"{controller.name}/joint_trajectory" for controller in controllers}
