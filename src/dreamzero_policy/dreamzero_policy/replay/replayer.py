"""The replayer: the node's loop with a recording for a world, and what becomes of every chunk.

Embodiment, buffer, loop, scheduler, plan and limits are those of the node; the clock goes from one event to the next,
as in `evaluation/closed_loop.py`. Who moves it is in two files beside: `own_blocks.py`, where the loop decides what it
sees when, and `live_blocks.py`, where a node decided that when the recording was made.

The robot of a recording does not follow. Where live chunks drove it, the plan in execution is made of them, whatever is
predicted now; elsewhere every chunk is judged as one that takes over a robot at rest where it was measured.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.feed import Feed
from dreamzero_policy.data.problems import Problems
from dreamzero_policy.replay.comparison import Comparison
from dreamzero_policy.replay.kept import Kept, Sink
from dreamzero_policy.replay.live import LiveChunk
from dreamzero_policy.replay.motion import RecordedMotion, error
from dreamzero_policy.replay.policy import ForkedSessions, ReplayPolicy, Sessions
from dreamzero_policy.replay.recording import BagStream
from dreamzero_policy.runtime.chunk import Chunk
from dreamzero_policy.runtime.embodiment import Embodiment, Floats
from dreamzero_policy.runtime.foresight import Foresight
from dreamzero_policy.runtime.loop import Loop, Phase
from dreamzero_policy.runtime.loop_settings import LoopSettings
from dreamzero_policy.runtime.observation import NS_PER_S, ObservationBuffer
from dreamzero_policy.runtime.plan import Plan, Rows
from dreamzero_policy.runtime.splice import splice

RETRY_NS = 10_000_000  # a chunk that waits for a better moment is tried again


class BagWorld:
    """A recording as a `runtime.world.World`."""

    def __init__(self, rate: float = 0.0) -> None:
        """`rate`: how many times real time the clock may run; 0: as fast as possible."""
        self.rate = rate
        self.ns = 0
        self.shown: Chunk | None = None  # the newest, until somebody takes it
        self._began: tuple[float, int] | None = None  # wall time [s] and this clock [ns]

    def now_ns(self) -> int:
        return self.ns

    def set_to(self, instant_ns: int) -> None:
        """Go to an instant, not before its time has come."""
        if self._began is None or instant_ns < self.ns:
            self._began = time.monotonic(), instant_ns
        self.ns = instant_ns
        if self.rate > 0:
            wall_s, begin_ns = self._began
            time.sleep(max(0.0, wall_s + (instant_ns - begin_ns) / NS_PER_S / self.rate - time.monotonic()))

    def act(self, plan: Plan) -> None:
        """The robot of a recording does what it did."""

    def show(self, chunk: Chunk) -> None:
        self.shown = chunk

    def show_dream(self, chunk: Chunk, canvas: NDArray[np.uint8]) -> None:
        """Predicted video is not asked for here: a report gets it from its sessions."""


class ReplayBuffer(ObservationBuffer):
    """The node's buffer; where a window opened in a run that already happened is known."""

    opening_ns: int | None = None

    def newest_common_ns(self) -> int | None:
        return super().newest_common_ns() if self.opening_ns is None else self.opening_ns


@dataclass(frozen=True, eq=False)
class Fork:
    """Where another policy takes over."""

    sessions: ForkedSessions
    embodiment: Embodiment  # of the other
    prompt: str | None  # as the user gave it
    from_s: float  # behind the first stamp of the recording


