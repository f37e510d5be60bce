"""A stage: all that one process needs to play episodes, opened once and used again and again.

The suite, the models and the parameters are opened when first needed. Torch works with one thread: episodes run beside
each other instead.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dreamzero_policy.data.windows import unclamped
from dreamzero_policy.evaluation.blind import plan_of, random_rows
from dreamzero_policy.evaluation.closed_loop import (
    Episode,
    Footage,
    NodeParameters,
    ParametersError,
    Played,
    SuiteWorld,
    play_plan,
)
from dreamzero_policy.evaluation.demonstration import DemonstrationPolicy
from dreamzero_policy.evaluation.methods import Method, method
from dreamzero_policy.evaluation.policies import SessionPolicy, UninjectedSession
from dreamzero_policy.evaluation.recorded import RecordedEpisodes
from dreamzero_policy.evaluation.suite import Suite, SuiteError, TaskInfo, find_suite
from dreamzero_policy.inference.loading import Policy as Model
from dreamzero_policy.inference.loading import load_policy
from dreamzero_policy.inference.session import Session
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.embodiment import Embodiment, Floats
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.regime import STOP_AND_GO, RegimeSettings
from dreamzero_policy.runtime.rest import too_long
from dreamzero_policy.runtime.trained import load_statistics


@dataclass(frozen=True, eq=False)
class Setup:
    """What is evaluated, where, and how. Travels to every process."""

    world: str  # name or place of the suite
    contract: Path
    parameters: Path  # of the node
    weights: Mapping[str, Path]  # checkpoint folders
    latency_s: float = 0.15
    dtype: str = "float32"
    device: str = "cpu"
    replay: Floats | None = None  # rows [N, J] of the mean demonstration


@dataclass(frozen=True)
class Job:
    """One episode to play."""

    method: str
    split: str
    seed: int


@dataclass(frozen=True)
class Result:
    """One episode as it is kept: a line of episodes.jsonl."""

    method: str
    checkpoint: str  # hash of its weights; empty if it has none
    split: str
    seed: int
    family: str
    novelty: str
    instruction: str
    progress: float
    success: bool
    end: str
    seconds: float  # simulated
    chunks: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    model_ms: float = 0.0  # mean wall time of a prediction on this machine
    wall_s: float = 0.0

    @property
    def episode(self) -> tuple[str, int]:
        return self.split, self.seed

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Stage:
    """Plays jobs. `interrupted` is asked often and ends an episode with KeyboardInterrupt."""

    def __init__(self, setup: Setup, interrupted: Callable[[], bool] = lambda: False) -> None:
        self.setup, self._interrupted = setup, interrupted
        self.contract: Contract = load_contract(setup.contract)
        self.parameters = NodeParameters.load(setup.parameters)
        loop = self.parameters.loop
        if reason := too_long(self.contract, loop.lead_s, loop.regime, loop.max_plan_s):
            raise ParametersError(f"{setup.parameters}: {reason}")
        self._suite: Suite | None = None
        self._models: dict[str, tuple[Model, Embodiment]] = {}
        self._recorded: dict[Path, RecordedEpisodes] = {}

    @property
    def suite(self) -> Suite:
        if self._suite is None:
            self._suite = find_suite(self.setup.world)()
        return self._suite

    def model(self, weights: str) -> tuple[Model, Embodiment]:
        """The model of a checkpoint and the transforms it was trained with.

        Raises CheckpointError, ContractError.
        """
        if weights not in self._models:
            folder = self.setup.weights[weights]
            embodiment = Embodiment(self.contract, load_statistics(folder, self.contract))
            self._models[weights] = _load(folder, self.setup), embodiment
        return self._models[weights]

    def recorded(self, folder: Path) -> RecordedEpisodes:
        """The episodes of a folder. Raises EpisodeError."""
        if folder not in self._recorded:
            self._recorded[folder] = RecordedEpisodes(folder, self.contract)
        return self._recorded[folder]

    def play(self, job: Job, footage: Footage | None = None) -> Played:
        """Play one episode, from reset to its end."""
        how = method(job.method)
        if job.split not in self.suite.splits:
            raise SuiteError(f"{self.setup.world} has the splits {list(self.suite.splits)}, not {job.split!r}")
        task = self.suite.reset(job.split, job.seed)
        world = InterruptibleWorld(self.suite, self.contract, footage, self._interrupted)
        if how.name == "demonstration":
            return self._play_demonstration(how, world, task)
        if how.weights is None:
            return self._play_blind(how, job, world, task)
        model, embodiment = self.model(how.weights)
        session = Session if how.injection else UninjectedSession
        policy = SessionPolicy(model, world.now_ns, self._latency_ns, session)
        return Episode(world, embodiment, policy, self.parameters, how.steps).play(task)

    def result_of(self, item: tuple[Job, str]) -> Result:
        """Play one episode and say what is kept of it. With the job comes the hash of its method's weights."""
        job, checkpoint = item
        began = time.perf_counter()
        played = self.play(job)
        model_ms = 1e3 * sum(played.model_s) / max(1, len(played.model_s))
        return Result(
            job.method,
            checkpoint,
            job.split,
            job.seed,
            played.task.family,
            played.task.novelty,
            played.task.instruction,
            float(played.outcome.progress),
            bool(played.outcome.success),
            played.end,
            played.seconds,
            played.chunks,
            dict(played.rejected),
            round(model_ms, 2),
            round(time.perf_counter() - began, 3),
        )

    def demonstration(self, seed: int) -> Floats | None:
        """Commands [N, J] of the commanded joints, in rad and m, that the suite shows for its first split's seed."""
        self.suite.reset(self.suite.splits[0], seed)
        embodiment = unclamped(self.contract)
        actions = self._demonstrated(embodiment)
        return None if actions is None else embodiment.commanded(actions)

    def close(self) -> None:
        if self._suite is not None:
            self._suite.close()
            self._suite = None

    @property
    def _latency_ns(self) -> int:
        return round(self.setup.latency_s * NS_PER_S)

    def _play_demonstration(self, how: Method, world: SuiteWorld, task: TaskInfo) -> Played:
        embodiment = unclamped(self.contract)
        actions = self._demonstrated(embodiment)
        if actions is None:
            return play_plan(world, task, None)
        policy = DemonstrationPolicy(actions, embodiment, world, self._latency_ns)
        # An expert plans once and answers in order, row behind row: it has nothing to look ahead with.
        parameters = replace(self.parameters, loop=replace(self.parameters.loop, regime=RegimeSettings(STOP_AND_GO)))
        return Episode(world, embodiment, policy, parameters, how.steps).play(task)

    def _demonstrated(self, embodiment: Embodiment) -> Floats | None:
        """Actions [N, A] that do the task of the scene that was just reset, in the contract's units."""
        name = self.setup.world
        if not hasattr(self.suite, "demonstration"):
            raise SuiteError(f"{name} has no method `demonstration`: it does not show how its tasks are done")
        try:
            shown = self.suite.demonstration(self.contract)
        except ValueError as error:
            raise SuiteError(f"{name} cannot demonstrate for this contract: {error}") from error
        if shown is None:
            return None
        joints, positions = shown
        if absent := sorted(set(embodiment.model.state_joints) - set(joints)):
            raise SuiteError(f"{name} demonstrates without joint {absent[0]}, only {', '.join(joints)}")
        states = [embodiment.state(dict(zip(joints, row, strict=True))) for row in positions]
        return embodiment.as_actions(np.array(states))

    def _play_blind(self, how: Method, job: Job, world: SuiteWorld, task: TaskInfo) -> Played:
        start = world.positions()
        if how.name == "hold":
            return play_plan(world, task, None)
        if how.name == "random":
            rows = random_rows(self.contract, job.seed, start, task.duration_s)
        else:
            rows = self.setup.replay
        return play_plan(world, task, plan_of(self.contract, rows, start, world.now_ns()))


class InterruptibleWorld(SuiteWorld):
    """Stops between two steps of its clock."""

    def __init__(
        self, suite: Suite, contract: Contract, footage: Footage | None, interrupted: Callable[[], bool]
    ) -> None:
        super().__init__(suite, contract, footage)
        self._interrupted = interrupted

    def advance_to(self, instant_ns: int) -> None:
        if self._interrupted():
            raise KeyboardInterrupt
        super().advance_to(instant_ns)


def _load(folder: Path, setup: Setup) -> Model:
    return load_policy(folder, device=setup.device, dtype=setup.dtype, threads=1)
