"""How an episode moved: the time in which a chunk was executed, and the seams between chunks."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dreamzero_policy.runtime.chunk import Chunk
from dreamzero_policy.runtime.observation import NS_PER_S


@dataclass
class Motion:
    """What accepted chunks had to do with motion."""

    covered_ns: list[tuple[int, int]] = field(default_factory=list)  # from the first executed row to behind the last
    seam_velocity_jumps: list[float] = field(default_factory=list)  # [rad/s]
    seam_position_jumps: list[float] = field(default_factory=list)  # [rad] between plan and chunk, before any blending
    seam_jerks: list[float] = field(default_factory=list)  # [rad/s³]
    ages_s: list[float] = field(default_factory=list)  # from the observation to the first executed row

    def add(self, chunk: Chunk) -> None:
        """Take note of an accepted chunk; it ends the one before it, whose last rows may not be reached."""
        rows = len(chunk.positions) - chunk.first_row
        if self.covered_ns:
            begin_ns, end_ns = self.covered_ns[-1]
            self.covered_ns[-1] = (begin_ns, min(end_ns, chunk.start_ns))
        length_ns = round(rows * chunk.step_s * NS_PER_S)
        self.covered_ns.append((chunk.start_ns, chunk.start_ns + length_ns))
        self.seam_velocity_jumps.append(chunk.seam_velocity_jump)
        self.seam_position_jumps.append(chunk.seam_position_jump)
        self.seam_jerks.append(chunk.seam_jerk)
        self.ages_s.append((chunk.start_ns - chunk.block.observation_ns) / NS_PER_S)

    def idle_fraction(self, until_ns: int) -> float | None:
        """Share of the time from the first executed row on in which no row was due; None if there was none."""
        if not self.covered_ns or until_ns <= self.covered_ns[0][0]:
            return None
        covered_ns = sum(max(0, min(end_ns, until_ns) - begin_ns) for begin_ns, end_ns in self.covered_ns)
        return 1 - covered_ns / (until_ns - self.covered_ns[0][0])

    def age_s(self) -> float | None:
        """Mean time from a chunk's observation to its first executed row."""
        return float(np.mean(self.ages_s)) if self.ages_s else None


def mean(values: Sequence[float | None]) -> float | None:
    """Of those that were measured; None if none was."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
