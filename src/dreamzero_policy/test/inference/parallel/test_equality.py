"""A model on several processes gives the chunks of one process, up to rounding, whatever sessions do with it."""

import gc

import numpy as np
import pytest
import torch

from dreamzero_policy.inference.loading import Policy, load_policy
from dreamzero_policy.inference.parallel.crew import Shape
from dreamzero_policy.inference.prediction import Prediction
from dreamzero_policy.inference.session import Session

SHAPES = [Shape(cfg=2), Shape(tensor=2), Shape(cfg=2, tensor=2), Shape(tensor=4)]
STATE = np.linspace(-1, 1, 5, dtype=np.float32)
BLOCKS = np.random.default_rng(0).integers(0, 256, (10, 8, 32, 32, 3), dtype=np.uint8)
ROUNDING = 2e-5  # of float32 sums in another order; actions and latents are about 1


def robots_day(policy: Policy) -> list[np.ndarray]:
    """Actions and video latents of all that can happen to a session, and of a second one beside it."""
    given: list[Prediction] = []
    session, rolling = Session(policy, "touch the ball"), Session(policy, "wave", window_mode="rolling")
    for one in (session, rolling):
        one.observe(BLOCKS[0, :1])
        given.append(one.predict(STATE))
        for block in BLOCKS[:6]:  # more than a window has
            one.observe(block)
            given.append(one.predict(STATE, seed=len(given)))
    kept, branch = session.snapshot(), session.fork()
    branch.observe(BLOCKS[6])
    session.observe(BLOCKS[7])
    given += [branch.predict(STATE), session.predict(STATE)]
    given.append(session.look_ahead(given[-1], STATE))
    session.rollback(kept)
    given.append(session.predict(STATE))
    session.observe(BLOCKS[8])
    given.append(session.predict(STATE))
    session.reset("touch the cube")
    session.observe(BLOCKS[9, :1])
    given.append(session.predict(STATE))
    return [part for one in given for part in (one.actions, one.video_latents.numpy())]


def closed_day(policy: Policy) -> list[np.ndarray]:
    given = robots_day(policy)
    gc.collect()
    return given


@pytest.fixture(scope="module")
def alone(divisible_folder) -> list[np.ndarray]:
    torch.set_num_threads(1)
    return robots_day(load_policy(divisible_folder))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_chunk_is_that_of_one_process(together, alone, shape) -> None:
    day = together(shape, closed_day)
    print(max(abs(a - b).max() for a, b in zip(day.result, alone, strict=True)))
    for here, there in zip(day.result, alone, strict=True):
        np.testing.assert_allclose(here, there, rtol=0, atol=ROUNDING)
    assert day.held == [0] * (shape.size - 1)  # nothing outlives its sessions
