"""From bags of a node at work to what is normal for its checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dreamzero_policy.cli.main import app
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.surprises import SurpriseRun, calibration_of
from dreamzero_policy.inference.worker_process import checkpoint_hash
from dreamzero_policy.runtime.calibration import Calibration
from dreamzero_policy.runtime.contract import Contract, save_contract
from dreamzero_policy.runtime.observation import NS_PER_S

from .conftest import BagMaker, message

CELLS = "std_msgs/msg/Float32MultiArray"


def run(folder: Path, contract: Contract, differences: list[float], weights: str = "w", steps: int = 4) -> Path:
    """A bag as a node's recorder leaves it, with a chunk and as many blocks of 2 x 3 x 4 cells."""
    from rclpy.serialization import serialize_message

    from dreamzero_msgs.msg import ActionChunk

    said = ActionChunk(
        contract_hash=contract.hash, checkpoint_hash=weights, full_denoise_steps=steps, regime="stop_and_go"
    )
    with BagMaker(folder, contract) as bag:
        bag.serialised("/policy_node/chunk", "dreamzero_msgs/msg/ActionChunk", NS_PER_S, serialize_message(said))
        for number, difference in enumerate(differences):
            bag.raw("/policy_node/surprise_cells", CELLS, (2 + number) * NS_PER_S, cells_of(difference))
    return folder


def cells_of(difference: float) -> object:
    """Every cell as large, but the last one four times so."""
    cells = np.full((2, 3, 4), difference, np.float32)
    cells[1, 2, 3] *= 4
    axes = [message("std_msgs/msg/MultiArrayDimension", label="", size=size, stride=0) for size in cells.shape]
    return message(CELLS, layout=message("std_msgs/msg/MultiArrayLayout", dim=axes), data=cells.ravel())


def test_the_differences_of_all_runs_are_what_is_normal(tmp_path: Path, contract: Contract) -> None:
    halves = np.linspace(1, 2, 300).reshape(150, 2)
    bags = [run(tmp_path / f"{i}", contract, halves[:, i].tolist()) for i in range(2)]
    normal = calibration_of([SurpriseRun.read(bag) for bag in bags], contract)
    assert (normal.runs, normal.blocks, normal.denoise_steps, normal.regimes) == (2, 300, 4, ("stop_and_go",))
    assert normal.cells.mean.shape == (2, 3, 4)
    assert np.exp(normal.cells.mean[1, 2, 3] - normal.cells.mean[0, 0, 0]) == pytest.approx(4)
    assert (normal.contract_hash, normal.checkpoint_hash) == (contract.hash, "w")


def test_runs_of_two_policies_are_refused_with_both(tmp_path: Path, contract: Contract) -> None:
    bags = [run(tmp_path / str(steps), contract, [1.0], steps=steps) for steps in (4, 1)]
    with pytest.raises(EpisodeError, match=r"4\) and .*1\); calibrate with runs of one"):
        calibration_of([SurpriseRun.read(bag) for bag in bags], contract)


def test_a_bag_without_surprise_says_what_to_record(tmp_path: Path, contract: Contract) -> None:
    with pytest.raises(EpisodeError, match="no ~/surprise_cells of policy_node; record both"):
        SurpriseRun.read(run(tmp_path / "bag", contract, []))
    with BagMaker(tmp_path / "other", contract) as bag:
        bag.raw("/policy_node/surprise_cells", CELLS, NS_PER_S, cells_of(1.0))
    with pytest.raises(EpisodeError, match="no ~/chunk of policy_node"):
        SurpriseRun.read(tmp_path / "other")


def test_the_command_writes_beside_the_weights_and_leaves_their_hash(tmp_path: Path, contract: Contract) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "weights").write_bytes(b"1234")
    save_contract(contract, tmp_path / "contract.yaml")
    before = checkpoint_hash(checkpoint)
    bag = run(tmp_path / "bag", contract, np.linspace(1, 2, 200).tolist(), weights=before)
    arguments = ["calibrate", str(bag), "--checkpoint", str(checkpoint), "--contract", str(tmp_path / "contract.yaml")]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["blocks"], document["highest_percentile"]) == (200, 99.5)
    written = Calibration.load(checkpoint / "surprise.json")
    assert written.misfit(contract.hash, before, 4) == "" and written.too_few(99.5) == ""
    assert checkpoint_hash(checkpoint) == before


def test_runs_of_another_checkpoint_are_refused_in_one_line(tmp_path: Path, contract: Contract) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    save_contract(contract, tmp_path / "contract.yaml")
    bag = run(tmp_path / "bag", contract, [1.0] * 200, weights="f" * 64)
    arguments = ["calibrate", str(bag), "--checkpoint", str(checkpoint), "--contract", str(tmp_path / "contract.yaml")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "the recording is of checkpoint ffffffffffff, this policy has" in done.output
    assert not (checkpoint / "surprise.json").exists()
