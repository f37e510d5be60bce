"""The bridge's process outlives an SDK that fails, and says what failed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState

from agibot_bringup.bridge.units import JOINTS

from ..processes import Processes
from .conftest import CONTRACT_FILE
from .fake_robot import HOME
from .fake_sdk.a2d_sdk.robot import FAULTS

pytestmark = pytest.mark.stack

CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
CLEANUP, DEACTIVATE = Transition.TRANSITION_CLEANUP, Transition.TRANSITION_DEACTIVATE
SDK = ("adapter:=sdk", "lift_feedback_unit:=cm", "lift_command_unit:=cm", "gripper_command_closed:=1.0")


class Stand(Processes):
    """The bridge's process with the SDK, and a ros2_control that commands where the robot is."""

    def __init__(self, faults: Path) -> None:
        super().__init__()
        self._faults = faults
        self.fail()
        parameters = (f"contract:={CONTRACT_FILE}", "feedback_timeout_s:=2.0", *SDK)
        self.process = self.start("agibot_bringup.bridge.node", *parameters)
        self.statuses = self.statuses_of("bridge")
        self._commands = self.node.create_publisher(JointState, "robot_joint_commands", QoSProfile(depth=1))

    def fail(self, *calls: str) -> None:
        """These fail from now on, and no others."""
        self._faults.write_text(" ".join(calls))

    def change(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, "bridge/change_state", request).success

    def until_status(self, begins: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        def said() -> bool:
            meanwhile()
            return bool(self.statuses) and self.statuses[-1].startswith(begins)

        self.spin_until(said)

    def command(self) -> None:
        pose = [{"idx41_gripper_l_outer_joint1": 0.6}.get(joint, HOME[joint]) for joint in JOINTS]
        self._commands.publish(JointState(name=JOINTS, position=pose))


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "fake_sdk"), prepend=":")
    monkeypatch.setenv(FAULTS, str(tmp_path / "faults"))
    stand = Stand(tmp_path / "faults")
    try:
        yield stand
    finally:
        stand.close()


def test_an_sdk_that_fails_is_told_in_the_status_and_the_process_lives(stand: Stand) -> None:
    stand.fail("RobotDds")
    assert not stand.change(CONFIGURE)
    stand.until_status("unconfigured: SDK: RobotDds() failed (RuntimeError('link lost')): see that the robot is on")

    stand.fail("head_joint_states")
    assert stand.change(CONFIGURE)
    stand.until_status("inactive: SDK: head_joint_states() failed (RuntimeError('link lost'))")
    assert not stand.change(ACTIVATE)

    stand.fail()
    stand.spin_until(lambda: stand.change(ACTIVATE))
    stand.until_status("streaming", stand.command)
    stand.fail("head_joint_states")
    stand.until_status("stopped: SDK: head_joint_states() failed (RuntimeError('link lost'))")
    assert "call ~/reset" in stand.statuses[-1] and not stand.ask("bridge/reset").success
    stand.fail()
    stand.spin_until(lambda: stand.ask("bridge/reset").success)

    stand.until_status("streaming", stand.command)
    stand.fail("move_arm")
    stand.until_status("stopped: SDK: move_arm() failed (RuntimeError('link lost'))", stand.command)
    stand.fail("shutdown")
    assert stand.change(DEACTIVATE) and stand.change(CLEANUP)
    stand.until_status("unconfigured: cleaned up")
    output = stand.end(stand.process)
    assert stand.process.returncode == 0 and "Traceback" not in output
