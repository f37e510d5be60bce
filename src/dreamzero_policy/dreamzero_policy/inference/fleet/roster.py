"""Which of the servers that are there takes the next robot: the one with the most room."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

STALE_S = 5.0  # a server that has said nothing for so long is not there
JUST_SENT_S = 10.0  # a robot that was sent to a server counts there until the server counts it itself


@dataclass
class Entry:
    """One server, as it described itself last."""

    address: str
    left_hz: float  # chunks per second that it can still promise
    robot_hz: float  # that one robot takes
    heard_s: float


class NoRoom(Exception):  # noqa: N818 (a state of affairs)
    """No server has room for another robot; the text says how many are there."""


class Roster:
    """The servers that are there. Times are those of `now_s`."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._entries: dict[str, Entry] = {}
        self._sent: list[tuple[float, str, float]] = []  # when [s], where to, what it takes [Hz]

    def hear(self, address: str, left_hz: float, robot_hz: float) -> None:
        """A server says what room it has."""
        self._entries[address] = Entry(address, left_hz, robot_hz, self._now_s())

    def forget(self, address: str) -> None:
        """A server takes leave."""
        self._entries.pop(address, None)

    def next(self, wanted_hz: float | None = None) -> str:
        """Where the next robot goes, which asks for so many chunks a second; None: as many as one robot asks for.

        Raises NoRoom.
        """
        now_s = self._now_s()
        self._entries = {name: each for name, each in self._entries.items() if each.heard_s > now_s - STALE_S}
        self._sent = [sent for sent in self._sent if sent[0] > now_s - JUST_SENT_S]
        room = {name: self._room_hz(each) for name, each in self._entries.items()}
        best = max(room, key=room.__getitem__, default=None)
        if best is None:
            raise NoRoom("no server is there")
        asked_hz = self._entries[best].robot_hz if wanted_hz is None else wanted_hz
        if room[best] < asked_hz:
            raise NoRoom(
                f"none of {len(self._entries)} servers has room for another robot: it asks for {asked_hz:.2f} chunks a "
                f"second, the emptiest can promise {max(room[best], 0.0):.2f}; say a longer period, or add servers"
            )
        self._sent.append((now_s, best, asked_hz))
        return best

    def _room_hz(self, entry: Entry) -> float:
        """What is left but for robots on their way."""
        return entry.left_hz - sum(asked_hz for _, name, asked_hz in self._sent if name == entry.address)
