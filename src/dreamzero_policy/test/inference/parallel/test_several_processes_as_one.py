"""A model on several processes gives the chunks of one process, up to rounding, whatever sessions do with it."""

import gc
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamzero_policy.inference.loading import Policy, load_policy
from dreamzero_policy.inference.parallel.crew import Shape, StartError, own_device
from dreamzero_policy.inference.parallel.loading import LeadingPolicy
from dreamzero_policy.inference.parallel.tensor_split import cut_axis, part_of
from dreamzero_policy.inference.prediction import Prediction
from dreamzero_policy.inference.session import Session
from dreamzero_policy.model.config import ConfigError, ModelConfig
from dreamzero_policy.model.skeleton import build_skeletons
from dreamzero_policy.model.transformer import Context

SHAPES = [Shape(cfg=2), Shape(tensor=2), Shape(cfg=2, tensor=2), Shape(tensor=4)]
STATE = np.linspace(-1, 1, 5, dtype=np.float32)
BLOCKS = np.random.default_rng(0).integers(0, 256, (10, 8, 32, 32, 3), dtype=np.uint8)
VARIANTS = Path(__file__).parents[5] / "config" / "models"
ROUNDING = 1e-5  # of float32 sums in another order; entries are about 1


def robots_day(policy: Policy) -> dict[str, np.ndarray]:
    """Actions [n, A, D] and video latents [n, C, f, h, w] of all that can happen to a session, and to one beside it."""
    given: list[Prediction] = []
    session = Session(policy, "touch the ball", window_chunks=2)
    rolling = Session(policy, "wave", window_chunks=2, window_mode="rolling")
    for one in (session, rolling):
        one.observe(BLOCKS[0, :1])
        given.append(one.predict(STATE))
        for block in BLOCKS[:3]:  # more than a window has
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
    del session, rolling, kept, branch
    gc.collect()
    return {
        "actions": np.stack([one.actions for one in given]),
        "video": np.stack([one.video_latents.float().numpy() for one in given]),
    }


@pytest.fixture(scope="module")
def alone(divisible_folder) -> dict[str, dict[str, np.ndarray]]:
    """One process's day by dtype."""
    torch.set_num_threads(1)
    return {dtype: robots_day(load_policy(divisible_folder, dtype=dtype)) for dtype in ("float32", "bfloat16")}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_chunk_is_that_of_one_process(together, alone, shape) -> None:
    day = together(shape, robots_day)
    for name, expected in alone["float32"].items():
        np.testing.assert_allclose(day.result[name], expected, rtol=0, atol=ROUNDING)
        apart = [abs(one - other).max() for one, other in itertools.pairwise(expected)]
        assert min(apart) > 10 * ROUNDING  # no chunk could be taken for the one before it
    assert day.held == [0] * (shape.size - 1)  # nothing outlives its sessions


def test_in_bfloat16_several_processes_are_as_near_to_float32_as_one(together, alone) -> None:
    day = together(Shape(cfg=2, tensor=2), robots_day, "bfloat16")
    for name, exact in alone["float32"].items():
        error, own_error = (np.linalg.norm(x - exact) for x in (day.result[name], alone["bfloat16"][name]))
        assert 0 < error < 1.5 * own_error


# ---------------------------------------------------------------- parts


def test_of_the_14b_a_fiftieth_is_in_every_process_and_no_matrix_of_a_block() -> None:
    config = ModelConfig.from_file(VARIANTS / "wan2_1_14b.yaml")
    tensors = dict(build_skeletons(config)["transformer"].named_parameters())
    whole = {name: tensor for name, tensor in tensors.items() if cut_axis(name) is None}
    assert not [name for name, tensor in whole.items() if name.startswith("blocks.") and tensor.numel() > 6 * 5120]
    assert sum(tensor.numel() for tensor in tensors.values()) == 16_484_292_448
    assert sum(tensor.numel() for tensor in whole.values()) == 333_006_688


