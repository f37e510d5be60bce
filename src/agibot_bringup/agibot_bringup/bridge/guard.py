"""What may pass between ros2_control and the robot. No ROS: told of every message, asked what to send.

Commands and states are positions in rad and m by joint; the robot's side is its own vectors (`units.py`). Times are
monotonic nanoseconds, handed in.

Inactive, states pass and commands do not. Active, a finite command goes out at once, and the last one again and again,
since the robot takes set points and needs a stream. Whatever cannot be right stops the stream: the robot then keeps its
last set point. A stop is latched until `reset`; one that somebody called for (`latch.py`) outlasts a deactivation too,
while one that was found here does not, since an activation judges all that a reset does. Nothing is clamped, and
nothing is filled in for what is missing.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from agibot_bringup.bridge.latch import Latch
from agibot_bringup.bridge.units import LIFT, Entry, Group, Table

NS_PER_S = 1_000_000_000
GRIPPERS = (Group.LEFT_GRIPPER, Group.RIGHT_GRIPPER)


@dataclass(frozen=True)
class Settings:
    """See config/bridge.yaml."""

    period_s: float
    feedback_timeout_s: float
    command_timeout_s: float
    max_step_rad: float  # from the feedback, and from one command to the next; the grippers are free
    max_step_m: float
    max_first_step_rad: float  # from the feedback, for the first command of a group: what begins must begin softly
    max_first_step_m: float
    range_tolerance_rad: float
    range_tolerance_m: float


class State(str, Enum):
    """What the bridge does."""

    INACTIVE = "inactive"  # states pass, commands do not
    WAITING = "waiting"  # no controller has commanded anything yet
    STREAMING = "streaming"
    HOLDING = "holding"  # the commands have ceased: the last one is repeated
    STOPPED = "stopped"  # nothing is sent


@dataclass(frozen=True)
class Reading:
    """What the robot last reported of a group, in rad and m."""

    raw: tuple[float, ...]
    positions: tuple[float, ...]
    velocities: tuple[float, ...] | None  # None after a first report without speeds
    heard_ns: int


Extent = tuple[tuple[float, ...], tuple[float, ...]]  # lowest and highest positions of a group


class Guard:
    """See the module's docstring."""

    def __init__(
        self, table: Table, ranges: Mapping[str, tuple[float, float]], settings: Settings, latch: Latch | None = None
    ) -> None:
        """`ranges`: lowest and highest position of every joint of the table, rad or m. `latch`: one that was there
        before, and will be after.
        """
        self._table, self._ranges, self.settings = table, ranges, settings
        self.latch = latch or Latch()
        self.joints = tuple(entry.joint for entries in table.values() for entry in entries)
        self.readings: dict[Group, Reading] = {}
        self.broken: dict[Group, str] = {}  # reports that were no positions, and why
        self.deaf = ""  # why the robot cannot be heard at all; empty while it can
        self.counts: Counter[str] = Counter()
        self.active = False
        self.refused = ""  # why the last activation was
        self.stopped = ""  # why; empty while it is not
        self._commanded: dict[Group, tuple[float, ...]] = {}
        self._reported: dict[Group, Extent] = {}  # since activation or reset, until a group is commanded
        self._sent_ns: dict[Group, int] = {}
        self._command_heard_ns = 0
        self._period_ns = round(settings.period_s * NS_PER_S)
        self._feedback_timeout_ns = round(settings.feedback_timeout_s * NS_PER_S)
        self._command_timeout_ns = round(settings.command_timeout_s * NS_PER_S)

    def range_of(self, joint: str) -> tuple[float, float]:
        return self._ranges[joint]

    # What the robot reports

    def hear_feedback(
        self, group: Group, raw: Sequence[float], raw_velocities: Sequence[float] | None, now_ns: int
    ) -> None:
        """A vector of the robot. Speeds that it does not report are the difference of two reports."""
        entries = self._table[group]
        if wrong := _unusable(entries, raw, raw_velocities):
            self.broken[group] = f"{group.value}: {wrong}"
            self.stop(f"feedback of {self.broken[group]}")
            return
        self.broken.pop(group, None)
        positions = tuple(entry.feedback.value(number) for entry, number in zip(entries, raw, strict=True))
        before, velocities = self.readings.get(group), None
        if raw_velocities is not None:
            velocities = tuple(entry.feedback.rate(v) for entry, v in zip(entries, raw_velocities, strict=True))
        elif before is not None and now_ns > before.heard_ns:
            passed_s = (now_ns - before.heard_ns) / NS_PER_S
            velocities = tuple((p - q) / passed_s for p, q in zip(positions, before.positions, strict=True))
        self.readings[group] = Reading(tuple(raw), positions, velocities, now_ns)
        if self.active and not self.stopped:
            if outside := self._outside(group):
                self.stop(f"feedback: {outside}")
            elif group not in self._commanded:
                lowest, highest = self._reported.get(group, (positions, positions))
                self._reported[group] = tuple(map(min, lowest, positions)), tuple(map(max, highest, positions))

    def hear_nothing(self, why: str) -> None:
        """The robot could not be asked; `why` empty: it could."""
        self.deaf = why
        if why:
            self.stop(f"{why}, then call ~/reset")

    def states(self, now_ns: int) -> tuple[tuple[str, ...], list[float], list[float]] | None:
        """Joints, positions and speeds as ros2_control is told them; None while something is missing or in doubt."""
        if self._missing(now_ns) or any(self._outside(group) for group in self._table):
            return None
        readings = [self.readings[group] for group in self._table]
        if any(reading.velocities is None for reading in readings):
            return None
        positions = [value for reading in readings for value in reading.positions]
        return self.joints, positions, [value for reading in readings for value in reading.velocities]

    # What is asked

    def activate(self, now_ns: int, objection: str = "") -> str:
        """Let commands pass from now on. Why that is refused; empty if it is done. `objection`: the adapter's."""
        self.refused = self.latch.reason or objection or self._objection(now_ns)
        self.active = not self.refused
        self._remember_reported()
        return self.refused

    def _remember_reported(self) -> None:
        """From now on."""
        self._reported = {group: (reading.positions, reading.positions) for group, reading in self.readings.items()}

    def deactivate(self) -> None:
        self.active, self.stopped, self.refused = False, "", ""
        self._forget()

    def stop(self, why: str) -> None:
        """Something is wrong: send nothing more until `reset`, or until the next activation finds nothing wrong."""
        if self.active and not self.stopped:
            self.stopped = why
            self._forget()

    def call_for_stop(self, why: str) -> None:
        """Somebody wants a stop: neither a command nor an activation passes until `reset`."""
        self.latch.call(why)
        self.stop(why)

    def press_stop(self, pressed: bool, why: str) -> None:
        """The same, and no `reset` passes until it is released."""
        self.latch.press(pressed, why)
        if pressed:
            self.stop(why)

    def reset(self, now_ns: int, objection: str = "") -> str:
        """Forget a stop. Why that is refused; empty if it is done. `objection`: the adapter's."""
        reason = self.latch.pressed or objection or self._objection(now_ns)
        if not reason:
            self.stopped = self.refused = ""
            self.latch.reset()
            self._remember_reported()
        return reason

    def _forget(self) -> None:
        self._commanded.clear()
        self._sent_ns.clear()

    # What ros2_control commands

    def hear_command(
        self, names: Sequence[str], positions: Sequence[float], now_ns: int
    ) -> list[tuple[Group, list[float]]]:
        """A command; what of it is to be sent at once.

        NaN stands for a joint that no controller has taken. A group of which one joint is NaN or not named stays as it
        is: the robot takes whole vectors alone.
        """
        if not self.active or self.stopped:
            self.counts["dropped"] += 1
            return []
        if len(names) != len(positions):
            self.counts["malformed"] += 1
            self.stop(f"command: {len(positions)} positions for {len(names)} joints")
            return []
        self.watch(now_ns)  # a command that comes after a silence of the robot is judged against nothing
        if self.stopped:
            return []
        told = dict(zip(names, positions, strict=True))
        targets: dict[Group, tuple[float, ...]] = {}
        for group, entries in self._table.items():
            target = tuple(told.get(entry.joint, math.nan) for entry in entries)
            if all(math.isfinite(value) for value in target):
                targets[group] = target
            elif any(math.isfinite(value) for value in target):
                self.counts["partial"] += 1
        for group, target in targets.items():
            if reason := self._refusal(group, target):
                self.counts["refused"] += 1
                self.stop(f"command refused: {reason}")
                return []
        if not targets:
            self.counts["not_finite"] += 1
            return []
        self._command_heard_ns = now_ns
        self._commanded |= targets
        return [self._to_send(group, now_ns) for group in targets]

    def due(self, now_ns: int) -> Iterator[tuple[Group, list[float]]]:
        """What must be sent again for the stream to go on. To be asked once in a period."""
        self.watch(now_ns)
        for group in tuple(self._commanded):
            if now_ns - self._sent_ns[group] >= 0.9 * self._period_ns:
                yield self._to_send(group, now_ns)

    def watch(self, now_ns: int) -> None:
        """Stop if the robot has fallen silent."""
        if self.active and not self.stopped and (missing := self._missing(now_ns)):
            self.stop(f"feedback: {missing}")

    def state(self, now_ns: int) -> State:
        if not self.active:
            return State.INACTIVE
        if self.stopped:
            return State.STOPPED
        if not self._commanded:
            return State.WAITING
        silent = now_ns - self._command_heard_ns > self._command_timeout_ns
        return State.HOLDING if silent else State.STREAMING

    def _to_send(self, group: Group, now_ns: int) -> tuple[Group, list[float]]:
        self._sent_ns[group] = now_ns
        self.counts["sent"] += 1
        return group, [
            entry.command.raw(value) for entry, value in zip(self._table[group], self._commanded[group], strict=True)
        ]

    # What is wrong

    def _objection(self, now_ns: int) -> str:
        """Why the robot must not be commanded, by what it reports."""
        if missing := self._missing(now_ns):
            return missing
        doubts = [
            doubt
            for group, entries in self._table.items()
            for entry, raw in zip(entries, self.readings[group].raw, strict=True)
            if (doubt := entry.doubt(raw, *self._ranges[entry.joint], self._tolerance(entry)))
        ]
        return "; ".join(doubts)

    def _missing(self, now_ns: int) -> str:
        if self.deaf:
            return self.deaf
        for group in self._table:
            if group in self.broken:
                return self.broken[group]
            if group not in self.readings:
                return f"{group.value}: nothing reported yet"
            if (silent_ns := now_ns - self.readings[group].heard_ns) > self._feedback_timeout_ns:
                return (
                    f"{group.value}: silent for {silent_ns / NS_PER_S:.2f} s, "
                    f"allowed are {self.settings.feedback_timeout_s:g}"
                )
        return ""

    def _outside(self, group: Group) -> str:
        for entry, value in zip(self._table[group], self.readings[group].positions, strict=True):
            (lower, upper), tolerance = self._ranges[entry.joint], self._tolerance(entry)
            if not lower - tolerance <= value <= upper + tolerance:
                return f"{entry.joint} is at {value:g}, its range is {lower:g} … {upper:g}"
        return ""

    def _refusal(self, group: Group, target: Sequence[float]) -> str:
        before = self._commanded.get(group)
        measured = self.readings[group].positions
        outermost = (measured, *self._reported.get(group, ())) if before is None else (measured, before)
        for index, (entry, value) in enumerate(zip(self._table[group], target, strict=True)):
            lower, upper = self._ranges[entry.joint]
            # A joint that stands a little beyond its range may be held there, also while its reading flickers, and goes
            # no further.
            stood = [positions[index] for positions in outermost]
            if not min(lower, *stood) <= value <= max(upper, *stood):
                return f"{entry.joint} to {value:g}, its range is {lower:g} … {upper:g}"
            if group in GRIPPERS:  # one that holds an object stands away from its command by intention
                continue
            largest = self._largest_step(entry, before is None)
            for what, origin in (("where it is", measured), ("the last command", before)):
                if origin is not None and abs(value - origin[index]) > largest:
                    first = "the first command " if before is None else ""
                    return (
                        f"{first}{entry.joint} to {value:g}, {abs(value - origin[index]):.4f} from {what}, allowed are "
                        f"{largest:g}; restart the controllers so that they begin where the robot is"
                    )
        return ""

    def _largest_step(self, entry: Entry, first: bool) -> float:
        settings = self.settings
        if entry.joint == LIFT:
            return settings.max_first_step_m if first else settings.max_step_m
        return settings.max_first_step_rad if first else settings.max_step_rad

    def _tolerance(self, entry: Entry) -> float:
        return self.settings.range_tolerance_m if entry.joint == LIFT else self.settings.range_tolerance_rad


def _unusable(entries: Sequence[Entry], raw: Sequence[float], velocities: Sequence[float] | None) -> str:
    if len(raw) != len(entries):
        return f"{len(raw)} numbers, expected {len(entries)}"
    if velocities is not None and len(velocities) != len(entries):
        return f"{len(velocities)} speeds, expected {len(entries)}"
    for entry, number in zip(entries, raw, strict=True):
        if not math.isfinite(number):
            return f"{entry.joint} is {number}"
    if velocities is not None and not all(map(math.isfinite, velocities)):
        return "a speed is not finite"
    return ""
