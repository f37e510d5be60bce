"""Denoising a chunk: several robots at once, and how many steps are evaluated."""

import dataclasses
import zlib
from unittest.mock import patch

import numpy as np
import pytest
import torch

from dreamzero_policy.inference.denoising import both_branches, denoise_chunk, evaluation_rule
from dreamzero_policy.inference.session import Session
from dreamzero_policy.model.flow import SkipWhileSteady, evaluated_steps, noise
from dreamzero_policy.model.transformer import Context

STATE = np.linspace(-1, 1, 20, dtype=np.float32)


@torch.inference_mode()
def chunk_of(policy, robots: list[int], cfg_scale: float, state_attention: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Observe frame 0 and a block and denoise a chunk, for the numbered robots as the rows of one batch.

    Every robot has its own prompt, frames, image condition, state and noise.
    """
    guided, transformer = cfg_scale != 1.0, policy.transformer
    prompts = [f"task {robot}" for robot in robots]
    text = policy.text.encode([*prompts, *["bad"] * len(robots)] if guided else prompts)

    def rows(name: str, *shape: int) -> torch.Tensor:
        seeds = (zlib.crc32(f"{name} of robot {robot}".encode()) for robot in robots)
        return torch.cat([noise((1, *shape), seed, "cpu", torch.float32) for seed in seeds])

    def branches(x: torch.Tensor) -> torch.Tensor:
        return both_branches(x) if guided else x

    image = rows("image", 3, 32, 32).clamp(-1, 1)
    context = Context(transformer.encode_text(text), transformer.encode_image(branches(policy.image.encode(image))))
    latents, condition = rows("latents", 16, 3, 4, 4), rows("condition", 20, 9, 4, 4)
    cache = transformer.empty_cache(batch=len(text), frames=7, height=4, width=4)
    for first, last in ((0, 1), (1, 3)):
        transformer.observe(
            cache,
            context,
            branches(latents[:, :, first:last]),
            branches(condition[:, :, first:last]),
            first_frame=first,
        )
    video, action, *_ = denoise_chunk(
        transformer,
        cache,
        context,
        condition=condition[:, :, 3:5],
        state=rows("state", 1, 64),
        video=rows("video", 16, 2, 4, 4),
        action=rows("action", 3, 5),
        first_frame=3,
        steps=3,
        evaluated=evaluated_steps(3, 8),
        cfg_scale=cfg_scale,
        shift=5.0,
        video_final_noise=None,
        state_attention=state_attention,
    )
    return video, action


@pytest.mark.parametrize("cfg_scale", [1.0, 5.0])
@pytest.mark.parametrize("state_attention", ["release", "training"])
def test_two_robots_in_one_batch_are_two_robots_alone(policy, cfg_scale, state_attention):
    """To rounding: matrix products of another size sum in another order."""
    together = chunk_of(policy, [0, 1], cfg_scale, state_attention)
    alone = [chunk_of(policy, [robot], cfg_scale, state_attention) for robot in (0, 1)]
    for both, singles in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(both, torch.cat(singles), rtol=0, atol=2e-5)
        assert not torch.allclose(singles[0], singles[1], atol=1e-2)


def test_one_row_serves_both_branches_as_two_rows_do(policy, frames):
    """One robot's latents enter once and part inside the network; given twice, they come to the same."""
    session = Session(policy, "push", cfg_scale=5.0)
    session.observe(frames[0][:1])
    memory, window = session._memory, session._memory.window
    video, action = session._noise(3)

    def velocity(rows) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            return policy.transformer.denoise(
                window.cache,
                Context(memory.text, window.image),
                rows(video),
                rows(window.condition_of(1, 2)),
                rows(action),
                rows(session._state_token(STATE)),
                first_frame=1,
                video_time=500,
                action_time=500,
            )

    for one, two in zip(velocity(lambda x: x), velocity(both_branches), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_a_dynamic_schedule_spares_evaluations_and_counts_them(policy, frames):
    session = Session(policy, "push", evaluations="dynamic", steps=16)
    session.observe(frames[0][:1])
    with patch.object(policy.transformer, "denoise", wraps=policy.transformer.denoise) as denoise:
        prediction = session.predict(STATE)
    assert prediction.evaluations == denoise.call_count
    assert 2 <= prediction.evaluations <= 16
    again = session.predict(STATE)  # the rule starts afresh with every chunk
    assert np.array_equal(again.actions, prediction.actions)
    assert session.predict(STATE, steps=4).evaluations == 4


def test_a_fixed_number_of_evaluations_is_kept(policy, frames):
    session = Session(policy, "push", evaluations=5, steps=16)
    session.observe(frames[0][:1])
    assert session.predict(STATE).evaluations == 5


@pytest.mark.parametrize("steps", [1, 4])
def test_the_actions_arrive_while_the_video_stays_noisy(policy, frames, steps):
    """A network whose velocity is noise − data of one known chunk: the actions are that data, the video is not."""
    data = torch.randn(1, 16, 2, 4, 4), torch.randn(1, 3, 5)
    session = Session(policy, "push", video_final_noise=0.8, cfg_scale=1.0)
    session.observe(frames[0][:1])
    start = session._noise(session.seed)

    class Perfect:
        def denoise(self, *_, **__):
            return tuple(noise - x for noise, x in zip(start, data, strict=True))

    perfect = dataclasses.replace(policy, transformer=Perfect())
    session.policy = perfect
    prediction = session.predict(STATE, steps=steps)
    torch.testing.assert_close(torch.from_numpy(prediction.actions), data[1][0], rtol=0, atol=2e-3)
    expected = 0.2 * data[0] + 0.8 * start[0]
    torch.testing.assert_close(prediction.video_latents, expected[0], rtol=0, atol=2e-3)


def test_rules_are_named(policy):
    assert isinstance(evaluation_rule(16, "dynamic"), SkipWhileSteady)
    assert evaluation_rule(16, 5) == {0, 1, 2, 7, 12}
    with pytest.raises(ValueError, match="evaluations is 'few', expected a number or 'dynamic'"):
        Session(policy, "push", evaluations="few")
