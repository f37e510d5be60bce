"""The gate: closed nothing passes, open what keeps the limits does, and whatever closes it brings the robot to rest."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from agibot_bringup.safety_gate.bench import added
from agibot_bringup.safety_gate.gate import State
from agibot_bringup.safety_gate.trajectory import Point, Reason, Received
from dreamzero_policy.runtime.contract import Contract, Controller
from dreamzero_policy.runtime.geometry import KeepsClearOfItself
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.rest import stopping_s

from .scene import ARMS, DEADMAN_NS, HEAD, LEFT, LOOKOUT_NS, TICK_NS, WAIST, Scene, require_inside, wave


@pytest.fixture
def scene(contract: Contract) -> Scene:
    return Scene(contract)


def in_motion(scene: Scene) -> None:
    """Open, engaged, and fast."""
    assert scene.open() == ""
    assert scene.take(scene.wave(0.05)) is None
    scene.pass_time(2.5)
    assert scene.take(scene.wave(0.7)) is None
    scene.pass_time(0.6)
    assert np.abs(scene.speeds(scene.arms.name)).max() > 0.5


def test_a_closed_gate_lets_nothing_pass_and_says_so(scene: Scene) -> None:
    assert scene.take(scene.wave(0.1)).reason is Reason.CLOSED
    assert scene.sent == [] and scene.gate.rejected == {Reason.CLOSED: 1}


def test_an_open_gate_hands_on_what_was_wanted_once_it_has_engaged(scene: Scene) -> None:
    assert scene.open() == ""
    assert scene.take(scene.wave(0.05)) is None
    scene.pass_time(2.5)
    wanted = scene.wave(0.2)
    assert scene.take(wanted) is None
    _, name, plan = scene.sent[-1]
    assert name == "dual_arm_controller"
    assert (plan.knots_ns - scene.ns).tolist() == [point.after_ns for point in wanted.points]
    np.testing.assert_allclose(plan.positions, [point.positions for point in wanted.points], atol=1e-12)
    np.testing.assert_allclose(plan.velocities, [point.velocities for point in wanted.points], atol=1e-12)


def test_one_message_may_move_several_controllers_each_by_its_own_joints(scene: Scene) -> None:
    arms, head = scene.arms, scene.controllers[HEAD]
    joints = [*reversed(head.joints), *arms.joints]
    at_rest = {
        joint: value for c in (arms, head) for joint, value in zip(c.joints, scene.positions(c.name), strict=True)
    }
    hold = Point(NS_PER_S, [at_rest[joint] for joint in joints], [0.0] * len(joints))
    assert scene.open() == "" and scene.take(Received(joints, [hold])) is None
    assert [name for _, name, _ in scene.sent] == ["dual_arm_controller", "head_controller"]
    for _, name, plan in scene.sent:
        np.testing.assert_allclose(plan.positions[-1], scene.positions(name), atol=1e-12)


def test_the_engage_begins_at_the_pose_and_goes_into_what_is_wanted(scene: Scene) -> None:
    assert scene.open() == ""
    pose = scene.positions(scene.arms.name)
    engaged_ns = scene.ns
    away = 0.15  # of what is wanted from where the arms are
    assert scene.take(scene.wave(0.0, seconds=2.0, offset=away)) is None
    ratio = []
    while scene.moving():
        scene.tick()
        ratio.append(((scene.positions(scene.arms.name) - pose) / away).mean())
    assert ratio[0] < 1e-3 and ratio == sorted(ratio)
    assert ratio[49] == pytest.approx(0.5, abs=0.01)  # half-way after half of engage_s
    at_full = engaged_ns + NS_PER_S
    np.testing.assert_allclose(scene.positions(scene.arms.name, at_full), pose + away, atol=1e-6)
    require_inside(scene.limits[scene.arms.name], scene.commands[scene.arms.name])


def test_what_begins_beyond_a_step_from_the_pose_does_not_engage(scene: Scene) -> None:
    assert scene.open() == ""
    rejection = scene.take(scene.wave(0.0, offset=0.3))
    assert rejection.reason is Reason.STEP and "0.3000, limit 0.2618" in rejection.text
    assert scene.sent == []


def test_a_trajectory_shorter_than_the_engage_ends_at_rest_where_it_was_to_end(scene: Scene) -> None:
    assert scene.open() == ""
    pose = scene.positions(scene.arms.name)
    assert scene.take(scene.wave(0.0, seconds=0.3, offset=0.1)) is None
    assert scene.commands[scene.arms.name][-1].end_ns == scene.ns + NS_PER_S
    scene.pass_time(1.1)
    np.testing.assert_allclose(scene.positions(scene.arms.name), pose + 0.1, atol=1e-9)


CLOSERS: dict[str, Callable[[Scene], None]] = {
    "the deadman is let go": lambda scene: scene.tick(held=False),
    "an emergency stop": lambda scene: scene.gate.hear_estop(True, scene.ns, scene.ns),
    "a state ahead that is not valid": lambda scene: scene.gate.hear_validity(False, scene.ns, scene.ns),
    "a person": lambda scene: scene.gate.close("~/close was called", scene.ns),
    "a controller is gone": lambda scene: (setattr(scene.gate, "absent", ["head_controller"]), scene.tick()),
    "joint states that are no numbers": lambda scene: scene.gate.hear_joint_states(
        scene.contract.model.commanded_joints,
        [float("nan")] * len(scene.contract.model.commanded_joints),
        scene.ns,
        scene.ns,
    ),
}


@pytest.mark.parametrize("closer", CLOSERS)
def test_whatever_closes_the_gate_in_motion_brakes_at_once_and_then_nothing_passes(scene: Scene, closer: str) -> None:
    in_motion(scene)
    own_end_ns, speeds = scene.commands[scene.arms.name][-1].end_ns, scene.speeds(scene.arms.name)
    count = len(scene.sent)
    CLOSERS[closer](scene)
    closed_ns = scene.ns
    ((_, name, brake),) = scene.sent[count:]
    assert name == scene.arms.name and scene.gate.state(scene.ns) is State.BRAKING
    bound_s = 0.05 + stopping_s(speeds, scene.limits[name].by_joint) + 2 / 30
    assert brake.end_ns <= closed_ns + round(bound_s * NS_PER_S) < own_end_ns
    assert scene.take(scene.wave(0.1)).reason is Reason.CLOSED
    scene.pass_time(2.0)
    assert scene.take(scene.wave(0.1)).reason is Reason.CLOSED
    assert len(scene.sent) == count + 1 and not scene.moving()
    require_inside(scene.limits[name], scene.commands[name])


def test_silence_of_the_deadman_closes_after_its_own_time(scene: Scene) -> None:
    in_motion(scene)
    heard_ns = scene.ns
    while scene.gate.opened:
        scene.ns += TICK_NS
        scene.gate.watch(scene.ns, scene.ns)
    assert DEADMAN_NS < scene.ns - heard_ns <= DEADMAN_NS + TICK_NS
    assert "the button is silent" in scene.gate.message


def test_silence_of_the_lookout_closes_after_its_own_time_though_everybody_else_agrees(scene: Scene) -> None:
    in_motion(scene)
    scene.looking, heard_ns = False, scene.ns
    while scene.gate.opened:
        scene.tick()
    assert LOOKOUT_NS < scene.ns - heard_ns <= LOOKOUT_NS + TICK_NS
    assert scene.gate.message.startswith("state validity: the lookout is silent for 0.5")
    assert "the lookout is silent" in scene.open()


def test_a_beat_that_comes_after_too_long_a_silence_does_not_hide_it(scene: Scene) -> None:
    in_motion(scene)
    scene.ns += NS_PER_S // 2  # in which nobody looked
    scene.gate.hear_deadman(True, scene.ns, scene.ns)
    assert not scene.gate.opened


def test_an_emergency_stop_needs_its_reset_and_then_another_word_to_open(scene: Scene) -> None:
    in_motion(scene)
    scene.gate.hear_estop(True, scene.ns, scene.ns)
    scene.pass_time(2.0)
    assert scene.gate.state(scene.ns) is State.STOPPED
    assert "release it first" in scene.gate.estop.reset()
    scene.gate.hear_estop(False, scene.ns, scene.ns)
    assert "stopped" in scene.open()
    assert scene.gate.estop.reset() == ""
    scene.tick()
    assert scene.take(scene.wave(0.1)).reason is Reason.CLOSED
    assert scene.open() == "" and scene.take(scene.wave(0.1)) is None


def test_the_gate_does_not_open_before_the_robot_has_come_to_rest(scene: Scene) -> None:
    in_motion(scene)
    scene.gate.close("~/close was called", scene.ns)
    assert "still coming to rest" in scene.open()
    scene.pass_time(1.0)
    assert scene.open() == ""


def test_it_does_not_open_to_a_robot_that_something_else_moves(scene: Scene) -> None:
    pose = scene.positions(scene.arms.name)
    for step in range(1, 51):
        scene.move(scene.arms.name, pose + 0.001 * step)  # 0.1 rad/s
        scene.tick()
    refusal = scene.open()
    assert refusal.startswith("the robot does not stand: idx21_arm_l_joint1 moved by 0.01") and not scene.gate.opened
    assert refusal.endswith("allowed are 0.012 in 0.3 s: something else commands it")
    scene.pass_time(0.35)
    assert scene.open() == ""


def test_it_opens_to_a_robot_whose_reports_flicker_by_their_resolution(scene: Scene) -> None:
    """The lift by a centimetre, a gripper by a unit and more, the arms by noise."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        for number, away in ((WAIST, [0.01, 0.0]), (LEFT, [0.02]), (HEAD, [0.004, 0.004])):
            controller = scene.controllers[number]
            for joint, position, reach in zip(controller.joints, scene.positions(controller.name), away, strict=True):
                scene.feels[joint] = position + reach * rng.integers(2)
        scene.tick()
    assert scene.open() == ""


