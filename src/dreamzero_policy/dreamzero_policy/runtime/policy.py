"""What the runtime asks of a model, wherever it runs: in this process, in a worker process, on a server.

Requests and replies are plain numpy, so that neither side knows the other's libraries. A policy never blocks its
caller: `submit` returns at once and the reply is fetched with `poll`. Replies of an older epoch are dropped by the
loop.

A policy has several sessions, by number, of one prompt and epoch; each exists once it was asked. What a request gives
them to observe are whole blocks as the cameras saw them; looking ahead happens in a fork that is thrown away, so it
never changes a session.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.runtime.faults import Fault, Trouble


class Purpose(Enum):
    """What is asked of a session once it has observed."""

    CHUNK = "chunk"  # the chunk that begins where the observed past ends
    LOOK_AHEAD = "look_ahead"  # the one behind the chunk it gave last, as if that one's video had been observed
    OBSERVE = "observe"  # no chunk; the answer is `Observed`


@dataclass(frozen=True, eq=False)
class ActionPrefix:
    """The first k rows of a chunk, as they are executed if it does not take over before. The model continues them."""

    rows: NDArray[np.float32]  # [k, n] normalised
    columns: NDArray[np.int64]  # [n] of the network's action columns, in the order of the rows' entries
    soft_rows: int = 0  # the last ones, which the chunk need not have: they draw it, each less than the one before

    @property
    def held_rows(self) -> int:
        """How many rows the chunk has as they are given."""
        return len(self.rows) - self.soft_rows


@dataclass(frozen=True)
class Request:
    """One block to observe, and what to predict then."""

    epoch: int
    canvas: NDArray[np.uint8] | None  # [T, height, width, 3]; T is 1 for the frame that opens a window; None: no block
    state: NDArray[np.float32]  # [D] normalised, at the first instant of the chunk
    steps: int
    seed: int
    sent_monotonic_ns: int  # on this machine's monotonic clock
    session: int = 0
    purpose: Purpose = Purpose.CHUNK
    prefix: ActionPrefix | None = None
    # There were rows to execute all through the block, so it may be compared with what was predicted. Where a chunk was
    # rejected the robot stood still instead, and that is no surprise.
    followed: bool = False
    stamps_ns: tuple[int, ...] = ()  # of the canvas's frames, the last one the observation instant
    # The cameras' own images [n, height, width, 3] of n frames of the block, by number; only where a policy wants them.
    images: Callable[[Sequence[int]], Mapping[str, NDArray[np.uint8]]] | None = None


@dataclass(frozen=True)
class Reply:
    """One predicted chunk, normalised."""

    epoch: int
    actions: NDArray[np.float32]  # [H, action columns of the network]
    steps: int
    evaluations: int
    seed: int
    guidance_scale: float
    # prompt, encode, observe, imagine (looking ahead), denoise; model: all
    timings_s: Mapping[str, float] = field(default_factory=dict)
    held_rows: int = 0  # the first ones, which are as the request's prefix has them


@dataclass(frozen=True)
class Observed:
    """A block was observed and nothing else was asked."""

    epoch: int


@dataclass(frozen=True, eq=False)
class Surprise:
    """How far the newest block was from what was expected; comes behind the answer to the request that had it."""

    epoch: int
    cells: NDArray[np.float32]  # [f, h, w] mean squares of normalised latents, as inference/surprise.py defines them


@dataclass(frozen=True)
class Dream:
    """The predicted video of a chunk, decoded off the hot path."""

    epoch: int
    canvas: NDArray[np.uint8]  # [T, height, width, 3]


@dataclass(frozen=True)
class Failure:
    """The model raised, its process is gone, or its server refuses: nothing more comes until a person acted."""

    message: str
    fault: Fault = Fault.MODEL_FAILED


@dataclass(frozen=True)
class Interruption:
    """The sessions are gone, with what was asked of them, and nothing can be asked now.

    Comes again whenever the cause becomes another or more is known. Requests are sent again for epochs that are reset
    after the first of them.
    """

    trouble: Trouble


@dataclass(frozen=True)
class Resumption:
    """What interrupted is over; the sessions are new."""

    message: str


@dataclass(frozen=True)
class Remark:
    """Something that is over at once and changes nothing, but counts."""

    trouble: Trouble


Answer = Reply | Observed | Surprise | Dream | Failure | Interruption | Resumption | Remark


class Policy(Protocol):
    """The sessions of a model for one robot, asynchronous."""

    def reset(self, prompt: str, epoch: int) -> None:
        """Forget the past of all sessions and follow this prompt (already in the form the model was trained with)."""

    def submit(self, request: Request) -> None:
        """Begin observing and predicting. At most one request is under way."""

    def dream(self, epoch: int) -> None:
        """Decode the video of the last prediction, if there is time before the next request."""

    def poll(self) -> Answer | None:
        """The next thing the model has to say, or None. Whether it tells of surprise is the policy's matter."""
