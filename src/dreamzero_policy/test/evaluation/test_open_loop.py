"""Open-loop errors: known values, the right alignment, and nothing that was given."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamzero_policy.data.episodes import Episode, load_episode
from dreamzero_policy.data.windows import frame_steps
from dreamzero_policy.evaluation import open_loop
from dreamzero_policy.evaluation.open_loop import Errors, Recorded, measure, psnr, ssim, summed_up
from dreamzero_policy.evaluation.stage import Stage
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Embodiment, Quantiles, Statistics

GREY = np.full((16, 16, 3), 100, np.uint8)


def test_psnr_of_a_known_difference() -> None:
    assert psnr(GREY, GREY + 10) == pytest.approx(20 * np.log10(25.5))
    assert psnr(GREY, GREY) == pytest.approx(100.0)


def test_ssim_is_one_for_equal_images_and_follows_its_formula_on_plain_ones() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    assert ssim(noise, noise) == pytest.approx(1.0)
    c1 = (0.01 * 255) ** 2
    assert ssim(GREY, GREY + 50) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), abs=1e-9)
    assert ssim(noise, 255 - noise) < 0


@dataclass(frozen=True)
class Guess:
    """What `predict` gives; `decode` gives its video."""

    actions: np.ndarray
    video_latents: torch.Tensor
    video: np.ndarray


@dataclass(frozen=True)
class Taken:
    latents: torch.Tensor


class Clairvoyant:
    """Knows the episode by heart; remembers what it was given."""

    def __init__(self, embodiment: Embodiment, episode: Episode, anchor: int) -> None:
        self.embodiment, self.episode, self.step = embodiment, episode, anchor
        self.given: list[int] = []
        self.seen: list[float] = []  # mean brightness of each

    def observe(self, frames: np.ndarray) -> Taken:
        self.given.append(len(frames))
        self.seen.append(float(frames.mean()))
        self.step += 24 * (len(frames) > 1)
        return Taken(torch.zeros(1))

    def predict(self, state: np.ndarray) -> Guess:
        model, here = self.embodiment.model, slice(self.step, self.step + 24)
        rows = self.embodiment.normalised_actions(self.episode.action[here], self.episode.state[self.step])
        canvas = self.episode.canvas_at(frame_steps(model, self.step, 1)[1:])
        return Guess(np.pad(rows, ((0, 0), (0, 10))), torch.zeros(1), canvas)

    def decode(self, guess: Guess) -> np.ndarray:
        return guess.video


def test_who_knows_the_future_makes_no_error(embodiment: Embodiment, contract: Contract, demonstrations: Path) -> None:
    episode = load_episode(demonstrations / "2.npz", contract)
    state, reach = embodiment.statistics.state, np.full(contract.model.action_width, 3.0)
    wide = Embodiment(contract, Statistics(state, Quantiles(-reach, reach), ""))
    session, errors = Clairvoyant(wide, episode, 6), Errors()
    open_loop._measure_window(session, wide, episode, 6, 3, errors, video=True, injection=False)
    assert np.stack(errors.actions).shape == (3, 24, contract.model.action_width)
    assert np.stack(errors.actions).max() < 1e-6
    assert session.given == [1, 8, 8]
    assert len(errors.psnr["predicted"]) == 3 * 8
    assert errors.psnr["predicted"] == pytest.approx([100.0] * 24)
    assert errors.ssim["predicted"] == pytest.approx([1.0] * 24)
    assert max(errors.psnr["still"]) < 20


def test_of_an_attempt_with_advice_the_pictures_that_the_advice_led_to_are_compared_and_those_seen_are_given(
    embodiment: Embodiment, contract: Contract, demonstrations: Path
) -> None:
    """What was seen is grey, what the advice led to is what this session foretells."""
    episode = load_episode(demonstrations / "2.npz", contract)
    chunks, frames = 2, contract.model.chunk.frames
    led_to = [episode.canvas_at(frame_steps(contract.model, 24 * k, 1)[1:]) for k in range(chunks)]
    steps = frame_steps(contract.model, 0, chunks)
    grey = np.full((len(steps), *episode.canvas.shape[1:]), 100, np.uint8)
    attempt = replace(
        episode,
        state=episode.state[: 24 * chunks + 1],
        action=episode.action[: 24 * chunks + 1],
        canvas=grey,
        view_steps=steps,
        advised=np.array(led_to),
    )
    assert led_to[0].shape[0] == frames
    session, errors = Clairvoyant(embodiment, episode, 0), Errors()
    open_loop._measure_window(session, embodiment, attempt, 0, chunks, errors, video=True, injection=False)
    assert errors.psnr["predicted"] == pytest.approx([100.0] * chunks * frames)
    assert max(errors.psnr["still"]) < 40
    assert session.seen == pytest.approx([100.0, 100.0])


def test_a_model_is_led_through_whole_episodes(stage: Stage, contract: Contract, demonstrations: Path) -> None:
    errors = [measure(stage, Recorded("wam-1", demonstrations, name)) for name in ("1", "2")]
    assert [len(e.actions) for e in errors] == [2, 3]
    document = summed_up(contract.model, errors)
    assert (document["episodes"], document["chunks"]) == (2, 5)
    assert list(document["action_error"]) == [group.key for group in contract.model.action if group.commanded]
    arm = document["action_error"]["left_arm_joint_position"]
    assert len(arm["by_step"]) == 24
    assert arm["interval"][0] <= arm["mean"] <= arm["interval"][1]
    assert set(document["psnr"]) == {"predicted", "autoencoder", "still"}


def test_the_video_of_a_twin_that_never_learnt_any_is_not_compared(
    setup, contract: Contract, demonstrations: Path, checkpoint: Path
) -> None:
    stage = Stage(replace(setup, weights={"vla": checkpoint}))
    document = summed_up(contract.model, [measure(stage, Recorded("vla-1", demonstrations, "1"))])
    assert document["psnr"] == document["ssim"] == {}
    assert document["action_error"]


def test_without_whole_chunks_there_is_nothing_to_say(contract: Contract) -> None:
    assert summed_up(contract.model, [Errors()]) == {"episodes": 0}
