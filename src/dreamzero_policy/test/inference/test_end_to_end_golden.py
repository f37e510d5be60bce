"""Raw camera frames, joint states and instructions to absolute actions: the original's, call by call."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from dreamzero_policy.inference.loading import load_policy
from dreamzero_policy.inference.session import Session
from dreamzero_policy.runtime.embodiment import Transforms
from dreamzero_policy.runtime.release import release_contract, release_statistics

RELEASE = Path(__file__).parents[1] / "model" / "golden" / "release_layout"
RECORD = json.loads((RELEASE / "end_to_end" / "calls.json").read_text())
CALLS = [(tag, number) for tag, calls in RECORD["calls"].items() for number in range(len(calls))]
TOLERANCE = 3e-5  # a tenth of what other correct float32 code may differ by


@pytest.fixture(scope="module", params=[True, False], ids=["fast", "plain"])
def answers(request) -> dict:
    """Every recorded call, answered by one fresh session for each embodiment."""
    policy = load_policy(RELEASE / "checkpoint", tokenizer_path=RELEASE / "tokenizer", fast=request.param)
    return {tag: serve(policy, tag, calls) for tag, calls in RECORD["calls"].items()}


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(RELEASE / "end_to_end" / "outputs.safetensors")


def serve(policy, tag: str, calls: list[dict]) -> list[SimpleNamespace]:
    experiment = RELEASE / "checkpoint" / "experiment_cfg"
    conf = yaml.safe_load((experiment / "conf.yaml").read_text())
    metadata = json.loads((experiment / "metadata.json").read_text())
    model = release_contract(conf, metadata, tag)
    transforms = Transforms(model, release_statistics(metadata, tag, model))
    inputs, session, answers = load_file(RELEASE / "end_to_end" / "inputs.safetensors"), None, []
    noise = inputs["noise_video"], inputs["noise_action"]
    for number, call in enumerate(calls):

        def recorded(name: str, call: str = f"{tag}/call{number}") -> np.ndarray:
            return inputs[f"{call}/{name}"].numpy()

        prompt = transforms.prompt(call["instruction"])
        if session is None:
            session = Session(policy, prompt)
        elif prompt != session.prompt:
            session.reset(prompt)
        views = {
            camera: np.stack([transforms.view(camera, frame) for frame in recorded(f"video.{camera}")])
            for camera in model.cameras
        }
        state = np.concatenate([recorded(f"state.{group.key}")[-1] for group in model.state])
        observation = session.observe(transforms.canvas(views))
        prediction = session.predict(transforms.normalised_state(state), start=noise)
        answers.append(
            SimpleNamespace(
                session=session,
                tokens=policy.text.tokenizer([prompt, policy.config.sampler.negative_prompt]),
                recorded_tokens=[
                    np.concatenate([recorded(name), recorded(f"{name}_negative")])
                    for name in ("text", "text_attention_mask")
                ],
                observation=observation,
                prediction=prediction,
                actions=transforms.actions(prediction.actions, state),
            )
        )
    return answers


def difference(a: np.ndarray | torch.Tensor, b: torch.Tensor) -> float:
    a = torch.as_tensor(a)
    assert a.shape == b.shape
    return (a - b).abs().max().item()


@pytest.mark.parametrize(("tag", "number"), CALLS)
def test_a_call_gives_the_originals_latents_and_actions(answers, expected, tag, number):
    answer, name = answers[tag][number], f"{tag}/call{number}"
    video = answer.prediction.video_latents[None]
    if answer.observation.window_opened:  # the record then begins with the latent of the first frame
        video = torch.cat([answer.observation.latents[None], video], dim=2)
    assert difference(video, expected[f"{name}/video_latents"]) < TOLERANCE
    assert difference(answer.prediction.actions[None], expected[f"{name}/action_normalised"]) < TOLERANCE
    assert difference(answer.actions, expected[f"{name}/action"]) < TOLERANCE


@pytest.mark.parametrize(("tag", "number"), CALLS)
def test_a_call_reads_the_originals_tokens_and_stands_where_the_original_does(answers, tag, number):
    answer, recorded = answers[tag][number], RECORD["calls"][tag][number]
    for ours, original in zip(answer.tokens, answer.recorded_tokens, strict=True):
        assert np.array_equal(ours.numpy(), original)
    assert answer.prediction.first_frame + 2 == recorded["start_frame_after"]


def test_the_checkpoint_alone_chooses_the_released_way_of_serving(answers):
    session = next(iter(answers.values()))[0].session
    steps = len(RECORD["dit_step_mask"])
    prediction = next(iter(answers.values()))[0].prediction
    assert (session.steps, session.cfg_scale) == (steps, RECORD["cfg_scale"])
    assert prediction.evaluations == sum(RECORD["dit_step_mask"])
    assert session.policy.config.sampler.vae_mode == "release"
    assert session.policy.config.sampler.negative_prompt == RECORD["negative_prompt"]


def test_the_stream_of_our_own_training_is_another_encoding(expected):
    """So the comparison above would notice."""
    policy = load_policy(RELEASE / "checkpoint", tokenizer_path=RELEASE / "tokenizer")
    streamed = Session(policy, "push", vae_mode="stream")
    restarted = Session(policy, "push")
    frames = np.random.default_rng(0).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8)
    latents = []
    for session in (streamed, restarted):
        session.observe(frames[:1])
        latents.append(session.observe(frames[1:]).latents)
    assert difference(*latents) > 100 * TOLERANCE