def test_a_gripper_that_was_moved_while_nobody_looked_is_engaged_from_where_it_is(scene: Scene) -> None:
    """Joint states fall silent before it has come to stand, and come again once something else has opened it."""
    gripper = scene.controllers[LEFT]
    (lower,), (upper,) = scene.limits[gripper.name].lower, scene.limits[gripper.name].upper
    assert scene.open() == ""
    go_to(scene, gripper, lower + 0.02)
    assert scene.take(to_rest(gripper, lower + 0.03)) is None
    scene.pass_time(0.5)
    scene.gate.close("~/close was called", scene.ns)
    scene.ns += 2 * NS_PER_S
    scene.move(gripper.name, np.array([upper - 0.02]))
    scene.pass_time(1.0)
    assert scene.open() == ""
    assert scene.take(to_rest(gripper, upper - 0.02)) is None
    assert np.abs(scene.sent[-1][2].positions - (upper - 0.02)).max() < 1e-9


def test_a_gripper_that_something_else_moved_is_engaged_from_where_it_is(scene: Scene) -> None:
    """The policy closes it, the gate is closed, something else opens it, and the policy wants it open."""
    gripper = scene.controllers[LEFT]
    (lower,), (upper,) = scene.limits[gripper.name].lower, scene.limits[gripper.name].upper
    closed, opened = lower + 0.02, upper - 0.02
    assert scene.open() == ""
    go_to(scene, gripper, closed)
    scene.gate.close("~/close was called", scene.ns)
    scene.move(gripper.name, np.array([opened]))
    scene.pass_time(1.0)
    assert scene.open() == ""
    assert scene.take(to_rest(gripper, opened)) is None
    _, name, plan = scene.sent[-1]
    assert name == gripper.name and np.abs(plan.positions - opened).max() < 1e-9


