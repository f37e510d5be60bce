"""Policies on simulated time; a model in this process as one.

The sessions are the very ones of the node's worker. They compute when they are asked; the answer becomes available a
fixed simulated time later, so that results do not depend on how fast this machine is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np
from torch import Tensor

from dreamzero_policy.inference.encoding import Encoding
from dreamzero_policy.inference.loading import Policy as Model
from dreamzero_policy.inference.prediction import Prediction
from dreamzero_policy.inference.session import Session
from dreamzero_policy.inference.sessions import Sessions
from dreamzero_policy.runtime.policy import Answer, Dream, Policy, Request, Surprise


class TimedPolicy(Policy, Protocol):
    """A policy on simulated time."""

    model_s: list[float]  # wall time of every answer

    @property
    def due_ns(self) -> int | None:
        """When the next answer becomes available."""


class SessionPolicy:
    """Sessions on the clock of `now_ns`."""

    def __init__(
        self,
        model: Model,
        now_ns: Callable[[], int],
        latency_ns: int,
        session: Callable[..., Session] = Session,
        tells_surprise: bool = False,
    ) -> None:
        """`tells_surprise`: as the node's worker does, behind every answer to a block that could be compared."""
        self._sessions, self._now_ns, self._latency_ns = Sessions(model, session), now_ns, latency_ns
        self._tells_surprise = tells_surprise
        self._answers: deque[tuple[int, Answer]] = deque()
        self.model_s: list[float] = []  # wall time of every answer

    @property
    def due_ns(self) -> int | None:
        """When the next answer becomes available."""
        return self._answers[0][0] if self._answers else None

    def reset(self, prompt: str, epoch: int) -> None:
        self._sessions.reset(prompt)
        self._answers.clear()

    def submit(self, request: Request) -> None:
        began = time.perf_counter()
        answer = self._sessions.answer(request)
        self.model_s.append(time.perf_counter() - began)
        due_ns = self._now_ns() + self.next_latency_ns()
        self._answers.append((due_ns, answer))
        if self._tells_surprise and (cells := self._sessions.surprise()) is not None:
            self._answers.append((due_ns, Surprise(request.epoch, cells)))

    def next_latency_ns(self) -> int:
        """Simulated time that the answer to a request of now takes."""
        return self._latency_ns

    def dream(self, epoch: int) -> None:
        if (canvas := self._sessions.dream()) is not None:
            self._answers.append((self._now_ns(), Dream(epoch, canvas)))

    def poll(self) -> Answer | None:
        if self._answers and self._answers[0][0] <= self._now_ns():
            return self._answers.popleft()[1]
        return None


class UninjectedSession(Session):
    """A session without observation injection: what was predicted takes the place of what the cameras saw.

    The first frame of a window is real, as is every state; the blocks behind it are the session's own predictions.
    """

    def __init__(self, policy: Model, prompt: str, **options: object) -> None:
        super().__init__(policy, prompt, **options)
        self._encoding = self._own = PredictedBlocks(self._encoding)

    def predict(self, state: np.ndarray, **options: object) -> Prediction:
        prediction = super().predict(state, **options)
        self._own.predicted = prediction.video_latents
        return prediction


class PredictedBlocks:
    """An `Encoding` that looks at first frames only."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self.lengths, self.needs_first_frame = encoding.lengths, encoding.needs_first_frame
        self.predicted: Tensor | None = None  # [C, frames per chunk, h, w] of the newest prediction

    def opening_frame(self, frames: np.ndarray) -> np.ndarray:
        return self._encoding.opening_frame(frames)

    def block(self, autoencoder: object, video: Tensor, stream: object) -> Tensor:
        if self.predicted is None:
            raise ValueError("a block is to follow before anything was predicted; call predict after every observe")
        return self.predicted[None].to(video.dtype)
