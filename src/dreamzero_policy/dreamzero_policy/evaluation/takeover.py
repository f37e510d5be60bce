"""A policy as the prelude of demonstrations: it is at work in the node's own loop until an expert takes over."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from dreamzero_policy.evaluation.closed_loop import Episode, SuiteWorld
from dreamzero_policy.evaluation.policies import SessionPolicy
from dreamzero_policy.evaluation.stage import Setup, Stage
from dreamzero_policy.evaluation.suite import Suite, TaskInfo
from dreamzero_policy.inference.loading import Policy as Model
from dreamzero_policy.runtime.embodiment import Image
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.policy import Request
from dreamzero_policy.runtime.trained import load_statistics

CHECKPOINT = "checkpoint"


@dataclass(frozen=True, eq=False)
class PolicyPrelude:
    """A checkpoint at work. It may be sent to other processes; each loads the model once, when it first acts.

    setup: whose world is not used, and whose weights are those of CHECKPOINT.
    steps: denoising steps per chunk.
    """

    setup: Setup
    steps: int

    def require_fit(self) -> None:
        """Raises CheckpointError or ContractError for a checkpoint of another contract, ParametersError."""
        load_statistics(self.setup.weights[CHECKPOINT], Stage(self.setup).contract)

    def __call__(
        self, suite: Suite, task: TaskInfo, duration_s: float, before_chunk: Callable[[Image], None] = lambda seen: None
    ) -> None:
        """Follow the task's instruction from the suite's reset on, for so long or until success, and come to rest.

        `before_chunk` is called at every observation that a chunk is asked for with, with its canvases [T, height,
        width, 3]: the block, or the one that opens a window.

        Raises:
            CheckpointError, ContractError: the model cannot be loaded.
            SuiteError: the suite's stamps or pictures are not those of the instants asked for.
        """
        stage = self._stage
        model, embodiment = stage.model(CHECKPOINT)
        world = SuiteWorld(suite, stage.contract)
        policy = TellingPolicy(model, world.now_ns, round(self.setup.latency_s * NS_PER_S), before_chunk)
        episode = Episode(world, embodiment, policy, stage.parameters, self.steps)
        episode.play(replace(task, duration_s=duration_s))
        if episode.loop.plan is not None:  # which ends at rest; no further chunk is asked for
            world.advance_to(max(world.now_ns(), episode.loop.plan.end_ns))

    @cached_property
    def _stage(self) -> Stage:
        return Stage(self.setup)


class TellingPolicy(SessionPolicy):
    """Tells when it is asked."""

    def __init__(
        self, model: Model, now_ns: Callable[[], int], latency_ns: int, before_chunk: Callable[[Image], None]
    ) -> None:
        super().__init__(model, now_ns, latency_ns)
        self._before_chunk = before_chunk

    def submit(self, request: Request) -> None:
        if request.canvas is not None:
            self._before_chunk(request.canvas)
        super().submit(request)