def test_a_gripper_that_holds_something_goes_on_from_its_command_and_not_from_where_it_was_stopped(
    scene: Scene,
) -> None:
    """Begun anew from where the object stops it, it would let go."""
    gripper = scene.controllers[LEFT]
    (lower,) = scene.limits[gripper.name].lower
    told, held = lower + 0.02, lower + 0.2
    assert scene.open() == ""
    go_to(scene, gripper, told, until=held)
    scene.gate.close("~/close was called", scene.ns)
    scene.pass_time(1.0)
    assert scene.open() == ""
    assert scene.take(to_rest(gripper, told)) is None
    assert np.abs(scene.sent[-1][2].positions - told).max() < 1e-9


def go_to(scene: Scene, gripper: Controller, position: float, until: float | None = None) -> None:
    """Through the gate, in steps that it lets pass; where the gripper is kept by something, it is measured there."""
    while abs((at := scene.positions(gripper.name)[0]) - position) > 1e-6:
        step = float(np.clip(position - at, -0.1, 0.1))
        assert scene.take(to_rest(gripper, at + step)) is None
        scene.pass_time(1.5)
    if until is not None:
        scene.feels[gripper.joints[0]] = until
    scene.pass_time(1.0)


def to_rest(controller: Controller, position: float) -> Received:
    return Received(controller.joints, [Point(NS_PER_S, [position] * len(controller.joints), [0.0])])


