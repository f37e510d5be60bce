"""Demonstrations through the loop: a suite's own expert in a policy's place, to see what the runtime leaves to any.

The expert's commands go the way of a model's answers, chunk by chunk: latency, smoothing, cross-fades, limits, stop and
go. They are planned once, before the episode begins, and nothing that happens changes them.
"""

import numpy as np

from dreamzero_policy.evaluation.closed_loop import SuiteWorld
from dreamzero_policy.runtime.chunk import Verdict
from dreamzero_policy.runtime.embodiment import Embodiment, Floats
from dreamzero_policy.runtime.policy import Reply, Request


class DemonstrationPolicy:
    """Answers with the rows that follow those executed so far: the same again after a rejection, the last when it is
    over."""

    def __init__(self, actions: Floats, embodiment: Embodiment, world: SuiteWorld, latency_ns: int) -> None:
        """
        Args:
            actions: [N, A] absolute, in the contract's units, one row every action step.
            embodiment: that of the loop; its statistics must not clamp.
            world: that of the loop; it knows what became of the newest chunk.
            latency_ns: simulated time from a request to its answer.
        """
        self._actions, self._embodiment, self._world, self._latency_ns = actions, embodiment, world, latency_ns
        self._next = 0  # row
        self._answer: tuple[int, Reply] | None = None
        self.model_s: list[float] = []

    @property
    def due_ns(self) -> int | None:
        """When the answer becomes available."""
        return self._answer and self._answer[0]

    def reset(self, prompt: str, epoch: int) -> None:
        self._answer = None

    def submit(self, request: Request) -> None:
        decided, length = self._world.decided, self._embodiment.model.chunk.actions
        if decided is not None and decided.verdict is Verdict.ACCEPTED:
            self._next += length
        rows = np.minimum(self._next + np.arange(length), len(self._actions) - 1)
        anchor = self._embodiment.statistics.state.denormalise(request.state)
        normalised = self._embodiment.normalised_actions(self._actions[rows], anchor)
        self.model_s.append(0.0)
        reply = Reply(request.epoch, normalised, request.steps, 0, request.seed, 1.0, {"model": 0.0})
        self._answer = self._world.now_ns() + self._latency_ns, reply

    def dream(self, epoch: int) -> None:
        """An expert predicts no video."""

    def poll(self) -> Reply | None:
        if self._answer is None or self._answer[0] > self._world.now_ns():
            return None
        (_, reply), self._answer = self._answer, None
        return reply
