"""Every fast path against the plain one."""

import copy
import importlib.util
import socket

import pytest
import torch
from torch import nn

from dreamzero_policy.inference.acceleration import Acceleration
from dreamzero_policy.inference.compilation import compile_blocks, restore_blocks
from dreamzero_policy.inference.cuda_graphs import GraphedDenoising, graph_denoising
from dreamzero_policy.inference.parallel.guidance import split_guidance
from dreamzero_policy.inference.quantisation import is_quantised, quantise
from dreamzero_policy.inference.session import Session


class Window:
    """Random inputs of one window, and the two verbs on them."""

    def __init__(self, policy, rows: int = 1, seed: int = 0) -> None:
        config, self.transformer = policy.config, policy.transformer
        generator = torch.Generator().manual_seed(seed)
        channels, geometry = config.autoencoder.latent_channels, config.geometry
        size = (config.latent_height, config.latent_width)
        randn = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
        self.latents, self.noisy = randn(1, channels, 9, *size), randn(1, channels, 2, *size)
        self.condition = randn(1, 4 + channels, 9, *size)
        self.action = randn(1, geometry.actions_per_chunk, geometry.max_action_dim)
        self.state = randn(1, 1, geometry.max_state_dim)
        self.text = randn(rows, config.text_encoder.text_length, config.text_encoder.dim)
        self.image = randn(1, config.image_encoder.tokens, config.image_encoder.dim)
        self.size = size

    def context(self, transformer):
        return transformer.context(self.text, self.image)

    def cache(self, transformer, context, frames: int):
        """The first ``frames`` latent frames observed."""
        height, width = self.size
        cache = transformer.empty_cache(batch=len(self.text), frames=9, height=height, width=width)
        for first, last in [(0, 1), *((i, i + 2) for i in range(1, frames, 2))]:
            transformer.observe(
                cache, context, self.latents[:, :, first:last], self.condition[:, :, first:last], first_frame=first
            )
        return cache

    def denoise(self, transformer, cache, context, frames: int, video_time=700.0, action_time=700.0):
        velocities = transformer.denoise(
            cache,
            context,
            self.noisy,
            self.condition[:, :, frames : frames + 2],
            self.action,
            self.state,
            first_frame=frames,
            video_time=video_time,
            action_time=action_time,
        )
        return torch.cat([velocity.flatten(1) for velocity in velocities], dim=1)

    @torch.inference_mode()
    def run(self, transformer, frames: int, **times: float) -> torch.Tensor:
        context = self.context(transformer)
        return self.denoise(transformer, self.cache(transformer, context, frames), context, frames, **times)


@pytest.fixture
def transformer(policy):
    return copy.deepcopy(policy.transformer)


# ---------------------------------------------------------------- torch.compile


def test_no_length_of_the_past_compiles_again(policy, transformer):
    """`aot_eager` traces and guards as inductor does, without generating code."""
    window = Window(policy)
    plain = {frames: window.run(transformer, frames) for frames in (1, 3, 5, 7)}
    torch._dynamo.reset()
    compile_blocks(transformer, backend="aot_eager")
    window.run(transformer, 3)  # first frame, block and chunk: all the shapes there are
    with torch.compiler.set_stance("fail_on_recompile"):
        for frames, expected in plain.items():
            torch.testing.assert_close(window.run(transformer, frames), expected, rtol=0, atol=2e-6)


def test_generated_code_gives_the_same_numbers_and_can_be_taken_back(policy, transformer):
    window = Window(policy)
    with torch.inference_mode():
        context = window.context(transformer)
        cache = window.cache(transformer, context, 3)
        plain = window.denoise(transformer, cache, context, 3)
        torch._dynamo.reset()
        compile_blocks(transformer)
        compiled = window.denoise(transformer, cache, context, 3)
        restore_blocks(transformer)
        again = window.denoise(transformer, cache, context, 3)
    torch.testing.assert_close(compiled, plain, rtol=0, atol=5e-6)
    assert not torch.equal(compiled, plain)  # other code did run
    assert torch.equal(again, plain)


# ---------------------------------------------------------------- graphs


class Repeats:
    """A graph as far as memory goes: repeats the captured call on what its buffers hold then, into the same outputs."""

    def __init__(self) -> None:
        self.captured = 0

    def capture(self, run):
        self.captured += 1
        outputs = [tensor.clone() for tensor in run()]

        def replay():
            for output, result in zip(outputs, run(), strict=True):
                output.copy_(result)
            return tuple(outputs)

        return replay


@torch.inference_mode()
def test_a_replayed_call_reads_new_inputs_from_the_old_buffers(policy, transformer):
    one, other = Window(policy), Window(policy, seed=1)
    times = [{"video_time": time, "action_time": time} for time in (700.0, 200.0)]
    expected = [window.run(transformer, 3, **time) for window in (one, other) for time in times]
    backend = Repeats()
    graph_denoising(transformer, backend)
    contexts = [window.context(transformer) for window in (one, other)]
    cache = one.cache(transformer, contexts[0], 3)
    results = []
    for window, context in zip((one, other), contexts, strict=True):
        filled = window.cache(transformer, context, 3)
        cache.keys.copy_(filled.keys)  # another past in the same memory, as after a reset
        cache.values.copy_(filled.values)
        results += [window.denoise(transformer, cache, context, 3, **time) for time in times]
    for result, plain in zip(results, expected, strict=True):
        assert torch.equal(result, plain)
    assert backend.captured == 1