def test_the_parts_of_a_tensor_are_the_whole() -> None:
    for key in ("blocks.1.attn2.add_k_proj.weight", "blocks.1.attn1.norm_q.weight", "blocks.1.ffn.net.2.weight"):
        tensor = torch.randn(8, 12) if "norm" not in key else torch.randn(8)
        parts = [part_of(key, tensor, rank, 4) for rank in range(4)]
        assert [part.numel() for part in parts] == [tensor.numel() // 4] * 4
        assert torch.equal(torch.cat(parts, cut_axis(key)), tensor)


def weights_of(policy: LeadingPolicy) -> tuple[int, dict[str, int], tuple[int, int]]:
    cache = policy.transformer.empty_cache(batch=2, frames=1, height=2, width=2)
    own = sum(parameter.numel() for parameter in policy.transformer.parameters())
    return own, policy.parameters, (cache.batch, cache.keys.shape[2])


def test_every_process_has_its_own_part_of_weights_and_cache_and_rank_0_knows_the_whole(
    together, divisible_folder
) -> None:
    one = load_policy(divisible_folder)
    crew = together(Shape(cfg=2, tensor=2), weights_of)
    own, parameters, cache = crew.result
    assert parameters == one.parameters
    assert crew.weights == [own] * 3
    blocks = sum(parameter.numel() for parameter in one.transformer.blocks.parameters())
    assert one.parameters["transformer"] - own == pytest.approx(blocks / 2, rel=0.03)  # but norms and modulation
    assert cache == (1, 2)  # of two branches, of four heads


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("shape", "change", "why"),
    [
        (Shape(tensor=3), {}, "transformer.num_attention_heads 4 cannot be divided among 3 processes"),
        (Shape(tensor=4), {"ffn_dim": 66}, "transformer.ffn_dim 66 cannot be divided among 4 processes"),
    ],
)
def test_what_does_not_divide_is_refused_with_both_numbers(divisible_config, shape, change, why) -> None:
    config = replace(divisible_config, transformer=replace(divisible_config.transformer, **change))
    with pytest.raises(ConfigError, match=why):
        shape.require_fit(config)


def test_branches_of_a_model_without_guidance_are_refused(divisible_config) -> None:
    config = replace(divisible_config, sampler=replace(divisible_config.sampler, cfg_scale=1.0))
    with pytest.raises(ConfigError, match=r"cfg_scale is 1: .* on 2 processes"):
        Shape(cfg=2).require_fit(config)


def test_other_processes_than_were_started_are_refused(monkeypatch) -> None:
    with pytest.raises(
        StartError, match="2 for guidance x 2 for each layer are 4 processes, 1 was started; start with"
    ):
        Shape(cfg=2, tensor=2).require_started()
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(StartError, match="are 1 processes, 4 were started"):
        Shape().require_started()
    with pytest.raises(StartError, match="2 branches, they cannot be on 3"):
        Shape(cfg=3)


def test_a_gpu_by_number_is_refused_since_every_process_takes_its_own() -> None:
    with pytest.raises(StartError, match="device cuda:1 is one for all processes; with cuda each takes its own"):
        own_device("cuda:1")
    assert own_device("cpu") == torch.device("cpu")


def ask_what_is_refused(policy: LeadingPolicy) -> list[str]:
    """What a session without guidance and a cache from elsewhere are told, and a chunk behind that."""
    said = []
    for ask in (
        lambda: Session(policy, "wave", cfg_scale=1.0),
        lambda: policy.transformer.observe(None, Context((), None), torch.zeros(1), None, first_frame=0),
    ):
        try:
            ask()
        except (ValueError, TypeError) as error:
            said.append(str(error))
    session = Session(policy, "wave")
    session.observe(BLOCKS[0, :1])
    return [*said, session.predict(STATE).actions]


def test_what_is_refused_before_it_is_said_leaves_all_processes_at_the_same_place(together, divisible_folder) -> None:
    guidance, foreign, actions = together(Shape(cfg=2), ask_what_is_refused).result
    assert guidance == "1 rows of text are not prompts and as many negative prompts, as guidance has"
    assert foreign == "tuple is not on the other processes: it was not made by this transformer"
    one = Session(load_policy(divisible_folder), "wave")
    one.observe(BLOCKS[0, :1])
    np.testing.assert_allclose(actions, one.predict(STATE).actions, rtol=0, atol=ROUNDING)
