"""What the model sees and says, in robot units and back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dreamzero_policy.runtime.contract import ContractError
from dreamzero_policy.runtime.embodiment import (
    Embodiment,
    Quantiles,
    Statistics,
    antialiased_bilinear,
    camera_view,
    save_statistics,
)

LEFT_GRIPPER = "idx41_gripper_l_outer_joint1"


def test_shrinking_equals_the_antialiased_resize_the_model_was_trained_with() -> None:
    image = np.random.default_rng(0).random((45, 60), dtype=np.float32)
    ours = antialiased_bilinear(45, 32) @ image @ antialiased_bilinear(60, 48).T
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None, None], (32, 48), mode="bilinear", antialias=True
    )
    np.testing.assert_allclose(ours, theirs[0, 0].numpy(), atol=1e-6)


def test_the_canvas_has_head_left_hand_right_hand_and_black(embodiment: Embodiment) -> None:
    colours = {"head": (255, 0, 0), "hand_left": (0, 255, 0), "hand_right": (0, 0, 255)}
    views = {camera: np.full((2, 64, 64, 3), colour, np.uint8) for camera, colour in colours.items()}
    canvas = embodiment.canvas(views)
    assert canvas.shape == (2, 128, 128, 3)
    assert canvas[0, 10, 10].tolist() == [255, 0, 0]
    assert canvas[0, 100, 10].tolist() == [0, 255, 0]
    assert canvas[0, 10, 100].tolist() == [0, 0, 255]
    assert canvas[0, 100, 100].tolist() == [0, 0, 0]
    for camera, view in views.items():
        np.testing.assert_array_equal(camera_view(canvas, embodiment.contract.model, camera), view)


def test_a_flat_image_stays_flat_but_for_the_truncation_of_training(embodiment: Embodiment) -> None:
    for height, width in ((240, 320), (480, 640), (37, 53)):
        assert set(np.unique(embodiment.view(np.full((height, width, 3), 200, np.uint8)))) <= {199, 200}


def test_the_gripper_fraction_is_zero_open_and_one_closed(embodiment: Embodiment) -> None:
    gripper = embodiment.contract.site.grippers[LEFT_GRIPPER]
    joints = embodiment.contract.model.state_joints
    for angle, fraction in ((gripper.open_rad, 0.0), (gripper.closed_rad, 1.0)):
        state = embodiment.state({joint: angle if joint == LEFT_GRIPPER else 0.0 for joint in joints})
        assert state[joints.index(LEFT_GRIPPER)] == pytest.approx(fraction)


def test_a_gripper_saturates_at_its_stops_and_nothing_else_does(embodiment: Embodiment) -> None:
    joints = embodiment.contract.model.commanded_joints
    gripper = embodiment.contract.site.grippers[LEFT_GRIPPER]
    held = embodiment.at_stops(np.full((2, len(joints)), 9.0))
    assert held[0, joints.index(LEFT_GRIPPER)] == max(gripper.open_rad, gripper.closed_rad)
    assert held[0, 0] == 9.0


@given(arrays(np.float64, (24, 22), elements=st.floats(-0.19, 0.19)), arrays(np.float64, 20, elements=st.floats(-1, 1)))
def test_actions_survive_the_way_to_the_model_and_back(
    embodiment: Embodiment, offsets: np.ndarray, anchor: np.ndarray
) -> None:
    actions = offsets.copy()
    actions[:, :20] += anchor
    rows = embodiment.normalised_actions(actions, anchor)
    expected = embodiment._radians(actions[:, :20].copy(), embodiment.contract.model.commanded_joints)
    np.testing.assert_allclose(embodiment.positions(rows, anchor), expected, atol=1e-6)


def test_a_zero_row_commands_the_position_of_the_observation_instant(embodiment: Embodiment) -> None:
    anchor = np.linspace(-0.5, 0.5, 20)
    positions = embodiment.positions(np.zeros((24, 32), np.float32), anchor)
    joints = embodiment.contract.model.commanded_joints
    arms = slice(0, 14)
    np.testing.assert_allclose(positions[:, arms], np.tile(anchor[arms], (24, 1)))
    assert positions.shape == (24, len(joints))


def test_quantiles_clamp_on_the_way_in_only_and_equal_ones_pass() -> None:
    quantiles = Quantiles(np.array([0.0, 0.3]), np.array([2.0, 0.3]))
    np.testing.assert_allclose(quantiles.normalise(np.array([3.0, 0.3])), [1.0, 0.3])
    np.testing.assert_allclose(quantiles.denormalise(np.array([2.0, 0.7])), [3.0, 0.3])


def test_the_prompt_is_the_template_with_a_lowered_instruction(embodiment: Embodiment) -> None:
    assert embodiment.prompt("  Touch the RED cube ") == "touch the red cube"


def test_statistics_are_refused_when_changed_or_of_another_contract(embodiment: Embodiment, tmp_path: Path) -> None:
    contract, path = embodiment.contract, tmp_path / "statistics.json"
    save_statistics(path, contract, embodiment.statistics.state, embodiment.statistics.action)
    loaded = Statistics.load(path, contract)
    np.testing.assert_array_equal(loaded.action.q99, embodiment.statistics.action.q99)
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"contract_hash": "0"}))
    with pytest.raises(ContractError, match="belong to contract"):
        Statistics.load(path, contract)
    document["action"]["head_position"]["q01"][0] = -9.0
    path.write_text(json.dumps(document))
    with pytest.raises(ContractError, match="were changed"):
        Statistics.load(path, contract)