@torch.inference_mode()
def test_every_length_memory_and_kind_of_times_has_its_graph_and_the_oldest_goes(policy, transformer):
    window, backend = Window(policy), Repeats()
    plain = {frames: window.run(transformer, frames) for frames in (1, 3)}
    context = window.context(transformer)
    caches = {frames: window.cache(transformer, context, frames) for frames in (1, 3)}
    transformer.denoise = GraphedDenoising(transformer.denoise, backend, most_graphs=2)
    for frames in (1, 3, 1, 3):
        assert torch.equal(window.denoise(transformer, caches[frames], context, frames), plain[frames])
    assert backend.captured == 2
    window.denoise(transformer, caches[3].clone(), context, 3)  # other memory; the graph of length 1 goes
    assert backend.captured == 3
    window.denoise(transformer, caches[3], context, 3)
    assert backend.captured == 3
    apart = window.denoise(transformer, caches[3], context, 3, action_time=100.0)
    assert backend.captured == 4
    assert not torch.equal(apart, plain[3])


@torch.inference_mode()
def test_results_of_a_graph_are_the_callers_own(policy, transformer):
    window = Window(policy)
    graph_denoising(transformer, Repeats())
    context = window.context(transformer)
    cache = window.cache(transformer, context, 1)
    first = window.denoise(transformer, cache, context, 1)
    kept = first.clone()
    window.denoise(transformer, cache, context, 1, video_time=10.0)
    assert torch.equal(first, kept)


@torch.inference_mode()
def test_a_graph_outlives_the_cache_object_it_was_captured_with(policy, transformer):
    window = Window(policy)
    expected = window.run(transformer, 1)
    graph_denoising(transformer, Repeats())
    context = window.context(transformer)
    cache = window.cache(transformer, context, 1)
    branch = cache.fork()
    window.denoise(transformer, cache, context, 1)
    transformer.observe(cache, context, window.latents[:, :, 1:3], window.condition[:, :, 1:3], first_frame=1)
    assert torch.equal(window.denoise(transformer, branch, context, 1), expected)


def test_graphs_on_another_device_are_refused(transformer):
    with pytest.raises(ValueError, match="CUDA graphs need a CUDA device, the transformer is on cpu"):
        Acceleration(cuda_graphs=True).apply(transformer)


# ---------------------------------------------------------------- guidance on two ranks


def predict(policy, frames) -> tuple[torch.Tensor, torch.Tensor]:
    """Two blocks and a guided chunk."""
    session = Session(policy, "touch the ball", cfg_scale=3.0, steps=2)
    session.observe(frames[0][:1])
    session.observe(frames[0])
    prediction = session.predict(torch.linspace(-1, 1, 5).numpy())
    return torch.from_numpy(prediction.actions), prediction.video_latents


def rank(number: int, port: int, policy, frames, results) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.TCPStore("127.0.0.1", port, 2, is_master=number == 0)
    torch.distributed.init_process_group("gloo", store=store, rank=number, world_size=2)
    split_guidance(policy.transformer)
    results[number] = [tensor.clone() for tensor in predict(policy, frames)]
    caches = policy.transformer.empty_cache(batch=2, frames=1, height=2, width=2)
    results[f"rows {number}"] = caches.batch
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_with_a_branch_each_predict_what_one_process_predicts(checkpoint_folder, policy, frames):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.start_processes(
            rank, (port, copy.deepcopy(policy), frames, results), nprocs=2, start_method="fork"
        )
        found = dict(results)
    assert (found["rows 0"], found["rows 1"]) == (1, 1)
    for number in (0, 1):
        for result, expected in zip(found[number], predict(policy, frames), strict=True):
            torch.testing.assert_close(result, expected, rtol=0, atol=2e-5)
    unguided = Session(policy, "touch the ball", cfg_scale=1.0, steps=2)
    unguided.observe(frames[0][:1])
    unguided.observe(frames[0])
    plain = unguided.predict(torch.linspace(-1, 1, 5).numpy())
    assert (plain.video_latents - found[0][1]).abs().max() > 1e-3  # guidance made a difference


# ---------------------------------------------------------------- quantisation

has_torchao = importlib.util.find_spec("torchao") is not None


def test_only_matrices_of_the_blocks_are_quantised(transformer):
    chosen = {name for name, module in transformer.blocks.named_modules() if is_quantised(module, name)}
    assert "0.attn1.to_q" in chosen
    assert "1.ffn.net.2" in chosen
    assert all(isinstance(transformer.blocks.get_submodule(name), nn.Linear) for name in chosen)
    assert len(chosen) == 2 * (4 + 6 + 2)  # two layers: self-attention, cross-attention with image, feed-forward


def test_another_kind_of_quantisation_is_refused(transformer):
    with pytest.raises(ValueError, match="quantisation is 'int3', expected one of"):
        quantise(transformer, "int3")


@pytest.mark.skipif(has_torchao, reason="torchao is installed")
def test_without_torchao_the_error_says_what_to_install(transformer):
    with pytest.raises(RuntimeError, match="quantisation 'int8' needs torchao: pip install torchao"):
        Acceleration(quantisation="int8").apply(transformer)


@pytest.mark.skipif(not has_torchao, reason="torchao is not installed; it is optional")
@pytest.mark.parametrize(("kind", "tolerance"), [("int8", 0.05), ("int8_dynamic", 0.1), ("float8", 0.15)])
def test_quantised_weights_stay_near_the_plain_ones(policy, transformer, kind, tolerance):
    window = Window(policy)
    plain = window.run(transformer, 3)
    quantise(transformer, kind)
    assert 0 < (window.run(transformer, 3) - plain).norm() < tolerance * plain.norm()
