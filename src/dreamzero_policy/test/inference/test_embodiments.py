"""What a checkpoint says about robots, and whether a contract fits it."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from dreamzero_policy.inference.embodiments import geometry_misfits, released_embodiments
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.model.release_config import read_release
from dreamzero_policy.model.release_documents import release_conf, release_document
from dreamzero_policy.runtime.contract import Contract, load_contract

CONFIG = Path(__file__).parents[4] / "config"


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract(CONFIG / "agibot_g1.yaml")


def tables(contract: Contract, scale: float) -> dict:
    def kind(groups) -> dict:
        return {g.key: {"q01": [-scale] * g.width, "q99": [scale] * g.width, "mean": [0.0] * g.width} for g in groups}

    return {"state": kind(contract.model.state), "action": kind(contract.model.action)}


def entry(tag: str, statistics: dict) -> dict:
    return {"statistics": statistics, "modalities": {"video": {"a": {"fps": 30.0}}}, "embodiment_tag": tag}


@pytest.fixture
def release(contract, tmp_path) -> Path:
    """The configuration files of a release with two robots, the tables in alphabetical order as released."""
    config = ModelConfig.from_file(CONFIG / "models" / "tiny.yaml")
    model = contract.model
    order = {
        "video_concat_order": [f"video.{camera}" for camera in model.cameras],
        "state_concat_order": [f"state.{group.key}" for group in model.state],
        "action_concat_order": [f"action.{group.key}" for group in model.action],
    }
    conf = release_conf(config) | {
        "relative_action": True,
        "relative_action_keys": [group.key for group in model.action if group.relative] + ["of_another_robot"],
        "transforms": {"agibot": {"transforms": [{"_target_": "x.ConcatTransform", **order}]}},
    }
    sorted_tables = {kind: dict(sorted(table.items())) for kind, table in tables(contract, 2.0).items()}
    other = {kind: {"joint_position": {"q01": [0.0] * 7, "q99": [1.0] * 7}} for kind in ("state", "action")}
    metadata = {"agibot": entry("agibot", sorted_tables), "oxe_droid": entry("oxe_droid", other)}
    (tmp_path / "experiment_cfg").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(release_document(config)))
    (tmp_path / "experiment_cfg/conf.yaml").write_text(yaml.safe_dump(conf))
    (tmp_path / "experiment_cfg/metadata.json").write_text(json.dumps(metadata))
    return tmp_path


def test_the_order_is_that_of_the_concatenation_not_of_the_tables(release, contract):
    found = released_embodiments(read_release(release))
    assert list(found["agibot"].state) == [group.key for group in contract.model.state]
    assert found["agibot"].cameras == contract.model.cameras
    assert (found["oxe_droid"].state, found["oxe_droid"].fps) == ({"joint_position": 7}, 30.0)


def test_sizes_that_differ_are_named_with_both_values(contract):
    config = ModelConfig.from_file(CONFIG / "models" / "tiny.yaml")
    assert geometry_misfits(config, contract.model) == []
    other = dataclasses.replace(config.geometry, canvas_height=256, actions_per_chunk=48, max_action_dim=8)
    lines = geometry_misfits(dataclasses.replace(config, geometry=other), contract.model)
    assert lines == [
        "canvas [height, width] px: (128, 128) | (256, 128)",
        "actions of a chunk: 24 | 48",
        "action is 22 wide, the model takes 8",
    ]
