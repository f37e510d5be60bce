"""Executors: ways to make commands of predicted rows, as other systems do it, to compare the plan with.

Each speaks to the same trajectory controllers in straight lines, without velocities, as its users do:

* `single_point`: the chunk runs from its arrival, every row sent when it is its turn, as a trajectory of one point a
  step ahead (the usual bridge from an action stream to a trajectory controller);
* `broker`: the chunk runs from its arrival, sent whole; then the next one is asked for (openpi's action chunk broker);
* `weighted_average`: chunks are asked for all the time; what is due at an instant is the mean of all that speak about
  it, weighted by exp(−0.01 k), k = 0 the oldest (ACT's temporal ensembling, arXiv 2304.13705);
* `newest_wins`: chunks are asked for all the time; due is the row that the newest one has for the instant (LeRobot's
  asynchronous inference, `latest_only`).

For the last two, row i belongs to i steps after the observation. The first two count from the arrival.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.runtime.embodiment import Floats

OLDEST_FIRST = 0.01  # rate of the exponential weights, ACT's own
KEPT_CHUNKS = 64  # more never overlap


@dataclass(frozen=True, eq=False)
class Points:
    """A trajectory in straight lines."""

    stamps_ns: NDArray[np.int64]  # [N] when each is due
    positions: Floats  # [N, J]


@dataclass(frozen=True, eq=False)
class Rows:
    """A chunk's rows [H, J] in time: row i is due at `begin_ns` + i steps."""

    begin_ns: int
    observation_ns: int
    rows: Floats

    def index(self, instant_ns: int, step_ns: float) -> int | None:
        """The row nearest to an instant; None before the first and after the last."""
        index = round((instant_ns - self.begin_ns) / step_ns)
        return index if 0 <= index < len(self.rows) else None


class Executor(Protocol):
    """A way to act. Instants are of the world's clock."""

    always_asks: bool  # the next chunk is asked for as soon as one has come, else when it has been executed

    def take(self, rows: Floats, observation_ns: int, now_ns: int) -> Points | None:
        """A chunk has come: its rows [H, J]; what to send at once."""

    def tick(self, now_ns: int) -> Points | None:
        """What to send now, asked once every action step."""

    def source(self, instant_ns: int) -> int | None:
        """When the observation was made that commands at an instant; None if no predicted row does."""

    def end_ns(self) -> int:
        """When the newest chunk has been executed."""


class SinglePoint:
    """One row at a time."""

    always_asks = False

    def __init__(self, step_ns: float) -> None:
        self._step_ns, self._chunk = step_ns, None

    def take(self, rows: Floats, observation_ns: int, now_ns: int) -> Points | None:
        self._chunk = Rows(now_ns + round(self._step_ns), observation_ns, rows)
        return self.tick(now_ns)

    def tick(self, now_ns: int) -> Points | None:
        due_ns = now_ns + round(self._step_ns)
        index = None if self._chunk is None else self._chunk.index(due_ns, self._step_ns)
        return None if index is None else Points(np.array([due_ns]), self._chunk.rows[index][None])

    def source(self, instant_ns: int) -> int | None:
        if self._chunk is None or not self._chunk.begin_ns - self._step_ns <= instant_ns < self.end_ns():
            return None
        return self._chunk.observation_ns

    def end_ns(self) -> int:
        return self._chunk.begin_ns + round((len(self._chunk.rows) - 1) * self._step_ns)


class Broker(SinglePoint):
    """The whole chunk at once."""

    def take(self, rows: Floats, observation_ns: int, now_ns: int) -> Points | None:
        super().take(rows, observation_ns, now_ns)
        return Points(
            np.array([self._chunk.begin_ns + round(i * self._step_ns) for i in range(len(rows))], np.int64), rows
        )

    def tick(self, now_ns: int) -> Points | None:
        return None


class Overlapping:
    """Chunks laid over each other by the time of their rows. `choose` makes one row of those that speak about it."""

    always_asks = True

    def __init__(self, step_ns: float, choose: Callable[[Floats], Floats]) -> None:
        self._step_ns, self._choose = step_ns, choose
        self._chunks: deque[Rows] = deque(maxlen=KEPT_CHUNKS)

    def take(self, rows: Floats, observation_ns: int, now_ns: int) -> Points | None:
        self._chunks.append(Rows(observation_ns, observation_ns, rows))
        return None

    def tick(self, now_ns: int) -> Points | None:
        due_ns = now_ns + round(self._step_ns)
        spoken = [
            chunk.rows[index] for chunk in self._chunks if (index := chunk.index(due_ns, self._step_ns)) is not None
        ]
        return Points(np.array([due_ns]), self._choose(np.array(spoken))[None]) if spoken else None

    def source(self, instant_ns: int) -> int | None:
        due = [chunk.observation_ns for chunk in self._chunks if chunk.index(instant_ns, self._step_ns) is not None]
        return due[-1] if due else None

    def end_ns(self) -> int:
        newest = self._chunks[-1]
        return newest.begin_ns + round((len(newest.rows) - 1) * self._step_ns)


def oldest_first(rows: Floats) -> Floats:
    """ACT's mean of rows [N, J], the oldest chunk's first."""
    weights = np.exp(-OLDEST_FIRST * np.arange(len(rows)))
    return weights @ rows / weights.sum()


def newest(rows: Floats) -> Floats:
    """The last of rows [N, J]."""
    return rows[-1]


EXECUTORS: dict[str, Callable[[float], Executor]] = {
    "single_point": SinglePoint,
    "broker": Broker,
    "weighted_average": lambda step_ns: Overlapping(step_ns, oldest_first),
    "newest_wins": lambda step_ns: Overlapping(step_ns, newest),
}
