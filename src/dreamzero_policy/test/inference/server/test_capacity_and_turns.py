"""Whoever keeps to the promised rate is served in time, whatever another session asks for."""

import asyncio
import time

import pytest

from dreamzero_policy.inference.server.capacity import Account, Capacity
from dreamzero_policy.inference.server.limits import RateLimit
from dreamzero_policy.inference.server.refusal import Refusal
from dreamzero_policy.inference.server.turns import NotWanted, TooLate, Turns

WORK_S = 0.01


@pytest.fixture
def turns():
    made = Turns()
    yield made
    assert made.end()


def capacity(**changes: float) -> Capacity:
    return Capacity(
        **({"chunk_s": 0.1, "most_load": 0.85, "session_bytes": 1, "most_bytes": 100, "idle_s": 60} | changes)
    )


def test_sessions_are_let_in_up_to_the_load_and_no_further() -> None:
    room = capacity()
    accounts = [room.admit(0.5) for _ in range(4)]  # 0.2 each
    assert room.load == pytest.approx(0.8)
    with pytest.raises(
        Refusal, match=r"4 sessions take 80% of the model; a chunk of 100 ms every 0\.5 s takes 20% more"
    ):
        room.admit(0.5)
    assert room.admit(2.5).load == pytest.approx(0.04)
    room.release(accounts[0])
    room.admit(0.5)


def test_what_chunks_really_cost_counts_for_the_next_one() -> None:
    room = capacity()
    account = room.admit(0.5)
    for _ in range(50):
        account.took(0.4)
        account.gave_chunk()
    assert room.load == pytest.approx(0.8, rel=1e-3)
    with pytest.raises(Refusal):
        room.admit(0.5)


def test_a_period_that_no_robot_has_is_refused() -> None:
    with pytest.raises(Refusal, match="period_s is 0"):
        capacity().admit(0.0)


def test_a_session_that_asks_for_more_than_promised_slows_down_itself_alone(turns: Turns) -> None:
    greedy, honest = Account(period_s=0.1, cost_s=WORK_S), Account(period_s=0.1, cost_s=WORK_S)
    order: list[str] = []

    def work(name: str):
        def run() -> None:
            time.sleep(WORK_S)
            order.append(name)

        return run

    async def run() -> None:
        flood = [asyncio.create_task(turns.take(greedy, work("greedy"))) for _ in range(3)]
        await asyncio.gather(*flood)  # its promise is used up for some time ahead
        flood = [asyncio.create_task(turns.take(greedy, work("greedy"))) for _ in range(5)]
        await asyncio.sleep(0)
        asked = asyncio.create_task(turns.take(honest, work("honest")))
        await asyncio.gather(*flood, asked)

    asyncio.run(run())
    assert "honest" in order[3:5], order  # behind the piece at work, before the rest of the flood


def test_work_that_is_late_or_not_wanted_is_not_done(turns: Turns) -> None:
    account, done = Account(1.0, 1.0), []

    async def run() -> None:
        with pytest.raises(TooLate):
            await turns.take(account, lambda: done.append(1), before_s=time.monotonic() - 1)
        with pytest.raises(NotWanted):
            await turns.take(account, lambda: done.append(2), wanted=lambda: False)
        with pytest.raises(ZeroDivisionError):
            await turns.take(account, lambda: 1 / 0)
        with pytest.raises(RuntimeError, match="SystemExit"):
            await turns.take(account, lambda: exit())
        assert (await turns.take(account, lambda: 7)).result == 7

    asyncio.run(run())
    assert done == []


def test_a_bucket_gives_what_it_holds_and_fills_again() -> None:
    limit = RateLimit(50.0)
    assert sum(limit.take() for _ in range(200)) in range(50, 60)
    time.sleep(0.1)
    assert limit.take()


class Sum:
    """Joint work that tells how many were summed at once."""

    def __init__(self, number: int, company: object) -> None:
        self.number, self.company = number, company

    def begin(self) -> "Sum":
        if self.number < 0:
            raise ValueError("negative")
        return self

    def finish(self, begun: "Sum", sample: tuple[int, int], began: float) -> tuple[int, int]:
        return sample

    def alone(self) -> tuple[int, int]:
        return self.begin().number, 1


def test_work_of_the_same_company_that_waits_is_done_together_up_to_the_most(turns: Turns) -> None:
    turns.join(3, lambda begun: [(each.number, len(begun)) for each in begun])
    account = Account(1.0, 1.0)

    async def run() -> list:
        blocking = asyncio.create_task(turns.take(account, lambda: time.sleep(0.2)))
        await asyncio.sleep(0.05)  # it has begun
        jobs = [Sum(1, "a"), Sum(2, "b"), Sum(3, "a"), Sum(4, None), Sum(-5, "a"), Sum(6, "a"), Sum(7, "a")]
        asked = [asyncio.create_task(turns.take(Account(1.0, 1.0), job.alone, joint=job)) for job in jobs]
        await blocking
        return await asyncio.gather(*asked, return_exceptions=True)

    one, two, three, four, five, six, seven = asyncio.run(run())
    assert [turn.result for turn in (one, three, six)] == [(1, 3), (3, 3), (6, 3)]
    assert [turn.result for turn in (two, four, seven)] == [(2, 1), (4, 1), (7, 1)]
    assert isinstance(five, ValueError)
    assert one.model_s == pytest.approx(three.model_s)
