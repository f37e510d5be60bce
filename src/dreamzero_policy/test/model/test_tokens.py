"""Two integers per token decide who sees whom and where it sits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamzero_policy.model.tokens import ACTION, CLEAN, NOISY, STATE, TokenLayout, rotate, visibility

CPU = torch.device("cpu")
LAYOUT = TokenLayout(frames_per_chunk=2, actions_per_chunk=3, head_dim=16)


def test_the_training_mask_of_one_chunk_is_this():
    """One token a frame: clean 0 1 2, noisy 0 1 2, three actions, one state."""
    tokens = LAYOUT.window(frames=3, rows=1, columns=1, device=CPU)
    mask = visibility(tokens, tokens, "training").int().tolist()
    clean, generated = [1, 1, 1, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert mask == [
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],  # clean frame 0 sees itself
        clean,  # clean chunk 1 sees the clean past and itself
        clean,
        [0, 0, 0, 1, 0, 0, 0, 0, 0, 0],  # noisy frame 0 sees itself
        generated,  # noisy chunk 1 sees the clean past and all of its own chunk
        generated,
        generated,  # and so do its actions
        generated,
        generated,
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 1],  # the state sees itself
    ]
    assert visibility(tokens, tokens, "release")[-1].int().tolist() == generated


def test_an_unknown_state_attention_is_refused():
    tokens = LAYOUT.window(3, 1, 1, CPU)
    with pytest.raises(ValueError, match="'both', expected 'release' or 'training'"):
        visibility(tokens, tokens, "both")


@given(
    frames_per_chunk=st.integers(1, 3),
    actions=st.integers(1, 4),
    chunks=st.integers(1, 4),
    state_attention=st.sampled_from(["release", "training"]),
)
@settings(deadline=None, max_examples=30)
def test_nothing_sees_the_future_and_what_is_generated_sees_no_noise_of_the_past(
    frames_per_chunk, actions, chunks, state_attention
):
    layout = TokenLayout(frames_per_chunk, actions, 16)
    tokens = layout.window(1 + frames_per_chunk * chunks, 1, 2, CPU)
    mask = visibility(tokens, tokens, state_attention)
    for query, key in mask.nonzero().tolist():
        assert tokens.chunk[key] <= tokens.chunk[query]
        if tokens.stream[key] != CLEAN:
            assert tokens.chunk[key] == tokens.chunk[query]
            assert tokens.stream[query] != CLEAN
    assert mask.any(1).all()


@given(chunk=st.integers(1, 4), frames_per_chunk=st.integers(1, 3), actions=st.integers(1, 4), rows=st.integers(1, 2))
@settings(deadline=None, max_examples=30)
def test_a_chunk_at_inference_has_the_places_it_had_in_training(chunk, frames_per_chunk, actions, rows):
    layout = TokenLayout(frames_per_chunk, actions, 16)
    window = layout.window(1 + 4 * frames_per_chunk, rows, 2, CPU)
    alone = layout.chunk(1 + (chunk - 1) * frames_per_chunk, frames_per_chunk, rows, 2, CPU)
    same = (window.chunk == chunk) & (window.stream != CLEAN)
    assert torch.equal(window.stream[same], alone.stream)
    assert torch.equal(window.phase[same], alone.phase)


def test_positions_run_over_the_window():
    video = LAYOUT.video(NOISY, first_frame=3, frames=2, rows=1, columns=1, device=CPU)
    assert video.chunk.tolist() == [2, 2]
    assert video.stream.tolist() == [NOISY, NOISY]
    actions, states = LAYOUT.actions(2, 1, CPU), LAYOUT.states(2, 1, CPU)
    assert (actions.stream.tolist(), states.stream.tolist()) == ([ACTION] * 3, [STATE])
    # the slowest-turning pair but one tells positions apart; the first pair turns by one radian per position
    turned = actions.phase[:, 0].angle().double() % (2 * torch.pi)
    assert torch.allclose(turned, torch.tensor([3.0, 4.0, 5.0], dtype=torch.float64), atol=1e-5)
    assert states.phase[0, 0].angle().item() == pytest.approx(1.0)


def test_rotation_keeps_lengths_and_depends_on_the_distance_only():
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)
    phase = LAYOUT.actions(1, 8, CPU).phase

    def score(i: int, j: int) -> float:
        return (rotate(query, phase[i : i + 1]) * rotate(key, phase[j : j + 1])).sum().item()

    assert rotate(query, phase[5:6]).norm().item() == pytest.approx(query.norm().item(), rel=1e-6)
    assert score(2, 0) == pytest.approx(score(20, 18), abs=1e-5)
