"""Processes that convert one thing each at a time, tell how far they are, and stop without a trace when asked.

What they make must be kept whole or not at all by the work itself; then an interruption costs what was under
construction, and the same work goes on where it was.
"""

import multiprocessing
import queue
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from dreamzero_policy.data.episodes import EpisodeError

Work = Callable[[Any, Callable[[float], None]], Any]  # a thing, who is told the share that is done → what came of it
POLL_S = 0.3
TELL_EVERY = 0.01  # share
_process: dict[str, Any] = {}  # of a worker: work, reports, stop


class Stopped(Exception):  # noqa: N818 (nothing is wrong)
    """Somebody does not want the rest."""


def results(
    work: Work, things: Sequence[Any], processes: int, heard: Callable[[int, float], None]
) -> Iterator[tuple[int, Any]]:
    """Number and result of every thing as it is done.

    Args:
        work: sent to every process once.
        things: sent to one of them.
        processes: how many; with one the work is done here.
        heard: told number and share of a thing that is under way.

    Raises:
        EpisodeError: a process died.
    """
    if processes == 1 or len(things) < 2:
        for number, thing in enumerate(things):
            yield number, work(thing, lambda share, number=number: heard(number, share))
        return
    context = multiprocessing.get_context("spawn")
    reports, stop = context.Queue(), context.Event()
    pool = ProcessPoolExecutor(min(processes, len(things)), context, _begin, (work, reports, stop))
    with pool:
        try:
            pending = {pool.submit(_do, number, thing): number for number, thing in enumerate(things)}
            while pending:
                finished, _ = wait(pending, POLL_S, FIRST_COMPLETED)
                _hear(reports, heard)
                for future in finished:
                    yield pending.pop(future), future.result()
        except BrokenProcessPool as error:
            raise EpisodeError("a process died, perhaps for lack of memory; the same command goes on") from error
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _hear(reports: Any, heard: Callable[[int, float], None]) -> None:
    while True:
        try:
            heard(*reports.get_nowait())
        except queue.Empty:
            return


def _begin(work: Work, reports: Any, stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides what an interruption means
    _process.update(work=work, reports=reports, stop=stop)


def _do(number: int, thing: Any) -> Any:
    told = 0.0

    def tell(share: float) -> None:
        nonlocal told
        if _process["stop"].is_set():
            raise Stopped
        if share - told >= TELL_EVERY:
            told = share
            _process["reports"].put((number, share))

    return _process["work"](thing, tell)
