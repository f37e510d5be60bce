"""Demonstrations of the scripted expert in the twin, made in parallel processes.

A seed names an episode for good: its scene, task, words, pace and detours. Who makes them is `collector.py`.

With a `Prelude` somebody else is at work first, a policy for instance, for a time that the seed decides; then the
expert takes over from where that led, and only its part is recorded. So whoever learns from it sees the places where
its own errors take it (dataset aggregation: Ross et al. 2011; taking over: Kelly et al. 2019). Where there is no such
policy yet, the expert itself makes a mistake first (`mistake.py`).

With advice (`advised_attempt.py`) the expert does not take over: whoever is at work goes on to the end, and at every
chunk the expert shows in a branch of the scene what it would do.

Where they go is the caller's matter (`Sink`); a sink that has an episode already is not given it again, so an
interrupted collection continues. Found by others through the entry point group `dreamzero.demonstrations`.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agibot_twin.advised_attempt import attempt_with_advice
from agibot_twin.collector import Collector, How
from agibot_twin.drafts import Prelude, Sink
from agibot_twin.episodes import sample_episode
from agibot_twin.expert import ExpertError
from agibot_twin.mistake import MistakePrelude
from dreamzero_policy.runtime.contract import load_contract


@dataclass(frozen=True)
class Made:
    """How one seed ended: "kept", "there" (already), "failed" (the task's test), "no path" (inside the limits, to where
    the object is) or "done" (before the expert took over).

    `episodes`: how many of the data set are its own.
    """

    seed: int
    family: str
    how: How
    message: str = ""
    episodes: int = 1


def episode_name(seed: int) -> str:
    return f"episode_{seed:06d}"


def takeover_name(seed: int) -> str:
    """Of a seed's episode after a prelude: all kinds may lie in one data set."""
    return f"takeover_{seed:06d}"


def mended_name(seed: int) -> str:
    """Of a seed's episode after a mistake."""
    return f"mended_{seed:06d}"


def advice_name(seed: int) -> str:
    """Of a seed's attempts with advice, each with its number behind this."""
    return f"advice_{seed:06d}"


def collect(
    contract_path: Path,
    sink: Sink,
    seeds: Sequence[int],
    processes: int,
    prelude: Prelude | None = None,
    mistakes: bool = False,
    advised: bool = False,
) -> Iterator[Made]:
    """Make the demonstrations of these seeds, after the prelude if there is one, or each after a mistake.

    `advised`: advice for every chunk of the prelude, or of the expert's own stumbling, instead.
    Yields as they are done, in no order. What a prelude raises is raised here.
    """
    name = mended_name if mistakes else takeover_name if prelude else episode_name
    before = MistakePrelude(contract_path) if mistakes else prelude
    context = multiprocessing.get_context("spawn")
    initargs = (contract_path, sink, before, None if advised else name)
    with context.Pool(processes, initializer=_start, initargs=initargs) as pool:
        yield from pool.imap_unordered(_make, seeds, chunksize=1)


_make_one: Callable[[int], Made]


def _start(contract_path: Path, sink: Sink, prelude: Prelude | None, name_of: Callable[[int], str] | None) -> None:
    """`name_of` None: advice."""
    global _make_one
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool
    collector = Collector(load_contract(contract_path))

    def advise(seed: int) -> Made:
        family = sample_episode(collector.split, seed).task.family
        if f"{advice_name(seed)}_0" in sink:
            return Made(seed, family, "there")
        written = attempt_with_advice(collector, seed, prelude, sink, advice_name(seed))
        return Made(seed, family, "kept" if written else "no path", episodes=written)

    def make(seed: int) -> Made:
        name = name_of(seed)
        family = sample_episode(collector.split, seed).task.family
        if name in sink:
            return Made(seed, family, "there")
        try:
            with sink.draft(name) as draft:
                if prelude:
                    how = collector.take_over(seed, prelude, draft, sink.picture_every)
                else:
                    how = "kept" if collector.demonstrate(seed, draft, sink.picture_every) else "failed"
        except ExpertError as error:
            return Made(seed, family, "no path", str(error))
        return Made(seed, family, how)

    _make_one = advise if name_of is None else make


def _make(seed: int) -> Made:
    return _make_one(seed)
