"""A small model of one arm and three cameras, served: by a process of its own, or by a thread of this one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamzero_policy.inference.loading import Policy, load_policy
from dreamzero_policy.inference.protocol.official import Names
from dreamzero_policy.inference.server.settings import Settings
from dreamzero_policy.inference.server.threaded import ThreadedService
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.runtime.contract import Contract, load_contract, save_contract
from dreamzero_policy.runtime.embodiment import Quantiles, Transforms, save_statistics
from dreamzero_policy.runtime.trained import load_statistics

DROID = Path(__file__).parents[5] / "config" / "droid_franka.yaml"
PATIENCE_S = 300.0
CELL_PX = 16


@pytest.fixture(scope="session")
def arm_contract() -> Contract:
    """That of the Franka, with small views."""
    contract = load_contract(DROID)
    view = contract.model.view.model_copy(update={"width_px": CELL_PX, "height_px": CELL_PX})
    return contract.model_copy(update={"model": contract.model.model_copy(update={"view": view})})


@pytest.fixture(scope="session")
def arm_checkpoint(arm_contract: Contract, small_config: ModelConfig, write_checkpoint, tmp_path_factory) -> Path:
    chunk = arm_contract.model.chunk
    config = replace(
        small_config,
        geometry=replace(
            small_config.geometry,
            canvas_height=2 * CELL_PX,
            canvas_width=2 * CELL_PX,
            actions_per_chunk=chunk.actions,
            max_action_dim=10,
            max_state_dim=12,
            chunks_per_window=chunk.chunks_per_window,
        ),
        text_encoder=replace(small_config.text_encoder, text_length=512),  # bytes; the template is long
        sampler=replace(small_config.sampler, steps=2, window_chunks=None),
    )
    folder = write_checkpoint(config, tmp_path_factory.mktemp("arm"))
    save_contract(arm_contract, folder / "contract.yaml")
    width, wide = len(arm_contract.model.state_joints), arm_contract.model.action_width
    quantiles = [Quantiles(np.linspace(-2.0, -1.0, n), np.linspace(1.0, 2.0, n)) for n in (width, wide)]
    save_statistics(folder / "statistics.json", arm_contract, *quantiles)
    return folder


@pytest.fixture(scope="session")
def arm_policy(arm_checkpoint: Path) -> Policy:
    """The same model in this process."""
    torch.set_num_threads(1)
    return load_policy(arm_checkpoint)


@pytest.fixture(scope="session")
def arm_transforms(arm_contract: Contract, arm_checkpoint: Path) -> Transforms:
    return Transforms(arm_contract.model, load_statistics(arm_checkpoint, arm_contract))


@pytest.fixture(scope="session")
def names(arm_contract: Contract) -> Names:
    return Names.of(arm_contract.model)


@dataclass
class Process:
    """`dreamzero serve` as a user starts it."""

    process: subprocess.Popen
    port: int
    log: Path

    @property
    def address(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def events(self, name: str) -> list[dict]:
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [each for each in found if each["event"] == name]


@contextmanager
def serving(checkpoint: Path, log: Path, *options: str, processes: int = 1) -> Iterator[Process]:
    """With several processes under torchrun, which is then the process that is given."""
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(together if processes > 1 else [])]
    separator = ["--"] if processes > 1 else []  # behind it options are not torchrun's
    command += ["-m", "dreamzero_policy.cli.main", *separator, "serve", "--checkpoint", str(checkpoint)]
    command += ["--listen", "127.0.0.1:0", "--dtype", "float32", "--log", "json", *options]
    with log.open("w") as stream:
        environment = dict(os.environ, OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS="1")
        process = subprocess.Popen(command, stderr=stream, env=environment, start_new_session=True)
    server = Process(process, 0, log)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (ready := server.events("ready")):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        server.port = ready[0]["port"]
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def server(arm_checkpoint: Path, tmp_path_factory) -> Iterator[Process]:
    """One for all tests that leave it as it was. Its rate limit is out of the way."""
    log = tmp_path_factory.mktemp("server") / "log.jsonl"
    with serving(
        arm_checkpoint, log, "--max-rate-hz", "1000000", "--memory-mb", "2000", "--resume-s", "600"
    ) as process:
        yield process


@pytest.fixture
def start(arm_checkpoint: Path) -> Iterator[Callable[..., ThreadedService]]:
    """Starts a service with these settings on a real socket, ready to serve."""
    started: list[ThreadedService] = []

    def start(**settings: object) -> ThreadedService:
        served = ThreadedService(Settings(arm_checkpoint, port=0, dtype="float32", **settings))
        started.append(served)
        served.wait_until_ready(PATIENCE_S)
        return served

    yield start
    for each in started:
        each.end(PATIENCE_S)