def test_it_opens_only_while_all_interlocks_are_good(scene: Scene) -> None:
    scene.gate.absent = ["waist_controller"]
    scene.tick(held=False)
    refusal = scene.open()
    assert "the button is released" in refusal and "waist_controller" in refusal
    scene.ns += NS_PER_S
    assert "joint states: silent for 1.00 s" in scene.open()
    assert not scene.gate.opened


def test_a_source_that_falls_silent_leaves_the_robot_at_rest_and_the_gate_says_so(scene: Scene) -> None:
    assert scene.open() == "" and scene.take(scene.wave(0.1)) is None
    end_of_motion = len(scene.sent)
    scene.pass_time(2.5)
    assert scene.gate.state(scene.ns) is State.OPEN and not scene.moving()
    scene.pass_time(1.0)
    assert scene.gate.state(scene.ns) is State.SILENT and len(scene.sent) == end_of_motion
    assert scene.take(scene.wave(0.1)) is None
    assert scene.gate.state(scene.ns) is State.OPEN


def test_a_robot_moved_by_something_else_is_engaged_anew_from_where_it_is(scene: Scene) -> None:
    in_motion(scene)
    scene.pass_time(3.0)
    moved = scene.commands[scene.arms.name][-1]
    scene.commands[scene.arms.name].append(type(moved).rest(moved.positions[-1] + 0.2, scene.ns))
    scene.tick()
    count = len(scene.sent)
    pose = scene.positions(scene.arms.name)
    assert scene.take(scene.wave(0.1)) is None
    assert scene.gate.state(scene.ns) is State.ENGAGING
    np.testing.assert_allclose(scene.sent[count][2].positions[0], pose, atol=1e-3)


def test_a_clock_that_is_set_closes_and_brakes_from_where_the_robot_is(scene: Scene) -> None:
    in_motion(scene)
    told = scene.positions(scene.arms.name)
    before = scene.commands[scene.arms.name][-1]
    scene.ns -= 100 * NS_PER_S
    shifted = type(before)(before.knots_ns - 100 * NS_PER_S, before.positions, before.velocities)
    scene.commands[scene.arms.name].append(shifted)
    scene.gate.clock_jumped(scene.ns, -100 * NS_PER_S)
    assert not scene.gate.opened and "-100.0" in scene.gate.message
    _, _, brake = scene.sent[-1]
    assert scene.ns < brake.end_ns < scene.ns + NS_PER_S
    np.testing.assert_allclose(scene.positions(scene.arms.name), told, atol=1e-9)


class TwoParts:
    """A robot whose head and waist come nearer to each other as their angles do."""

    hands = ()

    def __init__(self, joints: Sequence[str]) -> None:
        self.head, self.waist = joints.index("idx11_head_joint1"), joints.index("idx02_body_joint2")

    def self_distances(self, positions: np.ndarray, reach_m: float) -> tuple[np.ndarray, list[str]]:
        distances = np.abs(positions[:, self.waist] - positions[:, self.head] - 0.5)
        return np.minimum(distances, reach_m), ["head and waist"] * len(distances)


def test_the_shape_of_the_robot_is_judged_with_every_joint_on_its_way(contract: Contract) -> None:
    scene = Scene(contract, [KeepsClearOfItself(TwoParts(contract.model.commanded_joints), 0.2)])
    head, waist = scene.controllers[HEAD], scene.controllers[WAIST]
    bow = wave(waist.joints, scene.positions(waist.name), -0.1, 8.0)
    turn = wave(head.joints, scene.positions(head.name), -0.15, 8.0)
    assert scene.open() == ""
    rejection = scene.take(bow)  # they begin 0.285 apart
    assert rejection.reason is Reason.SELF_COLLISION and "head and waist" in rejection.text
    assert scene.take(turn) is None
    assert scene.take(bow) is None  # the head gives way meanwhile


