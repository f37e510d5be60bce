"""A contract is checked whole, on load, and says what is wrong with it."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from dreamzero_policy.runtime.contract import (
    Contract,
    ContractError,
    ModelSection,
    differing_fields,
    load_contract,
    load_model_section,
    model_hash,
    require_same_model,
    save_contract,
)
from dreamzero_policy.runtime.release import LAYOUTS

from .conftest import CONTRACT

CONFIG = CONTRACT.parent
CHECKPOINT = CONFIG.parent / "checkpoints" / "agibot_g1_tiny"
DOCUMENT = yaml.safe_load(CONTRACT.read_text())


def changed(path: str, value: object) -> dict:
    node = document = copy.deepcopy(DOCUMENT)
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
    for key in parents:
        node = node[key]
    node[last] = value
    return document


def test_the_shipped_contract_has_the_order_of_the_agibot_configuration(contract: Contract) -> None:
    assert [group.key for group in contract.model.state] == [
        "left_arm_joint_position",
        "right_arm_joint_position",
        "left_effector_position",
        "right_effector_position",
        "head_position",
        "waist_position",
    ]
    assert len(contract.model.commanded_joints) == 20
    assert contract.model.action_width == 22
    assert contract.model.state[-1].joints == ("idx02_body_joint2", "idx01_body_joint1")  # pitch, lift
    assert contract.model.state[-1].units == ("rad", "m")


def test_frames_are_every_third_step_and_end_at_the_observation(contract: Contract) -> None:
    assert contract.model.chunk.frame_offsets_steps == (-21, -18, -15, -12, -9, -6, -3, 0)
    assert contract.model.step_s * contract.model.chunk.actions == pytest.approx(0.8)


def test_the_hash_depends_on_the_model_section_only(contract: Contract) -> None:
    site = Contract.model_validate(changed("site.cameras.head.width_px", 640))
    model = Contract.model_validate(changed("model.action_hz", 15.0))
    assert site.hash == contract.hash
    assert model.hash != contract.hash


def test_the_shipped_checkpoint_keeps_the_hash_of_its_contract(contract: Contract) -> None:
    assert contract.hash == "9c2c52d7122923547ff3681e74b1592532290b09a827b332645aa5fd1bed289f"
    assert model_hash(load_model_section(CHECKPOINT / "contract.yaml")) == contract.hash
    assert json.loads((CHECKPOINT / "statistics.json").read_text())["contract_hash"] == contract.hash


@pytest.mark.parametrize(
    ("path", "default", "other"),
    [("model.prompt.literals", False, True), ("model.view.resize", "antialiased_bilinear", None)],
)
def test_a_late_field_changes_the_hash_only_where_it_says_something(
    contract: Contract, path: str, default: object, other: object
) -> None:
    assert Contract.model_validate(changed(path, default)).hash == contract.hash
    if other is not None:
        different = Contract.model_validate(changed(path, other))
        assert different.hash != contract.hash
        assert differing_fields(contract.model, different.model) == [f"{path}: {default} | {other}"]


def test_how_a_tile_is_filled_changes_the_hash_only_where_it_is_not_by_repeating() -> None:
    before = "45b0654677c8b49587c241804de09e395d0fbe51b6a28da4094bfa0ff71277df"  # when tiles had no `fill`
    droid = load_contract(CONFIG / "droid_franka.yaml").model
    assert model_hash(droid) == before
    document = droid.model_dump()
    document["canvas"]["tiles"][2]["fill"] = "resized"
    resized = ModelSection.model_validate(document)
    assert model_hash(resized) != before
    assert differing_fields(droid, resized) == ["model.canvas.tiles[2].fill: 'repeated' | 'resized'"]
    assert (droid.view_size_px("wrist"), resized.view_size_px("wrist")) == ((176, 320), (176, 640))
    assert resized.canvas_size_px == droid.canvas_size_px


def test_a_part_of_a_tile_and_its_rows_change_the_hash() -> None:
    model = load_contract(CONFIG / "agibot_g1.yaml").model
    for path, value in (("canvas.tiles.0.part", None), ("canvas.tiles.1.part.top", 0.0), ("canvas.tiles.0.rows", 2)):
        other = ModelSection.model_validate(changed(f"model.{path}", value)["model"])
        assert model_hash(other) != model_hash(model), path
        assert len(differing_fields(model, other)) == 1


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.canvas.tiles.0.part.top", 0.9, "has no area"),
        ("model.canvas.tiles.0.part.bottom", 1.2, "less than or equal to 1"),
        ("model.canvas.tiles.0.rows", 4, "overlap or leave the 4 x 2 grid"),
        ("model.canvas.tiles.0.fill", "repeated", "the tile of head spans 3 rows, so its fill must be resized"),
    ],
)
def test_a_tile_that_cannot_be_drawn_is_refused(path: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Contract.model_validate(changed(path, value))


@pytest.mark.parametrize(
    ("file", "key_widths", "relative", "canvas_px", "span_s"),
    [
        ("droid_franka.yaml", {"joint_position": 7, "gripper_position": 1}, ["joint_position"], (352, 640), 1.6),
        (
            "yam_bimanual.yaml",
            {"left_joint_pos": 6, "left_gripper_pos": 1, "right_joint_pos": 6, "right_gripper_pos": 1},
            ["left_joint_pos", "left_gripper_pos", "right_joint_pos", "right_gripper_pos"],
            (352, 640),
            0.8,
        ),
    ],
)
def test_the_contracts_of_other_robots_are_those_of_the_release(
    file: str, key_widths: dict, relative: list, canvas_px: tuple[int, int], span_s: float
) -> None:
    model = load_contract(CONFIG / file).model
    assert {group.key: group.width for group in model.state} == key_widths
    assert {group.key: group.width for group in model.action} == key_widths
    assert [group.key for group in model.action if group.relative] == relative
    assert model.canvas_size_px == canvas_px
    assert model.step_s * model.chunk.actions == pytest.approx(span_s)
    assert model.prompt.template == LAYOUTS[model.embodiment].prompt
    tiles = [(tile.row, tile.column, tile.columns) for tile in model.canvas.tiles]
    assert tiles == list(LAYOUTS[model.embodiment].tiles)


def test_a_relative_group_needs_the_same_joints_and_units_in_the_state(tmp_path: Path) -> None:
    for path, value in (("model.action.0.unit", "m"), ("model.action.0.key", "elsewhere")):
        with pytest.raises(ValueError, match="no state group of the same key, joints and units"):
            Contract.model_validate(changed(path, value))


def test_a_saved_contract_is_the_same_contract(contract: Contract, tmp_path: Path) -> None:
    save_contract(contract, tmp_path / "contract.yaml")
    assert load_contract(tmp_path / "contract.yaml") == contract


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("model.cameras", ["head", "hand_left", "back"], "back"),
        ("model.action_hz", -30.0, "model.action_hz"),
        ("model.chunk.frame_offsets_steps", [-21, -18, -15, -12, -9, -6, -3, 1], "frame_offsets_steps"),
        ("model.prompt.template", "no place", "{instruction}"),
        ("model.state.0.joints", ["idx21_arm_l_joint1"] * 7, "idx21_arm_l_joint1"),
        ("site.controllers.1.joints", ["idx99_unknown"], "idx99_unknown"),
        ("site.limits.idx01_body_joint1.upper", -1.0, "idx01_body_joint1"),
        ("site.limits.idx01_body_joint1.margin", {"fraction": 0.6}, "idx01_body_joint1.margin.fraction"),
        (
            "site.limits.idx01_body_joint1.margin",
            {"absolute": 0.3},
            "margins of 0.3 leave nothing between 0.0 and 0.55",
        ),
        ("site.workspace", {"left": {"lower": [0, 0, 1], "upper": [1, 1, 1]}}, "site.workspace.left"),
        ("site.self_clearance_m", -0.1, "site.self_clearance_m"),
        ("site.grippers", {}, "idx41_gripper_l_outer_joint1"),
        ("site.surprise", 1, "site.surprise"),
    ],
)
def test_a_malformed_contract_is_refused_by_name(path: str, value: object, named: str, tmp_path: Path) -> None:
    file = tmp_path / "contract.yaml"
    file.write_text(yaml.safe_dump(changed(path, value)))
    with pytest.raises(ContractError, match="malformed") as error:
        load_contract(file)
    assert named in str(error.value)


def test_a_missing_file_and_broken_yaml_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="cannot be read"):
        load_contract(tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("model: [")
    with pytest.raises(ContractError, match="not YAML"):
        load_contract(tmp_path / "broken.yaml")


def test_a_checkpoint_of_another_contract_is_refused_with_both_values(contract: Contract, tmp_path: Path) -> None:
    other = Contract.model_validate(changed("model.view.width_px", 320))
    with pytest.raises(ContractError, match=r"model\.view\.width_px: 64 \| 320"):
        require_same_model(contract, other.model, tmp_path)
    assert differing_fields(contract.model, other.model) == ["model.view.width_px: 64 | 320"]
    require_same_model(contract, contract.model, tmp_path)


def test_the_site_of_a_checkpoint_does_not_matter(contract: Contract, tmp_path: Path) -> None:
    (tmp_path / "contract.yaml").write_text(yaml.safe_dump(DOCUMENT | {"site": {"of": "another day"}}))
    assert load_model_section(tmp_path / "contract.yaml") == contract.model
