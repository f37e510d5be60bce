"""safety_gate: the gate as a ROS 2 node.

    wanted/… ──► Gate ──► <controller>/joint_trajectory
                  ▲
    joy or heartbeat, estop, joint_states, state_validity/valid, ~/open, ~/close, ~/reset_estop

Callbacks hand over what was heard, with both clocks; everything is decided in `gate.py`. All names but /diagnostics are
relative or private.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockChange, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool, Empty, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from agibot_bringup.executors import run
from agibot_bringup.safety_gate import parameters, reports
from agibot_bringup.safety_gate.cdr import Writer
from agibot_bringup.safety_gate.gate import Gate
from agibot_bringup.safety_gate.interlocks import Assent, deadman
from agibot_bringup.safety_gate.messages import received_bytes
from agibot_bringup.safety_gate.trajectory import Reason
from dreamzero_policy.runtime import kernels
from dreamzero_policy.runtime.allocator import keep_freed_memory
from dreamzero_policy.runtime.audience import Audience
from dreamzero_policy.runtime.clock import ClockWatch
from dreamzero_policy.runtime.contract import ContractError, Controller, load_contract
from dreamzero_policy.runtime.geometry import checks_of
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan

STATE_VALIDITY = "state_validity/valid"
TICK_S = 0.02  # what no message announces is noticed within this
NEAREST_POINT_NS = 10_000_000  # of what is sent: judging may have used up the time to the first point
BRAKING_S = 0.5  # at the end of the node, for tries to brake; a robot rests by its trajectory's own end else
HEARD = Duration(seconds=0.3)  # at the end of the node, for controllers to have heard its last word


def _qos(depth: int, *, reliable: bool = True, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


SENSOR = _qos(20, reliable=False)  # matches any publisher
EVENT = _qos(10)
COMMAND = _qos(1)
LATCHED = _qos(1, latched=True)


class SafetyGate(Node):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__("safety_gate")
        parameters.declare(self)
        values = parameters.read(self, Path(get_package_share_directory("dreamzero")))
        contract = load_contract(values.contract)
        self._hardware = contract.model.embodiment
        self._button = values.deadman_button
        self._clock_jump_ns = round(values.clock_jump_s * NS_PER_S)
        self._clock_watch = ClockWatch(values.clock_step_s)
        self._outputs = {
            controller.name: self.create_publisher(JointTrajectory, f"{controller.name}/joint_trajectory", COMMAND)
            for controller in contract.site.controllers
        }
        self._writers = {controller.name: Writer(controller.joints) for controller in contract.site.controllers}
        self._audiences = {name: Audience.of(self, output, values.observers) for name, output in self._outputs.items()}
        self.gate = Gate(
            contract, values.settings, _deadman(values), self._send, checks_of(contract), _validity(values)
        )
        self.gate.estop.demand(values.estop_timeout_s if values.require_estop else None)
        self._status, self._shown = self.create_publisher(String, "~/status", LATCHED), ""
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", EVENT)
        self._subscribe(values, contract.site.joint_states.topic)
        for name, callback in (
            ("~/open", self._on_open),
            ("~/close", self._on_close),
            ("~/reset_estop", self._on_reset_estop),
        ):
            self.create_service(Trigger, name, callback)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still; watching goes on
        self.create_timer(TICK_S, self._tick, clock=steady)
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        threshold = JumpThreshold(
            min_forward=Duration(nanoseconds=self._clock_jump_ns),
            min_backward=Duration(nanoseconds=-1),
            on_clock_change=True,
        )
        self.get_logger().info(f"limits are judged by kernels: {kernels.told()}")
        self._jumps = self.get_clock().create_jump_callback(threshold, post_callback=self._on_jump)
        self._tick()

    def _subscribe(self, values: parameters.Parameters, joint_states: str) -> None:
        inputs = [
            self.create_subscription(JointTrajectory, topic, self._on_trajectory, EVENT, raw=True)
            for topic in values.inputs
        ]
        own = {publisher.topic_name for publisher in self._outputs.values()}
        if loops := sorted(own & {subscription.topic_name for subscription in inputs}):
            raise parameters.ParameterError(
                f"parameter inputs names {loops}, where the gate itself publishes: remap the source to other topics"
            )
        self.create_subscription(JointState, joint_states, self._on_joint_states, SENSOR)
        self.create_subscription(Bool, "estop", self._on_estop, EVENT)
        if values.deadman == "joy":
            self.create_subscription(Joy, values.deadman_topic, self._on_joy, SENSOR)
        elif values.deadman == "heartbeat":
            self.create_subscription(Empty, values.deadman_topic, self._on_heartbeat, SENSOR)
        if values.require_state_validity:
            self.create_subscription(Bool, STATE_VALIDITY, self._on_state_validity, EVENT)

    # Time

    def _now(self) -> tuple[int, int]:
        """Both clocks [ns]. A system clock that was set is noticed before anything is done by the new time."""
        clock = self.get_clock()
        if clock.ros_time_is_active:
            return clock.now().nanoseconds, time.monotonic_ns()
        now_ns, monotonic_ns, step_ns = self._clock_watch.read(lambda: clock.now().nanoseconds)
        if step_ns:
            self.gate.clock_jumped(now_ns, step_ns)
        return now_ns, monotonic_ns

    def _on_jump(self, jump: TimeJump) -> None:
        """Simulated time was set, or began or ended."""
        switched = jump.clock_change in (ClockChange.ROS_TIME_ACTIVATED, ClockChange.ROS_TIME_DEACTIVATED)
        if switched or not 0 <= jump.delta.nanoseconds <= self._clock_jump_ns:
            self.gate.clock_jumped(self.get_clock().now().nanoseconds, jump.delta.nanoseconds)

    # Heard

    def _on_trajectory(self, data: bytes) -> None:
        try:
            wanted = received_bytes(data)
        except RuntimeError as error:  # of the deserializer: bytes that are no message
            self.get_logger().warning(f"no JointTrajectory: {error}", throttle_duration_sec=1.0)
            return
        rejection = self.gate.take(wanted, *self._now())
        if rejection is not None and rejection.reason is not Reason.CLOSED:
            self.get_logger().warning(f"rejected, {rejection}", throttle_duration_sec=1.0)

    def _on_joint_states(self, message: JointState) -> None:
        self.gate.hear_joint_states(message.name, message.position, *self._now())

    def _on_joy(self, message: Joy) -> None:
        """A message with too few buttons is one with the button released."""
        held = len(message.buttons) > self._button and message.buttons[self._button] == 1
        self.gate.hear_deadman(held, *self._now())

    def _on_heartbeat(self, _: Empty) -> None:
        self.gate.hear_deadman(True, *self._now())

    def _on_state_validity(self, message: Bool) -> None:
        self.gate.hear_validity(message.data, *self._now())

    def _on_estop(self, message: Bool) -> None:
        self.gate.hear_estop(message.data, *self._now())
        self._publish_status()

    # Asked

    def _on_open(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.gate.absent = self._absent()
        response.message = self.gate.open(*self._now())
        response.success = not response.message
        response.message = response.message or "open; the first trajectory engages from the present pose"
        self._publish_status()
        return response

    def _on_close(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.gate.close("~/close was called", self._now()[0])
        response.success, response.message = True, "closed; what was in motion comes to rest"
        self._publish_status()
        return response

    def _on_reset_estop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.message = self.gate.estop.reset()
        response.success = not response.message
        response.message = response.message or "released; the gate stays closed until ~/open is called"
        self._publish_status()
        return response

    # Said

    def _send(self, controller: Controller, plan: Plan, _: int) -> None:
        """Controllers count from when they hear of it, so that what judging took is no part of their time."""
        now_ns = self.get_clock().now().nanoseconds
        if plan.knots_ns[0] < now_ns + NEAREST_POINT_NS:
            plan = plan.after(now_ns + NEAREST_POINT_NS)
        self._outputs[controller.name].publish(self._writers[controller.name].data(plan, now_ns))

    def _tick(self) -> None:
        self.gate.absent = self._absent()
        self.gate.watch(*self._now())
        self._publish_status()

    def _absent(self) -> Sequence[str]:
        """Controllers that nobody plays."""
        monotonic_ns = time.monotonic_ns()
        return [name for name, audience in self._audiences.items() if not audience.plays(monotonic_ns)]

    def _publish_status(self) -> None:
        """Where it has changed; who comes later hears the last one."""
        line = reports.status_line(self.gate, self.get_clock().now().nanoseconds)
        if line == self._shown:
            return
        if line.partition(":")[0] != self._shown.partition(":")[0]:
            self.get_logger().info(line)
        self._shown = line
        self._status.publish(String(data=line))

    def _publish_diagnostics(self) -> None:
        now = self.get_clock().now()
        array = reports.diagnostics(
            self.get_fully_qualified_name(), self._hardware, self.gate, now.nanoseconds, time.monotonic_ns()
        )
        array.header.stamp = now.to_msg()
        self._diagnostics.publish(array)

    def end(self) -> None:
        """Bring to rest what is in motion; it may take some tries, and messages that nobody has heard are lost."""
        self.gate.close("the node has ended", self._now()[0])
        until = time.monotonic() + BRAKING_S
        while self.gate.looks_for_rest and time.monotonic() < until:
            time.sleep(TICK_S)
            self.gate.watch(*self._now())
        for output in self._outputs.values():
            output.wait_for_all_acked(HEARD)
        self._publish_status()


def _deadman(values: parameters.Parameters) -> Assent | None:
    if values.deadman == "none":
        return None
    button = f"button {values.deadman_button} of " if values.deadman == "joy" else ""
    return deadman(values.deadman_timeout_s, f"{button}{values.deadman_topic}")


def _validity(values: parameters.Parameters) -> Assent | None:
    if not values.require_state_validity:
        return None
    no = "says no; why is told on state_validity/status"
    return Assent("state_validity", values.state_validity_timeout_s, STATE_VALIDITY, no)


def main() -> None:
    """Run the node until a signal ends it."""
    keep_freed_memory()
    run("safety_gate", SafetyGate, (ParameterException, parameters.ParameterError, ContractError), SafetyGate.end)


if __name__ == "__main__":
    main()
