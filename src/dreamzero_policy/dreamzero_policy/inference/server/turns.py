"""Whose turn it is: one thread does the model's work, a piece at a time, the most urgent first.

Of several waiting sessions the one is next whose promise ends first: each chunk is due one period after it was asked
for. A session that asked for more than it was promised has used up its promise for some time ahead (`Account.due_s`),
so it waits behind every other; nobody else is slowed down by it beyond one piece of work.

Where that is allowed (`together`), pieces of work that can be done in one batch are: the next one takes those with it
that wait at that moment and have the same `company`. None waits for another to come.
"""

import asyncio
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

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
    model_s: float  # worked, and in a batch its share of that


class Joint(Protocol):
    """Work in three parts, of which the middle one may be done for several at once."""

    def begin(self) -> Any | None:
        """What the middle part takes; its ``company`` is what others must have the same of. None: it goes alone."""

    def finish(self, begun: Any, sample: Any, began: float) -> Any:
        """The result. ``began``: when the middle part did, by `time.perf_counter`."""


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
    joint: Joint | None = field(compare=False, default=None)


class Turns:
    """The model's thread. Use from one event loop."""

    def __init__(self) -> None:
        self._waiting: list[_Piece] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._ended = False
        self._most, self._together = 1, None
        self.busy_s = 0.0  # in all
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def join(self, most: int, together: Callable[[list[Any]], list[Any]]) -> None:
        """From now on do up to `most` pieces of joint work at once; `together` is their middle part."""
        self._most, self._together = most, together

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
        joint: Joint | None = None,
    ) -> Turn[T]:
        """Do a piece of work for a session when it is its turn.

        Args:
            account: whose.
            work: runs on the model's thread.
            before_s: on the monotonic clock; work that has not begun by then is not done.
            wanted: asked when its turn has come, on the model's thread.
            joint: the same work in parts, to be done together with others where there are some.

        Raises:
            TooLate, NotWanted: it was not done.
            Exception: whatever `work` raises.
        """
        now_s = time.monotonic()
        outcome = asyncio.get_running_loop().create_future()
        due_s = max(now_s, account.due_s) + account.period_s
        piece = _Piece(due_s, next(self._numbers), account, work, before_s, wanted, outcome, now_s, joint)
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
            self._require_wanted(piece)
            begun = piece.joint.begin() if piece.joint is not None and self._most > 1 else None
            mates = [] if begun is None or begun.company is None else self._mates(begun.company)
            if mates:
                self._do_together([(piece, begun), *mates], began_s)
                return
            result = piece.work()
        except BaseException as error:
            self._settle(piece, began_s, time.monotonic() - began_s, _carried(error))
        else:
            self._settle(piece, began_s, time.monotonic() - began_s, result)

    @staticmethod
    def _require_wanted(piece: _Piece) -> None:
        if not piece.wanted():
            raise NotWanted
        late_s = 0.0 if piece.before_s is None else time.monotonic() - piece.before_s
        if late_s > 0:
            raise TooLate(f"{1e3 * late_s:.0f} ms after its deadline")

    def _mates(self, company: Any) -> list[tuple[_Piece, Any]]:
        """Take those out of the line that can be done with it, the most urgent first."""
        mates = []
        with self._changed:
            for piece in sorted(self._waiting):
                if len(mates) + 1 == self._most:
                    break
                begun = self._begun(piece)
                if begun is not None and begun.company == company:
                    mates.append((piece, begun))
            taken = {piece.number for piece, _ in mates}
            self._waiting = [piece for piece in self._waiting if piece.number not in taken]
            heapq.heapify(self._waiting)
        return mates

    def _begun(self, piece: _Piece) -> Any | None:
        """None also for one that is refused, late or not wanted: that is told when its turn comes."""
        try:
            self._require_wanted(piece)
            return None if piece.joint is None else piece.joint.begin()
        except Exception:  # it is done alone then, where the same is raised again and told to whom it concerns
            return None

    def _do_together(self, pieces: list[tuple[_Piece, Any]], began_s: float) -> None:
        began = time.perf_counter()
        try:
            samples = self._together([begun for _, begun in pieces])
        except BaseException as error:
            outcomes = [_carried(error)] * len(pieces)
        else:
            outcomes = []
            for (piece, begun), sample in zip(pieces, samples, strict=True):
                try:
                    outcomes.append(piece.joint.finish(begun, sample, began))
                except BaseException as error:
                    outcomes.append(_carried(error))
        took_s = (time.monotonic() - began_s) / len(pieces)
        for (piece, _), outcome in zip(pieces, outcomes, strict=True):
            self._settle(piece, began_s, took_s, outcome)

    def _settle(self, piece: _Piece, began_s: float, took_s: float, outcome: Any) -> None:
        """Tell the outcome, a result or an exception. The account pays for `took_s`."""
        self.busy_s += took_s
        piece.account.took(took_s)
        turn = outcome if isinstance(outcome, Exception) else Turn(outcome, began_s - piece.asked_s, took_s)

        def tell() -> None:
            if piece.outcome.done():  # whoever waited was cancelled
                return
            if isinstance(turn, Exception):
                piece.outcome.set_exception(turn)
            else:
                piece.outcome.set_result(turn)

        try:
            piece.outcome.get_loop().call_soon_threadsafe(tell)
        except RuntimeError:  # the loop is closed: the server has ended
            log.debug("work done for nobody")


def _carried(error: BaseException) -> Exception:
    """A future takes no StopIteration, and nothing that would end the loop."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
