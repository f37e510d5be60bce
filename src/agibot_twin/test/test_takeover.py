"""Taking over: the expert goes on from wherever somebody else left robot and objects, and only its part is shown."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from agibot_twin.arms import STEP_S
from agibot_twin.collect import collect, takeover_name
from agibot_twin.collector import Collector
from agibot_twin.commanding import follow
from agibot_twin.episodes import PUSH_START_M, sample_episode
from agibot_twin.expert import (
    CLOSED_RAD,
    GRIPPER_JOINT,
    LIMIT_SHARE,
    OPEN_RAD,
    PUSH_Z_M,
    ExpertError,
    Leg,
    excesses,
    unhurried,
)
from agibot_twin.objects import BIN_CENTRE_M, TRAY
from agibot_twin.robot_model import DRIVEN_JOINTS
from agibot_twin.scene import TABLE_TOP_Z_M
from agibot_twin.suite import TwinSuite
from agibot_twin.takeover import CLEAR_Z_M, take_over
from agibot_twin.tasks import LIFT, PLACE, PUSH, SEEN_FAMILIES, TOUCH, Hand, Task, handle_position, side
from dreamzero_policy.runtime.contract import load_contract

CONTRACT_PATH = Path(__file__).resolve().parents[3] / "config" / "agibot_g1.yaml"
CONTRACT = load_contract(CONTRACT_PATH)
FAMILIES = [sample_episode("training", seed).task.family for seed in range(50)]
Floats = np.ndarray
Plan = Callable[[Collector, Task, Mapping[str, Floats], Floats], Floats]


@pytest.fixture(scope="module")
def collector():
    collector = Collector(CONTRACT)
    yield collector
    collector.world.close()


class Rows:
    """A draft that keeps states and actions."""

    def __init__(self) -> None:
        self.states, self.actions, self.instructions = [], [], ()

    def add(self, state, action, images) -> None:
        self.states.append(state)
        self.actions.append(action)

    def finish(self, instructions) -> None:
        self.instructions = tuple(instructions)


class Scripted:
    """A prelude whose commands [N, 20] are planned from body poses and joint positions, as the expert's are."""

    def __init__(self, collector: Collector, seed: int, plan: Plan) -> None:
        self.collector, self.plan, self.asked_s = collector, plan, []
        self.task = sample_episode("training", seed).task

    def __call__(self, suite: TwinSuite, task: object, duration_s: float) -> None:
        self.asked_s.append(duration_s)
        world = suite.world
        commands = self.plan(self.collector, self.task, world.object_poses(), world.commanded())
        follow(world, commands)
        suite.advance_to(suite.now_ns() + round(len(commands) * STEP_S * 1e9))
        self.left = world.observe().joints.positions


def low_beside(gripper_rad: float, height_m: float = 0.035) -> Plan:
    """Hands go down 8 cm beside what they are to handle."""

    def plan(collector: Collector, task: Task, poses: Mapping[str, Floats], start: Floats) -> Floats:
        legs = {}
        for hand in task.hands:
            thing = handle_position(poses[TRAY], hand) if task.thing == TRAY else poses[task.thing][:3]
            place = np.array([thing[0] - 0.08, thing[1], TABLE_TOP_Z_M + height_m])
            here = collector.expert.arms.hand_position(hand, start)
            way = [Leg(place + [0, 0, 0.15], 1.0, gripper_rad=gripper_rad), Leg(place, 0.8, gripper_rad=gripper_rad)]
            legs[hand] = unhurried(here, way)
        return collector.expert.commands(start, legs)

    return plan


def demonstration_until(leg: int) -> Plan:
    """The task's own demonstration without its last legs."""

    def plan(collector: Collector, task: Task, poses: Mapping[str, Floats], start: Floats) -> Floats:
        legs = collector.expert.legs(task, poses, start, np.random.default_rng(0))
        return collector.expert.commands(start, {hand: own[:leg] for hand, own in legs.items()})

    return plan


def gripper_column(hand: Hand) -> int:
    return DRIVEN_JOINTS.index(GRIPPER_JOINT[hand])


