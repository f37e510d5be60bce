"""Demonstrations of the scripted expert in the twin, made in parallel processes.

A seed names an episode for good: its scene, task, words, pace and detours. Commands go through the twin's trajectory
controllers like everybody else's. Row n is the command for step n, the state is what was measured at that instant.
Demonstrations that fail the task's own test are not kept.

With a `Prelude` somebody else is at work first, a policy for instance, for a time that the seed decides; then the
expert takes over from where that led, and only its part is recorded. So whoever learns from it sees the places where
its own errors take it (dataset aggregation: Ross et al. 2011; taking over: Kelly et al. 2019). Where there is no such
policy yet, the expert itself makes a mistake first (`mistake.py`).

With advice (`advice.py`) the expert does not take over: whoever is at work goes on to the end, and at every chunk the
expert shows in a branch of the scene what it would do. Such an attempt is one episode: what was seen of it, and what
was advised.

Where they go is the caller's matter (`Sink`); a sink that has an episode already is not given it again, so an
interrupted collection continues. Found by others through the entry point group `dreamzero.demonstrations`.
"""

import multiprocessing
import signal
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from agibot_twin.advice import Stumbling, advice
from agibot_twin.cameras import Image
from agibot_twin.commanding import follow
from agibot_twin.episodes import SPLITS, Episode, Split, sample_episode
from agibot_twin.expert import AFAR_SHARE, EXPERT_STREAM, STEP_S, Expert, ExpertError, command_limits
from agibot_twin.mistake import MistakePrelude, given_up_at
from agibot_twin.robot_model import DRIVEN_JOINTS
from agibot_twin.suite import TaskInfo, TwinSuite
from agibot_twin.takeover import take_over
from agibot_twin.tasks import Judge
from agibot_twin.trajectory_controller import NS_PER_S
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.embodiment import Embodiment, Quantiles, Statistics

Floats = NDArray[np.float64]
How = Literal["kept", "there", "failed", "no path", "done"]  # see `Made`
START_S = 1.5  # to go from home to the start pose before the episode begins
SETTLE_S = 0.5
TAKEOVER_STREAM, ADVICE_STREAM = 2, 4  # of a seed's random numbers
ADVISED_ROWS = 32  # a chunk, the row behind it, and the way on which a stumbling one slows down
STUMBLING_S, STOPPING_S = 0.6, 0.2  # until a stumbling chunk begins to slow down, and from there to rest: one chunk
EARLIEST_S, LATEST_S, LATEST_SHARE = 0.8, 7.0, 0.7  # of a takeover; the share is of the time allowed
PARAPHRASES = 32  # kept of each task's phrasings


class Draft(Protocol):
    """An episode being written; leaving it without `finish` drops it."""

    def __enter__(self) -> "Draft": ...

    def __exit__(self, *_: object) -> None: ...

    def add(self, state: Floats, action: Floats, images: Mapping[str, Image]) -> None:
        """The next step: state [D] and action [A] in the contract's units, pictures at every `picture_every`-th."""

    def finish(self, instructions: Sequence[str]) -> None:
        """Keep it; the first instruction is the task, the others are paraphrases."""


class AdviceDraft(Protocol):
    """An attempt with advice being written; it is there once it is finished."""

    def add(self, seen: Image, state: Floats, action: Floats, advised: Image) -> None:
        """The next chunk: canvases seen since the one before, state [H + 1, D] and action [H, A] of the advice, and the
        canvases that it leads to."""

    def finish(self, instructions: Sequence[str]) -> None:
        """As `Draft.finish`."""


class Sink(Protocol):
    """Where episodes go. It is copied into every process."""

    picture_every: int  # steps between the pictures that it wants

    def __contains__(self, name: str) -> bool: ...

    def draft(self, name: str) -> Draft: ...


class AdviceSink(Sink, Protocol):
    """One that takes attempts with advice too."""

    def advice_draft(self, name: str) -> AdviceDraft: ...


class Prelude(Protocol):
    """Who is at work before the expert takes over. It is copied into every process."""

    def __call__(
        self,
        suite: TwinSuite,
        task: TaskInfo,
        duration_s: float,
        before_chunk: Callable[[Image], None] = lambda seen: None,
    ) -> None:
        """Act for so long, or until the task is done, in a scene that was just laid out; then come to rest.

        The same for the same scene and duration. `before_chunk` is called where a chunk is asked for, with the canvases
        [T, height, width, 3] that were seen since the last time, or with one where a new window is opened; it leaves
        the scene as it was.
        """


