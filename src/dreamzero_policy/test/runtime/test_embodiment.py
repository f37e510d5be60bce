"""What the model sees and says, in robot units and back."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dreamzero_policy.runtime.canvas import camera_view
from dreamzero_policy.runtime.contract import ContractError, ModelSection, load_contract
from dreamzero_policy.runtime.embodiment import (
    Embodiment,
    Quantiles,
    Statistics,
    Transforms,
    save_statistics,
    unpacked,
)

from .conftest import CONTRACT

LEFT_GRIPPER = "idx41_gripper_l_outer_joint1"


def test_the_canvas_has_the_head_over_left_hand_and_right_hand(embodiment: Embodiment) -> None:
    colours = {"head": (255, 0, 0), "hand_left": (0, 255, 0), "hand_right": (0, 0, 255)}
    sizes = {camera: embodiment.model.view_size_px(camera) for camera in colours}
    assert sizes == {"head": (96, 128), "hand_left": (32, 64), "hand_right": (32, 64)}
    canvas = embodiment.canvas(
        {camera: np.full((2, *sizes[camera], 3), colour, np.uint8) for camera, colour in colours.items()}
    )
    assert canvas.shape == (2, 128, 128, 3)
    assert canvas[0, 10, 10].tolist() == canvas[0, 95, 100].tolist() == [255, 0, 0]
    assert canvas[0, 100, 10].tolist() == [0, 255, 0]
    assert canvas[0, 100, 100].tolist() == [0, 0, 255]


def filled(embodiment: Embodiment, fill: str) -> Transforms:
    """The G1 without crop and with a head's tile of two columns and one row filled this way."""
    document = embodiment.model.model_dump()
    document["view"]["crop"] = 1.0
    document["canvas"]["tiles"][0].update(rows=1, fill=fill, part=None)
    return Transforms(ModelSection.model_validate(document), embodiment.statistics)


def test_a_resized_tile_shows_detail_that_a_repeated_one_cannot(embodiment: Embodiment) -> None:
    stripes = np.zeros((32, 128, 3), np.uint8)
    stripes[:, ::2] = 200  # every other pixel column of an image as large as the tile
    images = {camera: stripes for camera in embodiment.model.cameras}
    shown = {fill: filled(embodiment, fill).picture(images)[10, 40:48, 0] for fill in ("resized", "repeated")}
    assert shown["resized"].tolist() == [200, 0] * 4
    assert len(set(shown["repeated"].tolist())) == 1  # grey: the stripes are gone
    assert 90 < shown["repeated"][0] < 110


def test_a_tile_shows_its_part_of_the_image_over_all_of_its_rows(embodiment: Embodiment) -> None:
    document = embodiment.model.model_dump()
    document["canvas"]["tiles"][0]["part"] = {"left": 0.25, "top": 0.5, "right": 0.75, "bottom": 0.875}
    robot = Transforms(ModelSection.model_validate(document), embodiment.statistics)
    rng = np.random.default_rng(0)
    images = {camera: rng.integers(0, 256, (256, 256, 3), np.uint8) for camera in robot.model.cameras}
    shown = robot.picture(images)[:96]
    expected = images["head"][128:224, 64:192]  # as many pixels as the tile has, so that nothing is resized
    assert np.abs(shown.astype(int) - expected).max() <= 1  # cut down to uint8


@pytest.mark.parametrize("fill", ["resized", "repeated"])
def test_views_can_be_cut_out_of_the_canvas_again(embodiment: Embodiment, fill: str) -> None:
    robot, rng = filled(embodiment, fill), np.random.default_rng(0)
    views = {
        camera: rng.integers(0, 256, (2, *robot.model.view_size_px(camera), 3), np.uint8)
        for camera in robot.model.cameras
    }
    assert views["head"].shape[2] == (128 if fill == "resized" else 64)
    canvas = robot.canvas(views)
    for camera, view in views.items():
        np.testing.assert_array_equal(camera_view(canvas, robot.model, camera), view)
    cut = {camera: camera_view(canvas, robot.model, camera) for camera in views}
    np.testing.assert_array_equal(robot.canvas(cut), canvas)


def test_a_flat_image_stays_flat_but_for_the_truncation_of_training(embodiment: Embodiment) -> None:
    for height, width in ((240, 320), (480, 640), (37, 53)):
        for camera in embodiment.model.cameras:
            view = embodiment.view(camera, np.full((height, width, 3), 200, np.uint8))
            assert set(np.unique(view)) <= {199, 200}


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