@pytest.mark.parametrize("late_ns", [0, 3_000_000, -3_000_000])
def test_what_goes_on_a_little_late_or_early_takes_over_in_motion_inside_the_limits(scene: Scene, late_ns: int) -> None:
    in_motion(scene)
    rest = scene.commands[scene.arms.name][-1].after(scene.ns + 60_000_000)
    after_ns = (rest.knots_ns - scene.ns + late_ns).tolist()
    points = [Point(*point) for point in zip(after_ns, rest.positions.tolist(), rest.velocities.tolist(), strict=True)]
    assert scene.take(Received(scene.arms.joints, points)) is None
    scene.pass_time(3.0)
    require_inside(scene.limits[scene.arms.name], scene.commands[scene.arms.name])


def test_the_bench_sends_what_passes(contract: Contract) -> None:
    assert len(added(contract, 20).wall_s) == 20


@pytest.mark.parametrize("anew", [True, False])
@pytest.mark.parametrize(("number", "off"), [(ARMS, 0.028), (WAIST, 0.019), (WAIST, 0.025)])
def test_whether_a_controller_was_activated_anew_or_holds_its_command_it_is_engaged_inside_the_limits(
    scene: Scene, number: int, off: float, anew: bool
) -> None:
    """The joints stand a little away from what they were told: they lag, or the controller began there."""
    controller = scene.controllers[number]
    told = scene.positions(controller.name)
    assert scene.open() == ""
    assert scene.take(staying(controller, told)) is None
    scene.pass_time(2.0)
    scene.gate.close("the bridge was stopped", scene.ns)
    stands = told + off
    if anew:
        scene.move(controller.name, stands)
    else:
        scene.feels = dict(zip(controller.joints, stands.tolist(), strict=True))
    scene.pass_time(1.0)
    begins = len(scene.commands[controller.name]) - 1
    assert scene.open() == ""
    for _ in range(3):  # the source goes on before the first point has been reached
        assert scene.take(staying(controller, stands)) is None
        scene.pass_time(0.2)
    scene.pass_time(2.0)
    require_inside(scene.limits[controller.name], scene.commands[controller.name][begins:])
    np.testing.assert_allclose(scene.positions(controller.name), stands, atol=1e-9)


@pytest.mark.parametrize("anew", [True, False])
@pytest.mark.parametrize("moves_s", [0.02, 0.1, 0.3])
def test_where_a_controller_may_begin_in_two_places_the_gate_still_brakes_it_inside_the_limits(
    scene: Scene, moves_s: float, anew: bool
) -> None:
    told = scene.positions(scene.arms.name)
    assert scene.open() == ""
    assert scene.take(staying(scene.arms, told)) is None
    scene.pass_time(2.0)
    scene.gate.close("the bridge was stopped", scene.ns)
    if anew:
        scene.move(scene.arms.name, told + 0.02)
    else:
        scene.feels = dict(zip(scene.arms.joints, (told + 0.02).tolist(), strict=True))
    scene.pass_time(1.0)
    begins = len(scene.commands[scene.arms.name]) - 1
    assert scene.open() == ""
    assert scene.take(wave(scene.arms.joints, told + 0.02, 0.2, 2.0)) is None
    ends_ns = scene.commands[scene.arms.name][-1].end_ns
    scene.pass_time(moves_s)
    scene.gate.close("a person", scene.ns)
    scene.pass_time(1.0)
    assert not scene.moving() and scene.ns < ends_ns
    require_inside(scene.limits[scene.arms.name], scene.commands[scene.arms.name][begins:])


def staying(controller: Controller, positions: np.ndarray) -> Received:
    """To these positions, and stay there for half a second."""
    still = [0.0] * len(controller.joints)
    return Received(controller.joints, [Point(ns, positions.tolist(), still) for ns in (50_000_000, 500_000_000)])
