"""Commands: what a joint trajectory controller was executing at an instant, from the trajectories it was sent.

The rules are those of ros2_control's joint trajectory controller: a new trajectory replaces the old one when it
arrives; with a stamp of zero it starts then, else at its stamp; until its first point is due the joints move in a
straight line from what was commanded before; between points the curve is cubic where both have velocities, else
straight; after the last point they stay there. Before the first trajectory nothing is in execution, and that is said.
Accelerations of points are not used. Pure numpy.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.runtime.contract import Controller
from dreamzero_policy.runtime.embodiment import Floats


@dataclass(frozen=True, eq=False)
class Command:
    """One trajectory: P points for the controller's joints, in its order."""

    received_ns: int
    start_ns: int
    times_ns: list[int]  # [P] from the start
    positions: Floats  # [P, J]
    velocities: Floats | None  # [P, J]

    def at(self, instant_ns: int, before: Floats | None) -> Floats:
        """The positions [J] at an instant; `before` is what was commanded when the trajectory arrived."""
        elapsed_ns = instant_ns - self.start_ns
        right = bisect_right(self.times_ns, elapsed_ns)
        if right == len(self.times_ns):
            return self.positions[-1]
        if right == 0:
            if before is None:
                return self.positions[0]
            begin_ns = self.received_ns - self.start_ns
            share = (elapsed_ns - begin_ns) / max(1, self.times_ns[0] - begin_ns)
            return before + min(1.0, max(0.0, share)) * (self.positions[0] - before)
        left, span_ns = right - 1, self.times_ns[right] - self.times_ns[right - 1]
        s = (elapsed_ns - self.times_ns[left]) / span_ns
        a, b = self.positions[left], self.positions[right]
        if self.velocities is None:
            return a + s * (b - a)
        span_s = span_ns * 1e-9
        va, vb = self.velocities[left] * span_s, self.velocities[right] * span_s
        return a + s * (va + s * (3 * (b - a) - 2 * va - vb + s * (2 * (a - b) + va + vb)))


@dataclass
class CommandHistory:
    """Every trajectory that one controller was sent, in the order of arrival."""

    controller: Controller
    commands: list[Command] = field(default_factory=list)
    _before: list[Floats | None] = field(default_factory=list)

    def add(
        self,
        received_ns: int,
        stamp_ns: int,
        joint_names: Sequence[str],
        times_ns: Sequence[int],
        positions: Sequence[Sequence[float]],
        velocities: Sequence[Sequence[float]],
        where: str,
    ) -> None:
        """Keep one trajectory. An empty one stops the joints where they were.

        Raises:
            EpisodeError: other joints than the controller's, unequal lengths, times that do not increase, or numbers
                that are not finite.
        """
        joints = self.controller.joints
        if not times_ns:
            if self.commands:
                stopped = self.at(received_ns)
                self._append(Command(received_ns, received_ns, [0], stopped[None], None))
            return
        if sorted(joint_names) != sorted(joints):
            raise EpisodeError(
                f"{where} names joints {sorted(joint_names)}, controller {self.controller.name} has {sorted(joints)}"
            )
        order = [list(joint_names).index(joint) for joint in joints]
        if any(len(row) != len(joints) for row in positions):
            raise EpisodeError(f"{where}: a point has {[len(row) for row in positions]} positions for {len(joints)}")
        if any(b <= a for a, b in pairwise(times_ns)):
            raise EpisodeError(f"{where}: time_from_start does not increase")
        reached = np.array(positions, dtype=np.float64)[:, order]
        moving = all(len(row) == len(joints) for row in velocities)
        speeds = np.array(velocities, dtype=np.float64)[:, order] if moving else None
        if not np.isfinite(reached).all() or (speeds is not None and not np.isfinite(speeds).all()):
            raise EpisodeError(f"{where}: a position or velocity is not finite")
        self._append(Command(received_ns, stamp_ns or received_ns, list(times_ns), reached, speeds))

    @property
    def first_ns(self) -> int | None:
        """When the first command arrived."""
        return self.commands[0].received_ns if self.commands else None

    def at(self, instant_ns: int) -> Floats:
        """What was in execution. Raises EpisodeError before the first command."""
        index = bisect_right(self.commands, instant_ns, key=lambda command: command.received_ns) - 1
        if index < 0:
            raise EpisodeError(f"controller {self.controller.name} had no command at {instant_ns * 1e-9:.3f} s")
        return self.commands[index].at(instant_ns, self._before[index])

    def forget_before(self, instant_ns: int) -> None:
        """Drop commands that were over by then; the one that was in execution stays."""
        over = bisect_right(self.commands, instant_ns, key=lambda command: command.received_ns) - 1
        if over > 0:
            del self.commands[:over], self._before[:over]

    def _append(self, command: Command) -> None:
        self._before.append(self.at(command.received_ns) if self.commands else None)
        self.commands.append(command)
