"""A worker that fails says how, and one that hangs does not hold its parent."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dreamzero_policy.inference.worker import WorkerError, WorkerPolicy
from dreamzero_policy.inference.worker_process import failure


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerPolicy]:
    """A process that is still importing, which is as good a moment as any."""
    policy = WorkerPolicy(tmp_path, device="cpu", dtype="float32", threads=1, steps=1)
    yield policy
    policy.process.kill()


def test_a_stopped_worker_is_ended_all_the_same(worker: WorkerPolicy) -> None:
    worker.process.send_signal(signal.SIGSTOP)
    worker.close()
    assert worker.process.returncode == -signal.SIGKILL


def test_a_killed_worker_says_that_memory_may_have_run_out(worker: WorkerPolicy) -> None:
    worker.process.kill()
    with pytest.raises(
        WorkerError, match=r"exit code -9\): killed; if nobody did it, the system had run out of memory"
    ):
        worker.wait_until_ready(60.0)
    worker.close()


def test_a_model_that_runs_out_of_memory_says_so() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55, dtype=torch.uint8)
    assert failure(caught.value).message.startswith("the model ran out of memory: RuntimeError")
    assert failure(torch.OutOfMemoryError("CUDA out of memory")).message.startswith("the model ran out of memory")
    assert failure(MemoryError()).message.startswith("the model ran out of memory")
    assert failure(ValueError("canvas has 3 rows")).message == "ValueError: canvas has 3 rows"
