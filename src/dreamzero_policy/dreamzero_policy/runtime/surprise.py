"""Watching surprise: when it is too much for too long, and what follows.

A surprise lasts one block: the next chunk is predicted from what is there by then. Who would rather miss some than be
told of a reflection asks for several blocks in a row. Three actions: `none` only tells the numbers, `warn` also says so
once, `hold` brings the robot to rest (`Fault.SURPRISE_HELD`, which the node handles as any other cause to hold), waits,
and begins anew with what is seen then. The wait has to be a fixed time: a robot that is held predicts nothing that
could be compared.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from dreamzero_policy.runtime.calibration import CALIBRATION_FILE, Calibration, CalibrationError, Cells, distance
from dreamzero_policy.runtime.faults import Fault, Trouble
from dreamzero_policy.runtime.observation import NS_PER_S

NONE, WARN, HOLD = ACTIONS = ("none", "warn", "hold")


@dataclass(frozen=True)
class SurpriseSettings:
    """The node's parameters `surprise_…`."""

    action: str = NONE
    percentile: float = 99.0  # of normal blocks
    blocks: int = 1  # in a row at or beyond it
    hold_s: float = 1.0


class SurpriseWatch:
    """Is told every block's difference; `trouble` is there while the robot is to be held."""

    def __init__(
        self,
        settings: SurpriseSettings,
        calibration: Calibration | None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Raises CalibrationError where the action needs a calibration, or one of more blocks."""
        if settings.action != NONE:
            if calibration is None:
                raise CalibrationError(
                    f"surprise_action {settings.action} needs {CALIBRATION_FILE} in the checkpoint; make it with "
                    "dreamzero calibrate, or set none"
                )
            if reason := calibration.too_few(settings.percentile):
                raise CalibrationError(f"{reason}; calibrate with more runs, or lower surprise_percentile")
        self.settings, self.calibration, self._now_ns = settings, calibration, now_ns
        self.blocks = 0  # compared since it was made
        self.distance: float | None = None  # of the newest block
        self.score: float | None = None  # of it; None without a calibration
        self._before: Cells | None = None  # the block before, of the same instruction
        self._in_a_row = 0
        self._held_until_ns: int | None = None
        self._text = ""

    @property
    def percentile(self) -> float | None:
        """Of the newest block [%]; None before the first, and without a calibration."""
        return None if self.score is None else self.calibration.percentile(self.score)

    @property
    def warning(self) -> str:
        """What is too surprising, of the newest blocks; empty while it is not, and with action none."""
        return self._text if self._in_a_row >= self.settings.blocks else ""

    def add(self, cells: Cells) -> str:
        """Take note of a block [f, h, w]. Gives the sentence where it has just become too much."""
        self.blocks, self.distance = self.blocks + 1, distance(cells)
        if self.calibration is not None:
            self.score = self.calibration.cells.score(cells, self._before)
        self._before = cells
        if self.settings.action == NONE:
            return ""
        beyond = self.percentile >= self.settings.percentile
        self._in_a_row = self._in_a_row + 1 if beyond else 0
        if self._in_a_row < self.settings.blocks:
            return ""
        which = "a block was" if self._in_a_row == 1 else f"{self._in_a_row} blocks in a row were"
        self._text = (
            f"{which} not as predicted: score {self.score:.1f}, percentile "
            f"{self.percentile:.1f} of normal runs, surprise_percentile is {self.settings.percentile:g}"
        )
        if self._in_a_row > self.settings.blocks:
            return ""
        if self.settings.action == HOLD:
            self._held_until_ns = self._now_ns() + round(self.settings.hold_s * NS_PER_S)
            self._in_a_row = 0
        return self._text

    def forget(self) -> None:
        """Another instruction: what was seen under the last one does not count, and holds nobody."""
        self._in_a_row, self._held_until_ns, self._before = 0, None, None

    def trouble(self) -> Trouble | None:
        """While the robot is to be held."""
        if self._held_until_ns is not None and self._now_ns() >= self._held_until_ns:
            self._held_until_ns = None
        return None if self._held_until_ns is None else Trouble(Fault.SURPRISE_HELD, "surprise", self._text)
