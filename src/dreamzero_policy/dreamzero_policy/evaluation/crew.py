"""A crew: stages in processes of their own, which share out jobs.

Processes are spawned, with one thread each. Ctrl-C reaches the first process alone, which tells the others; they stop
between two steps of their clocks. If the first process dies, however it dies, the others end.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.synchronize import Event
from typing import Any, TypeVar

from dreamzero_policy.evaluation.stage import Setup, Stage
from dreamzero_policy.runtime.allocator import keep_freed_memory

Item = TypeVar("Item")
Out = TypeVar("Out")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

_stage: Stage | None = None  # of this process


class Crew:
    """A context in which functions of a stage run in several processes."""

    def __init__(self, setup: Setup, processes: int) -> None:
        os.environ.update(ENVIRONMENT)  # torch reads them when it is imported, which a new process does
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._pool = ProcessPoolExecutor(processes, context, _begin, (setup, self._stop))

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def each(self, do: Callable[[Stage, Item], Out], items: Iterable[Item]) -> Iterator[tuple[Item, Out]]:
        """`do(stage, item)` for every item, as they are done. The first exception of a process is raised here."""
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the processes that start here inherit it
        try:
            futures = {self._pool.submit(_do, do, item): item for item in items}
        finally:
            signal.signal(signal.SIGINT, handler)
        for future in as_completed(futures):
            yield futures[future], future.result()


def _begin(setup: Setup, stop: Event) -> None:
    global _stage
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    keep_freed_memory()
    _stage = Stage(setup, stop.is_set)


def _do(do: Callable[[Stage, Any], Any], item: Any) -> Any:
    return do(_stage, item)


def _end_with_parent() -> None:
    with contextlib.suppress(OSError):
        multiprocessing.parent_process().join()
    os._exit(1)
