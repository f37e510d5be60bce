"""Where collected episodes go, and who may be at work before the expert: what the twin asks of its callers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agibot_twin.cameras import Image
from agibot_twin.suite import TaskInfo, TwinSuite

Floats = NDArray[np.float64]


class Draft(Protocol):
    """An episode being written; leaving it without `finish` drops it."""

    def __enter__(self) -> "Draft": ...

    def __exit__(self, *_: object) -> None: ...

    def add(self, state: Floats, action: Floats, images: Mapping[str, Image]) -> None:
        """The next step: state [D] and action [A] in the contract's units, pictures at every `picture_every`-th."""

    def finish(self, instructions: Sequence[str]) -> None:
        """Keep it; the first instruction is the task, the others are paraphrases."""


class AdviceDraft(Protocol):
    """An attempt with advice being written; it is there once it is finished."""

    def add(self, seen: Image, state: Floats, action: Floats, advised: Image) -> None:
        """The next chunk: canvases seen since the one before, state [H + 1, D] and action [H, A] of the advice, and the
        canvases that it leads to."""

    def finish(self, instructions: Sequence[str]) -> None:
        """As `Draft.finish`."""


class Sink(Protocol):
    """Where episodes go. It is copied into every process."""

    picture_every: int  # steps between the pictures that it wants

    def __contains__(self, name: str) -> bool: ...

    def draft(self, name: str) -> Draft: ...


class AdviceSink(Sink, Protocol):
    """One that takes attempts with advice too."""

    def advice_draft(self, name: str) -> AdviceDraft: ...


class Prelude(Protocol):
    """Who is at work before the expert takes over. It is copied into every process."""

    def __call__(
        self,
        suite: TwinSuite,
        task: TaskInfo,
        duration_s: float,
        before_chunk: Callable[[Image], None] = lambda seen: None,
    ) -> None:
        """Act for so long, or until the task is done, in a scene that was just laid out; then come to rest.

        The same for the same scene and duration. `before_chunk` is called where a chunk is asked for, with the canvases
        [T, height, width, 3] that were seen since the last time, or with one where a new window is opened; it leaves
        the scene as it was.
        """
