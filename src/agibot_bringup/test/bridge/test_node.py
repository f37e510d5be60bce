"""Over real DDS: the bridge's process between a ros2_control and a fake robot on the robot's own topics and types."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Empty
from std_srvs.srv import Trigger

from agibot_bringup.bridge.topics import ARM_NAMES, SAFE_STOP
from agibot_bringup.bridge.units import JOINTS, LEFT_GRIPPER, LIFT, Group, unit_table

from .. import built_messages
from ..processes import Processes
from .conftest import UNITS
from .fake_robot import HOME, FakeRobot

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]  # the first test builds the robot's messages

CONTRACT_FILE = Path(__file__).parents[4] / "config" / "agibot_g1.yaml"
ARM = "idx21_arm_l_joint1"
MESSAGES = Path(__file__).parent / "genie_msgs"
CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP


class Stand(Processes):
    """The bridge's process, and a node with both its ends."""

    def __init__(self, *parameters: str) -> None:
        built_messages.use(built_messages.installed(MESSAGES))
        super().__init__()
        self.process = self.start("agibot_bringup.bridge.node", f"contract:={CONTRACT_FILE}", *parameters)
        self.robot = FakeRobot(self.node, unit_table(UNITS))
        self.statuses = self.statuses_of("bridge")
        self.estop = self.node.create_publisher(Bool, "estop", 10)
        self.safe_stop = self.node.create_publisher(Empty, SAFE_STOP, 10)

    def change(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, "bridge/change_state", request).success

    def ask(self, service: str) -> Trigger.Response:
        return super().ask(f"bridge/{service}")

    def activate(self) -> None:
        """At home and active. A machine without time for 100 reports a second may refuse it for a moment."""
        self.robot.again()
        self.spin_until(lambda: bool(self.robot.states))
        self.spin_until(lambda: self.change(ACTIVATE))
        self.robot.told.clear()

    def deactivate(self) -> None:
        self.robot.again()
        self.change(DEACTIVATE)

    def reset(self) -> None:
        """Granted as soon as the robot reports."""
        self.spin_until(lambda: self.ask("reset").success)

    def quiet(self, seconds: float = 0.5) -> bool:
        """Nothing reaches the robot any more."""
        self.spin(0.1)  # what was on its way
        self.robot.told.clear()
        self.spin(seconds)
        return not self.robot.told


@pytest.fixture(scope="module")
def running() -> Iterator[Stand]:
    # Timeouts that a machine shared with other work can keep; the stream's own are judged in test_guard.
    stand = Stand("safe_stop_type:=std_msgs/msg/Empty", "feedback_timeout_s:=2.0")
    try:
        assert stand.change(CONFIGURE)
        stand.spin_until(lambda: stand.robot.connected)
        yield stand
    finally:
        stand.close()


@pytest.fixture
def stand(running: Stand) -> Iterator[Stand]:
    yield running
    running.deactivate()
    running.reset()  # whatever stop a test called for


def test_states_pass_before_commands_do_and_commands_reach_the_robot_in_its_units(stand: Stand) -> None:
    robot = stand.robot
    robot.again()
    robot.commanding = {}
    stand.spin_until(lambda: len(robot.states) > 5)
    assert robot.heard() == pytest.approx(HOME) and len(robot.heard()) == len(JOINTS)
    assert robot.told == [] and stand.statuses[-1].startswith("inactive")

    stand.activate()
    robot.commanding = dict.fromkeys(JOINTS, math.nan)  # before a controller has taken the joints
    stand.spin(0.3)
    assert robot.told == []
    robot.commanding = {ARM: 0.14, LIFT: 0.415, LEFT_GRIPPER: 0.785}
    stand.spin_until(lambda: len({group for group, _, _ in robot.told}) == len(Group))
    arms, names = next((numbers, names) for group, numbers, names in robot.told if group is Group.ARMS)
    assert arms == pytest.approx([0.14] + [0.1] * 13) and names == ARM_NAMES
    assert robot.told_to(Group.WAIST)[-1] == pytest.approx([0.3, 0.415])  # pitch, then lift
    assert robot.told_to(Group.LEFT_GRIPPER)[-1] == pytest.approx([0.0])  # open
    stand.spin_until(lambda: abs(robot.heard()[LIFT] - 0.415) < 1e-9)
    assert robot.refused == []


