"""A process that dies, stops or cannot be reached ends the others: with a reason, within a stated time, without a hang.

A collective whose peer is gone may wait for ever, on a GPU even where the host cannot interrupt it. So nobody relies on
collectives to notice. On threads of their own, rank 0 and every other process ping each other over sockets between
hosts. A process that dies closes its sockets, which the other side sees at once; one that stopped or that the network
lost answers no ping for :data:`PATIENCE_S`. Either way the process that notices ends. Every two of them have a group of
their own, since a group is lost as a whole.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence

import torch
import torch.distributed as distributed

log = logging.getLogger(__name__)

BEAT_S = 1.0
PATIENCE_S = 30.0  # making a GPU ready may keep all threads of a process waiting for some seconds
NAMING_S = 2.0  # for a ping to say who is gone, which a failed collective does not know
GOING_ON, LAST = 1, 0


def end_process(reason: str) -> None:
    """Say why, and end at once: a thread that waits for a dead peer cannot be ended in another way."""
    log.critical("%s", reason)
    logging.shutdown()
    os._exit(1)


def leave_at_once() -> None:
    """The way out of a process that fails before :meth:`Watch.end`: an interpreter that ends around a thread which
    waits for a ping aborts.
    """
    logging.shutdown()
    sys.stdout.flush()
    os._exit(1)


class Watch:
    """The threads of this process that ping, from its making until :meth:`end`.

    ``pairs`` are the groups of rank 0 and each other rank in order.
    """

    def __init__(
        self,
        rank: int,
        pairs: Sequence[distributed.ProcessGroup],
        patience_s: float,
        lost: Callable[[str], None],
    ) -> None:
        self._size, self._patience_s, self._lost = 1 + len(pairs), patience_s, lost
        self._saying = threading.Lock()
        self._ending = threading.Event()
        work = [(self._attend, peer, pair) for peer, pair in enumerate(pairs, 1)]
        if rank > 0:
            work = [(self._answer, 0, pairs[rank - 1])]
        self._threads = [
            threading.Thread(target=do, args=(peer, pair), name=f"watch-{peer}", daemon=True) for do, peer, pair in work
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(leave_at_once)

    def end(self) -> None:
        """Rank 0 pings a last time; the others wait for that."""
        self._ending.set()
        for thread in self._threads:
            thread.join()
        atexit.unregister(leave_at_once)

    def give_up(self, reason: str, error: BaseException) -> None:
        """End this process for an error that it cannot go on after. If that is a peer which is gone, that is said."""
        if isinstance(error, RuntimeError):  # as collectives raise
            self._ending.wait(NAMING_S)
        self._say(reason)

    def _attend(self, peer: int, pair: distributed.ProcessGroup) -> None:
        try:
            going_on = True
            while going_on:
                going_on = not self._ending.wait(BEAT_S)
                beat = torch.tensor([GOING_ON if going_on else LAST], dtype=torch.uint8)
                distributed.send(beat, peer, group=pair)
                distributed.recv(beat, peer, group=pair)
        except RuntimeError as error:
            self._miss(peer, error)

    def _answer(self, peer: int, pair: distributed.ProcessGroup) -> None:
        try:
            beat = torch.tensor([GOING_ON], dtype=torch.uint8)
            while beat.item() == GOING_ON:
                distributed.recv(beat, peer, group=pair)
                distributed.send(beat, peer, group=pair)
        except RuntimeError as error:
            self._miss(peer, error)

    def _miss(self, peer: int, error: RuntimeError) -> None:
        silent = "timed out" in str(error).lower()
        what = f"has not answered for {self._patience_s:g} s" if silent else "is gone"
        self._say(f"rank {peer} of {self._size} {what}, and the model cannot work without it")

    def _say(self, reason: str) -> None:
        with self._saying:  # the first reason is the only one
            self._lost(reason)
