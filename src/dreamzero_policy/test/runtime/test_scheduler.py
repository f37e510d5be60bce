"""Laws of the scheduler: every step once, no gap where the arithmetic allows none, frames where the steps were."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamzero_policy.runtime.contract import Contract, ModelSection
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.policy import Purpose
from dreamzero_policy.runtime.regime import RegimeSettings
from dreamzero_policy.runtime.scheduler import Entry, Scheduler, Turn
from dreamzero_policy.runtime.timeline import Timeline

LEAD_S, STEP_S, HORIZON_S = 0.06, 1 / 30, 0.8
BEGIN_NS = 1_000 * NS_PER_S
MS = 1_000_000


@pytest.fixture(scope="session")
def model(contract: Contract) -> ModelSection:
    return contract.model


@dataclass
class Asked:
    """One request and what became of it."""

    turn: Turn
    asked_ns: int
    answered_ns: int
    entry: Entry | None


@dataclass
class Robot:
    """Plays what the scheduler says, and keeps its own record of when every step was executed."""

    scheduler: Scheduler
    latencies_s: Iterator[float]
    accepts: Iterator[bool]
    now_ns: int = BEGIN_NS
    asked: list[Asked] = field(default_factory=list)
    rows: list[tuple[int, int]] = field(default_factory=list)  # (step, instant) of the rows in hand and before

    def play(self, requests: int) -> "Robot":
        turn = self.scheduler.open(self.now_ns)
        for _ in range(requests):
            self.now_ns = max(self.now_ns, *turn.instants_ns, 0)
            self.scheduler.asked(turn)
            asked_ns = self.now_ns
            observation_ns = turn.instants_ns[-1] if turn.instants_ns else asked_ns
            self.now_ns += round(next(self.latencies_s) * NS_PER_S)
            if len(turn.instants_ns) > 1:
                self.scheduler.measured((self.now_ns - observation_ns) / NS_PER_S + LEAD_S)
            entry = None
            if turn.purpose is not Purpose.OBSERVE and next(self.accepts):
                entry = self.scheduler.entry(turn, self.now_ns)
                self.execute(turn, entry)
                self.scheduler.accepted(turn, entry)
            else:
                self.scheduler.dropped()
            self.asked.append(Asked(turn, asked_ns, self.now_ns, entry))
            turn = self.scheduler.turn(self.now_ns)
        return self

    def execute(self, turn: Turn, entry: Entry) -> None:
        assert entry.start_ns >= self.now_ns + round(LEAD_S * NS_PER_S)
        first = turn.base + entry.row
        self.rows = [(step, ns) for step, ns in self.rows if ns < entry.start_ns - MS]
        for row in range(entry.row, 24):
            ns = entry.start_ns + round((row - entry.row) * entry.period_s * NS_PER_S)
            self.rows.append((first + row - entry.row, ns))

    @property
    def pauses_ns(self) -> list[int]:
        return [asked.entry.pause_ns for asked in self.asked if asked.entry]


def forever(values: list[float] | list[bool]) -> Iterator:
    while True:
        yield from values


def robot(
    model: ModelSection,
    regime: str,
    latencies_s: list[float],
    overlap: str = "auto",
    accepts: tuple[bool, ...] = (True,),
) -> Robot:
    settings = RegimeSettings(regime, overlap)
    return Robot(Scheduler(model, LEAD_S, settings), forever(latencies_s), forever(list(accepts)))


Latencies = st.lists(st.floats(0.0, 3.0), min_size=1, max_size=12)
Ways = st.sampled_from(
    [("stop_and_go", "auto"), ("slowed", "look_ahead"), ("slowed", "two_sessions")]
    + [("overlap", "look_ahead"), ("overlap", "two_sessions"), ("auto", "auto")]
)
Accepts = st.lists(st.sampled_from([True, True, True, False]), min_size=1, max_size=9).filter(any).map(tuple)


@given(Ways, Latencies, Accepts)
def test_every_step_is_executed_once_and_in_order(model, way, latencies_s, accepts) -> None:
    rows = robot(model, way[0], latencies_s, way[1], accepts).play(30).rows
    steps, instants = zip(*rows, strict=True)
    assert list(steps) == sorted(set(steps))
    assert all(later > earlier for earlier, later in pairwise(instants))


@given(Ways, Latencies)
def test_without_rejections_no_step_is_left_out(model, way, latencies_s) -> None:
    steps = [step for step, _ in robot(model, way[0], latencies_s, way[1]).play(30).rows]
    assert steps == list(range(steps[-1] + 1))


@given(Ways, Latencies, Accepts)
def test_frames_stand_where_the_steps_were_executed(model, way, latencies_s, accepts) -> None:
    played = robot(model, way[0], latencies_s, way[1], accepts).play(30)
    executed = dict(played.rows)
    for asked in played.asked:  # the first row behind a pause is executed long after its step was seen
        if asked.entry and asked.entry.pause_ns:
            executed.pop(asked.turn.base + asked.entry.row, None)
    blocks = 0
    for asked in played.asked:
        instants = asked.turn.instants_ns
        if len(instants) <= 1:
            continue
        end = asked.turn.base - 24 * (asked.turn.purpose is Purpose.LOOK_AHEAD)
        for offset, instant_ns in zip((-21, -18, -15, -12, -9, -6, -3), instants, strict=False):
            if end + offset in executed:
                assert instant_ns == pytest.approx(executed[end + offset], abs=1_000)
                blocks += 1
    assert blocks or not executed or len(played.asked) < 4


@given(Ways, Latencies, Accepts)
def test_a_session_observes_whole_blocks_one_behind_the_other(model, way, latencies_s, accepts) -> None:
    played = robot(model, way[0], latencies_s, way[1], accepts).play(30)
    observed: dict[int, int] = {}
    for asked in played.asked:
        turn = asked.turn
        assert len(turn.instants_ns) in (0, 1, 8)
        assert all(instant_ns <= asked.asked_ns for instant_ns in turn.instants_ns)
        end = turn.base - 24 * (turn.purpose is Purpose.LOOK_AHEAD)
        if len(turn.instants_ns) == 8:
            assert end == observed[turn.session] + 24
        elif not turn.instants_ns:
            assert (end, turn.purpose) == (observed[turn.session], Purpose.LOOK_AHEAD)
        observed[turn.session] = end


@given(Ways, Latencies, Accepts)
def test_a_chunk_that_takes_over_has_half_its_rows_left_at_least(model, way, latencies_s, accepts) -> None:
    for asked in robot(model, way[0], latencies_s, way[1], accepts).play(30).asked:
        assert asked.entry is None or 0 <= asked.entry.row <= 12


@given(st.lists(st.floats(0.0, HORIZON_S / 2 - LEAD_S - 1e-6), min_size=1, max_size=9))
def test_two_sessions_leave_no_gap_up_to_half_a_chunk_of_latency(model, latencies_s) -> None:
    played = robot(model, "overlap", latencies_s, "two_sessions").play(30)
    assert not any(played.pauses_ns[1:])  # the first chunk has nothing before it
    assert {asked.turn.session for asked in played.asked} == {0, 1}


@given(st.lists(st.floats(0.0, HORIZON_S - LEAD_S - 1e-6), min_size=1, max_size=9))
def test_looking_ahead_leaves_no_gap_up_to_a_chunk_of_latency(model, latencies_s) -> None:
    played = robot(model, "overlap", latencies_s, "look_ahead").play(30)
    assert not any(played.pauses_ns[1:])
    assert {asked.entry.row for asked in played.asked} == {0}


@given(st.floats(0.0, HORIZON_S / 0.5 - LEAD_S - 1e-6), st.sampled_from(["look_ahead", "two_sessions"]))
def test_slowed_motion_leaves_no_gap_up_to_what_its_slowest_speed_allows(model, latency_s, way) -> None:
    latency_s = latency_s if way == "look_ahead" else max(0.0, latency_s - 0.8)
    played = robot(model, "slowed", [latency_s], way).play(30)
    assert not any(played.pauses_ns[1:])


def test_stop_and_go_pauses_for_the_latency_at_every_speed_of_answering(model) -> None:
    played = robot(model, "stop_and_go", [0.1]).play(5)
    # 0.1 s to the answer and 0.06 s of lead reach the fifth step behind the observation
    assert [pause / NS_PER_S for pause in played.pauses_ns] == pytest.approx([5 / 30] * 5)
    assert [asked.entry.row for asked in played.asked] == [0] * 5


def test_slowed_motion_shows_the_model_every_third_step_however_long_that_takes(model) -> None:
    played = robot(model, "slowed", [1.0], "look_ahead").play(8)
    (period_s,) = {round(asked.entry.period_s, 6) for asked in played.asked[4:]}
    assert period_s == pytest.approx(STEP_S / 0.6, abs=1e-6)  # 0.8 · 0.8 s / 1.06 s, in notches of 0.05
    instants = played.asked[-1].turn.instants_ns
    spacing_s = [(b - a) / NS_PER_S for a, b in pairwise(instants)]
    assert spacing_s == pytest.approx([3 * STEP_S / 0.6] * 7, abs=1e-6)


def test_two_sessions_ask_in_turn_half_a_block_apart(model) -> None:
    asked = robot(model, "overlap", [0.1], "two_sessions").play(7).asked
    assert [(a.turn.session, a.turn.base, len(a.turn.instants_ns)) for a in asked] == [
        *[(0, 0, 1), (1, 12, 1)],
        *[(0, 24, 8), (1, 36, 8), (0, 48, 8), (1, 60, 8), (0, 72, 8)],
    ]
    assert [a.entry.row for a in asked] == [0, 5, 5, 5, 5, 5, 5]


def test_looking_ahead_asks_for_the_chunk_behind_the_one_that_begins(model) -> None:
    asked = robot(model, "overlap", [0.5], "look_ahead").play(5).asked
    assert [(a.turn.purpose, a.turn.base, len(a.turn.instants_ns)) for a in asked] == [
        (Purpose.CHUNK, 0, 1),
        (Purpose.LOOK_AHEAD, 24, 0),  # at once: the robot has just begun the first
        (Purpose.LOOK_AHEAD, 48, 8),
        (Purpose.LOOK_AHEAD, 72, 8),
        (Purpose.LOOK_AHEAD, 96, 8),
    ]


def test_after_a_rejected_look_ahead_the_real_block_is_asked_for(model) -> None:
    played = robot(model, "overlap", [0.3], "look_ahead", (True, False, True, True)).play(4)
    assert [(a.turn.purpose, a.turn.base) for a in played.asked] == [
        (Purpose.CHUNK, 0),
        (Purpose.LOOK_AHEAD, 24),
        (Purpose.CHUNK, 24),
        (Purpose.LOOK_AHEAD, 48),
    ]
    assert [pause > 0 for pause in played.pauses_ns] == [True, True, False]


def test_a_model_that_grows_slow_leaves_the_overlap_without_a_block_lost(model) -> None:
    played = Robot(Scheduler(model, LEAD_S, RegimeSettings("auto")), iter([0.5] * 4 + [2.0] * 4), forever([True])).play(
        8
    )
    assert [a.turn.purpose.value for a in played.asked] == [
        *["chunk", "chunk", "look_ahead", "look_ahead"],  # the second tells the latency
        *["look_ahead", "observe", "chunk", "chunk"],
    ]
    assert played.scheduler.mode.regime == "stop_and_go"


@given(Ways, Latencies, st.lists(st.floats(0.0, 3.0), min_size=1, max_size=5), Accepts)
def test_rows_in_hand_are_those_that_are_executed_if_the_chunk_does_not_take_over(
    model, way, latencies_s, expected_s, accepts
) -> None:
    """However long an answer was expected to take: what was held is in hand, and the chunk comes behind it."""
    expected = forever(expected_s)

    class Foreseeing(Robot):
        def execute(self, turn: Turn, entry: Entry) -> None:
            due, in_hand = dict(self.rows), self.scheduler.rows_in_hand_ns(turn)
            for row, instant_ns in enumerate(in_hand):
                assert instant_ns == pytest.approx(due[turn.base + row], abs=1_000)
            held = self.scheduler.entry(turn, self.now_ns + round(next(expected) * NS_PER_S)).row
            assert held <= len(in_hand)
            behind = self.scheduler.entry(turn, self.now_ns, held)
            assert behind.row == max(entry.row, held)
            assert behind.pause_ns == entry.pause_ns or behind.row == held
            super().execute(turn, entry)

    settings = RegimeSettings(*way)
    Foreseeing(Scheduler(model, LEAD_S, settings), forever(latencies_s), forever(list(accepts))).play(30)


def test_only_a_chunk_that_is_joined_on_the_way_has_rows_in_hand(model) -> None:
    def in_hand(regime: str, overlap: str) -> int:
        scheduler = robot(model, regime, [0.1], overlap).play(4).scheduler
        return len(scheduler.rows_in_hand_ns(scheduler.turn(0)))

    assert in_hand("overlap", "two_sessions") == 12  # half a chunk
    assert in_hand("overlap", "look_ahead") == in_hand("stop_and_go", "auto") == 0


def test_behind_a_pause_a_row_is_executed_long_after_its_step_was_seen() -> None:
    timeline = Timeline.opened(BEGIN_NS, STEP_S, 0)
    timeline.go_on(0, BEGIN_NS + 500 * MS, STEP_S, 24)
    assert (timeline.instant_ns(0), timeline.executed_ns(0)) == (BEGIN_NS, BEGIN_NS + 500 * MS)
    assert timeline.instant_ns(3) == timeline.executed_ns(3) == BEGIN_NS + 600 * MS
    with pytest.raises(ValueError, match="step 24 has no row, the timeline ends at 24"):
        timeline.executed_ns(24)


def test_a_step_that_nobody_has_filled_yet_has_no_instant() -> None:
    timeline = Timeline.opened(BEGIN_NS, STEP_S, 0)
    timeline.go_on(0, BEGIN_NS + 500 * MS, STEP_S, 24)
    assert timeline.instant_ns(0) == BEGIN_NS  # seen before the pause
    assert timeline.instant_ns(24) == BEGIN_NS + 1_300 * MS
    with pytest.raises(ValueError, match="step 25 has no instant yet, the timeline ends at 24"):
        timeline.instant_ns(25)


def test_the_next_picture_is_one_of_a_block_that_may_come(model) -> None:
    scheduler = Scheduler(model, LEAD_S, RegimeSettings())
    scheduler.asked(scheduler.open(BEGIN_NS))
    assert scheduler.next_instant_ns(BEGIN_NS) == BEGIN_NS + 100 * MS  # if the chunk is rejected
    turn = Turn(0, Purpose.CHUNK, 0, (BEGIN_NS,))
    scheduler.accepted(turn, scheduler.entry(turn, BEGIN_NS + 40 * MS))
    assert scheduler.next_instant_ns(BEGIN_NS + 40 * MS) == BEGIN_NS + 233_333_333