def test_the_robot_goes_on_being_told_when_ros2_control_falls_silent(stand: Stand) -> None:
    stand.activate()
    stand.robot.commanding = {ARM: 0.14}
    stand.spin_until(lambda: bool(stand.robot.told_to(Group.ARMS)))
    stand.robot.commanding = None
    stand.spin_until(lambda: stand.statuses[-1].startswith("holding"))
    stand.robot.told.clear()
    stand.spin_until(lambda: len(stand.robot.told_to(Group.ARMS)) >= 100)
    assert all(numbers[0] == 0.14 for numbers in stand.robot.told_to(Group.ARMS))


def test_a_step_that_the_firmware_would_refuse_never_reaches_it(stand: Stand) -> None:
    stand.activate()
    stand.robot.commanding = {}
    stand.spin_until(lambda: stand.statuses[-1].startswith("streaming"))
    stand.robot.commanding = {ARM: HOME[ARM] + 0.27}
    stand.spin_until(lambda: stand.statuses[-1].startswith("stopped: command refused"))
    assert ARM in stand.statuses[-1] and "allowed are 0.2618" in stand.statuses[-1]
    assert stand.quiet() and stand.robot.refused == []
    stand.robot.commanding = {}
    assert stand.quiet()  # a stop is latched
    assert stand.ask("reset").success
    stand.spin_until(lambda: bool(stand.robot.told))


def test_a_robot_whose_lift_is_in_another_unit_is_not_activated(stand: Stand) -> None:
    stand.robot.again()
    stand.robot.replaced[Group.WAIST] = [0.3, 41.0]
    stand.spin(0.5)
    assert not stand.change(ACTIVATE)
    stand.spin_until(lambda: "idx01_body_joint1 reads 41" in stand.statuses[-1])
    assert "would fit in cm" in stand.statuses[-1]
    stand.robot.states.clear()
    stand.spin(0.5)
    assert stand.robot.states == []  # ros2_control is not told what is in doubt
    stand.robot.replaced.clear()
    stand.spin_until(lambda: stand.change(ACTIVATE))


@pytest.mark.parametrize("group", [Group.ARMS, Group.RIGHT_GRIPPER])
def test_a_robot_that_falls_silent_is_told_nothing_more(stand: Stand, group: Group) -> None:
    stand.activate()
    stand.robot.commanding = {}
    stand.spin_until(lambda: stand.statuses[-1].startswith("streaming"))
    stand.robot.silent.add(group)
    stand.spin_until(lambda: stand.statuses[-1].startswith(f"stopped: feedback: {group.value}: silent"))
    assert stand.quiet()
    assert not stand.ask("reset").success


def test_a_report_that_is_no_number_stops_the_stream(stand: Stand) -> None:
    stand.activate()
    stand.robot.commanding = {}
    stand.spin_until(lambda: stand.statuses[-1].startswith("streaming"))
    stand.robot.replaced[Group.HEAD] = [math.nan, 0.1]
    stand.spin_until(lambda: stand.statuses[-1] == "stopped: feedback of head: idx11_head_joint1 is nan")
    assert stand.quiet()


def test_safe_stop_and_the_emergency_stop_end_the_stream_until_a_reset(stand: Stand) -> None:
    stand.activate()
    stand.robot.commanding = {}
    stand.spin_until(lambda: stand.statuses[-1].startswith("streaming"))
    stand.spin_until(lambda: stand.safe_stop.get_subscription_count() == 1)
    stand.safe_stop.publish(Empty())
    stand.spin_until(lambda: stand.statuses[-1].startswith("stopped: the robot's SafeStop was called"))
    assert stand.quiet()
    assert stand.ask("reset").success
    stand.spin_until(lambda: bool(stand.robot.told))

    stand.estop.publish(Bool(data=True))
    stand.spin_until(lambda: stand.statuses[-1].startswith("stopped: estop"))
    assert stand.quiet() and not stand.ask("reset").success
    stand.estop.publish(Bool(data=False))
    stand.spin_until(lambda: stand.ask("reset").success)
    stand.spin_until(lambda: bool(stand.robot.told))
    assert stand.ask("stop").success and stand.quiet()


