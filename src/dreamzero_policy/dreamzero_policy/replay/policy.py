"""A policy for a clock that a replay moves: a model's sessions answer when they are asked, and it is said when that is.

`Sessions` are those of the node's worker (`inference/sessions.py`); this room does not know what is behind them.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.runtime.policy import Observed, Purpose, Reply, Request

State = NDArray[np.float32]  # [D] normalised


class ModelFailed(Exception):  # noqa: N818 (it tells what happened)
    """A model raised; the message says what. That is nothing a recording is to blame for."""


class Sessions(Protocol):
    """The sessions of one prompt and epoch at a time."""

    def reset(self, prompt: str) -> None:
        """Forget everything seen and follow this prompt, which is in the form the model was trained with."""

    def answer(self, request: Request) -> Reply | Observed:
        """Observe the block, predict what is asked for."""


class ReplayPolicy:
    """A `runtime.policy.Policy` on the clock of `now_ns`.

    `latency_ns` is asked for the time that an answer takes; `amend` may change a request on its way to the model.
    """

    def __init__(self, sessions: Sessions, now_ns: Callable[[], int]) -> None:
        self._sessions, self._now_ns = sessions, now_ns
        self.latency_ns: Callable[[Request], int] = lambda _: 0
        self.amend: Callable[[Request], Request] = lambda request: request
        self.model_s = 0.0  # wall time of the newest answer
        self._answers: deque[tuple[int, Reply | Observed]] = deque()

    @property
    def due_ns(self) -> int | None:
        """When the next answer becomes available."""
        return self._answers[0][0] if self._answers else None

    def reset(self, prompt: str, epoch: int) -> None:
        self._sessions.reset(prompt)
        self._answers.clear()

    def submit(self, request: Request) -> None:
        """Raises ModelFailed."""
        began = perf_counter()
        try:
            answer = self._sessions.answer(self.amend(request))
        except Exception as error:  # models raise their own kinds
            raise ModelFailed(f"the model failed: {type(error).__name__}: {error}") from error
        self.model_s = perf_counter() - began
        self._answers.append((self._now_ns() + self.latency_ns(request), answer))

    def dream(self, epoch: int) -> None:
        """Nobody looks at predicted video here."""

    def poll(self) -> Reply | Observed | None:
        if self._answers and self._answers[0][0] <= self._now_ns():
            return self._answers.popleft()[1]
        return None


class ForkedSessions:
    """Two models, or one with two prompts, that observe the same; from an instant on the second one is followed.

    The second has observed every block of the window under its own prompt and by its own weights: a past that was
    written under another prompt is none that a model was trained to continue.
    """

    def __init__(self, recorded: Sessions, other: Sessions, prompt: str | None) -> None:
        """`prompt` of the second, in the form it was trained with; None: that of the first."""
        self._recorded, self._other, self._prompt = recorded, other, prompt
        self._given: set[int] = set()  # sessions of the second that predicted already
        self.forked = False  # whether requests are of behind the fork, and so in the second's terms
        self.state_of_recorded: Callable[[Request], State] = lambda request: request.state  # the same in the first's
        self.state_observed: Callable[[Request], State] = lambda request: request.state  # not foreseen, in the second's
        self.kept: Reply | None = None  # what the first says where the second was followed just now

    def reset(self, prompt: str) -> None:
        self._recorded.reset(prompt)
        self._other.reset(self._prompt or prompt)
        self._given, self.kept = set(), None

    def answer(self, request: Request) -> Reply | Observed:
        ours = replace(request, state=self.state_of_recorded(request)) if self.forked else request
        first = self._recorded.answer(ours)
        self.kept = None
        if not self.forked or request.purpose is Purpose.OBSERVE:
            self._observe(request)
            return first
        self.kept = first
        if request.purpose is Purpose.LOOK_AHEAD and request.session not in self._given:
            request = self._look_beyond(request)
        self._given.add(request.session)
        return self._other.answer(request)

    def _observe(self, request: Request) -> None:
        if request.canvas is not None:
            self._other.answer(replace(request, purpose=Purpose.OBSERVE))

    def _look_beyond(self, request: Request) -> Request:
        """Let the second predict the chunk in hand, which the first had given: it looks ahead of its own."""
        self._observe(request)
        request = replace(request, canvas=None)
        self._other.answer(replace(request, purpose=Purpose.CHUNK, state=self.state_observed(request)))
        return request
