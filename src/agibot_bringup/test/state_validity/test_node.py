"""Over real DDS: lookout and gate as processes between a source, a robot and who answers in MoveIt's place."""

import signal
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import rclpy
from trajectory_msgs.msg import JointTrajectory

from agibot_bringup.state_validity.parameters import PARAMETERS

from .. import built_messages
from ..safety_gate.stand import ARM, CONTRACT, CONTRACT_FILE, Stand

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]  # the first test builds the messages

MODULE = "agibot_bringup.state_validity.node"
TIMEOUT_S = PARAMETERS["timeout_s"][0]
# Times that a machine shared with other work can keep; the lookout's own are judged in test_lookout.
PATIENT = ("timeout_s:=2.0", f"contract:={CONTRACT_FILE}")


class Guarded(Stand):
    """A gate that asks for valid states, the lookout, and a service in which the first arm joint meets a wall."""

    def __init__(self, *parameters: str) -> None:
        if find_spec("moveit_msgs") is None:
            built_messages.use(built_messages.installed(Path(__file__).parent / "moveit_msgs"))
        super().__init__(
            "engage_s:=0.3", "require_state_validity:=true", "state_validity_timeout_s:=4.0", "deadman_timeout_s:=4.0"
        )
        self.lookout = self.start(MODULE, *PATIENT, *parameters)
        self.sayings = self.statuses_of("state_validity")
        self.wall = float("inf")
        self.asked: list[dict[str, float]] = []

    def serve(self, name: str = "check_state_validity") -> None:
        from moveit_msgs.msg import ContactInformation
        from moveit_msgs.srv import GetStateValidity

        def on_question(
            request: GetStateValidity.Request, response: GetStateValidity.Response
        ) -> GetStateValidity.Response:
            assert request.robot_state.is_diff, "what the robot holds, and other joints, are as MoveIt knows them"
            state = dict(
                zip(request.robot_state.joint_state.name, request.robot_state.joint_state.position, strict=True)
            )
            self.asked.append(state)
            response.valid = bool(state[ARM.joints[0]] <= self.wall)
            if not response.valid:
                response.contacts = [ContactInformation(contact_body_1="left_hand", contact_body_2="wall")]
            return response

        self.moveit = rclpy.create_node("move_group", context=self.context)
        self.executor.add_node(self.moveit)
        self.service = self.moveit.create_service(GetStateValidity, name, on_question)

    def open(self) -> None:
        self.spin_until(lambda: bool(self.sayings) and self.sayings[-1].startswith("valid"))
        self.spin_until(lambda: self.ask("open").success)


@pytest.fixture
def start() -> Iterator[Callable[..., Guarded]]:
    running: list[Guarded] = []

    def start_guarded(*parameters: str) -> Guarded:
        running.append(Guarded(*parameters))
        return running[-1]

    yield start_guarded
    for stand in running:
        stand.close()


def test_the_gate_opens_once_states_are_valid_and_a_wall_ahead_closes_it_before_the_robot_is_there(
    start: Callable[..., Guarded],
) -> None:
    stand = start("horizon_s:=2.0")  # so long a busy machine may take to close the gate
    stand.spin_until(lambda: "waiting: nobody offers /check_state_validity" in stand.sayings[-1:])
    refusal = stand.ask("open")
    assert not refusal.success and "state validity: " in refusal.message
    stand.serve()
    stand.open()
    assert set(stand.asked[-1]) == set(CONTRACT.model.commanded_joints)

    began = stand.arms()[0]
    stand.want(0.4, seconds=8.0)
    stand.spin_until(lambda: len(stand.sent) == 1)
    stand.wall = began + 0.3
    stand.spin_until(lambda: len(stand.sent) == 2)
    stand.spin_until(lambda: stand.left_s() == 0.0)
    assert began < stand.arms()[0] < stand.wall
    stand.spin_until(lambda: stand.statuses[-1].startswith("closed: state validity: state_validity/valid says no"))
    assert any(saying.startswith("invalid: left_hand touches wall, in ") for saying in stand.sayings)
    stand.open()  # where it stands now is valid


@pytest.mark.parametrize("end", ["the service falls silent", "the service is gone", "the lookout is killed"])
def test_without_an_answer_the_robot_comes_to_rest_and_the_gate_stays_closed(
    start: Callable[..., Guarded], end: str
) -> None:
    stand = start()
    stand.serve()
    stand.open()
    stand.want(0.4)
    stand.spin_until(lambda: stand.speed() > 0.5)
    if end == "the service falls silent":
        stand.executor.remove_node(stand.moveit)
    elif end == "the service is gone":
        stand.moveit.destroy_service(stand.service)
    else:
        stand.end(stand.lookout, signal.SIGKILL)
    stand.spin_until(lambda: stand.statuses[-1].startswith(("braking: state validity", "closed: state validity")))
    assert not stand.ask("open").success


def test_that_lookout_and_recorder_listen_hides_no_controller_that_is_gone(start: Callable[..., Guarded]) -> None:
    stand = start()
    stand.serve()
    recorder = rclpy.create_node("rosbag2_recorder", context=stand.context)
    recorder.create_subscription(JointTrajectory, f"{ARM.name}/joint_trajectory", lambda _: None, 10)
    stand.open()
    stand.node.destroy_subscription(stand.controllers[ARM.name])
    stand.spin_until(lambda: stand.statuses[-1] == f"closed: controllers: nobody listens as {ARM.name}")
    recorder.destroy_node()


def test_another_service_and_group_can_be_asked(start: Callable[..., Guarded]) -> None:
    stand = start("service:=planner/check", "group:=arms")
    stand.serve("planner/check")
    stand.open()


@pytest.mark.parametrize(
    ("parameter", "message"),
    [("step_s:=0.5 horizon_s:=0.2", "step_s is 0.5, above horizon_s, 0.2"), ("service:=''", "service is empty")],
)
def test_a_bad_parameter_is_named_in_one_line(start: Callable[..., Guarded], parameter: str, message: str) -> None:
    stand = start(*parameter.split())
    output, _ = stand.lookout.communicate(timeout=TIMEOUT_S + 60)
    assert stand.lookout.returncode == 1
    assert message in output and "Traceback" not in output
