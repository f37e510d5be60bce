"""One episode in a suite: the node's own loop on simulated time, from the instruction to success or the end of time.

Embodiment, observation buffer, loop, plan, limits and session are those of the node, with the node's parameters; only
the world and the clock differ. Time jumps from one event to the next: a frame of the next block, the model's answer, a
look at the outcome. Pictures are taken at the instants of the contract's frames and nowhere else, so the nearest
stamped frame, which the node looks for in 30 a second, is the one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from dreamzero_policy.evaluation.motion import Motion
from dreamzero_policy.evaluation.policies import TimedPolicy
from dreamzero_policy.evaluation.suite import Outcome, Suite, SuiteError, TaskInfo
from dreamzero_policy.runtime.chunk import Chunk
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Embodiment, Image
from dreamzero_policy.runtime.faults import Fault
from dreamzero_policy.runtime.loop import Loop, Phase
from dreamzero_policy.runtime.loop_settings import LoopSettings
from dreamzero_policy.runtime.observation import NS_PER_S, ObservationBuffer
from dreamzero_policy.runtime.plan import Plan

OUTCOME_NS = NS_PER_S // 10  # how often the outcome is looked at
GRID_NS = 1_000  # instants are rounded to nanoseconds; that must not cost a physics step
End = Literal["success", "time", "rejections"]


class ParametersError(ValueError):
    """A file that does not hold the node's parameters; the message names it."""


@dataclass(frozen=True)
class NodeParameters:
    """Those of `config/policy.yaml` that matter here."""

    loop: LoopSettings
    max_consecutive_rejections: int

    @classmethod
    def load(cls, path: Path) -> "NodeParameters":
        """Raises ParametersError for a file without one of them."""
        try:
            values = yaml.safe_load(path.read_text())["/**/policy_node"]["ros__parameters"]
            # The model's patience counts wall time, which means nothing here.
            loop = replace(LoopSettings.of(values), inference_timeout_s=float("inf"))
            return cls(loop, values["max_consecutive_rejections"])
        except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
            raise ParametersError(
                f"{path} is no parameter file of policy_node: {type(error).__name__} {error}"
            ) from error

    def as_dict(self) -> dict[str, Any]:
        """What a result says it was made with."""
        loop = {name: value for name, value in vars(self.loop).items() if name not in ("steps", "inference_timeout_s")}
        return {
            **loop,
            "blend_s": list(self.loop.blend_s),
            "regime": vars(self.loop.regime),
            "max_consecutive_rejections": self.max_consecutive_rejections,
        }


@dataclass(frozen=True)
class Played:
    """What became of an episode."""

    task: TaskInfo
    outcome: Outcome
    end: End
    seconds: float  # simulated
    chunks: int = 0  # predicted
    rejected: Mapping[str, int] = field(default_factory=dict)
    model_s: tuple[float, ...] = ()  # wall time of every prediction
    motion: Motion = field(default_factory=Motion)

    @property
    def end_ns(self) -> int:
        return round(self.seconds * NS_PER_S)


@dataclass
class Footage:
    """Pictures of one camera and what the model had predicted for their instants, each by its stamp [ns]."""

    camera: str
    seen: dict[int, Image] = field(default_factory=dict)
    dreamed: dict[int, Image] = field(default_factory=dict)  # canvases


class SuiteWorld:
    """A suite as a `runtime.world.World`. Its clock is the event's own instant, the suite's is a physics step behind at
    most."""

    def __init__(self, suite: Suite, contract: Contract, footage: Footage | None = None) -> None:
        self.suite, self.contract, self.footage = suite, contract, footage
        self.ns = 0
        self.decided: Chunk | None = None  # the newest
        self.motion = Motion()

    def now_ns(self) -> int:
        return self.ns

    def advance_to(self, instant_ns: int) -> None:
        self.ns = instant_ns
        self.suite.advance_to(instant_ns + GRID_NS)

    def act(self, plan: Plan) -> None:
        self.suite.follow(self.contract.model.commanded_joints, plan.knots_ns, plan.positions, plan.velocities)

    def show(self, chunk: Chunk) -> None:
        self.decided = chunk
        if chunk.start_ns:
            self.motion.add(chunk)

    def show_dream(self, chunk: Chunk, canvas: NDArray[np.uint8]) -> None:
        model = self.contract.model
        for offset, image in zip(model.chunk.frame_offsets_steps, canvas, strict=True):
            self.footage.dreamed[chunk.instant_ns(model.chunk.actions + offset)] = image

    def positions(self) -> NDArray[np.float64]:
        """Of the commanded joints [J], now."""
        measured = dict(zip(self.suite.joint_names, self.suite.observe(images=False).joints.positions, strict=True))
        return np.array([measured[joint] for joint in self.contract.model.commanded_joints])


