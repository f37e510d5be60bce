"""The original's numbers, through the original's weights."""

import pytest
import torch

from dreamzero_policy.inference.denoising import denoise_chunk
from dreamzero_policy.model.autoencoder import Stream, restarted_clip, speed_up_on_cpu, to_video
from dreamzero_policy.model.conditioning import ImageConditioner, clip_pixels, encode_tokens
from dreamzero_policy.model.flow import (
    NoiseTable,
    Solver,
    Trajectory,
    add_noise,
    evaluated_steps,
    sampling_schedule,
    velocity_target,
)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def context_of(transformer, inputs, conditions: str, negative: bool = False):
    text = inputs[f"{conditions}/context"]
    if negative:
        text = torch.cat([text, inputs[f"{conditions}/context_neg"]])
    return transformer.context(text, inputs[f"{conditions}/clip_feature"])


@pytest.mark.parametrize("case", ["train", "train_b2", "train_decoupled", "train_short"])
def test_training_forward_and_loss_are_the_originals(golden, golden_transformer, case):
    data = golden("dit")
    inputs, outputs = data.inputs, data.outputs
    conditions = "cond_b2" if case == "train_b2" else "cond"
    frames = inputs[f"{case}/x0"].shape[2]
    video, action = golden_transformer(
        inputs[f"{case}/x0"],
        inputs[f"{case}/noisy"],
        inputs[f"{conditions}/y"][:, :, :frames],
        inputs[f"{case}/noisy_action"],
        inputs[f"{case}/state"],
        inputs[f"{case}/timestep"],
        inputs[f"{case}/timestep_action"],
        context_of(golden_transformer, inputs, conditions),
    )
    assert difference(video, outputs[f"{case}/video"]) < 5e-6
    assert difference(action, outputs[f"{case}/action"]) < 5e-6

    weights = NoiseTable.shifted(5.0).weights
    video_error = video - velocity_target(inputs[f"{case}/x0"], inputs[f"{case}/noise"])
    action_error = action - velocity_target(inputs[f"{case}/action_x0"], inputs[f"{case}/action_noise"])
    video_loss = (video_error.square().mean((1, 3, 4)) * weights[inputs[f"{case}/timestep_id"]]).mean()
    action_loss = (action_error.square().mean(2) * weights[inputs[f"{case}/timestep_action_id"]]).mean()
    torch.testing.assert_close(video_loss, outputs[f"{case}/loss_video"], rtol=1e-5, atol=0)
    torch.testing.assert_close(action_loss, outputs[f"{case}/loss_action"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("case", ["single", "single_b2"])
def test_one_denoising_call_and_one_observation_are_the_originals(golden, golden_transformer, case):
    data = golden("dit")
    inputs, outputs = data.inputs, data.outputs
    conditions = "cond_b2" if case == "single_b2" else "cond"
    past = inputs[f"{case}/kv_cache"].transpose(3, 4)  # layer, key/value, B, heads, tokens, head_dim
    tokens = past.shape[4]
    first_frame = tokens // data.config["model"]["frame_seqlen"]
    cache = golden_transformer.empty_cache(batch=past.shape[2], frames=9, height=4, width=6)
    cache.keys[:, :, :, :tokens], cache.values[:, :, :, :tokens], cache.length = past[:, 0], past[:, 1], tokens
    context = context_of(golden_transformer, inputs, conditions)
    video, action = golden_transformer.denoise(
        cache,
        context,
        inputs[f"{case}/x"],
        inputs[f"{case}/y"],
        inputs[f"{case}/action"],
        inputs[f"{case}/state"],
        first_frame=first_frame,
        video_time=inputs[f"{case}/timestep"][:, 0],
        action_time=inputs[f"{case}/timestep_action"][:, 0],
    )
    assert difference(video, outputs[f"{case}/velocity_video"]) < 5e-6
    assert difference(action, outputs[f"{case}/velocity_action"]) < 5e-6

    golden_transformer.observe(cache, context, inputs[f"{case}/x"], inputs[f"{case}/y"], first_frame=first_frame)
    last_layer = torch.stack([cache.keys[-1], cache.values[-1]])[:, :, :, : cache.length]
    assert difference(last_layer.transpose(2, 3), outputs[f"{case}/prefill_new_kv_cache_last"]) < 1e-5


@pytest.mark.parametrize(
    "run",
    [
        "a_steps16_mask8",
        "a_steps16_full",
        "a_steps8_full",
        "a_steps4_full",
        "a_steps1_full",
        "b_steps1_full",
        "a_steps16_mask8_decoupled08",
    ],
)
def test_rollout_of_four_chunks_is_the_originals(golden, golden_transformer, run):
    data = golden("dit")
    inputs, outputs, settings = data.inputs, data.outputs, data.config["rollouts"][run]
    observed, condition = inputs[f"{settings['observations']}/latents"], inputs["cond/y"]
    evaluated = evaluated_steps(settings["num_steps"], sum(settings["evaluate_step"]))
    assert [i in evaluated for i in range(settings["num_steps"])] == settings["evaluate_step"]
    context = context_of(golden_transformer, inputs, "cond", negative=True)
    cache = golden_transformer.empty_cache(batch=2, frames=7, height=4, width=6)
    for chunk in range(4):
        first, newest = 1 + 2 * chunk, slice(0, 1) if chunk == 0 else slice(2 * chunk - 1, 2 * chunk + 1)
        golden_transformer.observe(
            cache, context, observed[:, :, newest], condition[:, :, newest], first_frame=newest.start
        )
        video, action, *_ = denoise_chunk(
            golden_transformer,
            cache,
            context,
            condition=condition[:, :, first : first + 2],
            state=inputs["rollout/state"][:, chunk : chunk + 1],
            video=inputs["rollout/noise_video"],
            action=inputs["rollout/noise_action"],
            first_frame=first,
            steps=settings["num_steps"],
            evaluated=evaluated,
            cfg_scale=data.config["cfg_scale"],
            shift=data.config["sigma_shift"],
            video_final_noise=settings["video_final_noise"],
            state_attention="release",
        )
        assert difference(video, outputs[f"rollout/{run}/video"][chunk]) < 5e-5
        assert difference(action, outputs[f"rollout/{run}/action"][chunk]) < 5e-5
    if settings["observations"] == "obs_a":
        for row, branch in enumerate(("cond", "uncond")):
            for layer in (0, 2):
                written = torch.stack([cache.keys[layer, row], cache.values[layer, row]]).transpose(1, 2)[:, None]
                assert difference(written, outputs[f"kv/obs_a/after_prefill3/{branch}/layer{layer}"]) < 1e-5


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
@pytest.mark.parametrize("clip", ["frames1", "frames5", "frames9", "frames33"])
def test_latents_and_pictures_are_the_originals(golden, golden_autoencoder, clip, fast):
    data = golden("vae")
    if fast:
        speed_up_on_cpu(golden_autoencoder.network)
    video = to_video(data.inputs[f"{clip}_u8"], "cpu", torch.float32)
    with torch.no_grad():
        assert difference(golden_autoencoder.encode(video, Stream()), data.outputs[f"{clip}/latents"]) < 1e-5
        if f"{clip}/decoded" in data.outputs:
            decoded = golden_autoencoder.decode(data.outputs[f"{clip}/latents"], Stream())
            assert difference(decoded, data.outputs[f"{clip}/decoded"]) < 2e-5


def test_an_observation_of_four_frames_is_the_originals(golden, golden_autoencoder):
    data = golden("vae")
    block = to_video(data.inputs["frames5_u8"][1:5], "cpu", torch.float32)
    latents = golden_autoencoder.encode(restarted_clip(block, 2), Stream())
    assert difference(latents, data.outputs["observation4/latents"]) < 1e-5


def test_image_condition_is_the_originals(golden, golden_autoencoder):
    data, stream = golden("vae"), Stream()
    video = to_video(data.inputs["frames5_u8"][:1], "cpu", torch.float32)
    first = golden_autoencoder.encode(video, stream)
    condition = golden_autoencoder.image_condition(first, stream, 9, video.shape)
    assert difference(condition, data.outputs["image_condition/y"]) < 1e-5
    assert stream.frames == 1


@pytest.mark.parametrize("case", ["case0", "case1", "case2", "case3", "batch2"])
def test_text_features_are_the_originals_cut_sample_by_sample(golden, golden_text_encoder, case):
    data = golden("text")
    features = encode_tokens(golden_text_encoder, data.inputs[f"{case}/ids"], data.inputs[f"{case}/mask"])
    assert difference(features, data.outputs[f"{case}/embedding"]) < 1e-5


@pytest.mark.parametrize("case", ["canvas0", "canvas1"])
def test_image_features_are_the_originals(golden, golden_image_encoder, case):
    data = golden("image")
    video = torch.cat([to_video(frame[None], "cpu", torch.float32)[:, :, 0] for frame in data.inputs[f"{case}_u8"]])
    pixels = clip_pixels(video, 224)[:, :, ::16, ::16]
    assert difference(pixels, data.outputs[f"{case}/pixels_slice"]) < 1e-5
    features = ImageConditioner(golden_image_encoder).encode(video)
    assert difference(features, data.outputs[f"{case}/features"]) < 3e-5


@pytest.mark.parametrize(
    ("steps", "final"),
    [(1, None), (2, None), (4, None), (8, None), (16, None), (1, 0.8), (4, 0.8), (16, 0.5), (16, 0.8)],
)
def test_sampling_schedule_and_solver_are_the_originals(golden, steps, final):
    data = golden("scheduler")
    name = f"unipc/steps{steps}" + (f"_final{final}" if final else "")
    schedule = sampling_schedule(steps, 5.0, final or 0.0)
    assert list(schedule.times) == data.outputs[f"{name}/timesteps"].tolist()
    assert difference(torch.tensor(schedule.sigmas), data.outputs[f"{name}/sigmas"]) < 1e-6
    for kind in ("video", "action"):
        if f"{name}/{kind}_trajectory" in data.outputs:
            sample = data.inputs[f"unipc/{kind}/sample0"]
            solver, path = Solver(schedule), Trajectory(schedule, sample)
            for i, expected in enumerate(data.outputs[f"{name}/{kind}_trajectory"]):
                velocity = data.inputs[f"unipc/{kind}/model_output"][i]
                sample = solver.step(sample, velocity, i)
                assert difference(sample, expected) < 5e-6
                assert difference(path.step(velocity, i), expected) < 5e-6


def test_training_noise_is_the_originals(golden):
    data, table = golden("scheduler"), NoiseTable.shifted(5.0)
    inputs, outputs = data.inputs, data.outputs
    assert difference(table.sigmas, outputs["train/sigmas"]) < 1e-6
    assert difference(table.times, outputs["train/timesteps"]) < 2e-4
    assert difference(table.weights, outputs["train/weights"]) < 3e-6
    sigma = table.sigmas[inputs["train/timestep_id"]][:, None, None, None]
    assert difference(add_noise(inputs["train/x0"], inputs["train/noise"], sigma), outputs["train/add_noise"]) < 1e-6
    assert torch.equal(velocity_target(inputs["train/x0"], inputs["train/noise"]), outputs["train/target"])
    nearest = table.index_of(inputs["train/query_timesteps"])
    assert difference(table.weights[nearest], outputs["train/query_weight"]) < 3e-6
