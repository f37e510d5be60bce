"""Sessions that are looked at while they answer: every prediction decoded, and compared with the block that came.

For whoever has time to look, as a replay has. Answers are those of the sessions themselves, bit for bit: decoding and
encoding happen beside them and change nothing that they use.

A block that opens a window is seen by the session as one frame. Here it is encoded as the continuation of the window
before, as it was predicted, so that no chunk goes without its distance.
"""

from __future__ import annotations

import math

from torch import Tensor

from dreamzero_policy.inference.prediction import Prediction
from dreamzero_policy.inference.session import Session
from dreamzero_policy.inference.sessions import Sessions
from dreamzero_policy.inference.surprise import difference
from dreamzero_policy.runtime.foresight import Foresight
from dreamzero_policy.runtime.policy import Observed, Purpose, Reply, Request


class WatchedSessions:
    """The sessions of one prompt and epoch at a time; `newest` is the foresight of the newest chunk."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self.newest: Foresight | None = None
        self._waiting: dict[tuple[int, int, int], tuple[Foresight, Prediction]] = {}  # by session, window and block

    def reset(self, prompt: str) -> None:
        self._sessions.reset(prompt)
        self.newest, self._waiting = None, {}

    def answer(self, request: Request) -> Reply | Observed:
        if request.canvas is not None and len(request.canvas) > 1:
            self._compare(request)
        answer = self._sessions.answer(request)
        if request.purpose is not Purpose.OBSERVE:
            _, prediction = self._sessions.newest
            self.newest = Foresight(self._sessions.dream())
            key = request.session, prediction.window, prediction.chunk_index + 1
            self._waiting[key] = self.newest, prediction
        return answer

    def _compare(self, request: Request) -> None:
        """Tell the chunk that predicted this block how far off it was."""
        session = self._sessions.opened(request.session)
        if session is None:
            return
        block = session.chunk_index + 1
        waiting = self._waiting.pop((request.session, session.window, block), None)
        self._waiting = {
            key: kept for key, kept in self._waiting.items() if key[0] != request.session or key[2] > block
        }
        if waiting is None:
            return
        foresight, prediction = waiting
        seen = session.encoded(request.canvas)[0]
        foresight.surprise = _distance(prediction.expected_latents, seen)
        foresight.still = _distance(_newest_latent(session), seen)


def _newest_latent(session: Session) -> Tensor:
    """The last latent frame that was observed [C, 1, h, w]."""
    return session.latents[-1][0, :, -1:]


def _distance(expected: Tensor, seen: Tensor) -> float | None:
    """Root mean square; None where a latent is no finite number."""
    value = float(difference(expected, seen).mean().sqrt())
    return value if math.isfinite(value) else None
