"""A world: what can be acted on. The robot, the twin, a bag and (later) a dream stand behind this one interface.

What a world shows reaches the loop through the `ObservationBuffer` it fills; what the loop wants reaches the world
through `act`. The world owns the clock.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.runtime.chunk import Chunk
from dreamzero_policy.runtime.plan import Plan


class World(Protocol):
    """Something with a clock that follows plans."""

    def now_ns(self) -> int:
        """This world's time, the clock of all stamps."""

    def act(self, plan: Plan) -> None:
        """Follow the plan from now on; what is left of an earlier plan is dropped."""

    def show(self, chunk: Chunk) -> None:
        """Take notice of a chunk, accepted or not (publish, record, plot)."""

    def show_dream(self, chunk: Chunk, canvas: NDArray[np.uint8]) -> None:
        """Take notice of the video [T, height, width, 3] predicted with a chunk."""
