"""Where the commanded joints will be: as the controllers were sent, or, with nothing left to follow, as measured."""

import math
from collections.abc import Sequence

from agibot_bringup.safety_gate.interlocks import Interlock, JointStates
from agibot_bringup.safety_gate.trajectory import Bounds, Received, ReceivedArrays, wanted
from dreamzero_policy.runtime.command import Command
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Floats

# What a controller is sent has passed the gate: its times are good, and it is followed whatever they are.
ANY_TIMES = Bounds(max_stamp_age_s=math.inf, max_stamp_ahead_s=math.inf, max_trajectory_s=math.inf)


class Ahead:
    """The commanded joints of a contract over the coming time, in its order."""

    def __init__(self, contract: Contract) -> None:
        self.joints = contract.model.commanded_joints
        self._controllers = contract.site.controllers
        self._measured = JointStates(self.joints, contract.site.tolerances.silence_s)
        self._commands: dict[str, Command] = {}
        self._columns = {
            controller.name: [self.joints.index(joint) for joint in controller.joints]
            for controller in self._controllers
        }

    def hear_joint_states(self, names: Sequence[str], positions: Sequence[float], monotonic_ns: int) -> None:
        """rad and m."""
        self._measured.hear(names, positions, monotonic_ns)

    def hear_trajectory(self, received: Received | ReceivedArrays, now_ns: int, monotonic_ns: int) -> None:
        """What one or more controllers are sent.

        Raises:
            Rejected: no controller of this robot would follow it.
        """
        if self.unknown(monotonic_ns) is not None:
            return
        for controller, plan in wanted(received, self._controllers, ANY_TIMES, now_ns):
            command = self._followed(controller.name, now_ns)
            if command is None:
                command = self._commands[controller.name] = Command(self._measured.of(controller.joints), now_ns)
            command.take(now_ns, plan.knots_ns - now_ns, plan.positions, plan.velocities)

    def unknown(self, monotonic_ns: int) -> Interlock | None:
        """Why nothing can be said of any state; None if it can."""
        return self._measured.interlock(monotonic_ns)

    def state(self, instant_ns: int, now_ns: int) -> Floats:
        """All commanded joints [J] at an instant, as things are now."""
        positions = self._measured.of(self.joints)
        for name, columns in self._columns.items():
            if (command := self._followed(name, now_ns)) is not None:
                positions[columns] = command.plan.sample([instant_ns])[0][0]
        return positions

    def _followed(self, name: str, now_ns: int) -> Command | None:
        """What a controller still follows. What has ended, or is of a clock that was set back, tells nothing."""
        command = self._commands.get(name)
        if command is None or not command.plan.knots_ns[0] <= now_ns < command.plan.end_ns:
            return None
        return command
