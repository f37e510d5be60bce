"""The drives' commands as a stream of positions, as a ros2_control outside sends them, in place of trajectories.

A position that is not finite leaves its joint where it was told to be: hardware interfaces send NaN until a controller
has taken a joint. The drives also want a speed, and a stream of positions has none: it is the last change over the time
between the last two commands, and zero again once the stream has paused.
"""

from collections.abc import Sequence

import numpy as np

from agibot_twin.trajectory_controller import NS_PER_S, Floats, JointTarget

PAUSE_NS = 25_000_000  # two and a half periods of 100 Hz without a command: nothing moves on


class CommandRefused(ValueError):  # noqa: N818 (an answer to the sender)
    """A command that names a joint the robot has not, or has not one position for each; the text says which."""


class SetPoints:
    """Where all driven joints are told to be. `receive` may be called from another thread than `update`."""

    def __init__(self, joints: Sequence[str], positions: Floats) -> None:
        """`positions` [J]: where the joints are now, in the order of `joints`."""
        self._column = {joint: index for index, joint in enumerate(joints)}
        self.hold(positions)

    def hold(self, positions: Floats) -> None:
        """Forget every command and stay at `positions` [J]."""
        self._last = (JointTarget(np.array(positions, dtype=np.float64), np.zeros(len(positions))), 0)

    def receive(self, names: Sequence[str], positions: Sequence[float], now_ns: int) -> None:
        """Positions of some joints, rad (lift: m).

        Raises:
            CommandRefused: see there. Nothing is changed then.
        """
        if len(names) != len(positions):
            raise CommandRefused(f"{len(positions)} positions for {len(names)} joints")
        if unknown := [name for name in names if name not in self._column]:
            raise CommandRefused(f"unknown joints {unknown}")
        before, before_ns = self._last
        told = np.array(positions, dtype=np.float64)
        finite = np.isfinite(told)
        columns = np.array([self._column[name] for name in names], dtype=int)[finite]
        target = before.positions.copy()
        target[columns] = told[finite]
        passed_ns = now_ns - before_ns
        streaming = 0 < passed_ns < PAUSE_NS
        speeds = (target - before.positions) * NS_PER_S / passed_ns if streaming else np.zeros_like(target)
        self._last = (JointTarget(target, speeds), now_ns)

    def update(self, now_ns: int) -> JointTarget:
        """What the drives are told now."""
        target, told_ns = self._last
        if now_ns - told_ns < PAUSE_NS:
            return target
        return JointTarget(target.positions, np.zeros_like(target.positions))
