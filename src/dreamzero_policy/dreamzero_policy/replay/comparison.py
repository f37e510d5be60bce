"""Replayed and live, chunk by chunk: the same actions for the same observations, or the first thing that differs.

Fields are compared in the order of cause and effect, so the first difference is the reason of those behind it: other
weights, another prompt, another seed, other frames, another state, and only then other actions. Positions are compared
exactly unless a tolerance is given. A chunk that cannot be replayed (a frame is not in the bag, the recording began in
the middle of an epoch) is counted as such: it neither matches nor differs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dreamzero_policy.replay.live import LiveChunk
from dreamzero_policy.runtime.chunk import Chunk
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.policy import Reply

NAMED = 20  # chunks that could not be compared and are named


@dataclass(frozen=True)
class Identity:
    """What a replay runs with."""

    contract_hash: str
    checkpoint_hash: str
    joints: tuple[str, ...]  # commanded


@dataclass
class Comparison:
    """Of all chunks so far. `rows` makes joint targets [H, J] of a reply and an anchor, as the loop does."""

    identity: Identity
    rows: Callable[[Reply, Floats], Floats]
    tolerance: float = 0.0  # [rad, m]
    live: int = 0
    compared: int = 0
    equal: int = 0
    largest: float = 0.0  # difference of a position, where frames and state were the same [rad, m]
    first_difference: dict[str, Any] | None = None
    not_compared: int = 0
    reasons: list[str] = field(default_factory=list)

    @property
    def matches(self) -> bool | None:
        """True if every live chunk was compared and is equal, False if one differs, None if that is not known."""
        if self.first_difference is not None:
            return False
        return True if self.live and self.compared == self.live else None

    def compare(self, live: LiveChunk, chunk: Chunk) -> bool:
        """Whether this chunk is the live one."""
        self.live += 1
        self.compared += 1
        difference = self._difference(live, chunk)
        if difference is None:
            self.equal += 1
            return True
        self._differs(live, *difference)
        return False

    def differs(self, live: LiveChunk, what: str, theirs: Any, ours: Any) -> None:
        """The replay would not have asked for this chunk."""
        self.live += 1
        self._differs(live, what, theirs, ours)

    def skip(self, live: LiveChunk, reason: str) -> None:
        """This chunk cannot be replayed."""
        self.live += 1
        self.not_compared += 1
        if len(self.reasons) < NAMED:
            self.reasons.append(f"{live.name}: {reason}")

    def as_dict(self) -> dict[str, Any]:
        return {
            "chunks": self.live,
            "compared": self.compared,
            "equal": self.equal,
            "largest_difference": self.largest,
            "first_difference": self.first_difference,
            "not_compared": self.not_compared,
            "not_compared_because": self.reasons,
        }

    def _differs(self, live: LiveChunk, what: str, theirs: Any, ours: Any) -> None:
        if self.first_difference is None:
            self.first_difference = {
                "session": live.session,
                "epoch": live.epoch,
                "index": live.index,
                "stamp_s": live.observation_ns / NS_PER_S,
                "field": what,
                "live": theirs,
                "here": ours,
            }

    def _difference(self, live: LiveChunk, chunk: Chunk) -> tuple[str, Any, Any] | None:
        """Field, live value and value here of the first thing that differs."""
        seen, reply = chunk.block.frame_stamps_ns, chunk.reply
        # Of the block that opens a later window of an epoch, its last frame alone is looked at.
        named = {camera: stamps[-len(seen.get(camera, ())) :] for camera, stamps in live.frame_stamps_ns.items()}
        for what, theirs, ours in (
            ("contract_hash", live.contract_hash, self.identity.contract_hash),
            ("checkpoint_hash", live.checkpoint_hash, self.identity.checkpoint_hash),
            ("prompt", live.prompt, chunk.prompt),
            ("noise_seed", live.seed, reply.seed),
            ("denoise_steps", live.steps, reply.steps),
            ("joint_names", live.joints, self.identity.joints),
            ("frame_stamps", named, dict(seen)),
            ("state_stamp", live.state_stamp_ns, chunk.block.state_stamp_ns),
        ):
            if theirs != ours:
                return what, theirs, ours
        if not live.look_ahead and live.anchor is not None and not np.array_equal(live.anchor, chunk.anchor):
            return "anchor", live.anchor.tolist(), chunk.anchor.tolist()
        anchor = chunk.anchor if live.anchor is None else live.anchor
        return self._moved(live.positions, self.rows(reply, anchor))

    def _moved(self, theirs: Floats, ours: Floats) -> tuple[str, Any, Any] | None:
        """The first position that differs by more than the tolerance."""
        if theirs.shape != ours.shape:
            return "positions", list(theirs.shape), list(ours.shape)
        distances = np.abs(theirs - ours)
        distances[np.isnan(theirs) & np.isnan(ours)] = 0.0
        self.largest = max(self.largest, float(distances[np.isfinite(distances)].max(initial=0.0)))
        if not (apart := np.argwhere(~(distances <= self.tolerance))).size:
            return None
        row, column = (int(index) for index in apart[0])
        what = f"positions: row {row} of {self.identity.joints[column]}"
        return what, *(float(x[row, column]) if np.isfinite(x[row, column]) else None for x in (theirs, ours))
