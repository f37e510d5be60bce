"""What the model does for a client of the session protocol. Everything here runs on the model's thread.

The computing is that of `inference/sessions.py`, the very code behind the robot's own worker process: the same frames,
state, steps and seed give the same chunk, bit for bit. Here are the rules around it: which block may come, and how many
memories a session may have.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from dreamzero_policy.inference.denoising import Denoising
from dreamzero_policy.inference.loading import Policy
from dreamzero_policy.inference.memory import Snapshot
from dreamzero_policy.inference.protocol import messages
from dreamzero_policy.inference.server.refusal import Refusal
from dreamzero_policy.inference.sessions import Sessions
from dreamzero_policy.model.flow import Sample
from dreamzero_policy.runtime.policy import ActionPrefix, Purpose, Reply, Request

T = TypeVar("T")

LOOKED_AHEAD = 1  # a memory that a look-ahead takes for as long as it lasts


@dataclass(frozen=True)
class Limits:
    """What one session may ask."""

    most_memories: int  # branches, snapshots, and one for looking ahead
    most_steps: int
    state_width: int  # of the contract


class Branches:
    """The branches and snapshots of one session."""

    def __init__(self, policy: Policy, prompt: str, epoch: int, *, limits: Limits) -> None:
        self._sessions, self._limits = Sessions(policy), limits
        self._snapshots: dict[int, tuple[Snapshot, int, int]] = {}  # and the newest block with its last stamp
        self._next_snapshot = 0
        self._observed: dict[int, tuple[int, dict[str, float]]] = {}  # newest: its last stamp, what it took
        self._compared: messages.Observe | None = None
        self.newest: dict[int, int] = {}  # block of each branch
        self.prompt, self.epoch = prompt, epoch
        self._sessions.reset(prompt)

    def observe(self, ask: messages.Observe, canvas: np.ndarray, decode_s: float, queue_s: float) -> messages.Observed:
        """Raises Refusal for what the session refuses; the memory is then as it was."""
        expected = self.newest.get(ask.branch, -1) + 1
        if ask.block != expected:
            raise Refusal("block", f"branch {ask.branch} expects block {expected}, got {ask.block}")
        if len(ask.stamps_ns) != len(canvas):
            raise Refusal("refused", f"{len(canvas)} frames have {len(ask.stamps_ns)} stamps")
        if ask.branch not in self.newest:
            self._require_memory("another branch")
        began = time.perf_counter()
        request = Request(
            ask.epoch,
            canvas,
            np.zeros(1, np.float32),
            1,
            0,
            time.monotonic_ns(),
            ask.branch,
            Purpose.OBSERVE,
            followed=ask.compare,
        )
        self._refusing(lambda: self._sessions.answer(request))
        observation = self._sessions.observation
        timings_s = {"decode": decode_s, "queue": queue_s, **observation.timings_s}
        timings_s["model"] = time.perf_counter() - began
        self.newest[ask.branch] = ask.block
        self._observed[ask.branch] = ask.stamps_ns[-1], timings_s
        self._compared = ask if ask.compare else None
        return messages.Observed(
            id=ask.id,
            epoch=ask.epoch,
            branch=ask.branch,
            block=ask.block,
            window=observation.window,
            window_opened=observation.window_opened,
            timings_s=timings_s,
        )

    def predict(self, ask: messages.Predict, queue_s: float) -> messages.Chunk:
        """Raises Refusal for what the session refuses."""
        request, began = self._request(ask), time.perf_counter()
        reply = self._refusing(lambda: self._sessions.answer(request))
        return self._chunk(ask, reply, time.perf_counter() - began, queue_s)

    def denoising(self, ask: messages.Predict) -> Denoising | None:
        """What denoising this chunk takes, where it may be done together with others. Changes nothing.

        Raises Refusal as :meth:`predict`.
        """
        request = self._request(ask)
        if ask.look_ahead:
            return None
        return self._refusing(lambda: self._sessions.denoising(request))

    def concluded(
        self, ask: messages.Predict, chunk: Denoising, sample: Sample, began: float, queue_s: float
    ) -> messages.Chunk:
        """The answer, once the chunk was denoised."""
        reply = self._sessions.concluded(self._request(ask), chunk, sample, began)
        return self._chunk(ask, reply, time.perf_counter() - began, queue_s)

    def _request(self, ask: messages.Predict) -> Request:
        newest = self._require_branch(ask.branch)
        if ask.block != newest:
            raise Refusal("block", f"the newest block of branch {ask.branch} is {newest}, got {ask.block}")
        if ask.steps > self._limits.most_steps:
            raise Refusal("refused", f"{ask.steps} denoising steps, this server does up to {self._limits.most_steps}")
        if len(ask.state) != self._limits.state_width:
            raise Refusal("refused", f"the state has {len(ask.state)} entries, the contract {self._limits.state_width}")
        prefix = ask.prefix
        if prefix is not None:
            prefix = ActionPrefix(prefix.rows.copy(), prefix.columns.copy(), prefix.soft_rows)
        purpose = Purpose.LOOK_AHEAD if ask.look_ahead else Purpose.CHUNK
        state, now_ns = ask.state.copy(), time.monotonic_ns()  # torch wants arrays that could be written
        return Request(ask.epoch, None, state, ask.steps, ask.seed, now_ns, ask.branch, purpose, prefix)

    def _chunk(self, ask: messages.Predict, reply: Reply, took_s: float, queue_s: float) -> messages.Chunk:
        stamp_ns, block_s = self._observed[ask.branch]
        self._observed[ask.branch] = stamp_ns, {}  # told once
        own_s = {name: value for name, value in reply.timings_s.items() if name in ("denoise", "imagine")}
        timings_s = {**block_s, **own_s, "queue": block_s.get("queue", 0.0) + queue_s}
        timings_s["model"] = block_s.get("model", 0.0) + took_s
        return messages.Chunk(
            id=ask.id,
            epoch=ask.epoch,
            branch=ask.branch,
            block=ask.block,
            observation_ns=stamp_ns,
            actions=reply.actions,
            steps=reply.steps,
            evaluations=reply.evaluations,
            seed=reply.seed,
            guidance_scale=reply.guidance_scale,
            held_rows=reply.held_rows,
            timings_s=timings_s,
        )

    def surprise(self) -> messages.Surprise | None:
        """How far the newest block was from what had been predicted, if that is wanted and was not told yet."""
        ask, self._compared = self._compared, None
        cells = None if ask is None else self._sessions.surprise()
        if cells is None or not np.isfinite(cells).all():
            return None
        return messages.Surprise(id=ask.id, epoch=ask.epoch, branch=ask.branch, block=ask.block, cells=cells)

    @property
    def has_surprise(self) -> bool:
        """Whether :meth:`surprise` may have something to say."""
        return self._compared is not None

    def dream(self) -> np.ndarray:
        """The video of the newest chunk. Raises Refusal before there is one."""
        canvas = self._sessions.dream()
        if canvas is None:
            raise Refusal("order", "nothing was predicted yet")
        return canvas

    def fork(self, ask: messages.Fork) -> messages.Forked:
        block = self._require_branch(ask.branch)
        if ask.into in self.newest:
            raise Refusal("branch", f"branch {ask.into} exists already")
        self._require_memory("another branch")
        self._sessions.fork(ask.branch, ask.into)
        self.newest[ask.into], self._observed[ask.into] = block, self._observed[ask.branch]
        return messages.Forked(id=ask.id, epoch=ask.epoch, into=ask.into, block=block)

    def snapshot(self, ask: messages.Snapshot) -> messages.Kept:
        block, number = self._require_branch(ask.branch), self._next_snapshot
        self._require_memory("a snapshot")
        self._snapshots[number] = self._sessions.snapshot(ask.branch), block, self._observed[ask.branch][0]
        self._next_snapshot += 1
        return messages.Kept(id=ask.id, epoch=ask.epoch, snapshot=number, block=block)

    def rollback(self, ask: messages.Rollback) -> messages.RolledBack:
        self._require_branch(ask.branch)
        if ask.snapshot not in self._snapshots:
            raise Refusal("branch", f"there is no snapshot {ask.snapshot}, only {sorted(self._snapshots)}")
        if ask.new_epoch == self.epoch:
            raise Refusal("epoch", f"a rollback begins another epoch, {ask.new_epoch} is the one of now")
        snapshot, block, stamp_ns = self._snapshots[ask.snapshot]
        self._sessions.rollback(ask.branch, snapshot)
        self.epoch, self.newest[ask.branch], self._observed[ask.branch] = ask.new_epoch, block, (stamp_ns, {})
        self._compared = None
        return messages.RolledBack(id=ask.id, epoch=ask.new_epoch, branch=ask.branch, block=block)

    def reset(self, ask: messages.Reset) -> messages.WasReset:
        began = time.perf_counter()
        self.prompt = self.prompt if ask.prompt is None else ask.prompt
        self._sessions.reset(self.prompt)
        self._snapshots, self._observed, self.newest, self._compared = {}, {}, {}, None
        self.epoch = ask.epoch
        return messages.WasReset(id=ask.id, epoch=ask.epoch, timings_s={"prompt": time.perf_counter() - began})

    @staticmethod
    def _refusing(work: Callable[[], T]) -> T:
        """What the session refuses is the client's to know."""
        try:
            return work()
        except ValueError as error:
            raise Refusal("refused", str(error)[: messages.LONGEST_PROMPT]) from error

    def _require_branch(self, branch: int) -> int:
        """Its newest block. Raises Refusal where it does not exist."""
        if branch not in self.newest:
            raise Refusal("branch", f"branch {branch} has observed nothing; there are {sorted(self.newest)}")
        return self.newest[branch]

    def _require_memory(self, what: str) -> None:
        memories = len(self.newest) + len(self._snapshots) + LOOKED_AHEAD
        if memories >= self._limits.most_memories:
            raise Refusal(
                "memory",
                f"{what} would be memory {memories + 1} of this session (branches, snapshots, and one for looking "
                f"ahead); its budget holds {self._limits.most_memories}",
            )
