"""Over real DDS: the gate's process between a source and a robot."""

import signal
import time
from collections.abc import Callable

import pytest
from std_msgs.msg import Bool, Empty
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ..processes import TIMEOUT_S
from .stand import ARM, Stand

pytestmark = pytest.mark.stack


def test_closed_nothing_passes_opened_it_does_a_stop_brakes_and_a_reset_lets_it_be_opened(
    start: Callable[..., Stand],
) -> None:
    stand = start("engage_s:=0.3")
    stand.connect()
    stand.want(0.2)
    stand.spin(0.5)
    assert stand.sent == [] and stand.statuses[-1] == "closed: nobody has opened it yet"

    assert stand.ask("open").success
    stand.want(0.4)
    stand.spin_until(lambda: stand.speed() > 0.5)
    assert [name for name, _ in stand.sent] == [ARM.name]
    assert stand.left_s() > 0.8

    stand.estop.publish(Bool(data=True))
    stand.spin_until(lambda: len(stand.sent) == 2)
    assert stand.left_s() < 0.7  # 0.05 s, the stopping time from this speed, and the tail's grid
    stand.spin_until(lambda: stand.left_s() == 0.0)
    stand.want(0.2)
    stand.spin(0.5)
    assert len(stand.sent) == 2 and stand.statuses[-1].startswith("stopped: estop: stopped")
    assert not stand.ask("open").success

    stand.estop.publish(Bool(data=False))
    stand.spin_until(lambda: stand.ask("reset_estop").success)
    stand.want(0.2)
    stand.spin(0.5)
    assert len(stand.sent) == 2
    assert stand.ask("open").success
    stand.want(0.2)
    stand.spin_until(lambda: len(stand.sent) == 3)


def test_letting_go_of_the_button_brakes_and_a_bad_trajectory_is_told_by_number(start: Callable[..., Stand]) -> None:
    stand = start("engage_s:=0.3")
    stand.connect()
    assert stand.ask("open").success
    stand.source.publish(JointTrajectory(joint_names=["nobody"], points=[JointTrajectoryPoint()]))
    stand.spin_until(lambda: "rejected, 2 joint_set: 1 joints named; unknown ['nobody']" in stand.statuses[-1])
    stand.want(0.4)
    stand.spin_until(lambda: stand.speed() > 0.5)
    stand.held = False
    stand.spin_until(lambda: len(stand.sent) == 2)
    stand.spin_until(lambda: stand.statuses[-1] == "closed: deadman: button 4 of joy is released")
    stand.held = True
    stand.spin(0.3)
    stand.want(0.2)
    stand.spin(0.3)
    assert len(stand.sent) == 2


def test_a_gate_with_a_heartbeat_that_is_ended_in_motion_brakes_with_its_last_word(start: Callable[..., Stand]) -> None:
    stand = start("engage_s:=0.3", "deadman:=heartbeat", "deadman_topic:=operator_present")
    beat = stand.node.create_publisher(Empty, "operator_present", 10)
    stand.node.create_timer(0.05, lambda: beat.publish(Empty()))
    stand.connect()
    assert stand.ask("open").success
    stand.want(0.4)
    stand.spin_until(lambda: stand.speed() > 0.5)
    stand.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + TIMEOUT_S
    while len(stand.sent) < 2 and time.monotonic() < until:
        stand.executor.spin_once(timeout_sec=0.1)
    assert len(stand.sent) == 2
    stand.end(stand.process)
    assert stand.process.returncode == 0


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("deadman:=person", "parameter deadman is 'person', expected one of joy, heartbeat, none"),
        ("inputs:=[head_controller/joint_trajectory]", "where the gate itself publishes"),
        ("engage_s:=0.0", "engage_s"),
    ],
)
def test_a_bad_parameter_is_named_in_one_line(start: Callable[..., Stand], parameter: str, message: str) -> None:
    stand = start(parameter)
    output, _ = stand.process.communicate(timeout=TIMEOUT_S)
    assert stand.process.returncode == 1
    assert message in output and "Traceback" not in output
