"""What an adapter is: the robot in its own words. It converts nothing and judges nothing."""

from collections.abc import Callable, Sequence
from typing import Protocol

from agibot_bringup.bridge.units import Group

# group, positions, speeds or None: numbers as the robot has them, in the order of the unit table
Hear = Callable[[Group, Sequence[float], Sequence[float] | None], None]


class AdapterError(RuntimeError):
    """The robot cannot be spoken to; the message says what is missing or failed, and what to do."""


class Adapter(Protocol):
    """One way to speak to the robot. `hear` is called in the executor's thread, by a message or by `poll`.

    `poll`, `send` and `close` raise AdapterError where the robot does not take or answer it.
    """

    def objection(self) -> str:
        """Why this way must not be used to command the robot now; empty where nothing is known against it."""

    def poll(self) -> None:
        """Ask for reports, where they do not come by themselves. Called at the bridge's rate."""

    def send(self, group: Group, numbers: Sequence[float]) -> None:
        """Tell the robot where a group is to be, in the robot's order and units."""

    def forget(self) -> None:
        """Keep nothing of what was sent: it may be long ago, and a person may have moved the robot since."""

    def close(self) -> None:
        """Hear and send nothing more."""
