"""Policies on simulated time; a model in this process as one.

The session is the very one of the node's worker. It computes when it is asked; the answer becomes available a fixed
simulated time later, so that results do not depend on how fast this machine is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np
from torch import Tensor

from dreamzero_policy.inference.encoding import Encoding
from dreamzero_policy.inference.loading import Policy as Model
from dreamzero_policy.inference.prediction import Prediction
from dreamzero_policy.inference.session import Session
from dreamzero_policy.inference.worker_process import answer
from dreamzero_policy.runtime.policy import Dream, Policy, Reply, Request


class TimedPolicy(Policy, Protocol):
    """A policy on simulated time."""

    model_s: list[float]  # wall time of every answer

    @property
    def due_ns(self) -> int | None:
        """When the next answer becomes available."""


class SessionPolicy:
    """One session, on the clock of `now_ns`."""

    def __init__(
        self,
        model: Model,
        now_ns: Callable[[], int],
        latency_ns: int,
        session: Callable[..., Session] = Session,
    ) -> None:
        self._model, self._now_ns, self._latency_ns, self._make = model, now_ns, latency_ns, session
        self._session: Session | None = None
        self._prediction: Prediction | None = None
        self._answers: deque[tuple[int, Reply | Dream]] = deque()
        self.model_s: list[float] = []  # wall time of every answer

    @property
    def due_ns(self) -> int | None:
        """When the next answer becomes available."""
        return self._answers[0][0] if self._answers else None

    def reset(self, prompt: str, epoch: int) -> None:
        self._session = self._make(self._model, prompt, vae_mode="stream")
        self._prediction = None
        self._answers.clear()

    def submit(self, request: Request) -> None:
        self._prediction, reply = answer(self._session, request, waited_s=0.0)
        self.model_s.append(reply.timings_s["model"])
        self._answers.append((self._now_ns() + self._latency_ns, reply))

    def dream(self, epoch: int) -> None:
        if self._prediction is not None:
            self._answers.append((self._now_ns(), Dream(epoch, self._session.decode(self._prediction))))

    def poll(self) -> Reply | Dream | None:
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
