"""What the robot did in a recording, around the chunks that are being replayed: joint states and commands.

Only what a chunk can still be compared with is kept. Commands are what the controllers were executing, by the rules of
`data/commands.py`, and need a topic of every controller; joint states are where the robot was. Commands lead, states
follow: against commands a policy that drove the robot is right to the cross-fade, against states it is early.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dreamzero_policy.data.bag_events import Trajectory, add_trajectory
from dreamzero_policy.data.commands import CommandHistory
from dreamzero_policy.runtime.contract import Contract, ModelSection
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S


class RecordedMotion:
    """Joint positions by time, of the commanded joints in the contract's order [J], rad and m."""

    def __init__(self, contract: Contract) -> None:
        self._joints = contract.model.commanded_joints
        self._tolerance_ns = contract.site.tolerances.state_s * NS_PER_S
        self._histories = {controller.name: CommandHistory(controller) for controller in contract.site.controllers}
        self._longest_skew_s = contract.site.tolerances.silence_s
        self._states: deque[tuple[int, Floats]] = deque()
        self.skew_s = 0.0  # time of recording minus stamp, of the newest joint state

    def add_state(self, stamp_ns: int, recorded_ns: int, positions: Mapping[str, float]) -> None:
        """Keep where the robot was. A stamp that is not newer than the last one begins anew."""
        if self._states and stamp_ns <= self._states[-1][0]:
            self._states.clear()
        self.skew_s = (recorded_ns - stamp_ns) / NS_PER_S
        self._states.append((stamp_ns, np.array([positions[joint] for joint in self._joints])))

    def add_trajectory(self, event: Trajectory) -> None:
        """Keep what was commanded. Raises EpisodeError for what no controller could follow."""
        add_trajectory(self._histories[event.controller.name], event.recorded_ns, event.message, event.topic)

    def covers(self, instant_ns: int) -> bool:
        return bool(self._states) and self._states[-1][0] >= instant_ns

    def forget_before(self, instant_ns: int) -> None:
        while len(self._states) > 1 and self._states[0][0] < instant_ns - self._tolerance_ns:
            self._states.popleft()
        for history in self._histories.values():
            history.forget_before(instant_ns)

    def states(self, instants_ns: Sequence[int]) -> Floats:
        """[T, J]: the nearest within the site's tolerance; not a number where there is none."""
        rows = np.full((len(instants_ns), len(self._joints)), np.nan)
        for row, instant_ns in zip(rows, instants_ns, strict=True):
            right = bisect_left(self._states, instant_ns, key=lambda state: state[0])
            around = [self._states[i] for i in (right - 1, right) if 0 <= i < len(self._states)]
            stamp_ns, positions = min(around, key=lambda state: abs(state[0] - instant_ns), default=(None, None))
            if stamp_ns is not None and abs(stamp_ns - instant_ns) <= self._tolerance_ns:
                row[:] = positions
        return rows

    def commands(self, instants_ns: Sequence[int]) -> Floats:
        """[T, J]: what was in execution; not a number before the first command, or where nobody knows when it came."""
        rows = np.full((len(instants_ns), len(self._joints)), np.nan)
        if abs(self.skew_s) > self._longest_skew_s:  # recorded on another clock than that of the stamps
            return rows
        for history in self._histories.values():
            columns = [self._joints.index(joint) for joint in history.controller.joints]
            for row, instant_ns in zip(rows, instants_ns, strict=True):
                if history.first_ns is not None and history.first_ns <= instant_ns:
                    row[columns] = history.at(instant_ns)
        return rows


def error(model: ModelSection, rows: Floats, recorded: Floats) -> dict[str, Any] | None:
    """Mean absolute distance of a chunk's rows from what was recorded [H, J]: by group, at its end, and by step.

    Rows without a recording do not count; None if none counts.
    """
    known = np.isfinite(recorded).all(axis=1)
    if not known.any() or not np.isfinite(rows).all():
        return None
    distances = np.abs(rows[known] - recorded[known])
    return {
        "rows": int(known.sum()),
        "mean": float(distances.mean()),
        "last": float(distances[-1].mean()),
        "groups": {key: float(distances[:, columns].mean()) for key, columns in _groups(model)},
    }


def _groups(model: ModelSection) -> list[tuple[str, list[int]]]:
    joints = model.commanded_joints
    commanded = (group for group in model.action if group.commanded)
    return [(group.key, [joints.index(joint) for joint in group.joints]) for group in commanded]
