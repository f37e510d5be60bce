"""Splits: what training never contains, by construction."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from agibot_twin.episodes import (
    HELD_OUT_BAND_M,
    NOVELTIES,
    VERBS,
    is_held_out,
    sample_episode,
    stands_in_band,
)
from agibot_twin.objects import COLOURS, OBJECTS
from agibot_twin.phrasing import HELD_BACK, TRAINING, held_back_phrasings, plain, training_phrasings
from agibot_twin.tasks import HANDS, SEEN_FAMILIES, Task

SEEDS = range(400)
ALL_TASKS = [
    Task(family, thing.name, colour, hand, direction)
    for family, direction in VERBS
    for thing in OBJECTS
    for colour in COLOURS
    for hand in HANDS
]


@pytest.fixture(scope="module")
def episodes():
    return {split: [sample_episode(split, seed) for seed in SEEDS] for split in ("training", "seen", "unseen")}


def test_a_quarter_of_the_combinations_is_held_out_and_every_pair_of_parts_is_in_training():
    assert sum(map(is_held_out, ALL_TASKS)) == len(ALL_TASKS) // 4
    kept = [task for task in ALL_TASKS if not is_held_out(task)]
    parts = [lambda t: (t.family, t.direction), lambda t: t.thing, lambda t: t.colour, lambda t: t.hand]
    for first, second in combinations(parts, 2):
        everything = {(first(task), second(task)) for task in ALL_TASKS}
        assert {(first(task), second(task)) for task in kept} == everything


def test_training_and_the_seen_split_contain_nothing_that_is_held_out(episodes):
    for split in ("training", "seen"):
        for episode in episodes[split]:
            assert not is_held_out(episode.task)
            assert not stands_in_band(episode.layout, episode.task)
            assert episode.task.family in SEEN_FAMILIES
            held_back = set(held_back_phrasings(episode.task))
            assert not held_back & {episode.instruction, *episode.paraphrases}


def test_an_unseen_episode_is_new_in_exactly_what_it_says(episodes):
    for episode in episodes["unseen"]:
        task, novelty = episode.task, episode.novelty
        assert is_held_out(task) == (novelty == "combination")
        assert stands_in_band(episode.layout, task) == (novelty == "position")
        assert (task.family == "tap") == (novelty == "verb")
        assert (episode.instruction in held_back_phrasings(task)) == (novelty in ("phrasing", "verb"))
    assert set(Counter(episode.novelty for episode in episodes["unseen"])) == set(NOVELTIES)


def test_all_families_occur_in_every_split(episodes):
    for split, expected in (("training", SEEN_FAMILIES), ("seen", SEEN_FAMILIES), ("unseen", (*SEEN_FAMILIES, "tap"))):
        assert set(Counter(episode.task.family for episode in episodes[split])) == set(expected)


def test_splits_draw_different_scenes_from_the_same_seed(episodes):
    same = [
        np.array_equal(*(np.concatenate(list(episodes[split][seed].layout.poses.values())) for split in pair))
        for pair in (("training", "seen"), ("seen", "unseen"))
        for seed in (0, 1, 2)
        if len(episodes[pair[0]][seed].layout.poses) == len(episodes[pair[1]][seed].layout.poses)
    ]
    assert not any(same)


def test_the_band_of_held_out_positions_lies_inside_what_hands_reach():
    low, high = HELD_OUT_BAND_M
    assert 0.0 < low < high < 0.26


def test_a_seed_names_an_episode():
    first, again = sample_episode("seen", 7), sample_episode("seen", 7)
    assert (first.task, first.instruction) == (again.task, again.instruction)
    np.testing.assert_array_equal(first.layout.poses[first.task.thing], again.layout.poses[again.task.thing])


def test_no_template_is_both_trained_and_held_back():
    for family in TRAINING:
        assert not set(TRAINING[family]) & set(HELD_BACK[family])


def test_plain_words_and_handless_phrasings():
    task = Task("push", "ball", "blue", "left", "right")
    assert plain(task) == "push the blue ball to the right with the left hand"
    assert "push the blue ball to the right" in training_phrasings(task, near_side=0.2)
    assert "push the blue ball to the right" not in training_phrasings(task, near_side=-0.2)
