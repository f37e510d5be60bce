"""Surprise: zero where the cameras saw what was expected, larger the farther off, and never felt by the chunks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamzero_policy.inference.loading import Policy
from dreamzero_policy.inference.session import Session
from dreamzero_policy.inference.sessions import Sessions
from dreamzero_policy.inference.surprise import difference
from dreamzero_policy.runtime.policy import Purpose, Request

STATE = np.linspace(-1, 1, 20, dtype=np.float32)
WINDOWS = [1, 4]  # chunks a window; with 1 every block opens the next


def sessions(policy: Policy, window_chunks: int) -> Sessions:
    def make(model: Policy, prompt: str, **options: object) -> Session:
        return Session(model, prompt, window_chunks=window_chunks, **options)

    made = Sessions(policy, make)
    made.reset("touch")
    return made


def request(canvas: np.ndarray | None, purpose: Purpose = Purpose.CHUNK, number: int = 0, **options: object) -> Request:
    return Request(0, canvas, STATE, 1, 3, 0, number, purpose, **{"followed": True, **options})


def after(policy: Policy, window_chunks: int, canvases: list[np.ndarray]) -> Sessions:
    asked = sessions(policy, window_chunks)
    for canvas in canvases:
        asked.answer(request(canvas))
    return asked


def told(asked: Sessions, latents: torch.Tensor) -> Sessions:
    """As if the newest chunk had expected these latents."""
    asked._awaited.add(0, replace(asked._given[0], expected_latents=latents))
    return asked


@pytest.mark.parametrize("window_chunks", WINDOWS)
def test_there_is_none_where_the_cameras_see_what_was_predicted(policy, frames, window_chunks) -> None:
    canvases = [frames[0, :1], *frames[1:3]]
    asked = after(policy, window_chunks, canvases)
    told(asked, asked._open[0].encoded(frames[3])[0])
    asked.answer(request(frames[3]))
    assert not asked.surprise().any()


@pytest.mark.parametrize("window_chunks", WINDOWS)
def test_it_rises_with_the_distance_to_what_was_predicted(policy, frames, window_chunks) -> None:
    found, off = [], torch.randn(16, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    for size in (0.5, 1.0, 2.0):
        asked = after(policy, window_chunks, [frames[0, :1]])
        told(asked, asked._open[0].encoded(frames[1])[0] + size * off)
        asked.answer(request(frames[1]))
        found.append(asked.surprise())
    for size, cells in zip((0.5, 1.0, 2.0), found, strict=True):
        np.testing.assert_allclose(cells, size**2 * off.square().mean(0), rtol=1e-4)


def test_it_lies_in_the_cells_that_are_not_as_expected(policy, frames) -> None:
    asked = after(policy, 4, [frames[0, :1]])
    latents = asked._open[0].encoded(frames[1])[0].clone()
    latents[:, 1, 2, 3] += 3.0
    told(asked, latents)
    asked.answer(request(frames[1]))
    cells = asked.surprise()
    assert cells[1, 2, 3] == pytest.approx(9.0, rel=1e-4) and np.count_nonzero(cells) == 1


def test_expected_is_the_mean_that_the_first_velocity_leads_to_and_not_the_sample(policy, frames) -> None:
    session = Session(policy, "touch", vae_mode="stream")
    session.observe(frames[0, :1])
    one, four = (session.predict(STATE, steps=steps, seed=3) for steps in (1, 4))
    torch.testing.assert_close(one.expected_latents, one.video_latents, rtol=0, atol=1e-5)
    assert torch.equal(four.expected_latents, one.expected_latents)
    assert not torch.allclose(four.video_latents, four.expected_latents, atol=1e-3)


def test_a_block_surprises_as_much_whether_it_opens_a_window_or_continues_one(policy, frames) -> None:
    found = []
    for window_chunks in WINDOWS:
        asked = after(policy, window_chunks, [frames[0, :1]])
        asked.answer(request(frames[1]))
        found.append(asked.surprise())
    np.testing.assert_array_equal(*found)
    assert (found[0] > 0).all()


def test_it_is_the_distance_of_the_chunk_in_question_over_the_end_of_a_window(policy, frames) -> None:
    asked, alone = sessions(policy, 2), Session(policy, "touch", vae_mode="stream", window_chunks=2)
    asked.answer(request(frames[0, :1]))
    alone.observe(frames[0, :1])
    for block in frames[1:6]:
        prediction, seen = alone.predict(STATE, steps=1, seed=3), alone.encoded(block)[0]
        alone.observe(block)
        asked.answer(request(block))
        np.testing.assert_array_equal(asked.surprise(), difference(prediction.expected_latents, seen))
        assert asked.surprise() is None  # told once


def test_looking_ahead_each_block_is_compared_with_the_chunk_that_was_about_it(policy, frames) -> None:
    asked, alone = sessions(policy, 4), Session(policy, "touch", vae_mode="stream")
    asked.answer(request(frames[0, :1]))
    asked.answer(request(None, Purpose.LOOK_AHEAD))
    alone.observe(frames[0, :1])
    expected = [alone.predict(STATE, steps=1, seed=3)]
    expected.append(alone.look_ahead(expected[0], STATE, steps=1, seed=3))
    for block in frames[1:6]:
        asked.answer(request(block, Purpose.LOOK_AHEAD))
        seen = alone.encoded(block)[0]
        alone.observe(block)
        expected.append(alone.look_ahead(expected[-1], STATE, steps=1, seed=3))
        np.testing.assert_array_equal(asked.surprise(), difference(expected.pop(0).expected_latents, seen))


@pytest.mark.parametrize("window_chunks", WINDOWS)
def test_chunks_are_the_same_to_the_last_bit_whether_it_is_asked_for_or_not(policy, frames, window_chunks) -> None:
    given = {True: [], False: []}
    for followed, chunks in given.items():
        asked = sessions(policy, window_chunks)
        for canvas in (frames[0, :1], *frames[1:8]):
            chunks.append(asked.answer(request(canvas, followed=followed)).actions)
            assert (asked.surprise() is not None) == (followed and len(canvas) > 1)
    np.testing.assert_array_equal(given[True], given[False])


def test_there_is_nothing_to_compare_behind_a_reset_nor_for_a_chunk_that_was_not_followed(policy, frames) -> None:
    asked = after(policy, 4, [frames[0, :1]])
    asked.answer(request(frames[1], followed=False))
    assert asked.surprise() is None
    asked.answer(request(frames[2]))
    asked.reset("touch")
    assert asked.surprise() is None
    asked.answer(request(frames[0, :1]))
    assert asked.surprise() is None
    asked.answer(request(frames[1]))
    assert (asked.surprise() > 0).all()


def test_two_sessions_are_compared_each_with_its_own_chunks(policy, frames) -> None:
    both, found = sessions(policy, 4), {0: [], 1: []}
    for number in (0, 1):
        both.answer(request(frames[5 * number, :1], number=number))
    for step in (1, 2):
        for number in (0, 1):
            both.answer(request(frames[5 * number + step], number=number))
            found[number].append(both.surprise())
    for number in (0, 1):
        alone = after(policy, 4, [frames[5 * number, :1]])
        for step in (1, 2):
            alone.answer(request(frames[5 * number + step]))
            np.testing.assert_array_equal(alone.surprise(), found[number][step - 1])
