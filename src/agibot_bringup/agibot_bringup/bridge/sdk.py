"""The robot through its maker's Python SDK (`a2d_sdk.robot.RobotDds`), which is imported late: few machines have it.

    reported   arm_joint_states(), gripper_states(), head_joint_states(), waist_joint_states()
               each (numbers, time in ns); asked for at the bridge's rate, and heard once for each new time
    told       move_arm(14), move_gripper([left, right]), move_head([yaw, pitch]), move_waist([pitch, lift])

Calls and orders are those of the maker's documentation and of public clients. Not checked on a robot: whether the calls
return at once, and what the times count from, so that only their change is used. SafeStop is not heard this way: use
the bridge's own stop, or a person's hand on the robot's button.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from agibot_bringup.bridge.adapter import AdapterError, Hear
from agibot_bringup.bridge.units import Group

MODULE = "a2d_sdk.robot"
REMEDY = "see that the robot is on and can be reached from here"
GRIPPERS = (Group.LEFT_GRIPPER, Group.RIGHT_GRIPPER)


class RobotSdk:
    """See the module's docstring."""

    def __init__(self, hear: Hear) -> None:
        """Connect.

        Raises:
            AdapterError: the SDK is not installed, or does not connect.
        """
        try:
            module = import_module(MODULE)
        except ImportError as error:
            raise AdapterError(
                f"adapter is sdk, but {MODULE} is not installed ({error}): install the maker's SDK, or use topics"
            ) from error
        try:
            self._robot: Any = module.RobotDds()
        except Exception as error:  # nobody states what the SDK raises
            raise AdapterError(f"SDK: RobotDds() failed ({error!r}): {REMEDY}, then configure again") from error
        self._hear = hear
        self._heard_at: dict[str, int] = {}
        self._grippers: dict[Group, float] = {}

    def objection(self) -> str:
        """None: the SDK does not tell who else uses it."""
        return ""

    def poll(self) -> None:
        for call, groups in (
            ("arm_joint_states", (Group.ARMS,)),
            ("gripper_states", GRIPPERS),
            ("head_joint_states", (Group.HEAD,)),
            ("waist_joint_states", (Group.WAIST,)),
        ):
            numbers, stamp_ns = self._ask(call)
            if not len(numbers) or self._heard_at.get(call) == stamp_ns:
                continue  # nothing yet, or nothing new
            self._heard_at[call] = stamp_ns
            if groups is GRIPPERS:
                # A pair that is not one is handed on whole, for the guard to refuse.
                shares = [[number] for number in numbers] if len(numbers) == 2 else [numbers, numbers]
                for group, share in zip(GRIPPERS, shares, strict=True):
                    self._hear(group, share, None)
            else:
                self._hear(groups[0], numbers, None)

    def send(self, group: Group, numbers: Sequence[float]) -> None:
        """The SDK takes both grippers in one call: it is made once both were commanded."""
        if group is Group.ARMS:
            self._call("move_arm", list(numbers))
        elif group is Group.HEAD:
            self._call("move_head", list(numbers))
        elif group is Group.WAIST:
            self._call("move_waist", list(numbers))
        else:
            self._grippers[group] = numbers[0]
            if len(self._grippers) == len(GRIPPERS):
                self._call("move_gripper", [self._grippers[gripper] for gripper in GRIPPERS])

    def forget(self) -> None:
        self._grippers.clear()

    def close(self) -> None:
        self._call("shutdown")

    def _call(self, name: str, *numbers: list[float]) -> Any:
        try:
            return getattr(self._robot, name)(*numbers)
        except Exception as error:
            raise AdapterError(f"SDK: {name}() failed ({error!r}): {REMEDY}") from error

    def _ask(self, name: str) -> tuple[list[float], int]:
        answer = self._call(name)
        try:
            numbers, stamp_ns = answer
            return [float(number) for number in numbers], stamp_ns
        except (TypeError, ValueError) as error:
            raise AdapterError(f"SDK: {name}() gave {answer!r}, expected (numbers, ns): {REMEDY}") from error
