"""Regimes: how inference and motion share time, chosen from measured latency.

With a chunk of H seconds and L seconds from an observation instant to the earliest row that its chunk can give, a
session that observes whole blocks only leaves a gap of L behind every chunk, at any speed: the block of a chunk is
complete exactly where its rows end. The ways around it, and what they ask for at playback speed s:

    two_sessions   two of them half a block apart; each covers for the other         L <= H / (2 s)
    look_ahead     a throw-away fork takes what was predicted as observed             L <= H / s
    stop_and_go    the robot waits; it moves for H / (H + L) of the time              nothing

`overlap` is one of the first two at full speed, `slowed` the same with s < 1. A regime is entered with a margin and
left without one, on the largest of the last latencies, so that it does not change back and forth.
"""

from collections import deque
from dataclasses import dataclass, replace

STOP_AND_GO, SLOWED, OVERLAP = REGIMES = ("stop_and_go", "slowed", "overlap")
TWO_SESSIONS, LOOK_AHEAD = WAYS = ("two_sessions", "look_ahead")
AUTO = "auto"
MARGIN = 0.8  # of what a regime allows, to enter it
REMEMBERED = 8  # latencies; the largest counts
NOTCH = 0.05  # speeds are multiples of it
FASTER = 0.1  # a speed is raised by this much at least


@dataclass(frozen=True)
class Mode:
    """A regime with all that it leaves open."""

    regime: str
    way: str = ""  # of overlapping; empty in stop_and_go
    speed: float = 1.0  # of playback

    def longest_s(self, horizon_s: float) -> float:
        """The latency up to which this is free of gaps, for a chunk of `horizon_s`."""
        if self.way == TWO_SESSIONS:
            return horizon_s / 2 / self.speed
        return horizon_s / self.speed if self.way == LOOK_AHEAD else float("inf")

    @property
    def chunks_ahead(self) -> int:
        """Chunks whose rows may be in a plan: what is looked ahead for comes behind the one in hand."""
        return 2 if self.way == LOOK_AHEAD else 1

    def __str__(self) -> str:
        way = f" ({self.way})" if self.way else ""
        return f"{self.regime}{way}" + (f" at {self.speed:.2f} of the speed" if self.speed < 1 else "")


@dataclass(frozen=True)
class RegimeSettings:
    """What an operator may say; the node's parameters of the same names describe them."""

    regime: str = STOP_AND_GO  # one of REGIMES, or auto
    overlap: str = AUTO  # one of WAYS, or auto
    slowest_speed: float = 0.5  # share of the trained speed

    def modes(self) -> list[Mode]:
        """The modes allowed, the best first. Two sessions act on newer frames, so they come before looking ahead."""
        ways = WAYS if self.overlap == AUTO else (self.overlap,)
        allowed = [Mode(OVERLAP, way) for way in ways] if self.regime in (AUTO, OVERLAP) else []
        allowed += [Mode(SLOWED, ways[-1], self.slowest_speed)] if self.regime in (AUTO, SLOWED) else []
        return allowed + ([Mode(STOP_AND_GO)] if self.regime in (AUTO, STOP_AND_GO) else [])


class RegimeChooser:
    """The mode in force. Before anything is measured: the most patient one that is allowed."""

    def __init__(self, settings: RegimeSettings, horizon_s: float) -> None:
        self._allowed, self._horizon_s = settings.modes(), horizon_s
        self._latencies_s: deque[float] = deque(maxlen=REMEMBERED)
        self.mode = self._allowed[-1]

    @property
    def latency_s(self) -> float | None:
        """What the choice rests on; None before anything is measured."""
        return max(self._latencies_s, default=None)

    def measured(self, latency_s: float) -> Mode:
        """Take a latency into account: the mode in force from now on."""
        self._latencies_s.append(latency_s)
        fitting = (mode for allowed in self._allowed if (mode := self._fitted(allowed)) is not None)
        self.mode = next(fitting, self._allowed[-1])
        return self.mode

    def _fitted(self, allowed: Mode) -> Mode | None:
        """This mode as the latency wants it; None if it is too slow for it."""
        now, latency_s = self.mode, self.latency_s
        mine = (now.regime, now.way) == (allowed.regime, allowed.way)
        if allowed.regime == SLOWED:
            return self._slowed(allowed, now.speed if mine and len(self._latencies_s) > 1 else None)
        share = 1.0 if mine else MARGIN
        return allowed if latency_s <= share * allowed.longest_s(self._horizon_s) else None

    def _slowed(self, slowest: Mode, speed: float | None) -> Mode | None:
        """The fastest speed with a margin; the present one while it is free of gaps and hardly slower than that."""
        full_s = replace(slowest, speed=1.0).longest_s(self._horizon_s)
        wanted = min(1.0, NOTCH * int(MARGIN * full_s / self.latency_s / NOTCH + 1e-9))
        if speed is not None and self.latency_s <= full_s / speed and wanted < speed + FASTER:
            return replace(slowest, speed=speed)
        return replace(slowest, speed=wanted) if wanted >= slowest.speed else None
