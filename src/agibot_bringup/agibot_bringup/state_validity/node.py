"""state_validity: the lookout as a ROS 2 node, beside the safety gate.

    <controller>/joint_trajectory, joint_states ──► Lookout ──► ~/valid ──► safety_gate
                                                      ▲ ▼
                                        MoveIt's check_state_validity

Callbacks hand over what was heard, with both clocks; everything is decided in `lookout.py`. All names but /diagnostics
are relative or private.
"""

import time
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from trajectory_msgs.msg import JointTrajectory

from agibot_bringup.executors import run
from agibot_bringup.safety_gate.messages import received_bytes
from agibot_bringup.safety_gate.parameters import ParameterError, declare
from agibot_bringup.safety_gate.trajectory import Rejected
from agibot_bringup.state_validity import parameters
from agibot_bringup.state_validity.lookout import Lookout, Question, State
from dreamzero_policy.runtime.contract import ContractError, load_contract

try:
    from moveit_msgs.srv import GetStateValidity
except ImportError:
    GetStateValidity = None  # MoveIt is not a dependency of everybody who has this package

TICK_S = 0.01  # what no message announces is noticed within this
REPEAT_S = 0.1  # a no is said again so often; a yes with every look
LEVELS = {State.VALID: DiagnosticStatus.OK, State.WAITING: DiagnosticStatus.WARN}
SENSOR = QoSProfile(depth=20, reliability=ReliabilityPolicy.BEST_EFFORT)  # matches any publisher
COMMAND = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class StateValidity(Node):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__("state_validity")
        if GetStateValidity is None:
            raise ParameterError(
                "message package moveit_msgs is not installed: rosdep install with WITH_MOVEIT=true brings it"
            )
        declare(self, parameters.PARAMETERS)
        values = parameters.read(self, Path(get_package_share_directory("dreamzero")))
        contract = load_contract(values.contract)
        self._hardware = contract.model.embodiment
        self._client = self.create_client(GetStateValidity, values.service)
        self.lookout = Lookout(contract, values.settings, self.resolve_service_name(values.service))
        # A difference from what MoveIt knows: other joints, and what the robot holds, are as they are there.
        self._request = GetStateValidity.Request(group_name=values.group)
        self._request.robot_state.is_diff = True
        self._request.robot_state.joint_state.name = list(self.lookout.ahead.joints)
        self._answer: Future | None = None
        self._valid = self.create_publisher(Bool, "~/valid", 1)
        self._status, self._shown = self.create_publisher(String, "~/status", LATCHED), ""
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        for controller in contract.site.controllers:
            topic = f"{controller.name}/joint_trajectory"
            self.create_subscription(JointTrajectory, topic, self._on_trajectory, COMMAND, raw=True)
        self.create_subscription(JointState, contract.site.joint_states.topic, self._on_joint_states, SENSOR)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still; looking goes on
        self.create_timer(TICK_S, self._go_on, clock=steady)
        self.create_timer(REPEAT_S, self._say_no, clock=steady)
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        self._go_on()

    def _now(self) -> tuple[int, int]:
        """Both clocks [ns]."""
        return self.get_clock().now().nanoseconds, time.monotonic_ns()

    # Heard

    def _on_trajectory(self, data: bytes) -> None:
        try:
            self.lookout.hear_trajectory(received_bytes(data), *self._now())
        except (RuntimeError, Rejected) as error:  # RuntimeError: bytes that are no message
            self.get_logger().warning(f"not looked at, {error}", throttle_duration_sec=1.0)
        self._go_on()

    def _on_joint_states(self, message: JointState) -> None:
        self.lookout.ahead.hear_joint_states(message.name, message.position, time.monotonic_ns())

    # Asked

    def _go_on(self) -> None:
        """Put the next question if there is one, and tell what is known."""
        looks = self.lookout.looks
        question = self.lookout.question(self._client.service_is_ready(), *self._now())
        if question is not None:
            self._ask(question)
        if self.lookout.looks != looks:
            self._valid.publish(Bool(data=True))
        line = f"{self.lookout.state.value}: {self.lookout.text}"
        if line != self._shown:
            if line.partition(":")[0] != self._shown.partition(":")[0]:
                self.get_logger().info(line)
            self._shown = line
            self._status.publish(String(data=line))
            self._say_no()

    def _say_no(self) -> None:
        if self.lookout.state is not State.VALID:
            self._valid.publish(Bool(data=False))

    def _ask(self, question: Question) -> None:
        if self._answer is not None and not self._answer.done():
            self._client.remove_pending_request(self._answer)
        self._request.robot_state.joint_state.position = question.positions.tolist()
        self._answer = self._client.call_async(self._request)
        self._answer.add_done_callback(lambda answer: self._on_answer(question.number, answer))

    def _on_answer(self, number: int, answer: Future) -> None:
        response = answer.result()
        self.lookout.hear_answer(number, None if response.valid else _fault(response), *self._now())
        self._go_on()

    # Said

    def _publish_diagnostics(self) -> None:
        lookout = self.lookout
        values = {
            "state": lookout.state.value,
            "looks": lookout.looks,
            "look_ms": f"{lookout.look_ms:.1f}",
            "asked": lookout.asked,
        }
        status = DiagnosticStatus(
            level=LEVELS.get(lookout.state, DiagnosticStatus.ERROR),
            name=f"{self.get_fully_qualified_name()}: states ahead",
            message=lookout.text,
            hardware_id=self._hardware,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)


def _fault(response: "GetStateValidity.Response") -> str:
    """What touches what, of a state that is not valid."""
    if not response.contacts:
        return "not valid, without a contact being named"
    first, more = response.contacts[0], len(response.contacts) - 1
    return f"{first.contact_body_1} touches {first.contact_body_2}" + (f" and {more} more contacts" if more else "")


def main() -> None:
    """Run the node until a signal ends it."""
    run("state_validity", StateValidity, (ParameterException, ParameterError, ContractError))


if __name__ == "__main__":
    main()
