"""Who is let in: every session is promised its rate and its memory; when there is none left, the next is refused.

A session says how often it will ask for a chunk. What a chunk costs is measured: at warm-up on a session of the
server's own, then in every session. The *load* is the sum of cost / period over the sessions that are promised a rate;
it may reach `most_load` of one model. A session that asks nothing for `idle_s` gives its rate back, and gets it again
with its next block if it is still there, else that block is refused. So the robots that are served never slow down
silently because of one more.
"""

import time
from dataclasses import dataclass, field

from dreamzero_policy.inference.server.refusal import Refusal

SHORTEST_PERIOD_S = 0.01
NEWEST_SHARE = 0.2  # of the newest chunk in a session's mean cost


@dataclass(eq=False)
class Account:
    """One session's promise and what it has used."""

    period_s: float  # between two chunks
    cost_s: float  # of a chunk: the model's time, a running mean
    due_s: float = 0.0  # on the monotonic clock: until then what it was promised is used up
    promised: bool = True  # its rate
    used_s: float = field(default_factory=time.monotonic)  # when it asked last, monotonic
    spent_s: float = 0.0  # the model's time since its last chunk

    @property
    def load(self) -> float:
        """Share of the model that its rate takes."""
        return self.cost_s / self.period_s

    def took(self, seconds: float) -> None:
        """The model worked for it. What is not promised is made up for by waiting behind the others."""
        self.spent_s += seconds
        self.due_s = max(self.due_s, time.monotonic()) + seconds / self.load

    def gave_chunk(self) -> None:
        """What was spent since the last one was this chunk's cost."""
        self.cost_s += NEWEST_SHARE * (self.spent_s - self.cost_s)
        self.spent_s = 0.0


class Capacity:
    """The accounts of one model."""

    def __init__(self, *, chunk_s: float, most_load: float, session_bytes: int, most_bytes: int, idle_s: float) -> None:
        """`chunk_s`: cost of a chunk as measured before anyone came."""
        self.chunk_s, self.most_load, self.idle_s = chunk_s, most_load, idle_s
        self.session_bytes, self.most_bytes = session_bytes, most_bytes
        self.accounts: set[Account] = set()

    def admit(self, period_s: float) -> Account:
        """Promise a rate and memory.

        Raises:
            Refusal: `full`, with the numbers; or `refused` for a period that no robot has.
        """
        if period_s < SHORTEST_PERIOD_S:
            raise Refusal("refused", f"period_s is {period_s:g}, expected {SHORTEST_PERIOD_S:g} or more", closing=True)
        asked = (len(self.accounts) + 1) * self.session_bytes
        if asked > self.most_bytes:
            raise Refusal(
                "full",
                f"{len(self.accounts)} sessions of {self.session_bytes / 1e6:.1f} MB are open and another one would "
                f"exceed the server's {self.most_bytes / 1e6:.0f} MB",
                closing=True,
            )
        account = Account(period_s, max(self.chunk_s, self._usual_cost_s()))
        self._require_room(account, closing=True)
        self.accounts.add(account)
        return account

    def release(self, account: Account) -> None:
        self.accounts.discard(account)

    def use(self, account: Account) -> None:
        """A session asks for work. Raises Refusal `full` if it was idle and its rate has gone to others."""
        if not account.promised:
            self._require_room(account, closing=False)
            account.promised = True
        account.used_s = time.monotonic()

    @property
    def load(self) -> float:
        """Share of the model that is promised."""
        self._take_back_idle_rates()
        return sum(account.load for account in self.accounts if account.promised)

    @property
    def chunks_left_hz(self) -> float:
        """Chunks per second that could still be promised."""
        return max(0.0, self.most_load - self.load) / max(self.chunk_s, self._usual_cost_s())

    def _require_room(self, account: Account, closing: bool) -> None:
        load = self.load
        if load + account.load > self.most_load:
            active = sum(each.promised for each in self.accounts)
            raise Refusal(
                "full",
                f"{active} sessions take {load:.0%} of the model; a chunk of {1e3 * account.cost_s:.0f} ms every "
                f"{account.period_s:g} s takes {account.load:.0%} more, and {self.most_load:.0%} may be promised. Try "
                "another server, or a longer period_s",
                closing,
            )

    def _usual_cost_s(self) -> float:
        """Of a chunk in the sessions of now; 0 where there are none."""
        costs = [account.cost_s for account in self.accounts if account.promised]
        return sum(costs) / len(costs) if costs else 0.0

    def _take_back_idle_rates(self) -> None:
        before_s = time.monotonic() - self.idle_s
        for account in self.accounts:
            account.promised &= account.used_s >= before_s
