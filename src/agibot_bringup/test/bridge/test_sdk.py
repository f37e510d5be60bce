"""The second adapter makes the SDK's calls, in its order, against a module that stands in for the maker's."""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from agibot_bringup.bridge.adapter import AdapterError
from agibot_bringup.bridge.sdk import RobotSdk
from agibot_bringup.bridge.units import Group


class RobotDds:
    """Answers as the maker's class of this name does; `calls` is what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[float]]] = []
        self.stamp_ns = 1
        self.grippers = [35.0, 120.0]

    def arm_joint_states(self) -> tuple[list[float], int]:
        return [0.1 * i for i in range(14)], self.stamp_ns

    def gripper_states(self) -> tuple[list[float], int]:
        return self.grippers, self.stamp_ns

    def head_joint_states(self) -> tuple[list[float], int]:
        return [0.0, 0.2], self.stamp_ns

    def waist_joint_states(self) -> tuple[list[float], int]:
        return [0.3, 41.0], self.stamp_ns

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not name.startswith("move_"):
            raise AttributeError(name)
        return lambda numbers: self.calls.append((name, numbers))

    def shutdown(self) -> None:
        self.calls.append(("shutdown", []))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[RobotDds]]:
    made: list[RobotDds] = []
    module = ModuleType("a2d_sdk.robot")
    module.RobotDds = lambda: made.append(RobotDds()) or made[-1]
    monkeypatch.setitem(sys.modules, "a2d_sdk", ModuleType("a2d_sdk"))
    monkeypatch.setitem(sys.modules, "a2d_sdk.robot", module)
    yield made


def test_reports_are_heard_once_for_each_new_time(installed: list[RobotDds]) -> None:
    heard = []
    adapter = RobotSdk(lambda *report: heard.append(report))
    adapter.poll()
    adapter.poll()
    assert {group for group, _, _ in heard} == set(Group) and len(heard) == len(Group)
    assert (Group.WAIST, [0.3, 41.0], None) in heard
    assert (Group.LEFT_GRIPPER, [35.0], None) in heard and (Group.RIGHT_GRIPPER, [120.0], None) in heard
    installed[0].stamp_ns = 2
    adapter.poll()
    assert len(heard) == 2 * len(Group)


def test_each_group_goes_to_its_call_and_the_grippers_together(installed: list[RobotDds]) -> None:
    adapter = RobotSdk(lambda *_: None)
    adapter.send(Group.ARMS, [0.1] * 14)
    adapter.send(Group.HEAD, [0.0, 0.2])
    adapter.send(Group.WAIST, [0.3, 41.0])
    adapter.send(Group.LEFT_GRIPPER, [0.25])
    adapter.send(Group.RIGHT_GRIPPER, [0.75])
    adapter.close()
    assert installed[0].calls == [
        ("move_arm", [0.1] * 14),
        ("move_head", [0.0, 0.2]),
        ("move_waist", [0.3, 41.0]),
        ("move_gripper", [0.25, 0.75]),
        ("shutdown", []),
    ]


def test_after_a_stop_a_gripper_is_not_told_again_what_it_was_told_before(installed: list[RobotDds]) -> None:
    adapter = RobotSdk(lambda *_: None)
    for group, opening in ((Group.LEFT_GRIPPER, 0.25), (Group.RIGHT_GRIPPER, 0.75)):
        adapter.send(group, [opening])
    adapter.forget()
    adapter.send(Group.LEFT_GRIPPER, [0.5])  # the right one was opened by hand meanwhile
    assert installed[0].calls == [("move_gripper", [0.25, 0.75])]
    adapter.send(Group.RIGHT_GRIPPER, [1.0])
    assert installed[0].calls[1:] == [("move_gripper", [0.5, 1.0])]


def test_a_report_that_is_not_there_yet_is_not_heard_and_one_of_another_length_is_left_to_the_guard(
    installed: list[RobotDds],
) -> None:
    heard = []
    adapter = RobotSdk(lambda group, numbers, _: heard.append((group, list(numbers))))
    installed[0].grippers = []
    adapter.poll()
    assert not any("gripper" in group.value for group, _ in heard)
    installed[0].grippers, installed[0].stamp_ns = [1.0, 2.0, 3.0], 2
    adapter.poll()
    assert (Group.LEFT_GRIPPER, [1.0, 2.0, 3.0]) in heard


def test_a_robot_that_does_not_connect_is_told_with_what_to_do(
    installed: list[RobotDds], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise TimeoutError("no robot at 192.0.2.1")

    monkeypatch.setattr(sys.modules["a2d_sdk.robot"], "RobotDds", refuse)
    with pytest.raises(
        AdapterError, match=r"RobotDds\(\) failed \(TimeoutError\('no robot at 192.0.2.1'\)\): see that"
    ):
        RobotSdk(lambda *_: None)


@pytest.mark.parametrize("answer", [None, ([1.0, None], 2), (1.0, 2)])
def test_an_answer_that_is_no_report_is_named(
    installed: list[RobotDds], monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    adapter = RobotSdk(lambda *_: None)
    monkeypatch.setattr(installed[0], "head_joint_states", lambda: answer, raising=False)
    with pytest.raises(AdapterError, match=r"SDK: head_joint_states\(\) gave .*, expected \(numbers, ns\)"):
        adapter.poll()


def test_without_the_sdk_it_says_so() -> None:
    with pytest.raises(AdapterError, match=r"adapter is sdk, but a2d_sdk.robot is not installed"):
        RobotSdk(lambda *_: None)
