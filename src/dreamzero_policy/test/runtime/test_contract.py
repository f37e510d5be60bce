"""A contract is checked whole, on load, and says what is wrong with it."""

import copy
from pathlib import Path

import pytest
import yaml

from dreamzero_policy.runtime.contract import (
    Contract,
    ContractError,
    differing_fields,
    load_contract,
    load_model_section,
    require_same_model,
    save_contract,
)

from .conftest import CONTRACT

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