class Replayer:
    """One recording and one loop. `sink` gets every result once it is complete, in order."""

    def __init__(
        self,
        stream: BagStream,
        embodiment: Embodiment,
        sessions: Sessions,
        settings: LoopSettings,
        problems: Problems,
        sink: Sink,
        rate: float = 0.0,
        fork: Fork | None = None,
        foresight: Callable[[], Foresight | None] = lambda: None,
    ) -> None:
        """`foresight` gives that of the newest chunk, where somebody looks at predicted video."""
        self.stream, self.problems, self.fork = stream, problems, fork
        self._embodiment, self._sink, self._foresight = embodiment, sink, foresight
        self.world = BagWorld(rate)
        self.buffer = ReplayBuffer(embodiment)
        self.policy = ReplayPolicy(sessions, self.world.now_ns)
        self.loop = Loop(embodiment, self.buffer, self.policy, self.world, settings, session="replay")
        self.motion = RecordedMotion(embodiment.contract)
        self.feed = Feed(stream.events(), self.buffer, self.motion, problems)
        self.chunks = 0
        self.most: int | None = None  # after so many it is enough
        self._before: Plan | None = None  # what was in execution when the newest answer came
        self._hash = hashlib.sha256()
        self._unfinished: deque[Kept] = deque()
        if fork:
            fork.sessions.state_of_recorded = lambda _: embodiment.normalised_state(self.loop.pending.anchor)
            fork.sessions.state_observed = lambda _: fork.embodiment.normalised_state(self.loop.pending.block.state)

    @property
    def done(self) -> bool:
        return self.most is not None and self.chunks >= self.most

    @property
    def chunk_hash(self) -> str:
        """SHA-256 (hex) over the positions of all chunks in order, as float32."""
        return self._hash.hexdigest()

    # Steps of whoever moves the clock

    def ask(self, observation_ns: int, now_ns: int) -> bool:
        """Let the loop ask for the chunk behind an observation; whether it did."""
        fork, since_s = self.fork, (observation_ns - self.feed.first_ns) / NS_PER_S
        if fork is not None and since_s >= fork.from_s:
            fork.sessions.forked, self.loop.embodiment = True, fork.embodiment
        self.world.set_to(now_ns)
        self.loop.advance()
        return self.loop.phase is Phase.THINKING

    def conclude(self, answered_ns: int) -> Chunk | None:
        """Let the loop take the answer; the chunk, or None where only a block was observed."""
        self.world.shown, self._before = None, self.loop.plan
        self.world.set_to(answered_ns)
        self.loop.advance(may_observe=False)
        while self.loop.phase is Phase.THINKING:
            self.world.set_to(self.world.ns + RETRY_NS)
            self.loop.advance(may_observe=False)
        return self.world.shown

    def keep(self, chunk: Chunk, live: LiveChunk | None = None, comparison: Comparison | None = None) -> None:
        """Take note of a chunk, and of what the live one was, which the robot executes."""
        equal = comparison.compare(live, chunk) if comparison is not None else None
        result, start_ns = self._result(chunk, live, equal), chunk.start_ns if live is None else live.start_ns
        self._hash.update(as_bytes(chunk.positions))
        # Before this one is added: whatever follows a chunk directly, as what its block looked like, is then known.
        self._finish(lambda kept: self.motion.covers(kept.instants_ns[-1]))
        self._unfinished.append(Kept(chunk, result, self._instants_ns(chunk, live), start_ns, self._foresight()))
        self.chunks += 1
        if live is None:
            self.loop.forget_plan()
        elif not equal or live.verdict is not chunk.verdict:
            self.loop.plan = self._driven_by(live, self._before or Plan.rest(chunk.block.positions, live.asked_ns))
        self.motion.forget_before(min(self._unfinished[0].instants_ns[0], chunk.block.observation_ns))

    def finish(self) -> None:
        """Read on until the last chunk is over, and complete what there is."""
        try:
            if self._unfinished:
                self.feed.until(lambda: self.motion.covers(self._unfinished[-1].instants_ns[-1]))
        except EpisodeError as error:
            self.problems.note("damage", str(self.stream.bag.path), self.feed.fed_ns, str(error))
        self._finish(lambda _: True)

    def note_broken_block(self, instant_ns: int) -> None:
        """The loop could not observe a block and says why."""
        for camera, stream in self.buffer.cameras.items():
            if stream.fault:
                self.problems.note("damage", self.stream.topics[f"camera {camera}"], instant_ns, stream.fault)
                return
        reason = self.loop.message.removeprefix("window reopened: ")
        source = reason.partition(":")[0]
        self.problems.note("gap", self.stream.topics.get(source, source), instant_ns, reason)

    def _driven_by(self, live: LiveChunk, before: Plan) -> Plan:
        """The plan in execution behind a live chunk; one that cannot be made again leaves the robot where it was."""
        joints = self.loop.model.commanded_joints
        if not live.accepted or live.joints != joints:
            return before
        step_ns = round(live.step_s * NS_PER_S)
        rows = Rows(live.positions, live.start_ns - live.first_row * step_ns, step_ns)
        settings = self.loop.settings
        return splice(before, rows, live.start_ns, settings.blend_s, self.loop.limits, settings.limit_easing_share).plan

    # Results

    def _instants_ns(self, chunk: Chunk, live: LiveChunk | None) -> list[int]:
        """When each row is executed; of a chunk that is not, when it would be without a pause."""
        start_ns, first = chunk.start_ns, chunk.first_row
        if not start_ns and live is not None and live.accepted:
            start_ns = live.start_ns
        if not start_ns:
            ahead_s = self.loop.model.chunk.first_action_step * chunk.step_s
            start_ns, first = chunk.block.observation_ns + round(ahead_s * NS_PER_S), 0
        rows = range(len(chunk.positions))
        return [start_ns + round((row - first) * chunk.step_s * NS_PER_S) for row in rows]

    def _result(self, chunk: Chunk, live: LiveChunk | None, equal: bool | None) -> dict[str, Any]:
        other = self.fork is not None and self.fork.sessions.kept is not None
        result = {
            "index": self.chunks,
            "epoch": chunk.epoch if live is None else live.epoch,
            "stamp_s": chunk.block.observation_ns / NS_PER_S,
            "prompt": (self.fork.prompt if other else None) or chunk.prompt,
            "seed": chunk.reply.seed,
            "steps": chunk.reply.steps,
            "hash": hashlib.sha256(as_bytes(chunk.positions)).hexdigest(),
            "verdict": chunk.verdict.name.lower(),
            "reason": chunk.reason,
            "regime": chunk.regime if live is None else live.regime,
            "model_s": self.policy.model_s,
            "latency_s": (chunk.answered_ns - chunk.asked_ns) / NS_PER_S,
            "start_s": chunk.start_ns / NS_PER_S if chunk.start_ns else None,
            "live": None,
            "counterfactual": None,
        }
        if live is not None:
            result["live"] = {
                "index": live.index,
                "hash": hashlib.sha256(as_bytes(live.positions)).hexdigest(),
                "equal": equal,
                "verdict": live.verdict.name.lower(),
                "model_s": live.model_s,
                "stages_s": live.stages_s,
            }
        if other:
            kept = self._embodiment.positions(self.fork.sessions.kept.actions, chunk.anchor)
            mine = self.loop.embodiment.positions(chunk.reply.actions, chunk.anchor)
            result["counterfactual"] = {
                "largest_change": float(np.abs(mine - kept).max()),
                "mean_change": float(np.abs(mine - kept).mean()),
            }
        return result

    def _finish(self, complete: Callable[[Kept], bool]) -> None:
        while self._unfinished and complete(self._unfinished[0]):
            kept, model = self._unfinished.popleft(), self.loop.model
            kept.states = self.motion.states(kept.instants_ns)
            if self.stream.has_commands:
                kept.commands = self.motion.commands(kept.instants_ns)
            kept.result["error"] = {
                "commands": None if kept.commands is None else error(model, kept.positions, kept.commands),
                "states": error(model, kept.positions, kept.states),
            }
            seen = kept.foresight
            kept.result |= (
                {"surprise": seen.surprise, "still": seen.still} if seen else {"surprise": None, "still": None}
            )
            self._sink(kept)


def as_bytes(positions: Floats) -> bytes:
    """Rows [H, J] as little-endian float32, row by row: what chunks are hashed by."""
    return np.ascontiguousarray(positions, dtype="<f4").tobytes()
