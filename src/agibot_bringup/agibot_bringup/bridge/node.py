"""bridge: the G1 behind ros2_control's topic hardware, as a ROS 2 lifecycle node.

    robot_joint_commands ──► Guard ──► adapter ──► /wbc/… or the SDK
    robot_joint_states   ◄── Guard ◄── adapter ◄── /hal/… or the SDK

configure connects, and states pass from then on; activate checks what the robot reports against the declared ranges and
lets commands pass, unless somebody else commands the robot; deactivate stops the stream. ~/stop, a true on estop and
the robot's SafeStop stop it at once and latch, in any state of the node; ~/reset lets commands pass again. Everything
is decided in `guard.py`.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, State, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from agibot_bringup.bridge import parameters, reports
from agibot_bringup.bridge.adapter import Adapter, AdapterError
from agibot_bringup.bridge.guard import Guard
from agibot_bringup.bridge.latch import Latch
from agibot_bringup.bridge.sdk import RobotSdk
from agibot_bringup.bridge.topics import RobotTopics
from agibot_bringup.bridge.units import Group, unit_table
from agibot_bringup.executors import run
from dreamzero_policy.runtime.allocator import keep_freed_memory
from dreamzero_policy.runtime.contract import load_contract

ESTOP = "estop: stopped; release it and call ~/reset"
COMMAND = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
EVENT = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Bridge(LifecycleNode):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__("bridge")
        parameters.declare(self)
        self.guard: Guard | None = None
        self._adapter: Adapter | None = None
        self._owned: list[tuple] = []  # destroyer and what it destroys
        self._latch = Latch()  # one for every guard that is made
        self._idle, self._shown = "not configured yet", ""
        self._status = self.create_publisher(String, "~/status", LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", EVENT)
        self.create_subscription(Bool, "estop", self._on_estop, EVENT)
        self.create_service(Trigger, "~/stop", self._on_stop)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self._publish_status()

    # Lifecycle

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        try:
            self._set_up()
        except (parameters.ParameterError, AdapterError, ValueError, OSError) as error:
            self.tear_down()
            self._idle = str(error)
            return self._failed(f"configure failed: {error}")
        return super().on_configure(state)

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        self._adapter.forget()
        if reason := self.guard.activate(time.monotonic_ns(), self._adapter.objection()):
            return self._failed(f"activate refused: {reason}")
        self._publish_status()
        return super().on_activate(state)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        self.guard.deactivate()
        self._publish_status()
        return super().on_deactivate(state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        self.tear_down()
        self._idle = "cleaned up"
        self._publish_status()
        return super().on_cleanup(state)

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        self.tear_down()
        return super().on_shutdown(state)

    def _failed(self, message: str) -> TransitionCallbackReturn:
        self.get_logger().error(message)
        self._publish_status()
        return TransitionCallbackReturn.FAILURE

    def _set_up(self) -> None:
        values = parameters.read(self, Path(get_package_share_directory("dreamzero")))
        contract = load_contract(values.contract)
        self._table = unit_table(values.units)
        limits = contract.site.limits
        joints = [entry.joint for entries in self._table.values() for entry in entries]
        if missing := [joint for joint in joints if joint not in limits]:
            raise parameters.ParameterError(f"{values.contract} has no limits for {missing}")
        ranges = {joint: (limits[joint].lower, limits[joint].upper) for joint in joints}
        self._hardware = contract.model.embodiment
        self.guard = Guard(self._table, ranges, values.settings, self._latch)
        self._states = self.create_publisher(JointState, "robot_joint_states", COMMAND)
        self._own(self.destroy_publisher, self._states)
        self._adapter = self._connect(values)
        commands = self.create_subscription(JointState, "robot_joint_commands", self._on_command, COMMAND)
        self._own(self.destroy_subscription, commands)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # a robot moves in real time, whatever /clock says
        for period_s, callback in ((values.settings.period_s, self._tick), (1.0, self._publish_diagnostics)):
            self._own(self.destroy_timer, self.create_timer(period_s, callback, clock=steady))
        self._publish_status()

    def _connect(self, values: parameters.Parameters) -> Adapter:
        if values.adapter == "sdk":
            return RobotSdk(self._hear)
        alone = values.require_sole_command
        return RobotTopics(self, self._hear, values.safe_stop_type, self._on_safe_stop, alone)

    def tear_down(self) -> None:
        """Stop the stream and say good-bye to the robot; nothing where that was done."""
        if self.guard is not None:
            self.guard.deactivate()
        while self._owned:
            destroy, thing = self._owned.pop()
            destroy(thing)
        if self._adapter is not None:
            try:
                self._adapter.close()
            except AdapterError as error:  # what is left of it goes with the process
                self.get_logger().error(str(error))
        self._adapter = self.guard = None

    def _own(self, destroy: object, thing: object) -> None:
        self._owned.append((destroy, thing))

    # Through. What was on its way when the node was cleaned up may still come.

    def _hear(self, group: Group, raw: Sequence[float], velocities: Sequence[float] | None) -> None:
        if self.guard is None:
            return
        now_ns = time.monotonic_ns()
        self.guard.hear_feedback(group, raw, velocities, now_ns)
        if group is not Group.ARMS:  # one message of states for each report of the arms
            return
        if (states := self.guard.states(now_ns)) is not None:
            names, positions, speeds = states
            message = JointState(name=names, position=positions, velocity=speeds)
            message.header.stamp = self.get_clock().now().to_msg()
            self._states.publish(message)

    def _on_command(self, message: JointState) -> None:
        if self.guard is None:
            return
        self._send(self.guard.hear_command(message.name, message.position, time.monotonic_ns()))

    def _tick(self) -> None:
        if self.guard is None:
            return
        try:
            self._adapter.poll()
        except AdapterError as error:
            self.guard.hear_nothing(str(error))
        else:
            self.guard.hear_nothing("")
        self._send(self.guard.due(time.monotonic_ns()))
        self._publish_status()

    def _send(self, targets: Iterable[tuple[Group, list[float]]]) -> None:
        try:
            for group, numbers in targets:
                self._adapter.send(group, numbers)
        except AdapterError as error:
            self.guard.stop(f"{error}, then call ~/reset")

    # Stops

    def _on_estop(self, message: Bool) -> None:
        if self.guard is None:
            self._latch.press(message.data, ESTOP)
        else:
            self.guard.press_stop(message.data, ESTOP)
        self._publish_status()

    def _on_safe_stop(self) -> None:
        self._call_for_stop("the robot's SafeStop was called; call ~/reset when it is over")

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._call_for_stop("~/stop was called; call ~/reset")
        response.success, response.message = True, "nothing is sent to the robot"
        return response

    def _call_for_stop(self, why: str) -> None:
        if self.guard is None:
            self._latch.call(why)
        else:
            self.guard.call_for_stop(why)
        self._publish_status()

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.guard is None:
            response.message = "not configured"
        else:
            response.message = self.guard.reset(time.monotonic_ns(), self._adapter.objection())
        response.success = not response.message
        if response.success:
            self._adapter.forget()
            passing = "commands pass; the first must begin where the robot is"
            response.message = passing if self.guard.active else "not stopped any more; commands pass once it is active"
        self._publish_status()
        return response

    # Said

    def _publish_status(self) -> None:
        """Where it has changed; who comes later hears the last one."""
        if self.guard is None:
            line = f"unconfigured: {self._idle}"
        else:
            line = reports.status_line(self.guard, time.monotonic_ns())
        if line == self._shown:
            return
        self.get_logger().info(line)
        self._shown = line
        self._status.publish(String(data=line))

    def _publish_diagnostics(self) -> None:
        if self.guard is None:
            return
        name = self.get_fully_qualified_name()
        array = reports.diagnostics(name, self._hardware, self.guard, self._table, time.monotonic_ns())
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)


def main(kind: type[Bridge] = Bridge) -> None:
    """Run the node until a signal ends it."""
    keep_freed_memory()
    run("bridge", kind, (ParameterException,), Bridge.tear_down)


if __name__ == "__main__":
    main()