@pytest.fixture(scope="module", params=["agibot_g1", "droid_franka", "yam_bimanual"])
def any_robot(request: pytest.FixtureRequest) -> Embodiment:
    """Each shipped contract with statistics that hold states within 4 and offsets and gripper fractions within 2."""
    contract = load_contract(CONTRACT.parent / f"{request.param}.yaml")
    states, actions = len(contract.model.state_joints), contract.model.action_width
    return Embodiment(
        contract,
        Statistics(
            Quantiles(np.full(states, -4.0), np.full(states, 4.0)),
            Quantiles(np.full(actions, -2.0), np.full(actions, 2.0)),
            "",
        ),
    )


@given(data=st.data())
def test_an_action_chunk_of_every_robot_survives_the_way_to_the_model_and_back(
    any_robot: Embodiment, data: st.DataObject
) -> None:
    model = any_robot.model
    numbers = st.floats(-1.9, 1.9)
    anchor = data.draw(arrays(np.float64, len(model.state_joints), elements=numbers))
    offsets = data.draw(arrays(np.float64, (model.chunk.actions, model.action_width), elements=numbers))
    actions = offsets.copy()
    for column, joint, relative in columns_of(any_robot):
        if relative:
            actions[:, column] += anchor[model.state_joints.index(joint)]
    rows = any_robot.normalised_actions(actions, anchor)
    np.testing.assert_allclose(rows, offsets / 2, atol=1e-6)  # what is relative is an offset; the rest is itself
    np.testing.assert_allclose(any_robot.actions(rows, anchor), actions, atol=1e-6)


@given(data=st.data())
def test_what_a_plan_commands_survives_the_way_to_the_model_and_back_however_far_it_lies(
    any_robot: Embodiment, data: st.DataObject
) -> None:
    model = any_robot.model
    numbers = st.floats(-50, 50)
    anchor = data.draw(arrays(np.float64, len(model.state_joints), elements=numbers))
    targets = data.draw(arrays(np.float64, (5, len(model.commanded_joints)), elements=numbers))
    prefix = any_robot.prefix(targets, anchor)
    rows = np.zeros((model.chunk.actions, 32), np.float32)
    rows[:5, prefix.columns] = prefix.rows
    np.testing.assert_allclose(any_robot.positions(rows, anchor)[:5], targets, atol=1e-4)
    assert prefix.columns.tolist() == [
        column for column, joint, _ in columns_of(any_robot) if joint in model.commanded_joints
    ]


@given(data=st.data())
def test_joint_positions_of_every_robot_survive_the_way_to_a_state_and_back(
    any_robot: Embodiment, data: st.DataObject
) -> None:
    model, limits = any_robot.model, any_robot.contract.site.limits
    drawn = {joint: data.draw(st.floats(limits[joint].lower, limits[joint].upper)) for joint in model.state_joints}
    state = any_robot.state(drawn)
    np.testing.assert_allclose(
        any_robot.statistics.state.denormalise(any_robot.normalised_state(state)), np.clip(state, -4, 4), atol=1e-6
    )
    commanded = any_robot.commanded(any_robot.as_actions(state))
    np.testing.assert_allclose(commanded, [drawn[joint] for joint in model.commanded_joints], atol=1e-9)


def test_targets_stand_in_their_columns_and_what_is_never_commanded_is_zero(any_robot: Embodiment) -> None:
    joints = any_robot.model.state_joints
    states = np.arange(1, 1 + 2 * len(joints), dtype=float).reshape(2, -1)
    actions = any_robot.as_actions(states)
    assert actions.shape == (2, any_robot.model.action_width)
    for column, joint, _ in columns_of(any_robot):
        commanded = joint in any_robot.model.commanded_joints
        np.testing.assert_array_equal(actions[:, column], states[:, joints.index(joint)] if commanded else 0)


def columns_of(robot: Embodiment) -> list[tuple[int, str, bool]]:
    """Column, joint and relative rule of every entry of the action vector."""
    entries = [(joint, group.relative) for group in robot.model.action for joint in group.joints]
    return [(column, joint, relative) for column, (joint, relative) in enumerate(entries)]


def test_an_opening_is_zero_closed_and_one_open() -> None:
    contract = load_contract(CONTRACT.parent / "yam_bimanual.yaml")
    wide = Quantiles(np.full(14, -4.0), np.full(14, 4.0))
    robot = Embodiment(contract, Statistics(wide, wide, ""))
    finger = contract.site.grippers["left_joint7"]
    joints = contract.model.state_joints
    for position, opening in ((finger.closed_rad, 0.0), (finger.open_rad, 1.0)):
        state = robot.state({joint: position if joint == "left_joint7" else 0.0 for joint in joints})
        assert state[joints.index("left_joint7")] == pytest.approx(opening)
        assert robot.commanded(state)[joints.index("left_joint7")] == pytest.approx(position)


