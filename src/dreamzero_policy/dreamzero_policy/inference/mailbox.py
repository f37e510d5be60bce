"""A `runtime.policy.Policy` that is somewhere else: what is asked goes out, what is answered comes in, nobody waits."""

import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dreamzero_policy.runtime.policy import Answer, Request


class WorkerError(RuntimeError):
    """The model did not become ready; the message says why."""


@dataclass(frozen=True)
class Reset:
    prompt: str
    epoch: int


@dataclass(frozen=True)
class Imagine:
    epoch: int


Ask = Reset | Request | Imagine


class Mailbox:
    """Whoever carries the asks calls `_tell` from a thread of its own; what it tells first is no `Answer`, but that the
    model is ready."""

    def __init__(self, say: Callable[[Ask], None]) -> None:
        """`say` hands an ask on without waiting."""
        self._say = say
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._notify: Callable[[], None] = lambda: None

    def when_answered(self, notify: Callable[[], None]) -> None:
        """Call `notify` (from another thread) whenever `poll` has something new."""
        self._notify = notify

    def reset(self, prompt: str, epoch: int) -> None:
        self._say(Reset(prompt, epoch))

    def submit(self, request: Request) -> None:
        self._say(request)

    def dream(self, epoch: int) -> None:
        self._say(Imagine(epoch))

    def poll(self) -> Answer | None:
        try:
            return self._answers.get_nowait()
        except queue.Empty:
            return None

    def _tell(self, message: Any) -> None:
        self._answers.put(message)
        self._notify()

    def _heard(self, timeout_s: float, interrupted: Callable[[], bool], doing: str) -> Iterator[Any]:
        """What is told within this time. Raises WorkerError when `interrupted()` becomes true."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if interrupted():
                raise WorkerError(f"interrupted while {doing}")
            try:
                message = self._answers.get(timeout=0.1)
            except queue.Empty:
                continue
            yield message
