"""Our transforms give the numbers of the original's, for every robot by its data alone. See golden/README.md."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file

from dreamzero_policy.runtime.canvas import view_of
from dreamzero_policy.runtime.contract import ContractError, ModelSection
from dreamzero_policy.runtime.embodiment import Quantiles, Statistics, Transforms
from dreamzero_policy.runtime.release import (
    LAYOUTS,
    release_contract,
    release_differences,
    release_statistics,
    tags,
)

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "config.json").read_text())
METADATA = json.loads((GOLDEN / "metadata.json").read_text())
INPUTS, OUTPUTS = load_file(GOLDEN / "inputs.safetensors"), load_file(GOLDEN / "outputs.safetensors")
PROMPTS = json.loads((GOLDEN / "prompts.json").read_text())["prompts"]
EXPERIMENT = GOLDEN.parents[1] / "model" / "golden" / "release_layout" / "checkpoint" / "experiment_cfg"
CONF = yaml.safe_load((EXPERIMENT / "conf.yaml").read_text())
RELEASE = json.loads((EXPERIMENT / "metadata.json").read_text())
CALLS = load_file(GOLDEN / "calls.safetensors")

case_names = pytest.mark.parametrize("name", sorted(CASES))
release_tags = pytest.mark.parametrize(("tag", "call"), [("oxe_droid", "oxe_droid/call1"), ("agibot", "agibot/call5")])


def transforms(name: str) -> Transforms:
    """The model section of a release for this embodiment with the case's view size, and the case's statistics."""
    case = CASES[name]
    document = release_contract(CONF, RELEASE, case["embodiment"]).model_dump()
    document["view"] |= {
        "width_px": case["view_width"],
        "height_px": case["view_height"],
        "crop": case["crop_scale"],
    }
    model = ModelSection.model_validate(document)
    return Transforms(model, Statistics.of(METADATA[name]["statistics"], model, name))


def state_of(inputs: dict, prefix: str, model: ModelSection) -> np.ndarray:
    return np.concatenate([inputs[f"{prefix}/state.{group.key}"] for group in model.state], axis=-1)


@case_names
def test_views_and_canvas_are_the_originals_pixel_by_pixel(name: str) -> None:
    ours = transforms(name)
    views = {}
    for camera in ours.model.cameras:
        views[camera] = np.stack([ours.view(camera, image) for image in INPUTS[f"{name}/video.{camera}"]])
        np.testing.assert_array_equal(views[camera], OUTPUTS[f"{name}/view/video.{camera}"])
    np.testing.assert_array_equal(ours.canvas(views), OUTPUTS[f"{name}/canvas"])


@case_names
def test_the_state_is_the_originals(name: str) -> None:
    ours = transforms(name)
    expected = OUTPUTS[f"{name}/state"][OUTPUTS[f"{name}/state_mask"] == 1]
    np.testing.assert_allclose(ours.normalised_state(state_of(INPUTS, name, ours.model))[0], expected, atol=1e-6)


@case_names
def test_normalised_actions_are_the_originals(name: str) -> None:
    ours = transforms(name)
    raw = np.concatenate([INPUTS[f"{name}/raw/action.{group.key}"] for group in ours.model.action], axis=-1)
    normalised = ours.statistics.action.normalise(raw)
    np.testing.assert_allclose(normalised, OUTPUTS[f"{name}/normalised_concat"], atol=1e-6)


@case_names
def test_absolute_actions_are_the_originals_with_the_last_state_added_where_relative(name: str) -> None:
    ours = transforms(name)
    relative = [group.key for group in ours.model.action if group.relative]
    assert relative == CASES[name]["relative_keys"]
    several = f"{name}/relative_obs"
    state = state_of(INPUTS, several if any(key.startswith(several) for key in INPUTS) else name, ours.model)
    anchor = state.reshape(-1, state.shape[-1])[-1]
    actions = ours.actions(INPUTS[f"{name}/network_action"], anchor)
    np.testing.assert_allclose(actions, OUTPUTS[f"{name}/relative/concat"], atol=1e-6)


@pytest.mark.parametrize(("precision", "tolerance"), [(np.float64, 1e-6), (np.float32, 1e-5)])
def test_quantiles_at_their_edges_are_the_originals(precision: type, tolerance: float) -> None:
    edge = {key: INPUTS[f"q99_edge/{key}"] for key in ("q01", "q99", "x", "y")}
    quantiles = Quantiles(edge["q01"], edge["q99"])
    suffix = "f64" if precision is np.float64 else "f32"
    for ours, name in (
        (quantiles.normalise(edge["x"].astype(precision)), "normalised"),
        (quantiles.denormalise(edge["y"].astype(precision)), "denormalised"),
    ):
        assert ours.dtype == precision
        np.testing.assert_allclose(ours, OUTPUTS[f"q99_edge/{name}_{suffix}"], atol=tolerance)


@pytest.mark.parametrize("entry", PROMPTS, ids=lambda entry: f"{entry['embodiment']}: {entry['instruction']}")
def test_prompts_are_the_originals_word_for_word(entry: dict) -> None:
    document = release_contract(CONF, RELEASE, "agibot").model_dump()
    document["prompt"]["template"] = LAYOUTS[entry["embodiment"]].prompt
    model = ModelSection.model_validate(document)
    ours = Transforms(model, release_statistics(RELEASE, "agibot", model))
    assert ours.prompt(entry["instruction"]) == entry["prompt"]


@release_tags
def test_a_release_goes_from_raw_observation_to_model_input_and_absolute_action(tag: str, call: str) -> None:
    model = release_contract(CONF, RELEASE, tag)
    ours = Transforms(model, release_statistics(RELEASE, tag, model))
    views = {
        camera: np.stack([ours.view(camera, image) for image in CALLS[f"{call}/video.{camera}"]])
        for camera in model.cameras
    }
    np.testing.assert_array_equal(ours.canvas(views), CALLS[f"{call}/images"][0])
    state = state_of(CALLS, call, model)[-1]
    np.testing.assert_allclose(
        ours.normalised_state(state), CALLS[f"{call}/state_normalised"][0, 0, : len(state)], atol=1e-6
    )
    actions = ours.actions(CALLS[f"{call}/action_normalised"][0], state)
    np.testing.assert_allclose(actions, CALLS[f"{call}/action"], atol=1e-6)


@given(
    image=st.tuples(st.integers(20, 80), st.integers(20, 80)).flatmap(
        lambda size: st.one_of(arrays(np.uint8, (*size, 3)), st.integers(0, 255).map(lambda v: np.full((*size, 3), v)))
    ),
    size=st.tuples(st.integers(4, 60), st.integers(4, 60)),
    crop=st.sampled_from([1.0, 0.95, 0.8]),
)
def test_a_view_is_torchs_resize_of_any_image_within_one_level(
    image: np.ndarray, size: tuple[int, int], crop: float
) -> None:
    image = image.astype(np.uint8)
    height, width = int(crop * image.shape[0]), int(crop * image.shape[1])
    top, left = round((image.shape[0] - height) / 2), round((image.shape[1] - width) / 2)
    cropped = torch.from_numpy(image[top : top + height, left : left + width].astype(np.float32) / np.float32(255))
    resized = torch.nn.functional.interpolate(cropped.permute(2, 0, 1)[None], size, mode="bilinear", antialias=True)
    theirs = (resized[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()
    ours = view_of(image, crop, size)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_the_release_names_its_embodiments_and_only_those_have_a_contract() -> None:
    assert tags(CONF, RELEASE) == ["agibot", "oxe_droid"]
    with pytest.raises(ContractError, match="has no embodiment 'yam', only"):
        release_contract(CONF, RELEASE, "yam")
    with pytest.raises(ContractError, match="'my_robot' has no layout"):
        release_contract(CONF, RELEASE, "my_robot")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda conf, meta: conf.pop("num_action_per_block"), "num_action_per_block"),
        (lambda conf, meta: conf.update(relative_action_per_horizon=True), "relative_action_per_horizon"),
        (lambda conf, meta: step(conf, "VideoCrop").pop("scale"), "VideoCrop with scale"),
        (lambda conf, meta: step(conf, "VideoResize").update(interpolation="cubic"), "cubic"),
        (
            lambda conf, meta: step(conf, "StateActionTransform")["normalization_modes"].update(
                {"state.joint_position": "min_max"}
            ),
            "state.joint_position.*min_max",
        ),
        (lambda conf, meta: meta["oxe_droid"]["modalities"]["state"].pop("joint_position"), "joint_position"),
        (lambda conf, meta: meta["oxe_droid"]["modalities"]["video"]["wrist_image_left"].update(fps=5.0), "rates"),
    ],
)
def test_what_a_release_lacks_or_does_otherwise_is_named(change, named: str) -> None:
    conf, metadata = json.loads(json.dumps(CONF)), json.loads(json.dumps(RELEASE))
    change(conf, metadata)
    with pytest.raises(ContractError, match=named):
        release_contract(conf, metadata, "oxe_droid")


def step(conf: dict, name: str) -> dict:
    chain = conf["transforms"]["oxe_droid"]["transforms"]
    return next(step for step in chain if step["_target_"].endswith(name))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tables: tables["state"].pop("joint_position"), "state.joint_position.q01 is absent; state has"),
        (lambda tables: tables["action"]["joint_position"].pop("q99"), "action.joint_position.q99 is absent"),
        (lambda tables: tables["action"]["joint_position"]["q99"].pop(), "must be 7 finite numbers .* got 6"),
        (lambda tables: tables["state"]["gripper_position"].update(q01=[float("nan")]), "must be 1 finite numbers"),
        (lambda tables: tables["state"]["gripper_position"].update(q01=[99.0]), "q99 below q01"),
    ],
)
def test_statistics_of_a_release_that_lack_something_are_refused_by_name(change, named: str) -> None:
    metadata = json.loads(json.dumps(RELEASE))
    change(metadata["oxe_droid"]["statistics"])
    with pytest.raises(ContractError, match=named):
        release_statistics(metadata, "oxe_droid", release_contract(CONF, RELEASE, "oxe_droid"))


def test_references_inside_a_configuration_are_followed() -> None:
    conf = json.loads(json.dumps(CONF))
    step(conf, "VideoResize").update(width="${image_resolution_width}", height="${image_resolution_height}")
    assert release_contract(conf, RELEASE, "oxe_droid") == release_contract(CONF, RELEASE, "oxe_droid")


def test_a_release_differs_from_a_contract_where_training_did_and_nowhere_else() -> None:
    released = release_contract(CONF, RELEASE, "oxe_droid")
    document = released.model_dump()
    document["embodiment"] = "my_droid"
    for kind in ("state", "action"):
        document[kind][0]["joints"] = [f"fr3_joint{i + 1}" for i in range(7)]
    ours = ModelSection.model_validate(document)
    assert release_differences(ours, released) == []
    document["view"]["crop"] = 1.0
    document["action"][0]["relative"] = False
    assert release_differences(ModelSection.model_validate(document), released) == [
        "model.action[0].relative: False | True",
        "model.view.crop: 1.0 | 0.95",
    ]