def test_droid_has_the_wrist_across_the_top_and_the_exterior_views_below() -> None:
    contract = load_contract(CONTRACT.parent / "droid_franka.yaml")
    robot = Embodiment(contract, Statistics(Quantiles(np.zeros(8), np.ones(8)), Quantiles(np.zeros(8), np.ones(8)), ""))
    levels = {"exterior_1": 10, "exterior_2": 20, "wrist": 30}
    views = {camera: np.full((1, 176, 320, 3), level, np.uint8) for camera, level in levels.items()}
    views["wrist"][0, :, 0] = 99
    canvas = robot.canvas(views)
    assert canvas.shape == (1, 352, 640, 3)
    assert canvas[0, 0, :4, 0].tolist() == [99, 99, 30, 30]  # every pixel column twice
    assert (canvas[0, 175, 600, 0], canvas[0, 176, 100, 0], canvas[0, 176, 600, 0]) == (30, 10, 20)


def test_views_that_do_not_fit_are_refused_and_never_filled_in(embodiment: Embodiment) -> None:
    head, hand = np.zeros((2, 96, 128, 3), np.uint8), np.zeros((2, 32, 64, 3), np.uint8)
    with pytest.raises(ValueError, match=r"no views of cameras \['hand_right'\]"):
        embodiment.canvas({"head": head, "hand_left": hand})
    with pytest.raises(ValueError, match="views of hand_right are"):
        embodiment.canvas({"head": head, "hand_left": hand, "hand_right": hand[:1]})
    with pytest.raises(ValueError, match=r"views of head are \(2, 32, 64, 3\), expected \(2, 96, 128, 3\)"):
        embodiment.canvas({"head": hand, "hand_left": hand, "hand_right": hand})


def test_rows_and_anchors_of_another_width_are_refused(embodiment: Embodiment) -> None:
    with pytest.raises(ValueError, match="need at least 22 columns"):
        embodiment.actions(np.zeros((24, 8), np.float32), np.zeros(20))
    with pytest.raises(ValueError, match=r"anchor .* needs 20"):
        embodiment.actions(np.zeros((24, 32), np.float32), np.zeros(1))


def test_an_instruction_stands_as_it_is_unless_the_contract_says_otherwise(embodiment: Embodiment) -> None:
    listed = "['Open the Door', 'open it']"
    assert embodiment.prompt(listed) == "['open the door', 'open it']"
    assert unpacked(listed) == "Open the Door"
    assert unpacked("fold the towel") == "fold the towel"
    with pytest.raises(ValueError, match="empty list"):
        unpacked("[]")


@given(arrays(np.float64, (24, 22), elements=st.floats(-0.19, 0.19)), arrays(np.float64, 20, elements=st.floats(-1, 1)))
def test_actions_survive_the_way_to_the_model_and_back(
    embodiment: Embodiment, offsets: np.ndarray, anchor: np.ndarray
) -> None:
    actions = offsets.copy()
    actions[:, :20] += anchor
    rows = embodiment.normalised_actions(actions, anchor)
    np.testing.assert_allclose(embodiment.positions(rows, anchor), embodiment.commanded(actions), atol=1e-6)


def test_a_zero_row_commands_the_position_of_the_observation_instant(embodiment: Embodiment) -> None:
    anchor = np.linspace(-0.5, 0.5, 20)
    positions = embodiment.positions(np.zeros((24, 32), np.float32), anchor)
    joints = embodiment.contract.model.commanded_joints
    arms = slice(0, 14)
    np.testing.assert_allclose(positions[:, arms], np.tile(anchor[arms], (24, 1)))
    assert positions.shape == (24, len(joints))


@pytest.mark.parametrize(("normaliser", "seen"), [("q99", 1.0), ("q99_wide", 3.0)])
def test_a_motion_beyond_the_quantiles_is_kept_by_the_wide_normaliser(
    embodiment: Embodiment, normaliser: str, seen: float
) -> None:
    document = embodiment.model.model_dump() | {"normaliser": normaliser}
    width, joints = embodiment.model.action_width, len(embodiment.model.state_joints)
    unit = Statistics(Quantiles(-np.ones(joints), np.ones(joints)), Quantiles(-np.ones(width), np.ones(width)), "")
    transforms = Transforms(ModelSection.model_validate(document), unit)
    assert transforms.normalised_actions(np.full((1, width), 3.0), np.zeros(joints))[0, 0] == seen


def test_quantiles_clamp_on_the_way_in_only_and_equal_ones_pass() -> None:
    quantiles = Quantiles(np.array([0.0, 0.3]), np.array([2.0, 0.3]))
    np.testing.assert_allclose(quantiles.normalise(np.array([3.0, 0.3])), [1.0, 0.3])
    np.testing.assert_allclose(quantiles.denormalise(np.array([2.0, 0.7])), [3.0, 0.3])


def test_the_prompt_is_the_template_with_a_lowered_instruction(embodiment: Embodiment) -> None:
    assert embodiment.prompt("Touch the RED cube") == "touch the red cube"


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
