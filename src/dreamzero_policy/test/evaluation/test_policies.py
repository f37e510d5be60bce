"""A session in this process: answers after the latency, and a past without injection."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dreamzero_policy.evaluation.policies import SessionPolicy, UninjectedSession
from dreamzero_policy.inference.loading import Policy, load_policy
from dreamzero_policy.inference.session import Session
from dreamzero_policy.runtime.policy import Dream, Reply, Request

STATE = np.zeros(20, np.float32)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Policy:
    return load_policy(checkpoint, threads=1)


def blocks(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 32, 32, 3), dtype=np.uint8)


def test_an_answer_becomes_available_after_the_latency_and_equals_the_sessions_own(model: Policy) -> None:
    now = [1_000]
    policy = SessionPolicy(model, lambda: now[0], latency_ns=500)
    policy.reset("touch", 1)
    frame = blocks(1)[0, :1]
    policy.submit(Request(1, frame, STATE, steps=2, seed=3, sent_monotonic_ns=0))
    assert (policy.poll(), policy.due_ns) == (None, 1_500)
    now[0] = 1_500
    reply = policy.poll()
    session = Session(model, "touch", vae_mode="stream")
    session.observe(frame)
    assert isinstance(reply, Reply)
    np.testing.assert_array_equal(reply.actions, session.predict(STATE, steps=2, seed=3).actions)
    assert policy.poll() is None


def test_a_dream_is_the_video_of_the_last_prediction(model: Policy) -> None:
    policy = SessionPolicy(model, lambda: 0, latency_ns=0)
    policy.reset("touch", 1)
    policy.submit(Request(1, blocks(1)[0, :1], STATE, steps=1, seed=3, sent_monotonic_ns=0))
    assert isinstance(policy.poll(), Reply)
    policy.dream(1)
    dream = policy.poll()
    assert isinstance(dream, Dream)
    assert dream.canvas.shape == (8, 32, 32, 3)


def test_a_reset_drops_what_was_under_way(model: Policy) -> None:
    policy = SessionPolicy(model, lambda: 0, latency_ns=0)
    policy.reset("touch", 1)
    policy.submit(Request(1, blocks(1)[0, :1], STATE, steps=1, seed=3, sent_monotonic_ns=0))
    policy.reset("push", 2)
    assert policy.poll() is None


def test_without_injection_the_past_is_what_was_predicted_but_for_first_frames(model: Policy) -> None:
    session = UninjectedSession(model, "touch", vae_mode="stream")
    frames = blocks(6)
    entered = [session.observe(frames[0, :1]).latents]
    predictions, opened = [], []
    for block in frames[:5]:
        predictions.append(session.predict(STATE, steps=1))
        observation = session.observe(block)
        opened.append(observation.window_opened)
        entered.append(observation.latents)
    assert opened == [False, False, False, True, False]
    for prediction, latents, opening in zip(predictions, entered[1:], opened, strict=True):
        assert torch.equal(latents, prediction.video_latents) is not opening
    real = Session(model, "touch", vae_mode="stream")
    assert torch.equal(real.observe(frames[0, :1]).latents, entered[0])
    assert torch.equal(real.observe(frames[3, -1:]).latents, entered[4])  # the frame that opened the second window


def test_injection_makes_a_difference_to_the_next_prediction_only(model: Policy) -> None:
    actions = []
    for make in (Session, UninjectedSession):
        session = make(model, "touch", vae_mode="stream")
        session.observe(blocks(1)[0, :1])
        first = session.predict(STATE, steps=1).actions
        session.observe(blocks(1)[0])
        actions.append((first, session.predict(STATE, steps=1).actions))
    np.testing.assert_array_equal(actions[0][0], actions[1][0])
    assert np.abs(actions[0][1] - actions[1][1]).max() > 0
