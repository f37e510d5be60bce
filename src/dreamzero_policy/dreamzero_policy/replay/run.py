"""A replay from open bag to result: which blocks, which prompts, which clock.

    open_loop        every block as recorded; the chunk behind it beside what the robot then did
    parity           the same, and it must be what a node published when the bag was recorded
    counterfactual   another prompt or another checkpoint from an instant on
    timing           the node's own waiting and pausing, with answers that take as long as they took

Where a node was at work in the recording, its blocks are replayed (`timing` apart), else blocks of the loop's choice.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

from dreamzero_policy.data.bag_events import Unreadable
from dreamzero_policy.data.bag_files import OpenBag
from dreamzero_policy.data.bags import INSTRUCTIONS
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.problems import Problems
from dreamzero_policy.replay.comparison import Comparison, Identity
from dreamzero_policy.replay.document import Results
from dreamzero_policy.replay.live import LiveChunk, LiveRun
from dreamzero_policy.replay.live_blocks import LiveBlocks
from dreamzero_policy.replay.own_blocks import OwnBlocks
from dreamzero_policy.replay.policy import ForkedSessions, Sessions
from dreamzero_policy.replay.recording import BagStream, require_bag
from dreamzero_policy.replay.replayer import Fork, Replayer
from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.runtime.foresight import Foresight
from dreamzero_policy.runtime.loop_settings import LoopSettings
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.regime import STOP_AND_GO, RegimeSettings

OPEN_LOOP, PARITY, COUNTERFACTUAL, TIMING = MODES = ("open_loop", "parity", "counterfactual", "timing")


@dataclass(frozen=True)
class ReplaySettings:
    """What the user asks for."""

    mode: str = OPEN_LOOP
    prompt: str | None = None  # None: what the bag says; in `counterfactual` that of the other policy
    seed: int | None = None  # None: that of the node in the bag, else of the node's parameters
    steps: int | None = None  # likewise
    from_s: float = 0.0  # where the counterfactual begins, from the begin of the bag
    latency_s: float | None = None  # of an answer in `timing`; None: as recorded
    rate: float = 0.0  # times real time; 0: as fast as possible
    most: int | None = None  # chunks; None: all
    tolerance: float = 0.0  # up to which a position is the live one [rad, m]


@dataclass(frozen=True, eq=False)
class Model:
    """A model with the transforms it was trained with."""

    sessions: Sessions
    embodiment: Embodiment
    checkpoint_hash: str
    foresight: Callable[[], Foresight | None] = lambda: None  # of the newest chunk; None where nobody looks


class Replay:
    """What is replayed, with what, and how."""

    def __init__(
        self, model: Model, node: LoopSettings, settings: ReplaySettings, results: Results, other: Model | None = None
    ) -> None:
        """
        Args:
            model: what acts; in `counterfactual` what acted up to the fork.
            node: the node's parameters.
            results: gets those of every chunk.
            other: in `counterfactual` what acts behind the fork, with sessions of its own.
        """
        self.model, self.node, self.settings, self.results, self.other = model, node, settings, results, other
        self.contract = model.embodiment.contract

    def play(self, bag: Path) -> dict[str, Any]:
        """Replay a recording; what came of it.

        Raises:
            EpisodeError: the bag cannot be read, is of another robot, or gave no chunk; it says what is wrong with it.
        """
        require_bag(bag)
        began, problems, settings = time.perf_counter(), Problems(), self.settings
        with OpenBag(bag, problems) as opened:
            stream = BagStream(opened, self.contract)
            self.results.begin(stream.seconds)
            live = LiveRun.of(_chunks(stream, problems))
            replayer = self._replayer(stream, live, problems)
            comparison = self._comparison(replayer) if live.chunks and settings.mode != TIMING else None
            try:
                if self._follows(live):
                    blocks = LiveBlocks(replayer, comparison, live.seed, self._told, settings.steps)
                    blocks.play(_readable(stream))
                else:
                    self._play_own(stream, replayer, live, comparison)
            except EpisodeError as error:
                if not replayer.chunks:
                    raise
                problems.note("damage", str(bag), replayer.feed.fed_ns, str(error))
            replayer.finish()
            if not replayer.chunks:
                raise EpisodeError(_nothing(bag, problems, comparison, replayer))
            wall_s = time.perf_counter() - began
            document = {
                "bag": str(bag),
                "mode": settings.mode,
                "blocks": "live" if self._follows(live) else "own",
                "begin_s": replayer.feed.first_ns / NS_PER_S,
                "seconds": stream.seconds,
                "wall_s": wall_s,
                "realtime_factor": stream.seconds / wall_s,
                "embodiment": self.contract.model.embodiment,
                "contract_hash": self.contract.hash,
                "checkpoint_hash": self.model.checkpoint_hash,
                "seed": replayer.loop.settings.seed,
                "steps": replayer.loop.settings.steps,
                "chunk_hash": replayer.chunk_hash,
                "matches_live": comparison.matches if comparison is not None else None,
                "live": comparison.as_dict() if comparison is not None else None,
                "underruns": replayer.loop.counters.underruns,
                **self.results.as_dict(),
                "problems": problems.as_dict(),
            }
        if settings.mode == COUNTERFACTUAL and document["counterfactual"] is None:
            raise EpisodeError(f"no chunk of bag {bag} lies behind --from {settings.from_s:g} s")
        return document

    def _replayer(self, stream: BagStream, live: LiveRun, problems: Problems) -> Replayer:
        model, settings = self.model, self.settings
        fork = self._fork() if settings.mode == COUNTERFACTUAL else None
        sessions = model.sessions if fork is None else fork.sessions
        replayer = Replayer(
            stream,
            model.embodiment,
            sessions,
            self._node(live),
            problems,
            self.results.add,
            settings.rate,
            fork,
            foresight=lambda: self._followed(fork).foresight(),
        )
        replayer.most = settings.most
        return replayer

    def _followed(self, fork: Fork | None) -> Model:
        return self.other if fork is not None and fork.sessions.forked else self.model

    def _comparison(self, replayer: Replayer) -> Comparison:
        identity = Identity(self.contract.hash, self.model.checkpoint_hash, self.contract.model.commanded_joints)
        return Comparison(identity, replayer.loop.rows, self.settings.tolerance)

    @property
    def _told(self) -> str | None:
        """The instruction instead of the bag's own; that of a counterfactual is not followed from the begin."""
        return None if self.settings.mode == COUNTERFACTUAL else self.settings.prompt

    def _follows(self, live: LiveRun) -> bool:
        """Whether the blocks are those of a node with this contract."""
        same = live.first is not None and live.first.contract_hash == self.contract.hash
        return same and self.settings.mode != TIMING

    def _node(self, live: LiveRun) -> LoopSettings:
        """The node's parameters as this replay needs them."""
        settings, first = self.settings, live.first
        node = replace(
            self.node,
            seed=settings.seed if settings.seed is not None else (self.node.seed if first is None else live.seed),
            steps=settings.steps or (self.node.steps if first is None else first.full_steps),
            inference_timeout_s=float("inf"),  # it counts wall time, which means nothing here
        )
        if settings.mode == TIMING:
            return node
        node = replace(node, deadline_steps=False)  # live chunks say how many steps they had
        if self._follows(live):
            return replace(node, fresh_noise=False)  # live chunks say what noise they came from
        return replace(node, regime=RegimeSettings(STOP_AND_GO))

    def _play_own(self, stream: BagStream, replayer: Replayer, live: LiveRun, comparison: Comparison | None) -> None:
        settings = self.settings
        if settings.mode == PARITY and live.first is None:
            raise EpisodeError(
                f"bag {stream.bag.path} holds no chunks of a policy_node: there is nothing to be equal to"
            )
        if comparison is not None:
            comparison.differs(live.first, "contract_hash", live.first.contract_hash, self.contract.hash)
        if settings.mode == TIMING:
            if settings.latency_s is None and not live.answers_s:
                raise EpisodeError(
                    f"bag {stream.bag.path} does not say how long answers took: no ActionChunk in it; give --latency"
                )
            latencies_s = cycle(live.answers_s if settings.latency_s is None else [settings.latency_s])
            replayer.policy.latency_ns = lambda _: round(next(latencies_s) * NS_PER_S)
        OwnBlocks(replayer, self._prompts(stream, live), at_once=settings.mode != TIMING).play()

    def _prompts(self, stream: BagStream, live: LiveRun) -> list[tuple[int, str]]:
        """What is to be followed from which instant on."""
        if self._told is None and live.prompts:
            return live.prompts
        if told := self._told or stream.instruction:
            return [(0, told)]
        remedy = "write one" if self.settings.mode == COUNTERFACTUAL else "give --prompt"
        raise EpisodeError(
            f"bag {stream.bag.path} does not say what was done: no ActionChunk in it, no {INSTRUCTIONS} beside it; "
            f"{remedy}"
        )

    def _fork(self) -> Fork:
        other, prompt = self.other, self.settings.prompt
        told = None if prompt is None else other.embodiment.prompt(prompt)
        sessions = ForkedSessions(self.model.sessions, other.sessions, told)
        return Fork(sessions, other.embodiment, prompt, self.settings.from_s)


def _chunks(stream: BagStream, problems: Problems) -> Iterator[LiveChunk]:
    """Those that can be read; what cannot is noted."""
    for chunk in stream.live_chunks():
        if isinstance(chunk, Unreadable):
            problems.note("damage", chunk.topic, chunk.recorded_ns, f"cannot be read: {chunk.reason}")
        else:
            yield chunk


def _readable(stream: BagStream) -> Iterable[LiveChunk]:
    return (chunk for chunk in stream.live_chunks() if isinstance(chunk, LiveChunk))


def _nothing(bag: Path, problems: Problems, comparison: Comparison | None, replayer: Replayer) -> str:
    """Why there is no chunk at all."""
    reasons = [f"{p['topic']} at {p['time_s']:.3f} s: {p['problem']}" for p in problems.named[:1]]
    if comparison is not None:
        reasons += comparison.reasons[:1]
    return f"no chunk could be predicted from bag {bag}: {(reasons or [replayer.loop.message])[0]}"
