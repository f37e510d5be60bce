"""Several processes give the weights of one on the same batches, with a copy in each or spread over them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from dreamzero_policy.training.progress import Reporter
from dreamzero_policy.training.ranks import Ranks
from dreamzero_policy.training.settings import Recipe
from dreamzero_policy.training.state_file import read_state
from dreamzero_policy.training.train import train

TOGETHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
SETTINGS = {"lengths": "mixed", "learning_rate": 1e-3, "ema": 0.5}


def weights_alone(recipe: Path) -> dict[str, torch.Tensor]:
    """Averaged weights after the recipe's steps in this process."""
    return train(Recipe.load(recipe), "joint", recipe.parent, recipe.parent / "out", Reporter()).average


def weights_together(recipe: Path) -> dict[str, torch.Tensor]:
    """The same in two processes under torchrun."""
    module = ["-m", "dreamzero_policy.training.train", "--recipe", str(recipe), "--folder", str(recipe.parent)]
    process = subprocess.Popen(
        [sys.executable, *TOGETHER, *module, "--out", str(recipe.parent / "out")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        _, said = process.communicate(timeout=250)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, said
    assert (recipe.parent / "out" / "transformer").is_dir()
    return read_state(recipe.parent / "state.pt")["average"]


@pytest.mark.parametrize("shard", [False, True], ids=["replicated", "sharded"])
def test_two_processes_give_the_weights_of_one(tmp_path, fill_run, shard):
    start, alone = (weights_alone(fill_run(tmp_path / str(steps), SETTINGS | {"steps": steps})) for steps in (0, 5))
    both = weights_together(fill_run(tmp_path / "both", SETTINGS | {"steps": 5, "shard": shard}))
    assert set(alone) == set(both)
    apart, moved = (
        torch.stack([(weights[key] - other[key]).norm() for key in alone]).norm()
        for weights, other in ((both, alone), (alone, start))
    )
    assert moved > 0 and apart <= 0.01 * moved


@pytest.mark.parametrize(
    ("who", "how"), [("command", signal.SIGTERM), ("command", signal.SIGKILL), ("launcher", signal.SIGKILL)]
)
def test_processes_that_train_together_do_not_outlive_who_started_them(tmp_path, fill_run, who, how):
    recipe = fill_run(tmp_path / "run", SETTINGS | {"steps": 100_000, "save_every": 1})
    command = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "dreamzero_policy.cli.main",
            "train",
            "--config",
            str(recipe),
            "--run",
            str(recipe.parent),
        ]
        + ["--out", str(tmp_path / "out"), "--stage", "joint", "--processes", "2", "--threads", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until((recipe.parent / "state.pt").exists)
        family = psutil.Process(command.pid).children(recursive=True)
        assert len(family) >= 3  # the launcher and two that train
        (launcher,) = psutil.Process(command.pid).children()
        (command if who == "command" else launcher).send_signal(how)
        command.wait(timeout=60)
        wait_until(lambda: not any(each.is_running() for each in family))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)


def wait_until(true: Callable[[], bool], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"not within {seconds:g} s"
        time.sleep(0.1)


def test_every_row_of_a_batch_belongs_to_one_process_and_shares_add_up():
    for count in (1, 2, 5, 8):
        parts = [Ranks(rank, 3).rows(count) for rank in range(3)]
        assert sum(share for _, share in parts) == pytest.approx(1)
        assert sorted(row for rows, share in parts if share for row in rows) == list(range(count))
        assert all(rows for rows, _ in parts)