class Episode:
    """A policy at work in a suite that was just reset."""

    def __init__(
        self,
        world: SuiteWorld,
        embodiment: Embodiment,
        policy: TimedPolicy,
        parameters: NodeParameters,
        steps: int,
        on_surprise: Callable[[NDArray[np.float32]], None] = lambda cells: None,
    ) -> None:
        self.world, self.policy, self.parameters = world, policy, parameters
        self.buffer = ObservationBuffer(embodiment)
        self.loop = Loop(
            embodiment,
            self.buffer,
            policy,
            world,
            replace(parameters.loop, steps=steps),
            session="evaluation",
            wants_dream=lambda: world.footage is not None,
            on_surprise=on_surprise,
        )

    def play(self, task: TaskInfo) -> Played:
        """Follow the task's instruction until success or until its time is over.

        Raises:
            SuiteError: the suite's stamps or pictures are not those of the instants asked for.
        """
        loop, world, end_ns = self.loop, self.world, round(task.duration_s * NS_PER_S)
        loop.run(task.instruction)
        self._look()
        while not (end := self._end(end_ns)):
            frame_ns = loop.scheduler.next_instant_ns(world.ns)
            events = (end_ns, (world.ns // OUTCOME_NS + 1) * OUTCOME_NS, frame_ns, self.policy.due_ns)
            world.advance_to(min(event for event in events if event is not None))
            if world.ns == frame_ns:
                self._look()
            else:
                loop.advance()
        return Played(
            task,
            world.suite.outcome(),
            end,
            world.ns / NS_PER_S,
            loop.chunk_index,
            {
                verdict.name.removeprefix("REJECTED_").lower(): n
                for verdict, n in sorted(loop.counters.rejected.items())
            },
            tuple(self.policy.model_s),
            world.motion,
        )

    def _end(self, end_ns: int) -> End | None:
        if self.world.suite.outcome().success:
            return "success"
        if self.loop.counters.consecutive_rejections >= self.parameters.max_consecutive_rejections:
            return "rejections"  # the node aborts a goal then
        return "time" if self.world.ns >= end_ns else None

    def _look(self) -> None:
        """Take pictures and joint states of this instant to the loop."""
        world, asked = self.world, len(self.policy.model_s)
        seen = world.suite.observe(images=True)
        for camera in self.buffer.cameras:
            if camera not in seen.images:
                raise SuiteError(f"the suite has no camera {camera!r}, only {sorted(seen.images)}")
            self.buffer.add_image(camera, seen.stamp_ns, world.ns, lambda image=seen.images[camera]: image)
        self.buffer.add_joint_state(seen.stamp_ns, world.ns, world.suite.joint_names, seen.joints.positions)
        if world.footage is not None:
            world.footage.seen[world.ns] = seen.images[world.footage.camera]
        was_due = self.loop.phase is Phase.WAITING and self.loop.is_due()
        self.loop.advance()
        if self.loop.faults.counts[Fault.BLOCK_BROKEN] or (was_due and len(self.policy.model_s) == asked):
            raise SuiteError(
                f"asked for an observation at {world.ns / NS_PER_S:.4f} s, the suite stamped it "
                f"{seen.stamp_ns / NS_PER_S:.4f} s; the loop says: {self.loop.message}"
            )


def play_plan(world: SuiteWorld, task: TaskInfo, plan: Plan | None) -> Played:
    """Follow a ready-made plan, or stand still, with closed eyes."""
    end_ns = round(task.duration_s * NS_PER_S)
    if plan is not None:
        world.act(plan)
    while not (outcome := world.suite.outcome()).success and world.ns < end_ns:
        world.advance_to(min(world.ns + OUTCOME_NS, end_ns))
    return Played(task, outcome, "success" if outcome.success else "time", world.ns / NS_PER_S)
