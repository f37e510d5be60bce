"""Advice: the expert shows at every chunk what it would do, and whoever is at work goes on as if it had not."""

from pathlib import Path

import numpy as np
import pytest

from agibot_twin import advice as room
from agibot_twin.advice import Stumbling, advice, unhasty
from agibot_twin.advised_attempt import ADVISED_ROWS, attempt_with_advice, shown
from agibot_twin.collect import advice_name, collect
from agibot_twin.collector import Collector
from agibot_twin.commanding import follow
from agibot_twin.episodes import sample_episode
from agibot_twin.expert import CLOSED_RAD, GRIPPER_JOINT, LIMIT_SHARE, OPEN_RAD, ExpertError, excesses
from agibot_twin.objects import BIN_CENTRE_M
from agibot_twin.robot_model import DRIVEN_JOINTS
from agibot_twin.scene import TABLE_TOP_Z_M
from agibot_twin.takeover import find, on_the_way
from agibot_twin.tasks import PLACE, SEEN_FAMILIES, Task
from agibot_twin.trajectory_controller import NS_PER_S
from dreamzero_policy.data.dataset import open_dataset
from dreamzero_policy.data.sinks import ViewsSink
from dreamzero_policy.runtime.contract import load_contract

CONTRACT_PATH = Path(__file__).resolve().parents[3] / "config" / "agibot_g1.yaml"
CONTRACT = load_contract(CONTRACT_PATH)
FAMILIES = [sample_episode("training", seed).task.family for seed in range(60)]


@pytest.fixture(scope="module")
def collector():
    collector = Collector(CONTRACT)
    yield collector
    collector.world.close()


@pytest.fixture
def steady(monkeypatch):
    """An expert that does not stumble."""
    for name in ("NEAR_RAD", "FAR_SHARE", "WRONG_SHARE", "SLIP_SHARE"):
        monkeypatch.setattr(room, name, 0.0)


class Counting(ViewsSink):
    """Writes no files; counts chunks of advice."""

    def advice_draft(self, name):
        return self

    def add(self, *_):
        self.__dict__["chunks"] = self.__dict__.get("chunks", 0) + 1

    def finish(self, _):
        pass


@pytest.mark.parametrize("family", SEEN_FAMILIES)
def test_who_follows_advice_chunk_by_chunk_does_the_task(family, collector, steady, tmp_path):
    seeds = [seed for seed, other in enumerate(FAMILIES) if other == family][:3]
    for seed in seeds:
        sink = Counting(tmp_path, CONTRACT)
        assert attempt_with_advice(collector, seed, None, sink, "attempt") == 1
        assert collector.suite.outcome().success, sample_episode("training", seed)
        assert sink.chunks <= {"touch": 4, "push": 5, "place": 9, "lift": 7}[family]


def test_advice_follows_from_what_is_seen_begins_there_and_keeps_inside_the_limits(collector):
    for seed in range(6):
        episode = sample_episode("training", seed)
        collector.suite.lay_out(episode)
        poses, joints = collector.look()
        rows = advice(collector.expert, episode.task, poses, joints, 32)
        np.testing.assert_array_equal(rows, advice(collector.expert, episode.task, poses, joints, 32))
        assert np.abs(rows[0] - joints).max() < 4e-3  # one step of setting out
        assert excesses(rows, collector.expert.limits, at_rest=False).max() <= LIMIT_SHARE * 1.05


