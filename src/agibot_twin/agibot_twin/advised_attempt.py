"""An attempt with advice: whoever is at work goes on to the end, and at every chunk the expert shows what it would do.

What is advised is carried out in the very scene, recorded, and undone. At work is a policy (a `Prelude`), or the expert
itself, stumbling: it looks as the node's loop does, moves for a chunk, and stands at its end.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from agibot_twin.advice import Stumbling, advice
from agibot_twin.arms import STEP_S
from agibot_twin.cameras import Image
from agibot_twin.collector import Collector, Floats, words
from agibot_twin.commanding import follow
from agibot_twin.drafts import AdviceDraft, AdviceSink, Prelude
from agibot_twin.episodes import SPLITS, Episode, sample_episode
from agibot_twin.expert import AFAR_SHARE, ExpertError
from agibot_twin.mistake import given_up_at
from agibot_twin.trajectory_controller import NS_PER_S

ADVICE_STREAM = 4  # of a seed's random numbers
ADVISED_ROWS = 32  # a chunk, the row behind it, and the way on which a stumbling one slows down
STUMBLING_S, STOPPING_S = 0.6, 0.2  # until a stumbling chunk begins to slow down, and from there to rest: one chunk


def attempt_with_advice(collector: Collector, seed: int, prelude: Prelude | None, sink: AdviceSink, name: str) -> int:
    """Write the advice for every chunk of an attempt at this seed's task; returns how many episodes it makes.

    The attempt is the prelude's, or the expert's own. Where the expert knows no way an episode ends, and the next one
    begins where it knows one again. They are called `name`_0, `name`_1, …; where the first one is all are.
    """
    episode = sample_episode(collector.split, seed)
    rng = np.random.default_rng((SPLITS.index(collector.split), seed, ADVICE_STREAM))
    task, adviser = collector.suite.lay_out(episode), Adviser(collector, episode, sink, name)
    if prelude is not None:
        prelude(collector.suite, task, task.duration_s, adviser.advise_if_known)
    else:
        stumble(collector, episode, rng, adviser.advise)
    for draft in reversed(adviser.drafts):
        draft.finish(words(episode, rng))
    return len(adviser.drafts)


@dataclass
class Adviser:
    """The expert beside whoever is at work on an episode."""

    collector: Collector
    episode: Episode
    sink: AdviceSink
    name: str
    drafts: list[AdviceDraft] = field(default_factory=list)
    _goes_on: bool = False  # the newest draft has the chunk before

    def advise(self, seen: Image) -> Floats:
        """Show and write down what the expert would do next; returns its commands [N, 20].

        `seen`: canvases [T, height, width, 3] since the last time, or the one that opens a window.

        Raises:
            ExpertError: it knows no way.
        """
        opens, self._goes_on = not self._goes_on or len(seen) == 1, False
        advised = advice(self.collector.expert, self.episode.task, *self.collector.look(), ADVISED_ROWS)
        if opens:
            self.drafts.append(self.sink.advice_draft(f"{self.name}_{len(self.drafts)}"))
        self.drafts[-1].add(seen[-1:] if opens else seen, *shown(self.collector, advised))
        self._goes_on = True
        return advised

    def advise_if_known(self, seen: Image) -> None:
        with suppress(ExpertError):
            self.advise(seen)


def shown(collector: Collector, commands: Floats) -> tuple[Floats, Floats, Image]:
    """A chunk of commands [N, 20] carried out and undone: states [H + 1, D], actions [H, A], canvases of its frames."""
    chunk, before = collector.contract.model.chunk, collector.world.snapshot()
    instants = {chunk.actions + offset for offset in chunk.frame_offsets_steps}
    states, canvases = [], []
    for step, (images, state, _) in enumerate(collector.perform(commands[: chunk.actions + 1], instants)):
        states.append(state)
        if step in instants:
            canvases.append(collector.embodiment.picture(images))
    collector.world.restore(before)
    return np.array(states), collector.actions(commands[: chunk.actions]), np.array(canvases)


def stumble(
    collector: Collector, episode: Episode, rng: np.random.Generator, advise: Callable[[Image], Floats]
) -> None:
    """Attempt the task by the expert with errors, chunk by chunk, until it is done, time is over or no way is known."""
    suite, stumbling = collector.suite, Stumbling(collector.expert, episode, rng)
    if rng.random() < AFAR_SHARE:
        collector.go_to(collector.expert.start_pose(episode.task, rng))
    seen = _canvas(collector)[None]
    with suppress(ExpertError):
        while not suite.outcome().success and suite.now_ns() < episode.allowed_s * NS_PER_S:
            commands = stumbling.commands(advise(seen), *collector.look())
            follow(collector.world, given_up_at(commands, STUMBLING_S, STOPPING_S))
            seen = _watched(collector)


def _watched(collector: Collector) -> Image:
    """Let a chunk's time pass; canvases [T, height, width, 3] of its frames."""
    chunk, suite, canvases = collector.contract.model.chunk, collector.suite, []
    begin_ns = suite.now_ns()
    for offset in chunk.frame_offsets_steps:
        suite.advance_to(begin_ns + round((chunk.actions + offset) * STEP_S * NS_PER_S))
        canvases.append(_canvas(collector))
    return np.array(canvases)


def _canvas(collector: Collector) -> Image:
    """What a model sees now [height, width, 3]."""
    return collector.embodiment.picture(collector.world.observe(images=True).images)
