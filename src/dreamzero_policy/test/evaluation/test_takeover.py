"""A policy as a prelude: it acts for its time in the node's loop, comes to rest, and the expert takes over."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dreamzero_policy.cli.main import app
from dreamzero_policy.data.dataset import open_dataset
from dreamzero_policy.evaluation.stage import Setup
from dreamzero_policy.evaluation.suite import Suite
from dreamzero_policy.evaluation.takeover import PolicyPrelude
from dreamzero_policy.runtime.contract import Contract, ContractError

SHIPPED = Path(__file__).parents[4] / "config" / "agibot_g1.yaml"


@pytest.fixture(scope="module")
def prelude(setup: Setup) -> PolicyPrelude:
    return PolicyPrelude(setup, steps=2)


def act(prelude: PolicyPrelude, suite: Suite, duration_s: float) -> list[bytes]:
    prelude(suite, suite.reset("seen", 0), duration_s)
    return [plan.positions.tobytes() for plan in suite.followed]


def test_a_policy_acts_for_its_time_and_comes_to_rest(prelude: PolicyPrelude, suite: Suite) -> None:
    act(prelude, suite, 1.5)
    assert len(suite.followed) == 2  # a chunk a second
    assert suite.now_ns() >= suite.plan.end_ns - 2_000_000  # a physics step
    assert suite.plan.end_ns > 1.5e9
    assert np.abs(suite.observe(images=False).joints.positions - suite.home).max() > 1e-3


def test_it_tells_of_every_observation_that_a_chunk_is_asked_for_with(prelude: PolicyPrelude, suite: Suite) -> None:
    told_ns, frames = [], []

    def tell(seen: np.ndarray) -> None:
        told_ns.append(suite.now_ns())
        frames.append(len(seen))

    prelude(suite, suite.reset("seen", 0), 2.5, tell)
    assert len(suite.followed) == 3 and frames == [1, 8, 8]
    assert np.diff(told_ns).min() >= 0.8e9  # a chunk


def test_a_copy_in_another_process_does_the_same(prelude: PolicyPrelude, suite: Suite) -> None:
    unused = pickle.loads(pickle.dumps(PolicyPrelude(prelude.setup, prelude.steps)))
    assert act(prelude, suite, 1.5) == act(unused, suite, 1.5)


def test_a_checkpoint_of_another_contract_is_refused_before_anything_is_made(setup: Setup) -> None:
    other = Setup("", SHIPPED, setup.parameters, setup.weights)
    with pytest.raises(ContractError, match="width_px"):
        PolicyPrelude(other, steps=2).require_fit()


def test_one_command_collects_what_the_expert_makes_of_a_policys_attempts(
    setup: Setup, contract: Contract, tmp_path: Path
) -> None:
    document = collected(setup, tmp_path)
    assert document["outcomes"] == {"kept": 1}
    assert document["families"] == {"touch": {"kept": 1, "tried": 1}}
    assert open_dataset(tmp_path, contract).names == ("takeover_000002",)


def test_one_command_collects_what_the_expert_would_have_done_at_every_chunk_of_a_policy(
    setup: Setup, contract: Contract, tmp_path: Path
) -> None:
    document = collected(setup, tmp_path, "--advice")
    dataset = open_dataset(tmp_path, contract)
    assert document["outcomes"] == {"kept": 1} and document["episodes"] == len(dataset.names) == 1
    episode = dataset.episode("advice_000002_0")
    assert len(episode.advised) > 1 and len(episode.canvas) == 1 + 8 * len(episode.advised)
    assert (episode.advised[0] != episode.canvas[1:9]).any()  # the policy did something else


def collected(setup: Setup, out: Path, *options: str) -> dict:
    asked = ["--out", out, "--form", "views", "--first-seed", 2, "--episodes", 1, "--processes", 1, "--json", *options]
    asked += ["--contract", setup.contract, "--after-policy", setup.weights["checkpoint"], "--denoise-steps", 1]
    result = CliRunner().invoke(app, ["collect", *map(str, asked)])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