def test_a_stop_that_was_called_for_outlasts_deactivation_and_clean_up(stand: Stand) -> None:
    stand.activate()
    assert stand.ask("stop").success and stand.change(DEACTIVATE)
    assert not stand.change(ACTIVATE)
    stand.spin_until(lambda: stand.statuses[-1] == "inactive: ~/stop was called; call ~/reset")
    assert stand.change(CLEANUP) and stand.change(CONFIGURE)
    stand.spin_until(lambda: stand.robot.connected and bool(stand.robot.states))
    assert not stand.change(ACTIVATE)
    stand.reset()
    stand.spin_until(lambda: stand.statuses[-1] == "inactive: states pass, commands do not")
    stand.activate()


@pytest.mark.parametrize("stop", ["SafeStop", "~/stop", "estop"])
def test_a_stop_amid_the_start_keeps_the_activation_away(stand: Stand, stop: str) -> None:
    if stop == "SafeStop":
        stand.spin_until(lambda: stand.safe_stop.get_subscription_count() == 1)
        stand.safe_stop.publish(Empty())
    else:
        assert stand.change(CLEANUP)  # these are heard before the robot can be
        if stop == "estop":
            stand.spin_until(lambda: stand.estop.get_subscription_count() == 1)
            stand.estop.publish(Bool(data=True))
            stand.estop.publish(Bool(data=False))
            stand.spin(0.5)
        else:
            assert stand.ask("stop").success
        assert stand.change(CONFIGURE)
    stand.spin_until(lambda: stand.statuses[-1].startswith("inactive") and stop in stand.statuses[-1])
    stand.spin_until(lambda: stand.robot.connected and bool(stand.robot.states))
    assert not stand.change(ACTIVATE) and "~/reset" in stand.statuses[-1]
    stand.reset()
    stand.activate()


def test_a_transition_that_its_state_does_not_have_is_refused_and_the_bridge_lives(stand: Stand) -> None:
    stand.activate()
    client = stand.node.create_client(ChangeState, "bridge/change_state")
    client.call_async(ChangeState.Request(transition=Transition(id=CONFIGURE)))  # rclpy gives no answer to it
    stand.spin(0.5)
    stand.deactivate()
    stand.activate()


@pytest.mark.parametrize("other", ["forgotten_tool", "bridge"])
def test_a_robot_that_somebody_else_commands_is_not_activated(stand: Stand, other: str) -> None:
    stand.activate()
    stand.deactivate()
    node = rclpy.create_node(other, context=stand.context)  # a second stack's bridge has the name of the first
    try:
        node.create_publisher(JointState, "/wbc/head_command", 10)
        stand.spin_until(lambda: stand.node.count_publishers("/wbc/head_command") == 2)

        def refused() -> bool:
            """Once the bridge's process has seen it too."""
            if stand.change(ACTIVATE):
                stand.change(DEACTIVATE)
            return f"/{other} publishes on /wbc/head_command as well" in stand.statuses[-1]

        stand.spin_until(refused)
        stand.robot.commanding = {}
        assert stand.quiet()
    finally:
        node.destroy_node()
    stand.activate()


def test_cleaned_up_amid_reports_and_commands_the_node_lives_and_can_be_configured_again(stand: Stand) -> None:
    stand.activate()
    stand.robot.commanding = {ARM: 0.11}
    for _ in range(5):
        stand.spin_until(lambda: bool(stand.robot.told))
        stand.deactivate()
        assert stand.change(CLEANUP)
        stand.spin(0.2)
        assert stand.process.poll() is None and stand.statuses[-1] == "unconfigured: cleaned up"
        assert stand.change(CONFIGURE)
        stand.spin_until(lambda: stand.robot.connected)
        stand.activate()
        stand.robot.commanding = {ARM: 0.11}


def test_messages_that_are_not_installed_are_named_and_the_node_can_be_configured_again() -> None:
    stand = Stand()  # SafeStop's type is nowhere public, so that it is not among the test's messages
    try:
        assert not stand.change(CONFIGURE)
        stand.spin_until(lambda: bool(stand.statuses) and "SafeStopRequest is not installed" in stand.statuses[-1])
        assert stand.statuses[-1].startswith("unconfigured: message type genie_msgs/msg/SafeStopRequest")
        output = stand.end(stand.process)
    finally:
        stand.close()
    assert stand.process.returncode == 0 and "Traceback" not in output
