"""The scheduler: what the model is asked next, and where its chunk begins, on the timeline of action steps.

A session observes whole blocks only. The chunk behind a block that ends at step b has rows for the steps b, b + 1, …
(`first_action_step` later where the contract says so). One rule covers all regimes: a chunk takes over at the first of
its rows that can still be reached; where the rows in hand have run out, motion goes on after a pause with the row that
follows them. What differs is who is asked when (`regime.py` says what that asks for):

    stop_and_go     session 0 at the end of its rows: row 0 is next, after a pause
    two_sessions    session 1 beside it, half a block later: each chunk is joined on the way and left half a block later
    look_ahead      session 0 at the end of a block, for the chunk behind the one that begins there

Changes between them need no stop: as long as fewer rows than a whole chunk lie beyond a block, its own chunk can be
joined; with a whole chunk in hand the model looks ahead, or, in the other regimes, only observes.
"""

from dataclasses import dataclass

from dreamzero_policy.runtime.contract import ModelSection
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.policy import Purpose
from dreamzero_policy.runtime.regime import LOOK_AHEAD, TWO_SESSIONS, Mode, RegimeChooser, RegimeSettings
from dreamzero_policy.runtime.timeline import Timeline


@dataclass(frozen=True)
class Turn:
    """One request to a session."""

    session: int
    purpose: Purpose
    base: int  # the step at which the chunk's observation ends, real or imagined
    instants_ns: tuple[int, ...]  # of the frames to observe; one opens a window, none: nothing new is observed


@dataclass(frozen=True)
class Entry:
    """Where a chunk takes over."""

    row: int  # the first that is executed
    start_ns: int  # when
    period_s: float  # between two rows
    pause_ns: int  # without a row before it
    joins: bool = False  # row 0 follows the last row in hand at its own time


@dataclass
class Running:
    """A session with an open window."""

    observed: int  # the step up to which it has observed
    looked_from: int = -1  # `observed` when it last looked ahead


