"""The emergency stop: what was heard on the topic decides whether the robot may be moved.

A stop is latched: it ends by an explicit reset only, and that is refused while the last thing heard is a stop. Where a
stop is required nothing moves before one was heard to be released, and its silence is a stop like any other. This is a
stop in software, no substitute for the one in the robot's power circuit.
"""

import time

from dreamzero_policy.runtime.faults import Fault, Trouble
from dreamzero_policy.runtime.observation import NS_PER_S

SOURCE = "estop"


class EmergencyStop:
    """Without ROS: told of each message, asked what is wrong. Silence is judged on the monotonic clock."""

    def __init__(self) -> None:
        self._timeout_s: float | None = None  # longest silence; None: silence means nothing
        self._pressed = False  # the last thing heard
        self._heard_monotonic_ns: int | None = None
        self._latched: Trouble | None = None

    def demand(self, timeout_s: float | None) -> None:
        """From now on be heard, first of all once, and again after `timeout_s` at the latest; None demands nothing."""
        self._timeout_s, self._heard_monotonic_ns = timeout_s, None

    @property
    def heard(self) -> bool:
        """Whether there was any message since it was demanded."""
        return self._heard_monotonic_ns is not None

    def hear(self, stop: bool) -> None:
        """A message on the topic."""
        self._judge_silence()
        self._pressed, self._heard_monotonic_ns = stop, time.monotonic_ns()
        if stop:
            self._latched = Trouble(Fault.ESTOP, SOURCE, "estop: stopped; release it and call ~/reset_estop")

    def reset(self) -> str:
        """Let the robot be moved again. Why that is refused; empty if it is done."""
        if self._pressed:
            return "the last message on estop is a stop: release it first"
        if self._silence_is_too_long():
            return f"estop has been silent for more than {self._timeout_s:g} s: let it be heard first"
        self._latched = None
        return ""

    def trouble(self) -> Trouble | None:
        """Why the robot must not be moved now; None if it may."""
        self._judge_silence()
        if self._latched is None and self._timeout_s is not None and self._heard_monotonic_ns is None:
            return Trouble(Fault.ESTOP_SILENT, SOURCE, "estop: no message yet, and require_estop is set")
        return self._latched

    def _judge_silence(self) -> None:
        if self._latched is None and self._silence_is_too_long():
            self._latched = Trouble(
                Fault.ESTOP_SILENT,
                SOURCE,
                f"estop: was silent for more than {self._timeout_s:g} s; let it be heard and call ~/reset_estop",
            )

    def _silence_is_too_long(self) -> bool:
        """Before the first message nothing has fallen silent."""
        if self._timeout_s is None or self._heard_monotonic_ns is None:
            return False
        return time.monotonic_ns() - self._heard_monotonic_ns > self._timeout_s * NS_PER_S
