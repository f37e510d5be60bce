"""What the runtime asks of a model, wherever it runs: in this process, in a worker process, later on a server.

Requests and replies are plain numpy, so that neither side knows the other's libraries. A policy never blocks its
caller: `submit` returns at once and the reply is fetched with `poll`. Replies of an older epoch are dropped by the
loop.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Request:
    """One block to observe and one chunk to predict from it."""

    epoch: int
    canvas: NDArray[np.uint8]  # [T, height, width, 3]; T is 1 for the frame that opens a window
    state: NDArray[np.float32]  # [D] normalised
    steps: int
    seed: int
    sent_monotonic_ns: int  # on this machine's monotonic clock


@dataclass(frozen=True)
class Reply:
    """One predicted chunk, normalised."""

    epoch: int
    actions: NDArray[np.float32]  # [H, action columns of the network]
    steps: int
    evaluations: int
    seed: int
    guidance_scale: float
    timings_s: Mapping[str, float] = field(default_factory=dict)  # prompt, encode, observe, denoise; model: all


@dataclass(frozen=True)
class Dream:
    """The predicted video of a chunk, decoded off the hot path."""

    epoch: int
    canvas: NDArray[np.uint8]  # [T, height, width, 3]


@dataclass(frozen=True)
class Failure:
    """The model raised or its process is gone; nothing more comes until it is started again."""

    message: str


class Policy(Protocol):
    """A session of a model, asynchronous."""

    def reset(self, prompt: str, epoch: int) -> None:
        """Forget the past and follow this prompt (already in the form the model was trained with)."""

    def submit(self, request: Request) -> None:
        """Begin observing and predicting. At most one request is under way."""

    def dream(self, epoch: int) -> None:
        """Decode the video of the last prediction, if there is time before the next request."""

    def poll(self) -> Reply | Dream | Failure | None:
        """The next thing the model has to say, or None."""
