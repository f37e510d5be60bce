"""The lookout: asks about the states ahead, one after the other, and says whether all of them are valid.

A look goes from the present to the horizon, the nearest state first, one question at a time. What is asked is the state
as it is commanded when the question is put: a trajectory that comes in the middle of a look counts from there on, and
the next look begins with the present. All states are valid once a look has come to its end; none are from the moment
one is found that is not, or an answer is late.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np

from agibot_bringup.safety_gate.trajectory import Received, ReceivedArrays
from agibot_bringup.state_validity.ahead import Ahead
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S

SAME = 1e-4  # [rad, m]: a state no farther than this from the one just asked about is the same


class State(Enum):
    """Values are the first words of `~/status`."""

    WAITING = "waiting"  # nothing is known yet of the robot or of the service
    VALID = "valid"
    INVALID = "invalid"
    SILENT = "silent"  # a question was not answered


@dataclass(frozen=True)
class Settings:
    """How it looks; see config/state_validity.yaml."""

    horizon_s: float
    step_s: float
    period_s: float
    timeout_s: float


@dataclass(frozen=True, eq=False)
class Question:
    """Is the robot valid with its commanded joints at these positions [J]?"""

    number: int
    positions: Floats


class Lookout:
    """Every method takes the present: `now_ns` on the clock of trajectories, `monotonic_ns` on that of silence."""

    def __init__(self, contract: Contract, settings: Settings, service: str) -> None:
        """`service` names whom it asks, for a person."""
        self.ahead = Ahead(contract)
        self.state, self.text = State.WAITING, "no look has come to its end yet"
        self.looks = 0  # that came to their end
        self.look_ms = 0.0  # how long the last of them took
        self.asked = 0
        self._service, self._timeout_s = service, settings.timeout_s
        self._all_valid = f"{service} finds no fault with the states up to {settings.horizon_s:g} s ahead"
        steps = round(settings.horizon_s / settings.step_s)
        self._offsets_ns = [round(step * settings.step_s * NS_PER_S) for step in range(steps + 1)]
        self._period_ns, self._timeout_ns = (round(s * NS_PER_S) for s in (settings.period_s, settings.timeout_s))
        self._left_ns: list[int] = []  # instants of the look that are still to be asked about, the latest first
        self._last: Floats | None = None  # asked about in this look
        self._pending: Question | None = None
        self._asked_instant_ns = self._asked_at_ns = 0
        self._begun_at_ns: int | None = None  # the look that has not ended yet
        self._due_at_ns = 0  # when the next look may begin

    # What is heard

    def hear_trajectory(self, received: Received | ReceivedArrays, now_ns: int, monotonic_ns: int) -> None:
        """What controllers are sent; it is looked at as soon as the present look has ended.

        Raises:
            Rejected: no controller of this robot would follow it.
        """
        self.ahead.hear_trajectory(received, now_ns, monotonic_ns)
        self._due_at_ns = monotonic_ns

    def hear_answer(self, number: int, why_not: str | None, now_ns: int, monotonic_ns: int) -> None:
        """To a question: what is wrong with the state, None if it is valid. A late one counts for nothing."""
        if self._pending is None or self._pending.number != number:
            return
        self._pending = None
        if why_not is not None:
            ahead_s = (self._asked_instant_ns - now_ns) / NS_PER_S
            self._say(State.INVALID, f"{why_not}, in {max(0.0, ahead_s):.2f} s")
            self._end(monotonic_ns)

    # What is asked

    def question(self, offered: bool, now_ns: int, monotonic_ns: int) -> Question | None:
        """What to ask now; None while an answer is awaited or the next look is not due. To be called again and again.

        `offered`: somebody offers the service.
        """
        if self._cannot_look(offered, monotonic_ns) or self._pending is not None:
            return None
        if self._begun_at_ns is None:
            if monotonic_ns < self._due_at_ns:
                return None
            self._left_ns = [now_ns + offset_ns for offset_ns in reversed(self._offsets_ns)]
            self._begun_at_ns, self._due_at_ns, self._last = monotonic_ns, monotonic_ns + self._period_ns, None
        while self._left_ns:
            instant_ns = self._left_ns.pop()
            positions = self.ahead.state(instant_ns, now_ns)
            if self._last is None or np.abs(positions - self._last).max() > SAME:
                return self._put(positions, instant_ns, monotonic_ns)
        self.looks += 1
        self._say(State.VALID, self._all_valid)
        self._end(monotonic_ns)
        return None

    def _put(self, positions: Floats, instant_ns: int, monotonic_ns: int) -> Question:
        self.asked += 1
        self._last, self._asked_instant_ns, self._asked_at_ns = positions, instant_ns, monotonic_ns
        self._pending = Question(self.asked, positions)
        return self._pending

    def _cannot_look(self, offered: bool, monotonic_ns: int) -> bool:
        if (unknown := self.ahead.unknown(monotonic_ns)) is not None:
            self._give_up(State.WAITING, unknown.text)
        elif not offered:
            self._give_up(State.WAITING if self.looks == 0 else State.SILENT, f"nobody offers {self._service}")
        elif self._pending is not None and monotonic_ns - self._asked_at_ns > self._timeout_ns:
            self._give_up(State.SILENT, f"{self._service} has not answered within {self._timeout_s:g} s")
            self._due_at_ns = monotonic_ns
            return False
        else:
            return False
        return True

    def _give_up(self, state: State, text: str) -> None:
        self._say(state, text)
        self._pending = self._begun_at_ns = None

    def _end(self, monotonic_ns: int) -> None:
        self.look_ms, self._begun_at_ns = (monotonic_ns - self._begun_at_ns) / 1e6, None

    def _say(self, state: State, text: str) -> None:
        self.state, self.text = state, text
