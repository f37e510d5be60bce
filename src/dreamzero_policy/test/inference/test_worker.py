"""The model in a process of its own: it answers as sessions in this one do, and says how it fails.

One that hangs does not hold its parent.
"""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamzero_policy.inference.loading import Policy
from dreamzero_policy.inference.mailbox import WorkerError
from dreamzero_policy.inference.sessions import Sessions
from dreamzero_policy.inference.worker import WorkerPolicy
from dreamzero_policy.inference.worker_process import checkpoint_hash, failure
from dreamzero_policy.runtime.policy import (
    ActionPrefix,
    Answer,
    Dream,
    Failure,
    Purpose,
    Reply,
    Request,
    Surprise,
)

STATE = np.linspace(-1, 1, 5, dtype=np.float32)
EPOCH, PATIENCE_S = 3, 300.0


@pytest.fixture(scope="module")
def worker(checkpoint_folder: Path) -> Iterator[WorkerPolicy]:
    policy = WorkerPolicy(checkpoint_folder, device="cpu", dtype="float32", threads=1, steps=1)
    policy.wait_until_ready(PATIENCE_S)
    yield policy
    policy.close()


def answer(worker: WorkerPolicy) -> Answer:
    deadline = time.monotonic() + PATIENCE_S
    while (got := worker.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return got


def requests(frames: np.ndarray) -> list[Request]:
    def request(
        canvas: np.ndarray | None, session: int, purpose: Purpose, prefix: ActionPrefix | None = None
    ) -> Request:
        return Request(EPOCH, canvas, STATE, 1, 3, time.monotonic_ns(), session, purpose, prefix)

    held = ActionPrefix(np.array([[0.3, -2.5], [0.2, -2.0]], np.float32), np.array([1, 4]), soft_rows=1)

    return [
        request(frames[0, :1], 0, Purpose.CHUNK),
        request(None, 0, Purpose.LOOK_AHEAD),
        request(frames[1, :1], 1, Purpose.CHUNK),
        request(frames[2], 0, Purpose.LOOK_AHEAD),
        request(frames[3], 1, Purpose.CHUNK),
        request(frames[4], 0, Purpose.OBSERVE),
        request(frames[5], 0, Purpose.CHUNK),
        request(frames[6], 1, Purpose.CHUNK, held),
    ]


def test_requests_to_the_process_are_answered_as_here(worker: WorkerPolicy, policy: Policy, frames: np.ndarray) -> None:
    here = Sessions(policy)
    here.reset("touch")
    worker.reset("touch", EPOCH)
    for request in requests(frames):
        worker.submit(request)
        theirs, ours = answer(worker), here.answer(request)
        assert type(theirs) is type(ours)
        assert theirs.epoch == EPOCH
        if isinstance(ours, Reply):
            np.testing.assert_array_equal(theirs.actions, ours.actions)
            assert theirs.held_rows == ours.held_rows == (0 if request.prefix is None else 1)
            assert theirs.timings_s["model"] >= theirs.timings_s["denoise"] > 0


def test_surprise_comes_behind_the_answer_and_is_what_it_is_here(
    worker: WorkerPolicy, policy: Policy, frames: np.ndarray
) -> None:
    here = Sessions(policy)
    here.reset("touch")
    worker.reset("touch", EPOCH)
    for canvas in (frames[0, :1], *frames[1:6]):  # over the end of a window
        request = Request(EPOCH, canvas, STATE, 1, 3, time.monotonic_ns(), followed=True)
        worker.submit(request)
        np.testing.assert_array_equal(answer(worker).actions, here.answer(request).actions)
        if len(canvas) > 1:
            told = answer(worker)
            assert isinstance(told, Surprise) and told.epoch == EPOCH
            np.testing.assert_array_equal(told.cells, here.surprise())


def test_a_request_of_an_older_epoch_is_not_answered(worker: WorkerPolicy, frames: np.ndarray) -> None:
    worker.reset("touch", EPOCH - 1)
    worker.submit(requests(frames)[0])
    worker.reset("push", EPOCH)
    worker.submit(requests(frames)[0])
    assert answer(worker).epoch == EPOCH
    worker.dream(EPOCH)
    assert isinstance(answer(worker), Dream)
    assert worker.poll() is None


def test_a_session_that_is_asked_what_it_cannot_do_ends_the_process_with_the_reason(
    checkpoint_folder: Path, frames: np.ndarray
) -> None:
    worker = WorkerPolicy(checkpoint_folder, device="cpu", dtype="float32", threads=1, steps=1)
    worker.wait_until_ready(PATIENCE_S)
    try:
        worker.reset("touch", EPOCH)
        worker.submit(Request(EPOCH, frames[0], STATE, 1, 3, time.monotonic_ns()))
        failure = answer(worker)
        assert isinstance(failure, Failure)
        assert "came before the first frame" in failure.message
    finally:
        worker.close()


def test_without_a_number_of_steps_the_process_takes_the_checkpoints_own_and_tells_it(checkpoint_folder: Path) -> None:
    worker = WorkerPolicy(checkpoint_folder, device="cpu", dtype="float32", threads=1, steps=None)
    try:
        assert worker.wait_until_ready(PATIENCE_S).steps == 2
    finally:
        worker.close()


@pytest.fixture
def young_worker(tmp_path: Path) -> Iterator[WorkerPolicy]:
    """A process that is still importing, which is as good a moment as any."""
    policy = WorkerPolicy(tmp_path, device="cpu", dtype="float32", threads=1, steps=1)
    yield policy
    policy.process.kill()


def test_a_stopped_worker_is_ended_all_the_same(young_worker: WorkerPolicy) -> None:
    young_worker.process.send_signal(signal.SIGSTOP)
    young_worker.close()
    assert young_worker.process.returncode == -signal.SIGKILL


def test_a_killed_worker_says_that_memory_may_have_run_out(young_worker: WorkerPolicy) -> None:
    young_worker.process.kill()
    with pytest.raises(
        WorkerError, match=r"exit code -9\): killed; if nobody did it, the system had run out of memory"
    ):
        young_worker.wait_until_ready(60.0)
    young_worker.close()


def test_a_model_that_runs_out_of_memory_says_so() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55, dtype=torch.uint8)
    assert failure(caught.value).message.startswith("the model ran out of memory: RuntimeError")
    assert failure(torch.OutOfMemoryError("CUDA out of memory")).message.startswith("the model ran out of memory")
    assert failure(MemoryError()).message.startswith("the model ran out of memory")
    assert failure(ValueError("canvas has 3 rows")).message == "ValueError: canvas has 3 rows"


def test_a_checkpoint_stays_the_same_when_its_card_tells_more_and_not_when_a_weight_or_a_name_changes(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text("{}")
    first = checkpoint_hash(tmp_path)
    (tmp_path / "README.md").write_text("It does eight of ten tasks.")
    assert checkpoint_hash(tmp_path) == first
    (tmp_path / "config.json").write_text("{ }")
    second = checkpoint_hash(tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    assert len({first, second, checkpoint_hash(tmp_path)}) == 3
