"""Sinks: a demonstration goes in step by step and comes out as the episode that training reads."""

import tracemalloc

import numpy as np
import pytest

from dreamzero_policy.data.dataset import open_dataset
from dreamzero_policy.data.lerobot.statistics import PixelCounts, of_rows
from dreamzero_policy.data.lerobot.writer import LeRobotWriter
from dreamzero_policy.data.sinks import LeRobotSink, ViewsSink
from dreamzero_policy.runtime.embodiment import without_statistics

STEPS = 30


def fill(sink, contract, name="episode_7"):
    """Write a short episode of moving pictures; returns state, action and the pictures by step."""
    model, rng = contract.model, np.random.default_rng(0)
    state = rng.normal(size=(STEPS, len(model.state_joints)))
    action = rng.normal(size=(STEPS, model.action_width))
    pictures = {}
    with sink.draft(name) as draft:
        for step in range(STEPS):
            images = {}
            if step % sink.picture_every == 0:
                images = {
                    camera: np.full((240, 320, 3), 40 + step + 20 * i, np.uint8)
                    for i, camera in enumerate(model.cameras)
                }
                pictures[step] = images
            draft.add(state[step], action[step], images)
        draft.finish(["touch the cube", "reach for the cube"])
    return state, action, pictures


@pytest.mark.parametrize("form", ["lerobot", "views"])
def test_what_goes_into_a_sink_comes_out_of_the_data_set(form, contract, tmp_path):
    if form == "lerobot":
        with LeRobotWriter(tmp_path, contract) as writer:
            state, action, pictures = fill(LeRobotSink.of(writer), contract)
    else:
        state, action, pictures = fill(ViewsSink(tmp_path, contract), contract)
    episode = open_dataset(tmp_path, contract).episode("episode_7")
    assert episode.phrasings == ("touch the cube", "reach for the cube")
    np.testing.assert_allclose(episode.state, state, atol=1e-6)
    np.testing.assert_allclose(episode.action, action, atol=1e-6)
    assert episode.view_steps.tolist() == list(range(0, STEPS, 3))
    canvas = without_statistics(contract).picture(pictures[27])
    loss = 4 if form == "lerobot" else 0  # H.264 loses a little
    assert np.abs(episode.canvas[9].astype(int) - canvas).max() <= loss


@pytest.mark.parametrize("form", ["lerobot", "views"])
def test_a_sink_knows_what_it_has_and_a_draft_that_is_left_leaves_nothing(form, contract, tmp_path):
    with LeRobotWriter(tmp_path, contract) as writer:
        sink = LeRobotSink.of(writer) if form == "lerobot" else ViewsSink(tmp_path, contract)
        with sink.draft("episode_8") as draft:
            images = {camera: np.zeros((240, 320, 3), np.uint8) for camera in contract.model.cameras}
            draft.add(np.zeros(len(contract.model.state_joints)), np.zeros(contract.model.action_width), images)
        assert "episode_8" not in sink
        fill(sink, contract, "episode_9")
        assert "episode_9" in sink
    if form == "lerobot":
        assert "episode_9" in LeRobotSink.of(LeRobotWriter(tmp_path, contract))


def test_pixels_are_counted_into_the_statistics_of_all_of_them():
    rng = np.random.default_rng(0)
    images = [rng.integers(10 * i, 20 + 60 * i, (48, 64, 3), dtype=np.uint8) for i in range(4)]
    counts = PixelCounts()
    for image in images:
        counts.add(image)
    table, plain = counts.table(), of_rows(np.concatenate([image.reshape(-1, 3) for image in images]) / 255)
    assert table["count"] == [4] and set(table) == set(plain)
    for name in set(plain) - {"count"}:
        np.testing.assert_allclose(np.ravel(table[name]), plain[name], atol=1e-12)


def test_an_episode_under_construction_is_not_held_in_memory(tmp_path, contract):
    model, rng = contract.model, np.random.default_rng(0)
    images = {camera: rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for camera in model.cameras}
    state, action = np.ones(len(model.state_joints)), np.ones(model.action_width)
    tracemalloc.start()
    with LeRobotSink(tmp_path, contract, frozenset()).draft("long") as draft:
        held = []
        for step in range(1200):
            draft.add(state * step, action, images)
            if step in (199, 1199):
                held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[1] - held[0] < 100_000  # the numbers alone would be 350 kB, pictures for statistics 5 MB
