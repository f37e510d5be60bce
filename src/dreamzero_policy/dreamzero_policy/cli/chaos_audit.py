"""What a chaos run is judged by: the commands that were sent, the memory of the processes, and what is left of them."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import psutil

from dreamzero_policy.runtime.command import Command
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan
from dreamzero_policy.runtime.rest import stopping_s

SAMPLE_NS = NS_PER_S // 100
EXCESS = 1e-6  # relative: what numbers lose on their way
MOVES = 1e-4  # [rad/s, m/s] slower is standing still
SETTLED_S = 120.0  # a process has loaded and come to its size by then
SHORTEST_SLOPE_S = 600.0  # caches fill for some minutes


@dataclass
class Audit:
    """Watches every controller's command from outside, in the robot's own time."""

    contract: Contract
    trajectories: int = 0
    samples: int = 0
    outside: int = 0
    worst: str = ""
    longest_s: float = 0.0
    moves_while_stopped: int = 0
    _commands: dict[str, Command] = field(default_factory=dict)
    _still_from_ns: int | None = None

    def begin(self, positions: Mapping[str, float], now_ns: int) -> None:
        """The robot stands still at these positions."""
        for controller in self.contract.site.controllers:
            self._commands[controller.name] = Command([positions[joint] for joint in controller.joints], now_ns)

    @property
    def watching(self) -> bool:
        """Whether it has begun."""
        return bool(self._commands)

    def sent(self, controller: str, after_ns: list[int], positions: Floats, velocities: Floats, now_ns: int) -> None:
        """A trajectory of N points for the J joints of a controller, [N, J]."""
        own = self._commands[controller].take(now_ns, after_ns, positions, velocities)
        self.trajectories += 1
        self.longest_s = max(self.longest_s, after_ns[-1] / NS_PER_S)
        self._check(controller, own)

    def tick(self, now_ns: int) -> None:
        """Called at 100 Hz: does anything move that must not?"""
        if self._still_from_ns is not None and now_ns > self._still_from_ns:
            self.moves_while_stopped += self.moving(now_ns)

    def must_rest_within(self, seconds: float, now_ns: int) -> None:
        """From then on any motion is one too much."""
        self._still_from_ns = now_ns + round(seconds * NS_PER_S)

    def may_move(self) -> None:
        self._still_from_ns = None

    def stopping_s(self, now_ns: int, within_s: float) -> float:
        """The longest stopping time of the limits from anything commanded between now and then [s]."""
        instants = now_ns + np.arange(0, round(within_s * NS_PER_S) + 1, SAMPLE_NS)
        return max(
            stopping_s(speeds, [self.contract.site.limits[joint] for joint in controller.joints])
            for controller in self.contract.site.controllers
            for speeds in self._commands[controller.name].plan.sample(instants)[1]
        )

    def moving(self, now_ns: int) -> bool:
        """Whether any joint is told to move now."""
        return any((np.abs(c.plan.sample([now_ns])[1]) > MOVES).any() for c in self._commands.values())

    def rest_ns(self) -> int:
        """When everything stands still, if nothing follows."""
        return max(command.rest_ns for command in self._commands.values())

    def _check(self, name: str, plan: Plan) -> None:
        """Position, speed and acceleration of a trajectory, as a controller interpolates it, at 100 Hz."""
        joints = next(c.joints for c in self.contract.site.controllers if c.name == name)
        limits = [self.contract.site.limits[joint] for joint in joints]
        instants = np.arange(plan.knots_ns[0], plan.knots_ns[-1] + 1, SAMPLE_NS)
        positions, velocities = plan.sample(instants)
        self.samples += len(instants)
        # A joint that stands outside its range may move back in.
        lower = np.minimum([limit.lower for limit in limits], positions[0])
        upper = np.maximum([limit.upper for limit in limits], positions[0])
        middle, half = (lower + upper) / 2, (upper - lower) / 2
        shares = {
            "position": np.abs(positions - middle) / half,
            "velocity": np.abs(velocities) / [limit.velocity for limit in limits],
            "acceleration": np.abs(_accelerations(plan, instants)) / [limit.acceleration for limit in limits],
        }
        beyond = np.zeros(len(instants), bool)
        for what, share in shares.items():
            beyond |= (share > 1 + EXCESS).any(axis=1)
            if share.max() > 1 + EXCESS and not self.worst:
                row, joint = np.unravel_index(np.argmax(share), share.shape)
                self.worst = f"{joints[joint]}: {share[row, joint]:.4f} of its {what} limit"
        self.outside += int(beyond.sum())


def _accelerations(plan: Plan, instants: np.ndarray) -> Floats:
    """[T, J] inside the knots."""
    if len(plan.knots_ns) == 1:
        return np.zeros((len(instants), plan.positions.shape[1]))
    first, last = plan.accelerations
    segment = np.clip(plan.knots_ns.searchsorted(instants, side="right") - 1, 0, len(first) - 1)
    share = ((instants - plan.knots_ns[segment]) / np.diff(plan.knots_ns)[segment])[:, None]
    return first[segment] + share * (last[segment] - first[segment])


@dataclass
class Memory:
    """Resident memory of every process, once a second."""

    _readings: dict[tuple[str, int], list[tuple[float, float]]] = field(default_factory=dict)  # [s, MB]
    _last: float = 0.0

    def read(self, pids: Mapping[str, int]) -> None:
        now = time.monotonic()
        if now - self._last < 1.0:
            return
        self._last = now
        for name, pid in pids.items():
            for label, process in _family(name, pid):
                try:
                    megabytes = process.memory_info().rss / 2**20
                except psutil.NoSuchProcess:
                    continue
                if megabytes > 0:  # else it has just ended
                    self._readings.setdefault((label, process.pid), []).append((now, megabytes))

    def newest(self) -> dict[str, float]:
        """Of each kind of process the newest reading [MB]."""
        newest = {name: readings[-1] for (name, _), readings in sorted(self._readings.items(), key=lambda i: i[1][-1])}
        return {name: megabytes for name, (_, megabytes) in sorted(newest.items())}

    def summary(self) -> dict[str, dict[str, float | None]]:
        """For each kind of process the one that lived longest, from when it had settled."""
        longest: dict[str, list[tuple[float, float]]] = {}
        for (name, _), readings in self._readings.items():
            settled = [r for r in readings if r[0] - readings[0][0] >= SETTLED_S] or readings[-1:]
            if len(settled) > len(longest.get(name, [])):
                longest[name] = settled
        return {name: _growth(readings) for name, readings in longest.items()}


def _family(name: str, pid: int) -> list[tuple[str, psutil.Process]]:
    try:
        process = psutil.Process(pid)
        return [(name, process), *((f"{name}.model", child) for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _growth(readings: list[tuple[float, float]]) -> dict[str, float | None]:
    seconds, megabytes = np.array(readings).T
    span_s = seconds[-1] - seconds[0]
    slope = np.polyfit(seconds, megabytes, 1)[0] if span_s >= SHORTEST_SLOPE_S else None
    return {
        "settled_mb": round(float(megabytes[0]), 1),
        "last_mb": round(float(megabytes[-1]), 1),
        "seconds": round(float(span_s), 1),
        "growth_percent_per_hour": None if slope is None else round(float(slope * 3600 / megabytes[0] * 100), 2),
    }


def left_over(marker: str) -> list[str]:
    """Command lines of other processes with this in their environment."""
    found = []
    for process in psutil.process_iter(["pid", "environ", "cmdline", "status"]):
        ours = process.info["pid"] == os.getpid() or process.info["status"] == psutil.STATUS_ZOMBIE
        if not ours and marker in (process.info["environ"] or {}).values():
            found.append(" ".join(process.info["cmdline"] or ()))
    return found