@pytest.mark.parametrize("family", SEEN_FAMILIES)
def test_from_low_beside_the_object_with_a_closed_gripper_the_task_is_done(family: str, collector: Collector) -> None:
    seed, draft = FAMILIES.index(family), Rows()
    assert collector.take_over(seed, Scripted(collector, seed, low_beside(CLOSED_RAD)), draft, 1000) == "kept"
    assert draft.instructions[0] == sample_episode("training", seed).instruction


@pytest.mark.parametrize(("family", "legs"), [(PLACE, 3), (PLACE, 4), (LIFT, 3)])
def test_what_is_in_hand_is_carried_on(family: str, legs: int, collector: Collector) -> None:
    seed, draft = FAMILIES.index(family), Rows()
    prelude = Scripted(collector, seed, demonstration_until(legs))
    assert collector.take_over(seed, prelude, draft, 1000) == "kept"
    embodiment, commanded = collector.embodiment, np.array(draft.actions)
    closed = embodiment.state({joint: CLOSED_RAD for joint in DRIVEN_JOINTS})
    for hand in prelude.task.hands:
        column = CONTRACT.model.state_joints.index(GRIPPER_JOINT[hand])
        kept_closed = np.abs(commanded[:, column] - closed[column]) < 0.05
        if family == LIFT:
            assert kept_closed.all()
        else:
            opens = int(np.argmin(kept_closed))
            positions = dict(zip(CONTRACT.model.state_joints, draft.states[opens], strict=True))
            joints = np.array([positions[joint] for joint in DRIVEN_JOINTS])
            assert np.linalg.norm(collector.expert.arms.hand_position(hand, joints)[:2] - BIN_CENTRE_M) < 0.06


def test_a_demonstration_begins_where_the_prelude_left_the_robot(collector: Collector) -> None:
    seed, draft = FAMILIES.index(TOUCH), Rows()
    prelude = Scripted(collector, seed, low_beside(OPEN_RAD))
    assert collector.take_over(seed, prelude, draft, 1000) == "kept"
    left = collector.embodiment.state(dict(zip(DRIVEN_JOINTS, prelude.left, strict=True)))
    home = collector.embodiment.state(dict(zip(DRIVEN_JOINTS, collector.expert.arms.home, strict=True)))
    np.testing.assert_allclose(draft.states[0], left, atol=2e-3)
    assert np.abs(draft.states[0] - home).max() > 0.2
    width = len(CONTRACT.model.state_joints)
    assert np.abs(draft.actions[0][:width] - draft.states[0]).max() < 5e-3  # and sets out from there


