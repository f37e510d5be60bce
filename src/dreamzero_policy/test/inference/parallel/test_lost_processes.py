"""A process that dies or stops ends the others: soon, with a reason that names it, and never a hang."""

import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamzero_policy.inference.parallel.crew import Shape
from dreamzero_policy.inference.parallel.loading import load_following, load_leading
from dreamzero_policy.inference.parallel.lockstep import follow
from dreamzero_policy.inference.session import Session

from .conftest import free_port, join_as

PATIENCE_S, STUCK_S = 2.0, 6.0
GONE_WITHIN_S, SILENT_WITHIN_S = 5.0, PATIENCE_S + 5.0  # a beat, and what a busy machine takes
AT_WORK = "at work"


def member(rank: int, shape: Shape, port: int, folder: Path, reasons: Path, then: str) -> None:
    """Predicts or idles for ever, or fails, or the last process hangs."""

    def lost(reason: str) -> None:
        (reasons / str(rank)).write_text(reason)
        os._exit(1)

    crew = join_as(rank, shape, port, patience_s=PATIENCE_S, stuck_s=STUCK_S, lost=lost)
    if not crew.leads:
        transformer = load_following(crew, folder)
        if then == "hang" and rank == 3:
            transformer.denoise = lambda *_, **__: time.sleep(1000)  # its thread; its pings go on
        follow(transformer, crew)
        return
    session = Session(load_leading(crew, folder), "wave")
    session.observe(np.zeros((1, 32, 32, 3), np.uint8))
    (reasons / AT_WORK).touch()
    while True:
        if then == "idle":
            time.sleep(1)
        elif then in ("predict", "hang"):
            session.predict(np.zeros(1, np.float32))
        else:
            session._append(session._memory.window, torch.zeros(1, 16, 2, 3, 3))  # latents of another size


@pytest.fixture
def crew(divisible_folder, tmp_path):
    """Starts four processes, gives them once they work, and kills what is left."""
    started: list[BaseProcess] = []

    def start(then: str) -> list[BaseProcess]:
        context, shape = multiprocessing.get_context("fork"), Shape(cfg=2, tensor=2)
        arguments = (shape, free_port(), divisible_folder, tmp_path, then)
        started.extend(context.Process(target=member, args=(rank, *arguments)) for rank in range(shape.size))
        for process in started:
            process.start()
        while not (tmp_path / AT_WORK).exists():
            assert started[0].exitcode in (None, 1)
            time.sleep(0.05)
        return started

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.mark.parametrize("then", ["predict", "idle"])
@pytest.mark.parametrize(
    ("number", "within_s", "what"),
    [(signal.SIGKILL, GONE_WITHIN_S, "is gone"), (signal.SIGSTOP, SILENT_WITHIN_S, "has not answered for 2 s")],
    ids=["killed", "stopped"],
)
def test_rank_0_ends_with_the_name_of_the_process_that_is_gone(crew, tmp_path, then, number, within_s, what) -> None:
    first, _, third, _ = crew(then)
    os.kill(third.pid, number)
    first.join(within_s)
    assert first.exitcode == 1
    assert (tmp_path / "0").read_text() == f"rank 2 of 4 {what}, and the model cannot work without it"


def test_the_others_end_when_rank_0_is_gone(crew, tmp_path) -> None:
    first, *others = crew("idle")
    first.kill()
    for rank, process in enumerate(others, 1):
        process.join(GONE_WITHIN_S)
        assert process.exitcode == 1
        assert (tmp_path / str(rank)).read_text() == "rank 0 of 4 is gone, and the model cannot work without it"


def test_what_fails_on_the_way_ends_all_with_the_reason(crew, tmp_path) -> None:
    for process in crew("fail"):
        process.join(GONE_WITHIN_S)
        assert process.exitcode == 1
    reason = (tmp_path / "0").read_text()
    assert reason.startswith("rank 0 failed at observe, behind which the processes are not at the same place: ")


def test_a_process_that_hangs_at_its_work_ends_all(crew, tmp_path) -> None:
    first, *_ = crew("hang")
    first.join(STUCK_S + GONE_WITHIN_S)
    assert first.exitcode == 1
    assert (tmp_path / "0").read_text()
