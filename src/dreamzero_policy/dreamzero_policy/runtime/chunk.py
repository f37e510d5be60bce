"""A chunk: what one prediction wants, as absolute joint targets, with all that is needed to know where they come from.

Predicted rows carry the sampler's residual noise. They are smoothed as DreamZero's paper describes (cubic up-sampling
by 2, Savitzky-Golay filter of order 3, down-sampling; arXiv 2602.15922), which its released code leaves out. The
paper's window is 21 samples; a small model leaves more noise and wants a wider one.

That filter overshoots where a motion ends abruptly, as a gripper's does, and a gripper between two stops has no room
for it. Grippers get a weighted mean instead, which never leaves the range of the rows.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.signal import savgol_filter

from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S, Block
from dreamzero_policy.runtime.policy import Reply

UPSAMPLING = 2
ORDER = 3
GRIPPER_ROWS = 7  # in the weighted mean; a gripper takes some 12 to close


class Verdict(IntEnum):
    """What became of a chunk; numbers and names are those of dreamzero_msgs/ActionChunk."""

    ACCEPTED = 0
    REJECTED_NOT_FINITE = 1
    REJECTED_JOINT_SET = 2
    REJECTED_POSITION = 3
    REJECTED_VELOCITY = 4
    REJECTED_ACCELERATION = 5
    REJECTED_STEP = 6
    REJECTED_JERK = 7
    REJECTED_WORKSPACE = 8
    REJECTED_SELF_COLLISION = 9
    REJECTED_DURATION = 10
    REJECTED_LATE = 11


@dataclass(frozen=True)
class Judgement:
    """A verdict and its reason; true if it accepts."""

    verdict: Verdict
    reason: str = ""

    def __bool__(self) -> bool:
        return self.verdict is Verdict.ACCEPTED


ACCEPTED = Judgement(Verdict.ACCEPTED)


@dataclass
class Chunk:
    """H rows of J joint targets and their provenance."""

    session: str
    epoch: int
    index: int
    prompt: str
    block: Block
    reply: Reply
    positions: Floats  # [H, J] rad and m
    step_s: float  # between two rows as they are executed
    asked_ns: int  # when the block went to the policy
    answered_ns: int  # when the reply came back
    regime: str
    stream: int  # number of the session that was asked
    look_ahead: bool  # predicted beyond `block`, with the chunk before this one taken as observed
    anchor: Floats  # [D] what relative rows are offsets from, in the contract's units
    full_steps: int  # denoising steps of a chunk that has time
    deadline_s: float | None  # in which its answer was wanted; None: there was no deadline
    first_row: int  # that is executed; those before it came too late
    verdict: Verdict = Verdict.ACCEPTED
    reason: str = ""
    start_ns: int = 0  # when `first_row` is executed; 0 if rejected
    way: str = ""  # how the plan goes into the rows, for example "cross-fade of 0.2 s"
    seam_position_jump: float = 0.0  # [rad, m]
    seam_velocity_jump: float = 0.0  # [rad/s, m/s]
    seam_jerk: float = 0.0  # [rad/s³, m/s³]
    overhead_s: float = 0.0
    observation_to_command_s: float = 0.0

    def instant_ns(self, step: int) -> int:
        """When an action step after the chunk's observation is executed: a row's, or that of a predicted frame."""
        begin_ns = self.start_ns or self.block.observation_ns
        return begin_ns + round((step - self.first_row) * self.step_s * NS_PER_S)


def smoothed(positions: NDArray[np.float64], window: int) -> Floats:
    """Rows [H, J] at even spacing → rows of the same shape without the sampler's noise.

    `window` counts samples after up-sampling: odd, more than the order, at most 2 H - 1. Polynomials up to third degree
    pass unchanged, so a motion keeps its speed and its ends.
    """
    return smoothing_matrix(len(positions), window) @ positions


def averaged(positions: NDArray[np.float64]) -> Floats:
    """Gripper rows [H, J] → rows of the same shape, each a mean over GRIPPER_ROWS rows around it; the ends count on."""
    return averaging_matrix(len(positions)) @ positions


def without_noise(positions: NDArray[np.float64], window: int, grippers: NDArray[np.bool_]) -> Floats:
    """Rows [H, J] without what the sampler left: grippers [J] averaged, all others smoothed."""
    return np.where(grippers, averaged(positions), smoothed(positions, window))


@lru_cache
def smoothing_matrix(count: int, window: int) -> Floats:
    """The filter is linear in the rows: this is what it does to the unit rows [count, count]."""
    rows = np.arange(count)
    fine = np.linspace(0, rows[-1], UPSAMPLING * rows[-1] + 1)
    upsampled = CubicSpline(rows, np.eye(count), axis=0)(fine)
    return savgol_filter(upsampled, window, ORDER, axis=0, mode="interp")[::UPSAMPLING]


@lru_cache
def averaging_matrix(count: int) -> Floats:
    """Weights [count, count] of the mean: a Hann window over rows, the first and the last repeated beyond the ends."""
    half = GRIPPER_ROWS // 2
    weights = np.hanning(GRIPPER_ROWS + 2)[1:-1]
    padded = np.pad(np.eye(count), ((half, half), (0, 0)), mode="edge")
    return sum(weight * padded[i : i + count] for i, weight in enumerate(weights / weights.sum()))