class Scheduler:
    """State of one window after the other; `open` begins anew."""

    def __init__(self, model: ModelSection, lead_s: float, settings: RegimeSettings) -> None:
        """`lead_s`: from deciding to the first commanded row: publishing, transport, one control period."""
        self.model, self.lead_s = model, lead_s
        self._chunk = model.chunk.actions
        self._chooser = RegimeChooser(settings, self._chunk * model.step_s)
        self.timeline = Timeline()
        self.rows_end = 0  # the step behind the last row in hand
        self._sessions: dict[int, Running] = {}

    @property
    def step_ns(self) -> int:
        return round(NS_PER_S / self.model.action_hz)

    @property
    def mode(self) -> Mode:
        return self._chooser.mode

    def measured(self, latency_s: float) -> None:
        """Take note of the time from an observation instant to the earliest row that its chunk could give."""
        self._chooser.measured(latency_s)
        if self.mode.way != TWO_SESSIONS:
            self._sessions.pop(1, None)

    # Asking

    def open(self, instant_ns: int) -> Turn:
        """Begin with the frame of this instant; the robot is at rest or on its way there."""
        self.rows_end = self.model.chunk.first_action_step
        self.timeline = Timeline.opened(instant_ns, self.model.step_s, self.rows_end)
        self._sessions = {}
        return Turn(0, Purpose.CHUNK, 0, (instant_ns,))

    def turn(self, now_ns: int) -> Turn:
        """What is asked next. Its frames may still have to come."""
        session, due = self._next()
        if session == 0 and self._may_look_ahead(self._sessions[0].observed) and now_ns < self.timeline.instant_ns(due):
            return Turn(0, Purpose.LOOK_AHEAD, due, ())
        if session not in self._sessions:
            return Turn(session, Purpose.CHUNK, due, (self.timeline.instant_ns(due),))
        if self._in_hand(due) < self._chunk:
            purpose = Purpose.CHUNK
        else:
            purpose = Purpose.LOOK_AHEAD if self._may_look_ahead(due) else Purpose.OBSERVE
        base = due + self._chunk if purpose is Purpose.LOOK_AHEAD else due
        return Turn(session, purpose, base, self._instants_ns(self.timeline, due))

    def asked(self, turn: Turn) -> None:
        """The turn is with the policy."""
        step = turn.base - self._chunk if turn.purpose is Purpose.LOOK_AHEAD else turn.base
        self._sessions.setdefault(turn.session, Running(step)).observed = step
        if turn.purpose is Purpose.LOOK_AHEAD:
            self._sessions[turn.session].looked_from = step

    def next_instant_ns(self, after_ns: int) -> int | None:
        """The next instant whose frame a block may need: also of one that follows if a chunk is rejected."""
        if not self._sessions:
            return None
        timeline, instants = self.timeline.copy(), []
        for _, due in self._dues():
            timeline.stand_still(due, self.model.step_s)
        for session, due in self._dues():
            instants += self._instants_ns(timeline, due) if session in self._sessions else (timeline.instant_ns(due),)
        return min((instant for instant in instants if instant > after_ns), default=None)

    def time_left_s(self, turn: Turn, now_ns: int) -> float | None:
        """How soon the turn's chunk must be there for motion to go on without a pause; None if there is one anyway."""
        end_ns = self.timeline.instant_ns(self.rows_end)
        return (end_ns - now_ns) / NS_PER_S - self.lead_s if end_ns > now_ns and turn.base <= self.rows_end else None

    def followed(self, turn: Turn) -> bool:
        """Whether there were rows to execute all through the turn's block: none of its chunks was rejected."""
        step = turn.base - self._chunk if turn.purpose is Purpose.LOOK_AHEAD else turn.base
        return len(turn.instants_ns) > 1 and self._in_hand(step) >= 0

    # Answers

    def entry(self, turn: Turn, now_ns: int, held_rows: int = 0) -> Entry:
        """Where the turn's chunk takes over if it is accepted now. Its held rows are in hand: it comes behind them."""
        first = turn.base + self.model.chunk.first_action_step
        earliest_ns = now_ns + round(self.lead_s * NS_PER_S)
        period_s = self.model.step_s / self.mode.speed
        for step in range(first + held_rows, self.rows_end + 1):
            if (reached_ns := self.timeline.instant_ns(step)) >= earliest_ns:
                return Entry(step - first, reached_ns, period_s, 0, joins=step == first == self.rows_end)
        rest_ns = self.timeline.instant_ns(self.timeline.end)
        behind = max(0, -(-(earliest_ns - rest_ns) // self.step_ns))
        start_ns = rest_ns + round(behind * NS_PER_S / self.model.action_hz)
        step = max(self.rows_end, first)
        pause_ns = start_ns - self.timeline.instant_ns(min(step, self.timeline.end))
        return Entry(step - first, start_ns, period_s, pause_ns)

    def rows_in_hand_ns(self, turn: Turn) -> list[int]:
        """When those rows of the turn's chunk are due that are in hand already, its first ones."""
        first = turn.base + self.model.chunk.first_action_step
        return [self.timeline.executed_ns(step) for step in range(first, self.rows_end)]

    def accepted(self, turn: Turn, entry: Entry) -> None:
        """The chunk is being executed from its entry on."""
        first = turn.base + self.model.chunk.first_action_step
        self.rows_end = first + self._chunk
        self.timeline.go_on(first + entry.row, entry.start_ns, entry.period_s, self.rows_end)
        self._reach_next()

    def dropped(self) -> None:
        """The chunk is not executed, or none was asked for. The robot finishes its rows and stands still."""
        self._reach_next()

    # What follows from where everybody is

    def _in_hand(self, step: int) -> int:
        """Rows in hand beyond a step at which a block ends."""
        return self.rows_end - self.model.chunk.first_action_step - step

    def _may_look_ahead(self, step: int) -> bool:
        """Whether the chunk in hand begins where a block ends, and has not been looked beyond yet."""
        return (
            self.mode.way == LOOK_AHEAD and self._in_hand(step) == self._chunk and self._sessions[0].looked_from != step
        )

    def _dues(self) -> list[tuple[int, int]]:
        """Sessions and the steps at which their next blocks end, or at which their windows open."""
        dues = [(number, session.observed + self._chunk) for number, session in sorted(self._sessions.items())]
        if self.mode.way == TWO_SESSIONS and 1 not in self._sessions:
            half, opening = self._chunk // 2, self._sessions[0].observed + self._chunk // 2
            while opening < self._in_hand(0) - half:  # rows in hand must end within its own chunk
                opening += self._chunk
            dues.append((1, opening))
        return dues

    def _next(self) -> tuple[int, int]:
        return min(self._dues(), key=lambda pair: pair[1])

    def _reach_next(self) -> None:
        self.timeline.stand_still(self._next()[1], self.model.step_s)

    def _instants_ns(self, timeline: Timeline, step: int) -> tuple[int, ...]:
        """Of the frames of the block that ends at a step."""
        return tuple(timeline.instant_ns(step + offset) for offset in self.model.chunk.frame_offsets_steps)
