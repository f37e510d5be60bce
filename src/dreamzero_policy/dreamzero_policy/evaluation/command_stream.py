"""What a command stream is like where chunks meet, from samples of it: jumps, jerk, idle time, age, tracking.

The same definitions for every executor. The command is what the trajectory controllers tell the joints, sampled 100
times a second of simulated time.

* seam jump: the largest change of commanded velocity between neighbouring samples within 50 ms of a seam, less what
  the acceleration limits allow in that time, not below 0. A seam is an instant at which a new chunk takes over;
* jerk: the largest third difference of the command over the whole episode, grippers left out;
* idle: share of the time, from the first chunk on, for which no predicted row is due;
* age: how long ago the observation was made whose prediction commands, averaged over the time that is not idle;
* tracking: root mean square of measured minus commanded, grippers left out.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S

SAMPLE_NS = NS_PER_S // 100
AROUND_SEAM_NS = 50_000_000


@dataclass
class Record:
    """One episode's samples, SAMPLE_NS apart, and its seams."""

    stamps_ns: list[int] = field(default_factory=list)
    commanded: list[Floats] = field(default_factory=list)  # [J] each
    measured: list[Floats] = field(default_factory=list)  # [J] each
    sources_ns: list[int | None] = field(default_factory=list)  # the observation that commands; None while idle
    seams_ns: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class StreamMeasures:
    """One episode's numbers; see the module's docstring."""

    seam_velocity_jump: float  # rad/s (lift: m/s), the largest of all seams
    peak_jerk: float  # rad/s³
    idle_fraction: float
    command_age_s: float | None  # None where no predicted row was ever due in time
    tracking_error_rad: float


def measure(record: Record, acceleration: Floats, body: NDArray[np.int64]) -> StreamMeasures:
    """
    Args:
        acceleration: limits [J].
        body: columns of the joints that are not grippers.

    Raises ValueError for a record with less than four samples or without a seam.
    """
    if len(record.stamps_ns) < 4 or not record.seams_ns:
        raise ValueError(f"{len(record.stamps_ns)} samples and {len(record.seams_ns)} seams are too few to judge")
    stamps, commanded, measured = (np.array(x) for x in (record.stamps_ns, record.commanded, record.measured))
    step_s = SAMPLE_NS / NS_PER_S
    changes = np.abs(np.diff(commanded, 2, axis=0)) / step_s - acceleration * step_s  # at the samples 1 … N−2
    near = (np.abs(stamps[1:-1, None] - np.array(record.seams_ns)) <= AROUND_SEAM_NS).any(1)
    begun = stamps >= record.seams_ns[0]
    sources = np.array([-1 if source is None else source for source in record.sources_ns])
    idle = begun & (sources < 0)
    ages = (stamps - sources)[begun & (sources >= 0)] / NS_PER_S
    return StreamMeasures(
        seam_velocity_jump=float(max(0.0, changes[near].max())) if near.any() else 0.0,
        peak_jerk=float(np.abs(np.diff(commanded[:, body], 3, axis=0)).max() / step_s**3),
        idle_fraction=float(idle.sum() / begun.sum()),
        command_age_s=float(ages.mean()) if len(ages) else None,
        tracking_error_rad=float(np.sqrt(np.square(measured - commanded)[begun][:, body].mean())),
    )
