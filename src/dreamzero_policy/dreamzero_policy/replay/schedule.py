"""The scheduler of a run that already happened: where chunks took over, and which did, is known.

Everything else is the node's own scheduler: which block is due, of whom, with frames at which instants. So a replay
asks for the very blocks of the run, and if it would ask for others, that is seen.
"""

from dataclasses import replace

from dreamzero_policy.replay.live import LiveChunk
from dreamzero_policy.runtime.scheduler import Entry, Scheduler, Turn


class RecordedScheduler(Scheduler):
    """`live` is the chunk that is being concluded; None where nothing is known of it, and before it is answered."""

    live: LiveChunk | None = None
    _concluded: tuple[Turn, Entry] | None = None

    def entry(self, turn: Turn, now_ns: int, *more: int) -> Entry:
        entry = super().entry(turn, now_ns, *more)
        if self.live is not None and self.live.accepted:
            live = self.live
            entry = replace(entry, row=live.first_row, start_ns=live.start_ns, period_s=live.step_s)
        self._concluded = turn, entry
        return entry

    def accepted(self, turn: Turn, entry: Entry) -> None:
        self._go_on(executed=True)

    def dropped(self) -> None:
        self._go_on(executed=False)

    def _go_on(self, executed: bool) -> None:
        """By what the node did with the chunk, whatever is thought of it now."""
        concluded, self._concluded = self._concluded, None
        if concluded is not None and (self.live.accepted if self.live is not None else executed):
            super().accepted(*concluded)
        else:
            super().dropped()
