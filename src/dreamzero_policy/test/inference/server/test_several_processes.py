"""`dreamzero serve` on several processes: one server whose model they hold together."""

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest

from dreamzero_policy.cli import serve as room
from dreamzero_policy.inference.loading import Policy
from dreamzero_policy.inference.parallel.crew import Shape
from dreamzero_policy.inference.protocol import messages
from dreamzero_policy.inference.server.settings import Settings, SettingsError
from dreamzero_policy.inference.session import Session
from dreamzero_policy.runtime.contract import Contract

from .conftest import PATIENCE_S, serving
from .robots import robot

BLOCKS = np.random.default_rng(0).integers(0, 256, (3, 8, 32, 32, 3), dtype=np.uint8)
STATE = np.linspace(-1, 1, 8, dtype=np.float32)
ROUNDING = 2e-5


def test_under_torchrun_a_robot_is_served_as_by_one_process_until_a_process_dies(
    arm_checkpoint: Path, arm_policy: Policy, arm_contract: Contract, tmp_path: Path
) -> None:
    own = Session(arm_policy, "wave", steps=2, vae_mode="stream")
    with serving(arm_checkpoint, tmp_path / "log", "--tensor-parallel", "2", processes=2) as server:
        assert [each["rank"] for each in server.events("following")] == [1]
        with robot(server.address) as there:
            assert there.open(arm_contract.hash).parameters == sum(arm_policy.parameters.values())
            for number, block in enumerate([BLOCKS[0, :1], BLOCKS[0], BLOCKS[1]]):
                there.observe(number, block)
                own.observe(block)
                expected = own.predict(STATE, seed=5).actions
                np.testing.assert_allclose(there.predict(number, STATE).actions, expected, rtol=0, atol=ROUNDING)
            assert isinstance(there.ask(messages.Fork, branch=0, into=1), messages.Forked)
            there.observe(3, BLOCKS[2], branch=1)
            own.observe(BLOCKS[2])
            branch = there.predict(3, STATE, branch=1).actions
            np.testing.assert_allclose(branch, own.predict(STATE, seed=5).actions, rtol=0, atol=ROUNDING)
        workers = psutil.Process(server.process.pid).children(recursive=True)
        ranks = {worker.environ().get("RANK"): worker for worker in workers}
        ranks["1"].kill()
        assert server.process.wait(PATIENCE_S) != 0
        assert not ranks["0"].is_running()
        [lost] = server.events("rank_lost")
        assert lost["reason"] == "rank 1 of 2 is gone, and the model cannot work without it"


def serve_as(rank: int, store_port: int, settings: Settings, log: Path) -> None:
    """As torchrun would have started this process."""
    sys.stderr = (log / str(rank)).open("w")
    place = {"RANK": rank, "WORLD_SIZE": settings.shape.size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store_port}
    os.environ |= {name: str(value) for name, value in place.items()}
    room.serve(settings, "json")


def test_a_signal_to_all_drains_the_server_and_ends_every_process(
    arm_checkpoint: Path, arm_contract: Contract, tmp_path: Path
) -> None:
    port, store_port = free_port(), free_port()
    settings = Settings(arm_checkpoint, port=port, dtype="float32", shape=Shape(tensor=2), drain_s=60.0)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=serve_as, args=(rank, store_port, settings, tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    try:
        while not healthy(port):
            assert all(process.is_alive() for process in processes)
            time.sleep(0.05)
        with robot(f"ws://127.0.0.1:{port}") as there:
            there.open(arm_contract.hash)
            there.observe(0, BLOCKS[0, :1])
            for process in processes:
                os.kill(process.pid, signal.SIGTERM)
            while not any(isinstance(told, messages.Draining) for told in there.unasked):
                assert isinstance(there.predict(0, STATE), messages.Chunk)  # whoever has a session is still served
        for process in processes:
            process.join(PATIENCE_S)
        assert [process.exitcode for process in processes] == [0, 0]
        said = [json.loads(line)["event"] for rank in "01" for line in (tmp_path / rank).read_text().splitlines()]
        assert "ended" in said and "rank_lost" not in said
    finally:
        for process in processes:
            process.kill()


def test_batches_are_for_one_process(arm_checkpoint: Path) -> None:
    with pytest.raises(SettingsError, match="--batch 2 is for one process, here 4 hold the model"):
        Settings(arm_checkpoint, batch=2, shape=Shape(cfg=2, tensor=2))


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
