"""Over real DDS: a policy's chunks go through the safety gate, each as a whole."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from std_srvs.srv import Trigger

from dreamzero_msgs.msg import PolicyStatus

from .robot import CAMERAS, CONTRACT, JOINTS, Bench, bench

pytestmark = pytest.mark.stack
LOAD_S = 180


@contextmanager
def safety_gate(log: Path) -> Iterator[subprocess.Popen]:
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "agibot_bringup.safety_gate.node", "--ros-args", "-p", "deadman:=none"],
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def opened(own: Bench) -> bool:
    client = own.robot.create_client(Trigger, "/safety_gate/open")
    own.wait(client.service_is_ready, 30, "gate")
    asked = client.call_async(Trigger.Request())
    own.wait(asked.done, 10, "answer of the gate")
    return asked.result().success


def test_what_the_gate_lets_through_reaches_every_controller_and_a_lost_gate_is_named(ros, tmp_path: Path) -> None:
    with safety_gate(tmp_path / "gate.log") as gate, bench(tmp_path, output="gate") as own:
        robot = own.robot
        own.wait(lambda: robot.status is not None and robot.status.state == PolicyStatus.IDLE, LOAD_S, "idle policy")
        robot.cameras, robot.names, robot.obeys = CAMERAS, JOINTS, True
        own.spin(1.0)  # it has stood for long enough
        assert opened(own)
        robot.prompt("touch the red cube with the left hand")
        each = len(CONTRACT.site.controllers)
        own.wait(lambda: len(robot.trajectories) >= 2 * each, 20, "trajectories")
        own.spin(0.5)
        assert len(robot.trajectories) % each == 0
        gate.terminate()
        own.wait(lambda: any("safety gate" in line for line in robot.status.waiting_for), 10, "word of the gate")
        assert "controller_gone" in robot.status.faults and own.process.poll() is None