def test_the_scene_goes_on_as_if_no_advice_had_been_given(collector):
    episode, states = sample_episode("training", 3), []
    for advised in (False, True):
        collector.suite.lay_out(episode)
        for _ in range(2):
            commands = advice(collector.expert, episode.task, *collector.look(), ADVISED_ROWS)
            if advised:
                shown(collector, commands)
            follow(collector.world, commands)
            collector.suite.advance_to(collector.suite.now_ns() + NS_PER_S // 2)  # in the middle of a motion
        states.append(collector.world.scene_state().qpos)
    np.testing.assert_array_equal(*states)


def test_a_snapshot_of_another_scene_is_refused(collector):
    collector.world.lay_out(sample_episode("training", 1).layout)
    before = collector.world.snapshot()
    collector.world.lay_out(sample_episode("training", 2).layout)
    with pytest.raises(ValueError, match="another layout"):
        collector.world.restore(before)


def test_a_stumbling_expert_misses_and_is_the_same_for_the_same_seed(collector):
    episode = sample_episode("training", FAMILIES.index("touch"))
    collector.suite.lay_out(episode)
    poses, joints = collector.look()
    advised = advice(collector.expert, episode.task, poses, joints, 32)
    ends = [
        Stumbling(collector.expert, episode, np.random.default_rng(seed)).commands(advised, poses, joints)[-1]
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(ends[0], ends[1])
    assert np.abs(ends[0] - ends[2]).max() > 1e-3
    assert np.abs(ends[0] - advised[-1]).max() > 1e-3


@pytest.mark.parametrize(
    ("aside_m", "inwards_m"),
    [((0.0, 0.0), (-0.010, 0.039)), ((0.04, -0.06), (-0.018, 0.036)), ((-0.01, 0.045), (0.0, -0.005))],
)
def test_what_is_held_over_the_bin_is_let_go_there_on_the_way_to_where_it_is_dropped(aside_m, inwards_m, collector):
    task, over = Task(PLACE, "cube", "red", "left"), np.array([*BIN_CENTRE_M + np.array(aside_m), TABLE_TOP_Z_M + 0.12])
    joints = collector.expert.arms.home.copy()
    joints[DRIVEN_JOINTS.index(GRIPPER_JOINT["left"])] = OPEN_RAD * 0.6  # opening already
    found = find(collector.expert, task, {"cube": np.array([*over, 1.0, 0.0, 0.0, 0.0])}, joints)
    found.hands["left"][:] = over
    legs = on_the_way(task, collector.expert.legs(task, found.poses, joints, None), found)["left"]
    assert [leg.gripper_rad for leg in legs] == [OPEN_RAD, OPEN_RAD]
    np.testing.assert_allclose([leg.goal for leg in legs], [over + [*inwards_m, 0.0]] * 2, atol=5e-4)


@pytest.mark.parametrize(
    ("beside_m", "waits"),
    [((0.0, 0.0, 0.0), False), ((0.008, -0.004, 0.005), False), ((0.0, 0.015, 0.0), True), ((0.0, 0.0, 0.015), True)],
)
def test_a_grasp_waits_for_the_next_chunk_where_the_hand_does_not_fit_yet(beside_m, waits, collector):
    task, cube = Task(PLACE, "cube", "red", "left"), np.array([0.5, 0.2, TABLE_TOP_Z_M + 0.025, 1.0, 0.0, 0.0, 0.0])
    joints = collector.expert.arms.home.copy()
    joints[DRIVEN_JOINTS.index(GRIPPER_JOINT["left"])] = OPEN_RAD * 0.7  # it began to close already
    found = find(collector.expert, task, {"cube": cube}, joints)
    legs = collector.expert.legs(task, found.poses, joints, None)
    goal = legs["left"][1].goal
    found.hands["left"][:] = goal + beside_m
    advised = unhasty(on_the_way(task, legs, found)["left"], found, "left", chunk_s=0.8)
    if waits:
        np.testing.assert_allclose([leg.goal for leg in advised[:3]], [goal] * 3)
        assert [leg.gripper_rad for leg in advised[:3]] == [OPEN_RAD, OPEN_RAD, CLOSED_RAD]
        assert advised[1].duration_s == 0.8
    else:
        assert advised[0].gripper_rad == CLOSED_RAD, "it goes on closing where it is"


def test_what_hangs_at_the_tips_of_fingers_is_carried_on_and_what_lies_there_is_not_held(collector):
    task, joints = Task(PLACE, "cube", "red", "left"), collector.expert.arms.home.copy()
    joints[DRIVEN_JOINTS.index(GRIPPER_JOINT["left"])] = CLOSED_RAD
    for height_m, held in ((0.08, True), (0.025, False)):
        cube = np.array([0.5, 0.2, TABLE_TOP_Z_M + height_m])
        found = find(collector.expert, task, {"cube": np.array([*cube, 1.0, 0.0, 0.0, 0.0])}, joints)
        found.hands["left"][:] = cube + [0.0, 0.015, 0.04]
        assert found.holds("left", "cube") is held
        legs = on_the_way(task, collector.expert.legs(task, found.poses, joints, None), found)
        assert (legs is not None) is held
        if held:
            assert [leg.gripper_rad for leg in legs["left"]] == [CLOSED_RAD, OPEN_RAD, OPEN_RAD]


def test_an_attempt_is_one_episode_with_what_was_seen_and_what_was_advised_and_is_not_made_again(tmp_path):
    sink = ViewsSink(tmp_path, CONTRACT)
    (made,) = collect(CONTRACT_PATH, sink, [FAMILIES.index("touch")], 1, advised=True)
    dataset = open_dataset(tmp_path, CONTRACT)
    assert made.how == "kept" and dataset.names == (f"{advice_name(made.seed)}_0",)
    episode = dataset.episode(dataset.names[0])
    chunks = len(episode.advised)
    assert chunks > 1 and episode.steps == 24 * chunks + 1
    assert episode.view_steps.tolist() == list(range(0, 24 * chunks + 1, 3))
    for k in range(chunks):  # a chunk's advice begins where what was seen has led, and leads somewhere else
        arms = np.s_[24 * k, :14]
        assert np.abs(episode.action[arms] - episode.state[arms]).max() < 0.05
        happened = episode.canvas[1 + 8 * k : 9 + 8 * k]
        assert (happened != episode.advised[k]).any() == (k + 1 < chunks)
    (again,) = collect(CONTRACT_PATH, sink, [made.seed], 1, advised=True)
    assert again.how == "there"


def test_where_the_expert_knows_no_way_an_episode_ends_and_another_one_begins_behind_it(
    collector, monkeypatch, tmp_path
):
    asked = []

    def lost_at_the_second_chunk(*arguments):
        asked.append(0)
        if len(asked) == 2:
            raise ExpertError("off the table")
        return advice(*arguments)

    def prelude(suite, task, duration_s, before_chunk):
        for frames in (1, 8, 8, 8):
            before_chunk(np.zeros((frames, *CONTRACT.model.canvas_size_px, 3), np.uint8))

    monkeypatch.setattr("agibot_twin.advised_attempt.advice", lost_at_the_second_chunk)
    seed = FAMILIES.index("touch")
    assert attempt_with_advice(collector, seed, prelude, ViewsSink(tmp_path, CONTRACT), "attempt") == 2
    dataset = open_dataset(tmp_path, CONTRACT)
    assert [len(dataset.episode(name).advised) for name in dataset.names] == [1, 2]