def test_a_seed_names_the_time_of_the_takeover_and_the_demonstration(collector: Collector) -> None:
    seed, runs = FAMILIES.index(PUSH), []
    for _ in range(2):
        prelude, draft = Scripted(collector, seed, low_beside(0.3, 0.06)), Rows()
        assert collector.take_over(seed, prelude, draft, 1000) == "kept"
        runs.append((prelude.asked_s, np.array(draft.states), np.array(draft.actions), draft.instructions))
    for ours, theirs in zip(*runs, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    (asked_s,) = runs[0][0]
    assert 0.8 <= asked_s <= 7.0


def test_what_is_done_already_is_not_shown(collector: Collector) -> None:
    seed, draft = FAMILIES.index(TOUCH), Rows()
    how = collector.take_over(seed, Scripted(collector, seed, demonstration_until(3)), draft, 1000)
    assert (how, draft.states) == ("done", [])


def phases(collector: Collector, task: Task, poses: Mapping[str, Floats], *starts: Floats) -> list[Floats]:
    looks = iter([(poses, start) for start in starts])
    return list(take_over(collector.expert, task, lambda: next(looks), np.random.default_rng(0)))


def heights(collector: Collector, hand: Hand, commands: Floats) -> Floats:
    return np.array([collector.expert.arms.hand_position(hand, row)[2] for row in commands])


def test_a_hand_behind_the_object_pushes_on_without_rising(collector: Collector) -> None:
    arms, task, pose = collector.expert.arms, Task(PUSH, "cube", "red", "left", "left"), cube_at(0.15)
    behind = np.array([pose[0], pose[1] - side("left") * (PUSH_START_M - 0.02), PUSH_Z_M])
    start = brought(collector, "left", behind)
    (commands,) = phases(collector, task, {"cube": pose}, start)
    assert excesses(commands, collector.expert.limits).max() <= LIMIT_SHARE
    assert np.ptp(heights(collector, "left", commands)) < 0.01
    assert arms.hand_position("left", commands[-1])[1] > pose[1] + 0.06


def test_an_open_hand_over_the_object_goes_straight_down_and_a_closing_one_rises_first(collector: Collector) -> None:
    task, pose = Task(PLACE, "cube", "red", "left"), cube_at(0.2)
    over = brought(collector, "left", pose[:3] + [0.005, 0.0, 0.03])
    (commands,) = phases(collector, task, {"cube": pose}, over)
    to_the_cube = heights(collector, "left", commands)[:20]
    assert (np.diff(to_the_cube) < 1e-4).all()
    over[gripper_column("left")] = 0.3
    cleared = brought(collector, "left", np.array([*pose[:2], CLEAR_Z_M]))
    first, _ = phases(collector, task, {"cube": pose}, over, cleared)
    assert heights(collector, "left", first)[-1] == pytest.approx(CLEAR_Z_M, abs=6e-3)
    np.testing.assert_allclose(first[:, gripper_column("left")], 0.3)


def test_a_posture_that_is_none_of_inverse_kinematics_is_left_without_a_jump(collector: Collector) -> None:
    task, pose = Task(TOUCH, "cube", "red", "left"), cube_at(0.1)
    start = brought(collector, "left", np.array([0.5, 0.3, TABLE_TOP_Z_M + 0.2]))
    arm = [i for i, joint in enumerate(DRIVEN_JOINTS) if "_arm_l_" in joint]
    start[arm] += [0.1, -0.1, 0.15, 0.1, -0.2, 0.1, 0.2]
    stop = DRIVEN_JOINTS.index("idx64_arm_r_joint4")
    start[stop] = CONTRACT.site.limits["idx64_arm_r_joint4"].lower  # where the expert itself never goes
    (commands,) = phases(collector, task, {"cube": pose}, start)
    assert np.abs(commands[0] - start).max() < 5e-3
    assert excesses(commands, collector.expert.limits).max() <= LIMIT_SHARE
    np.testing.assert_allclose(commands[:, stop], start[stop])


def test_an_object_below_the_table_is_given_up(collector: Collector) -> None:
    pose = cube_at(0.1) - [0, 0, 0.5, 0, 0, 0, 0]
    with pytest.raises(ExpertError, match=r"the cube is 0\.48 m below the table's top"):
        phases(collector, Task(TOUCH, "cube", "red", "left"), {"cube": pose}, collector.expert.arms.home)


def cube_at(y: float) -> Floats:
    return np.array([0.52, y, TABLE_TOP_Z_M + 0.024, 1.0, 0, 0, 0])


def brought(collector: Collector, hand: Hand, place: Floats) -> Floats:
    """Joint positions [20] with an open hand at a place [3]."""
    arms = collector.expert.arms
    joints = arms.follow(arms.home, {hand: np.linspace(arms.hand_position(hand, arms.home), place, 60)})[-1]
    joints[gripper_column(hand)] = OPEN_RAD
    return joints


class Nobody:
    """A prelude that does nothing; every process gets a copy."""

    def __call__(self, suite: TwinSuite, task: object, duration_s: float) -> None:
        suite.advance_to(round(duration_s * 1e9))


class There:
    """A sink that has an episode."""

    picture_every = 3

    def __init__(self, *names: str) -> None:
        self.names = names

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def draft(self, name: str) -> Rows:
        raise AssertionError(f"{name} is made again")


def test_an_interrupted_collection_goes_on_under_names_of_its_own() -> None:
    (made,) = collect(CONTRACT_PATH, There(takeover_name(3)), [3], 1, Nobody())
    assert (made.seed, made.how) == (3, "there")
