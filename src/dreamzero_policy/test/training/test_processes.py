"""Several processes give the weights of one on the same batches; replicated and sharded, full and low-rank."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dreamzero_policy.training.ranks import Ranks
from dreamzero_policy.training.state_file import read_state

TOGETHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(recipe: Path, together: bool) -> dict[str, torch.Tensor]:
    """Averaged weights after the recipe's steps in one process or in two."""
    module = ["-m", "dreamzero_policy.training.train", "--recipe", str(recipe), "--folder", str(recipe.parent)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, *(TOGETHER if together else []), *module, "--out", str(recipe.parent / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert (recipe.parent / "out" / "transformer").is_dir()
    return read_state(recipe.parent / "state.pt")["average"]


@pytest.mark.parametrize("shard", [False, True], ids=["replicated", "sharded"])
def test_two_processes_give_the_weights_of_one(tmp_path, fill_run, shard):
    settings = {"steps": 5, "lengths": "mixed", "learning_rate": 1e-3, "ema": 0.5}
    alone = run(fill_run(tmp_path / "alone", settings), together=False)
    both = run(fill_run(tmp_path / "both", settings | {"shard": shard}), together=True)
    start = run(fill_run(tmp_path / "start", settings | {"steps": 0}), together=False)
    assert set(alone) == set(both)
    apart, moved = (
        torch.stack([(weights[key] - other[key]).norm() for key in alone]).norm()
        for weights, other in ((both, alone), (alone, start))
    )
    assert moved > 0 and apart <= 0.01 * moved


def test_every_row_of_a_batch_belongs_to_one_process_and_shares_add_up():
    for count in (1, 2, 5, 8):
        parts = [Ranks(rank, 3).rows(count) for rank in range(3)]
        assert sum(share for _, share in parts) == pytest.approx(1)
        assert sorted(row for rows, share in parts if share for row in rows) == list(range(count))
        assert all(rows for rows, _ in parts)
