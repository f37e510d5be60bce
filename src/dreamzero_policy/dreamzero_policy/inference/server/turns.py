"""Whose turn it is: one thread does the model's work, a piece at a time, the most urgent first.

Of several waiting sessions the one is next whose promise ends first: each chunk is due one period after it was asked
for. A session that asked for more than it was promised has used up its promise for some time ahead (`Account.due_s`),
so it waits behind every other; nobody else is slowed down by it beyond one piece of work.
"""

import asyncio
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from dreamzero_policy.inference.server.capacity import Account

log = logging.getLogger(__name__)

T = TypeVar("T")


class TooLate(Exception):  # noqa: N818 (a state of affairs)
    """The work had not begun by its deadline."""


class NotWanted(Exception):  # noqa: N818
    """Nobody waited for the work any more when its turn came."""


@dataclass(frozen=True)
class Turn(Generic[T]):
    """What came of it."""

    result: T
    queue_s: float  # waited for
    model_s: float  # worked


@dataclass(order=True)
class _Piece:
    due_s: float
    number: int
    account: Account = field(compare=False)
    work: Callable[[], Any] = field(compare=False)
    before_s: float | None = field(compare=False)
    wanted: Callable[[], bool] = field(compare=False)
    outcome: "asyncio.Future[Turn]" = field(compare=False)
    asked_s: float = field(compare=False)


class Turns:
    """The model's thread. Use from one event loop."""

    def __init__(self) -> None:
        self._waiting: list[_Piece] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._ended = False
        self.busy_s = 0.0  # in all
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Pieces of work that wait."""
        return len(self._waiting)

    async def take(
        self,
        account: Account,
        work: Callable[[], T],
        *,
        before_s: float | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Turn[T]:
        """Do a piece of work for a session when it is its turn.

        Args:
            account: whose.
            work: runs on the model's thread.
            before_s: on the monotonic clock; work that has not begun by then is not done.
            wanted: asked when its turn has come, on the model's thread.

        Raises:
            TooLate, NotWanted: it was not done.
            Exception: whatever `work` raises.
        """
        now_s = time.monotonic()
        outcome = asyncio.get_running_loop().create_future()
        due_s = max(now_s, account.due_s) + account.period_s
        piece = _Piece(due_s, next(self._numbers), account, work, before_s, wanted, outcome, now_s)
        with self._changed:
            heapq.heappush(self._waiting, piece)
            self._changed.notify()
        return await outcome

    def end(self, patience_s: float = 5.0) -> bool:
        """Stop behind the piece at work. False if that takes longer: this process must not be left in the usual way."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if self._ended:
                    return
                piece = heapq.heappop(self._waiting)
            self._do(piece)

    def _do(self, piece: _Piece) -> None:
        began_s = time.monotonic()
        try:
            if not piece.wanted():
                raise NotWanted
            if piece.before_s is not None and began_s > piece.before_s:
                raise TooLate(f"{1e3 * (began_s - piece.before_s):.0f} ms after its deadline")
            result = piece.work()
        except BaseException as error:
            failure = _carried(error)
            self._settle(piece, began_s, lambda: piece.outcome.set_exception(failure))
        else:
            took_s = time.monotonic() - began_s
            turn = Turn(result, began_s - piece.asked_s, took_s)
            self._settle(piece, began_s, lambda: piece.outcome.set_result(turn))

    def _settle(self, piece: _Piece, began_s: float, tell: Callable[[], None]) -> None:
        took_s = time.monotonic() - began_s
        self.busy_s += took_s
        piece.account.took(took_s)
        try:
            piece.outcome.get_loop().call_soon_threadsafe(lambda: None if piece.outcome.done() else tell())
        except RuntimeError:  # the loop is closed: the server has ended
            log.debug("work done for nobody")


def _carried(error: BaseException) -> Exception:
    """A future takes no StopIteration, and nothing that would end the loop."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
