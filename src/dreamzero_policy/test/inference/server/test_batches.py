"""Chunks of several sessions denoised in one batch are those denoised each for itself, up to rounding."""

import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamzero_policy.inference.denoising import denoise_together
from dreamzero_policy.inference.loading import Policy
from dreamzero_policy.inference.protocol import messages
from dreamzero_policy.inference.server.capacity import Account
from dreamzero_policy.inference.session import Session
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.policy import ActionPrefix

from .robots import robot

BLOCKS = np.random.default_rng(3).integers(0, 256, (4, 8, 32, 32, 3), np.uint8)
TOLERANCE = 1e-4  # of normalised actions and latents, in float32


@pytest.mark.parametrize("cfg_scale", [1.0, 3.0])
@pytest.mark.parametrize("image_condition", [True, False])
def test_a_batch_gives_the_chunks_of_each_session_alone(
    policy: Policy, policy_without_image_condition: Policy, cfg_scale: float, image_condition: bool
) -> None:
    model = policy if image_condition else policy_without_image_condition
    chunks, alone = [], []
    for number in range(3):
        session = Session(model, f"prompt {number}", cfg_scale=cfg_scale)
        session.observe(BLOCKS[number, :1])
        session.observe(BLOCKS[number])
        state = np.linspace(-1, number, 5).astype(np.float32)
        chunks.append(session.denoising(state, seed=number))
        alone.append(session.predict(state, seed=number))
    assert len({chunk.company for chunk in chunks}) == 1
    with torch.inference_mode():
        together = denoise_together(model.transformer, chunks)
    for sample, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(sample.action[0].numpy(), expected.actions, atol=TOLERANCE)
        np.testing.assert_allclose(sample.video[0].numpy(), expected.video_latents.numpy(), atol=TOLERANCE)
        assert sample.evaluations == expected.evaluations
    assert not np.allclose(together[0].action, together[1].action, atol=10 * TOLERANCE)


def test_chunks_that_differ_in_more_than_their_content_go_alone(policy: Policy) -> None:
    session = Session(policy, "touch")
    session.observe(BLOCKS[0, :1])
    state = np.zeros(5, np.float32)
    one = session.denoising(state)
    assert session.denoising(state, steps=3).company != one.company
    assert replace(one, first_frame=3).company != one.company
    held = ActionPrefix(np.zeros((1, 1), np.float32), np.array([0]))
    assert session.denoising(state, prefix=held).company is None
    assert replace(one, evaluations="dynamic").company is None


def test_a_server_denoises_together_those_that_wait_and_every_robot_gets_its_own(
    start, arm_contract: Contract, arm_policy: Policy
) -> None:
    served = start(batch=4)
    robots = [robot(served.address) for _ in range(3)]
    clients = [context.__enter__() for context in robots]
    try:
        expected = []
        for number, client in enumerate(clients):
            client.open(arm_contract.hash, prompt=f"prompt {number}")
            client.observe(0, BLOCKS[number, :1])
            expected.append(client.predict(0, np.full(8, number / 4, np.float32)).actions)  # alone: nobody waits
        blocking = served.service.turns.take(Account(1.0, 1.0), lambda: time.sleep(2.0))
        asyncio.run_coroutine_threadsafe(blocking, served.loop)
        time.sleep(0.3)
        for number, client in enumerate(clients):
            state = np.full(8, number / 4, np.float32)
            client.send(messages.Predict, block=0, state=state, steps=2, seed=5)
        together = [client.hear() for client in clients]
        for chunk, alone in zip(together, expected, strict=True):
            np.testing.assert_allclose(chunk.actions, alone, atol=TOLERANCE)
            assert chunk.timings_s["queue"] > 0.5
        assert served.service.measures.registry.get_sample_value("dreamzero_batch_chunks_count") >= 1
    finally:
        for context in robots:
            context.__exit__(None, None, None)
