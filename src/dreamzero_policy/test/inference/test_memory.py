"""The laws of branching: what a session remembers depends on what it saw, and on nothing else it did."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamzero_policy.inference.session import Session

STATE = np.linspace(-1, 1, 20, dtype=np.float32)
PROMPT = "push the red cube"
MODES = st.fixed_dictionaries(
    {
        "cfg_scale": st.sampled_from([1.0, 2.0]),
        "window_mode": st.sampled_from(["reset", "rolling"]),
        "vae_mode": st.sampled_from(["stream", "release"]),
    }
)


def session_that_saw(policy, history: list[np.ndarray], **options) -> Session:
    session = Session(policy, PROMPT, steps=1, **options)
    for frames in history:
        session.observe(frames)
    return session


def memory(session: Session) -> list:
    """Everything that later results depend on, as tensors and numbers."""
    m = session._memory
    if m.window is None:
        return [m.prompt, m.chunk_index, m.frames_observed, m.window_index]
    cache, stream = m.window.cache, m.window.stream
    features = [x for x in stream.features if isinstance(x, torch.Tensor)]
    image = [tensor for pair in m.window.image for tensor in pair]
    condition = [] if m.window.condition is None else [m.window.condition]
    past = [cache.keys[:, :, :, : cache.length], cache.values[:, :, :, : cache.length]]
    numbers = [m.prompt, m.chunk_index, m.frames_observed, m.window_index, m.window.frames, stream.frames]
    return [*numbers, *past, *features, *image, *condition, *m.window.latents]


def assert_equal_bit_for_bit(one: Session, two: Session) -> None:
    for a, b in zip(memory(one), memory(two), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    if one.window >= 0:
        assert np.array_equal(one.predict(STATE).actions, two.predict(STATE).actions)


VERBS = (
    "observe",
    "observe",
    "observe",
    "predict",
    "look_ahead",
    "decode",
    "snapshot",
    "rollback",
    "throw_away",
    "swap",
    "open",
)


@given(verbs=st.lists(st.tuples(st.sampled_from(VERBS), st.integers(0, 9)), max_size=10), options=MODES)
@settings(deadline=None, max_examples=15)
def test_whatever_was_done_in_between_only_what_was_seen_counts(policy, frames, verbs, options):
    """After any sequence of verbs a session equals a fresh one that observed what still counts, bit for bit.

    Beside the session runs its model: the list of the frames that still count.
    """
    session, history = session_that_saw(policy, [frames[0][:1]], **options), [frames[0][:1]]
    kept = [(session.snapshot(), list(history))]
    for verb, number in verbs:
        if verb in ("observe", "open"):
            seen = frames[number][:1] if verb == "open" else frames[number]
            session.observe(seen)
            history.append(seen)
        elif verb == "predict":
            session.predict(STATE, seed=number)
        elif verb == "look_ahead":
            session.look_ahead(session.predict(STATE, seed=number), STATE)
        elif verb == "decode":
            session.decode(session.predict(STATE, seed=number))
        elif verb == "snapshot":
            kept.append((session.snapshot(), list(history)))
        elif verb == "rollback":
            snapshot, then = kept[number % len(kept)]
            session.rollback(snapshot)
            history = list(then)
        else:  # a fork lives on; either it is thrown away, or the session it came from is
            other = session.fork()
            if verb == "swap":
                session, other = other, session
            for block in frames[: number % 3]:
                other.observe(block)
                other.predict(STATE)
    assert_equal_bit_for_bit(session, session_that_saw(policy, history, **options))
    for snapshot, then in kept[-2:]:
        session.rollback(snapshot)
        assert_equal_bit_for_bit(session, session_that_saw(policy, then, **options))


@given(turns=st.lists(st.booleans(), min_size=2, max_size=8), options=st.tuples(MODES, MODES), related=st.booleans())
@settings(deadline=None, max_examples=8)
def test_two_interleaved_sessions_are_two_serial_ones(policy, frames, turns, options, related):
    """Of one policy, with any options; also when the second is a fork of the first."""
    options = (options[0], options[0] if related else options[1])
    histories = [[frames[0][:1], frames[9]], [frames[0][:1], frames[9]]]
    first = session_that_saw(policy, histories[0], **options[0])
    second = first.fork() if related else session_that_saw(policy, histories[1], **options[1])
    for turn, block in zip(turns, frames, strict=False):
        (first, second)[turn].observe(block)
        (first, second)[turn].predict(STATE)
        histories[turn].append(block)
    assert_equal_bit_for_bit(first, session_that_saw(policy, histories[0], **options[0]))
    assert_equal_bit_for_bit(second, session_that_saw(policy, histories[1], **options[1]))


def test_a_fork_advanced_and_thrown_away_leaves_the_next_prediction_as_it_was(policy, frames):
    session = session_that_saw(policy, [frames[0][:1], frames[1]])
    expected = session_that_saw(policy, [frames[0][:1], frames[1]]).predict(STATE)
    fork = session.fork()
    for block in frames[2:6]:
        fork.observe(block)
        fork.decode(fork.predict(STATE))
    fork.reset("another task")
    actual = session.predict(STATE)
    assert np.array_equal(actual.actions, expected.actions)
    assert torch.equal(actual.video_latents, expected.video_latents)


def test_a_fork_copies_nothing_until_both_have_observed(policy, frames):
    session = session_that_saw(policy, [frames[0][:1], frames[1]])

    def address(session: Session) -> int:
        return session._memory.window.cache.keys.data_ptr()

    fork, snapshot = session.fork(), session.snapshot()
    session.predict(STATE)
    fork.predict(STATE)
    assert address(session) == address(fork) == snapshot.memory.window.cache.keys.data_ptr()
    before = address(session)
    session.observe(frames[2])
    assert address(session) == address(fork) == before
    fork.observe(frames[3])
    assert address(session) == before != address(fork)
    session.observe(frames[4])
    assert address(session) == before


def broken(owner: object, verb: str, monkeypatch) -> None:
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(owner, verb, fail)


@pytest.mark.parametrize(("blocks", "window_mode"), [(2, "reset"), (3, "rolling")], ids=["room left", "rolling"])
@pytest.mark.parametrize("part", ["autoencoder", "transformer"])
def test_a_block_that_could_not_be_taken_in_can_be_given_again(policy, frames, blocks, window_mode, part, monkeypatch):
    history = [frames[0][:1], *frames[1 : 1 + blocks]]
    session = session_that_saw(policy, history, window_mode=window_mode)
    with monkeypatch.context() as fault:
        owner = policy.autoencoder.network.quant_conv if part == "autoencoder" else policy.transformer
        broken(owner, "forward" if part == "autoencoder" else "observe", fault)
        with pytest.raises(RuntimeError, match="out of memory"):
            session.observe(frames[9])
    session.observe(frames[9])
    assert_equal_bit_for_bit(session, session_that_saw(policy, [*history, frames[9]], window_mode=window_mode))


def test_a_window_that_could_not_be_opened_is_none(policy, frames, monkeypatch):
    session = session_that_saw(policy, [frames[0][:1]])
    with monkeypatch.context() as fault:
        broken(policy.transformer, "observe", fault)
        with pytest.raises(RuntimeError, match="out of memory"):
            session.observe(frames[1][:1])
    with pytest.raises(ValueError, match="nothing was observed yet"):
        session.predict(STATE)
    session.observe(frames[1][:1])
    assert np.array_equal(
        session.predict(STATE).actions, session_that_saw(policy, [frames[1][:1]]).predict(STATE).actions
    )


def test_a_rolled_back_session_previews_what_it_saw_not_what_it_forgot(policy, frames):
    session = session_that_saw(policy, [frames[0][:1], frames[1]])
    snapshot = session.snapshot()
    session.observe(frames[2])
    session.decode(session.predict(STATE))
    session.rollback(snapshot)
    session.observe(frames[3])
    expected = session_that_saw(policy, [frames[0][:1], frames[1], frames[3]])
    preview = session.decode(session.predict(STATE))
    difference = preview.astype(int) - expected.decode(expected.predict(STATE))
    assert np.abs(difference).max() <= 1  # one grey level: kernels round differently by the length of a clip


def test_a_rollback_makes_chunks_predicted_meanwhile_outdated(policy, frames):
    session = session_that_saw(policy, [frames[0][:1]])
    snapshot = session.snapshot()
    before = session.predict(STATE)
    session.rollback(snapshot)
    assert session.epoch == before.epoch + 1
    assert np.array_equal(session.predict(STATE).actions, before.actions)


def test_a_rollback_brings_back_the_prompt_too(policy, frames):
    session = session_that_saw(policy, [frames[0][:1]])
    snapshot, expected = session.snapshot(), session.predict(STATE)
    session.reset("lift the blue ball")
    session.observe(frames[1][:1])
    session.rollback(snapshot)
    assert session.prompt == PROMPT
    assert np.array_equal(session.predict(STATE).actions, expected.actions)


def test_a_fork_may_become_the_session(policy, frames):
    session = session_that_saw(policy, [frames[0][:1]])
    fork = session.fork()
    fork.observe(frames[1])
    session.rollback(fork.snapshot())
    assert_equal_bit_for_bit(session, session_that_saw(policy, [frames[0][:1], frames[1]]))


def test_a_snapshot_of_another_session_is_refused(policy, frames):
    one, two = (session_that_saw(policy, [frames[0][:1]]) for _ in range(2))
    with pytest.raises(ValueError, match="this snapshot is of another session"):
        one.rollback(two.snapshot())