class Collector:
    """One twin and one expert, making one episode after the other."""

    def __init__(self, contract: Contract, split: Split = "training") -> None:
        self.contract, self.split = contract, split
        self.suite = TwinSuite()
        self.world = self.suite.world
        self.expert = Expert(command_limits(contract))
        self.embodiment = without_statistics(contract)

    def demonstrate(self, seed: int, draft: Draft, picture_every: int) -> bool:
        """Write the demonstration of this seed; returns whether it does the task. The draft is not finished otherwise.

        Raises:
            ExpertError: no path within the limits.
        """
        episode = sample_episode(self.split, seed)
        rng = np.random.default_rng((SPLITS.index(self.split), seed, EXPERT_STREAM))
        commands = self._begin(episode, rng)
        return self._record(episode, [commands], rng, draft, picture_every)

    def take_over(self, seed: int, prelude: Prelude, draft: Draft, picture_every: int) -> How:
        """As `demonstrate`, from where the prelude leaves robot and objects; "done" if that leaves nothing to show.

        Raises:
            ExpertError: no path within the limits, or the object is off the table.
        """
        episode = sample_episode(self.split, seed)
        rng = np.random.default_rng((SPLITS.index(self.split), seed, TAKEOVER_STREAM))
        task = self.suite.lay_out(episode)
        prelude(self.suite, task, rng.uniform(EARLIEST_S, min(LATEST_S, LATEST_SHARE * task.duration_s)))
        self.suite.advance_to(self.suite.now_ns() + round(SETTLE_S * NS_PER_S))
        if self.suite.outcome().success:
            return "done"
        phases = take_over(self.expert, episode.task, self._look, rng)
        return "kept" if self._record(episode, phases, rng, draft, picture_every) else "failed"

    def advise(self, seed: int, prelude: "Prelude | None", sink: AdviceSink) -> int:
        """Advice for every chunk of an attempt at this seed's task; returns how many episodes it makes.

        The attempt is the prelude's, or the expert's own stumbling. Where the expert knows no way an episode ends, and
        the next one begins where it knows one again.
        """
        episode = sample_episode(self.split, seed)
        rng = np.random.default_rng((SPLITS.index(self.split), seed, ADVICE_STREAM))
        task, drafts, goes_on = self.suite.lay_out(episode), [], False

        def advise(seen: Image) -> Floats:
            nonlocal goes_on
            opens = not goes_on or len(seen) == 1
            goes_on = False
            advised = advice(self.expert, episode.task, *self._look(), ADVISED_ROWS)
            if opens:
                drafts.append(sink.advice_draft(f"{advice_name(seed)}_{len(drafts)}"))
            drafts[-1].add(seen[-1:] if opens else seen, *self._shown(advised))
            goes_on = True
            return advised

        def advise_if_known(seen: Image) -> None:
            with suppress(ExpertError):
                advise(seen)

        if prelude is not None:
            prelude(self.suite, task, task.duration_s, advise_if_known)
        else:
            self._stumble(episode, rng, advise)
        for draft in reversed(drafts):  # the first one last: it says that all are there
            draft.finish(_words(episode, rng))
        return len(drafts)

    def _shown(self, commands: Floats) -> tuple[Floats, Floats, Image]:
        """A chunk of commands [N, 20] carried out and undone: states [H + 1, D], actions [H, A], canvases of the
        frames behind the first instant."""
        chunk, before = self.contract.model.chunk, self.world.snapshot()
        instants = {chunk.actions + offset for offset in chunk.frame_offsets_steps}
        states, canvases = [], []
        for step, (seen, state, _) in enumerate(self._perform(commands[: chunk.actions + 1], instants)):
            states.append(state)
            if step in instants:
                canvases.append(self.embodiment.picture(seen))
        self.world.restore(before)
        return np.array(states), self._actions(commands[: chunk.actions]), np.array(canvases)

    def _stumble(self, episode: Episode, rng: np.random.Generator, advise: Callable[[Image], Floats]) -> None:
        """Attempt the task by the expert with errors, chunk by chunk."""
        suite, stumbling = self.suite, Stumbling(self.expert, episode, rng)
        if rng.random() < AFAR_SHARE:
            self._go_to(self.expert.start_pose(episode.task, rng))
        try:
            seen = self._canvas()[None]
            while not suite.outcome().success and suite.now_ns() < episode.allowed_s * NS_PER_S:
                commands = stumbling.commands(advise(seen), *self._look())
                follow(self.world, given_up_at(commands, STUMBLING_S, STOPPING_S))
                seen = self._watch_chunk()
        except ExpertError:
            return

    def _watch_chunk(self) -> Image:
        """Let a chunk's time pass; canvases [T, height, width, 3] of its frames."""
        chunk, begin_ns, canvases = self.contract.model.chunk, self.suite.now_ns(), []
        for offset in chunk.frame_offsets_steps:
            self.suite.advance_to(begin_ns + round((chunk.actions + offset) * STEP_S * NS_PER_S))
            canvases.append(self._canvas())
        return np.array(canvases)

    def _canvas(self) -> Image:
        """What the model sees now [height, width, 3]."""
        return self.embodiment.picture(self.world.observe(images=True).images)

    def _record(
        self,
        episode: Episode,
        phases: Iterable[Floats],
        rng: np.random.Generator,
        draft: Draft,
        picture_every: int,
    ) -> bool:
        """Carry out commands [N, 20], one phase after the other, and keep the draft if they do the task from here."""
        judge, first = Judge(episode.task, episode.layout, self.world.situation()), 0
        for commands in phases:
            pictured = {step for step in range(len(commands)) if (first + step) % picture_every == 0}
            for images, state, action in self._perform(commands, pictured):
                draft.add(state, action, images)
                judge.watch(self.world.situation())
            first += len(commands)
        if judge.success:
            draft.finish(_words(episode, rng))
        return judge.success

    def _perform(
        self, commands: Floats, pictured: Container[int]
    ) -> Iterator[tuple[Mapping[str, Image], Floats, Floats]]:
        """Carry out commands [N, 20]; yields images (at steps `pictured`), state [D], action [A] as a step begins."""
        begin_ns = self.world.now_ns()
        follow(self.world, commands)
        for step, action in enumerate(self._actions(commands)):
            seen = self.world.observe(images=step in pictured)
            positions = dict(zip(self.world.joint_names, seen.joints.positions, strict=True))
            yield seen.images, self.embodiment.state(positions), action
            self.world.advance_to(begin_ns + round((step + 1) * STEP_S * NS_PER_S))

    def _look(self) -> tuple[Mapping[str, Floats], Floats]:
        """Body poses, and joint positions [20] from which commands can go on.

        As in the node's loop these are the commanded ones, unless something in the way keeps a joint from them; a
        gripper that holds something is kept from them by intention.
        """
        measured, commanded = self.world.observe().joints.positions, self.world.commanded()
        site = self.contract.site
        kept_away = np.abs(measured - commanded) > site.tolerances.tracking
        kept_away &= ~np.isin(DRIVEN_JOINTS, list(site.grippers))
        lower, upper = np.array([[site.limits[joint].lower, site.limits[joint].upper] for joint in DRIVEN_JOINTS]).T
        return self.world.object_poses(), np.clip(np.where(kept_away, measured, commanded), lower, upper)

    def _begin(self, episode: Episode, rng: np.random.Generator) -> Floats:
        """Lay out the scene and bring the robot to its start; returns the commands [N, 20] for the task."""
        self.world.lay_out(episode.layout)
        start = self.expert.start_pose(episode.task, rng)
        self._go_to(start)
        return self.expert.demonstrate(episode.task, self.world.object_poses(), start, rng)

    def _go_to(self, start: Floats) -> None:
        """Bring the robot from home to a pose [20] and to rest there."""
        home = self.expert.arms.home
        s = np.linspace(0, 1, round(START_S / STEP_S))[:, None]
        follow(self.world, home + s**3 * (10 + s * (6 * s - 15)) * (start - home))
        self.world.step(START_S + SETTLE_S)

    def _actions(self, commands: Floats) -> Floats:
        """Commands [N, 20] of the driven joints → actions [N, A] in the contract's units and order."""
        targets = [self.embodiment.state(dict(zip(DRIVEN_JOINTS, row, strict=True))) for row in commands]
        return self.embodiment.as_actions(np.array(targets))


def _words(episode: Episode, rng: np.random.Generator) -> tuple[str, ...]:
    count = min(PARAPHRASES, len(episode.paraphrases))
    chosen = rng.choice(episode.paraphrases, count, replace=False) if count else ()
    return tuple(dict.fromkeys([episode.instruction, *(str(text) for text in chosen)]))


def without_statistics(contract: Contract) -> Embodiment:
    """For pictures, joint positions and raw states, which need no statistics: these change nothing of importance."""
    state, action = (
        Quantiles(np.zeros(width), np.ones(width))
        for width in (len(contract.model.state_joints), contract.model.action_width)
    )
    return Embodiment(contract, Statistics(state, action, ""))


# ---------------------------------------------------------------- in parallel


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
        written = collector.advise(seed, prelude, sink)
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
