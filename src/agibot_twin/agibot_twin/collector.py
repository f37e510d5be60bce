"""One twin and one expert that make one episode after the other.

Commands go through the twin's trajectory controllers like everybody else's. Row n is the command for step n, the state
is what was measured at that instant. Demonstrations that fail the task's own test are not kept.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agibot_twin.arms import STEP_S
from agibot_twin.cameras import Image
from agibot_twin.commanding import follow
from agibot_twin.drafts import Draft, Prelude
from agibot_twin.episodes import SPLITS, Episode, Split, sample_episode
from agibot_twin.expert import EXPERT_STREAM, Expert, command_limits
from agibot_twin.robot_model import DRIVEN_JOINTS
from agibot_twin.suite import TwinSuite
from agibot_twin.takeover import take_over
from agibot_twin.tasks import Judge
from agibot_twin.trajectory_controller import NS_PER_S
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import without_statistics

Floats = NDArray[np.float64]
How = Literal["kept", "there", "failed", "no path", "done"]  # see `collect.Made`
START_S = 1.5  # to go from home to the start pose before the episode begins
SETTLE_S = 0.5
TAKEOVER_STREAM = 2  # of a seed's random numbers
EARLIEST_S, LATEST_S, LATEST_SHARE = 0.8, 7.0, 0.7  # of a takeover; the share is of the time allowed
PARAPHRASES = 32  # kept of each task's phrasings


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
        phases = take_over(self.expert, episode.task, self.look, rng)
        return "kept" if self._record(episode, phases, rng, draft, picture_every) else "failed"

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
            for images, state, action in self.perform(commands, pictured):
                draft.add(state, action, images)
                judge.watch(self.world.situation())
            first += len(commands)
        if judge.success:
            draft.finish(words(episode, rng))
        return judge.success

    def perform(
        self, commands: Floats, pictured: Container[int]
    ) -> Iterator[tuple[Mapping[str, Image], Floats, Floats]]:
        """Carry out commands [N, 20]; yields images (at steps `pictured`), state [D], action [A] as a step begins."""
        begin_ns = self.world.now_ns()
        follow(self.world, commands)
        for step, action in enumerate(self.actions(commands)):
            seen = self.world.observe(images=step in pictured)
            positions = dict(zip(self.world.joint_names, seen.joints.positions, strict=True))
            yield seen.images, self.embodiment.state(positions), action
            self.world.advance_to(begin_ns + round((step + 1) * STEP_S * NS_PER_S))

    def look(self) -> tuple[Mapping[str, Floats], Floats]:
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
        self.go_to(start)
        return self.expert.demonstrate(episode.task, self.world.object_poses(), start, rng)

    def go_to(self, start: Floats) -> None:
        """Bring the robot from home to a pose [20] and to rest there."""
        home = self.expert.arms.home
        s = np.linspace(0, 1, round(START_S / STEP_S))[:, None]
        follow(self.world, home + s**3 * (10 + s * (6 * s - 15)) * (start - home))
        self.world.step(START_S + SETTLE_S)

    def actions(self, commands: Floats) -> Floats:
        """Commands [N, 20] of the driven joints → actions [N, A] in the contract's units and order."""
        targets = [self.embodiment.state(dict(zip(DRIVEN_JOINTS, row, strict=True))) for row in commands]
        return self.embodiment.as_actions(np.array(targets))


def words(episode: Episode, rng: np.random.Generator) -> tuple[str, ...]:
    count = min(PARAPHRASES, len(episode.paraphrases))
    chosen = rng.choice(episode.paraphrases, count, replace=False) if count else ()
    return tuple(dict.fromkeys([episode.instruction, *(str(text) for text in chosen)]))
