"""A checkpoint runs only on a contract that says what it was trained with."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from dreamzero_policy.runtime.contract import Contract, ContractError, load_contract
from dreamzero_policy.runtime.release import release_contract
from dreamzero_policy.runtime.trained import CONF_FILE, METADATA_FILE, load_statistics

REPOSITORY = Path(__file__).parents[4]
RELEASE = Path(__file__).parents[1] / "model" / "golden" / "release_layout" / "checkpoint"


@pytest.fixture(scope="module")
def agibot() -> Contract:
    return load_contract(REPOSITORY / "config" / "agibot_g1.yaml")


@pytest.fixture(scope="module")
def fitting(agibot) -> Contract:
    """A contract whose model section says what the release says of its AgiBot."""
    conf = yaml.safe_load((RELEASE / CONF_FILE).read_text())
    metadata = json.loads((RELEASE / METADATA_FILE).read_text())
    return agibot.model_copy(update={"model": release_contract(conf, metadata, "agibot")})


def test_the_shipped_checkpoint_gives_the_statistics_of_its_contract(agibot):
    statistics = load_statistics(REPOSITORY / "checkpoints" / "agibot_g1_tiny", agibot)
    assert statistics.action.q01.shape == (agibot.model.action_width,)


def test_a_release_gives_the_quantiles_of_the_embodiment_that_fits_in_the_contracts_order(fitting):
    statistics = load_statistics(RELEASE, fitting)
    table = json.loads((RELEASE / METADATA_FILE).read_text())["agibot"]["statistics"]["state"]
    released = np.concatenate([np.ravel(table[group.key]["q99"]) for group in fitting.model.state])
    np.testing.assert_array_equal(statistics.state.q99, released)
    np.testing.assert_array_equal(load_statistics(RELEASE, fitting, "agibot").state.q99, released)


def test_a_converted_release_is_found_under_release(fitting, tmp_path):
    (tmp_path / "release").symlink_to(RELEASE)
    np.testing.assert_array_equal(
        load_statistics(tmp_path, fitting).action.q01, load_statistics(RELEASE, fitting).action.q01
    )


def test_a_contract_that_differs_is_refused_with_what_differs_by_embodiment(agibot):
    with pytest.raises(ContractError, match=r"0 embodiments of .* fit(.|\n)*agibot: .*view.*64 \|"):
        load_statistics(RELEASE, agibot)
    with pytest.raises(ContractError, match=r"no embodiment 'yam'.*it has \['agibot', 'oxe_droid'\]"):
        load_statistics(RELEASE, agibot, "yam")


def test_a_folder_that_names_no_robot_is_refused(agibot, tmp_path):
    with pytest.raises(ContractError, match=r"neither contract\.yaml nor experiment_cfg/metadata\.json"):
        load_statistics(tmp_path, agibot)


def test_a_broken_file_of_a_release_is_named(agibot, tmp_path):
    (tmp_path / "experiment_cfg").mkdir()
    (tmp_path / METADATA_FILE).write_text("{")
    (tmp_path / CONF_FILE).write_text("{}")
    with pytest.raises(ContractError, match=r"metadata\.json cannot be read"):
        load_statistics(tmp_path, agibot)
