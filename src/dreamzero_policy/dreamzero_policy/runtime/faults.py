"""The faults: what can go wrong while a robot is driven. Each has a name that stays and exactly one outcome.

The names are those in `~/status` and `/diagnostics`; docs/explanation/faults.md says of each how it is noticed, what
the robot does, within which time, and how it ends. There are five outcomes:

    HOLD   come to rest as fast as the limits allow, forget the window, go on by itself once the cause is gone
    STOP   come to rest as fast as the limits allow, forget the instruction, wait for a person
    WAIT   finish the plan, to its rest; forget the window, go on by itself once the cause is gone
    FAULT  come to rest as fast as the limits allow; only a newly configured policy moves the robot again
    NOTE   the robot follows the plan it has, to its rest; what was bad is left out and counted
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto


class Outcome(Enum):
    HOLD = auto()
    STOP = auto()
    WAIT = auto()
    FAULT = auto()
    NOTE = auto()


class Fault(Enum):
    """Name and outcome."""

    CAMERA_STALE = "camera_stale", Outcome.HOLD  # nothing yet, or nothing for the site's silence_s
    CAMERA_FROZEN = "camera_frozen", Outcome.HOLD  # stamps advance, bytes do not, though the robot is told to move
    CAMERA_STAMPS = "camera_stamps", Outcome.HOLD  # frames too late, or of another clock
    CAMERA_INVALID = "camera_invalid", Outcome.HOLD  # damaged, or another size or encoding
    JOINTS_STALE = "joint_states_stale", Outcome.HOLD
    JOINTS_STAMPS = "joint_states_stamps", Outcome.HOLD
    JOINTS_INVALID = "joint_states_invalid", Outcome.HOLD  # NaN, or a needed joint is absent
    CONTROLLER_GONE = "controller_gone", Outcome.HOLD
    CLOCK_JUMPED = "clock_jumped", Outcome.HOLD
    ESTOP = "estop", Outcome.STOP
    ESTOP_SILENT = "estop_silent", Outcome.STOP  # required, and not heard yet or no longer
    MODEL_SILENT = "model_silent", Outcome.FAULT  # no answer for inference_timeout_s
    MODEL_FAILED = "model_failed", Outcome.FAULT  # raised, ran out of memory, was killed
    SERVER_UNREACHABLE = "server_unreachable", Outcome.WAIT  # no connection: refused, cut, closed, of another kind
    SERVER_SILENT = "server_silent", Outcome.WAIT  # connected, and no answer for inference_timeout_s
    SERVER_BUSY = "server_busy", Outcome.WAIT  # it takes no further robot now: full, or about to end
    SERVER_ERROR = "server_error", Outcome.WAIT  # it says that a request failed
    SERVER_REFUSED = "server_refused", Outcome.FAULT  # token, certificate, contract, checkpoint or version do not fit
    SERVER_ANSWER_INVALID = "server_answer_invalid", Outcome.FAULT  # not what was asked for, or made of nothing
    SERVER_ANSWER_OUTDATED = "server_answer_outdated", Outcome.NOTE  # to what is no longer asked: late, or twice
    SURPRISE_HELD = "surprise_held", Outcome.HOLD  # with surprise_action hold: blocks were not as predicted
    SURPRISE_WARNED = "surprise_warned", Outcome.NOTE  # with warn: the same
    BLOCK_BROKEN = "block_broken", Outcome.NOTE  # a frame of a block is missing: a new window opens

    def __init__(self, label: str, outcome: Outcome) -> None:
        self.label, self.outcome = label, outcome


@dataclass(frozen=True)
class Trouble:
    """A fault that is there now."""

    fault: Fault
    source: str  # what it is about, for example "camera head"
    text: str  # for a person: names the thing and what was expected


@dataclass
class FaultRecord:
    """What is wrong now, and how often each fault has begun."""

    present: tuple[Trouble, ...] = ()
    counts: Counter[Fault] = field(default_factory=Counter)

    def update(self, troubles: Sequence[Trouble]) -> None:
        """What is wrong now. A fault that was there before, of the same source, has not begun anew."""
        before = {(trouble.fault, trouble.source) for trouble in self.present}
        self.present = tuple(troubles)
        self.counts.update(t.fault for t in troubles if (t.fault, t.source) not in before)

    def happened(self, fault: Fault) -> None:
        """Something that is over at once."""
        self.counts[fault] += 1
