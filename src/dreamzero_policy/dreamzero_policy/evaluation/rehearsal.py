"""Episodes in which every command is recorded: by the node's own loop and plan, or by another executor.

All have the same model, the same sessions, smoothing and latency, in a suite's simulated time. An executor that runs a
chunk before it asks observes whole blocks, as the loop does. One that asks all the time opens a window with every
question, since the newest frame is the only whole observation then.

The latency of an answer is drawn evenly from ±20 % around its mean. The plan is played as the node plays it; by other
names it is played with two sessions: without prefix conditioning, with it, and with its soft mask too.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dreamzero_policy.evaluation.closed_loop import OUTCOME_NS, Episode, NodeParameters, Played, SuiteWorld
from dreamzero_policy.evaluation.command_stream import SAMPLE_NS, Record, StreamMeasures, measure
from dreamzero_policy.evaluation.executors import EXECUTORS, Executor, Points
from dreamzero_policy.evaluation.policies import SessionPolicy
from dreamzero_policy.evaluation.stage import Stage
from dreamzero_policy.evaluation.suite import Suite, SuiteError, TaskInfo
from dreamzero_policy.runtime.chunk import Chunk, Verdict, without_noise
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.runtime.limits import Limits
from dreamzero_policy.runtime.observation import NS_PER_S, Block, ObservationBuffer
from dreamzero_policy.runtime.policy import Reply, Request
from dreamzero_policy.runtime.regime import OVERLAP, TWO_SESSIONS, RegimeSettings

PLAN = "plan"  # the loop's own
TOGETHER = RegimeSettings(OVERLAP, TWO_SESSIONS)
PLANS: dict[str, dict[str, Any]] = {  # by name: how the loop's settings differ from the node's
    PLAN: {},
    "plan_overlap": {"regime": TOGETHER, "prefix_conditioning": False},
    "plan_prefix": {"regime": TOGETHER, "prefix_conditioning": True, "prefix_soft_mask": False},
    "plan_soft_prefix": {"regime": TOGETHER, "prefix_conditioning": True, "prefix_soft_mask": True},
}
OVERLAPPING = tuple(name for name in PLANS if name != PLAN)
NAMES = (PLAN, *EXECUTORS)
JITTER = 0.2  # share of the mean latency, to both sides


@dataclass(frozen=True)
class Rehearsal:
    """One episode to record."""

    executor: str
    latency_s: float
    split: str
    seed: int
    steps: int  # denoising


@dataclass(frozen=True)
class Rehearsed:
    """What one gave."""

    rehearsal: Rehearsal
    measures: StreamMeasures | None  # None where no chunk was executed
    progress: float
    success: bool
    chunks: int
    rejected: int
    seam_position_jumps: tuple[float, ...] = ()  # between plan and chunk, before any blending; none without a plan


class RecordedWorld(SuiteWorld):
    """A suite's world that samples what its controllers command and its joints do.

    The suite tells its command by a method `commanded`: positions in the order of `joint_names`.
    """

    def __init__(self, suite: Suite, contract: Contract) -> None:
        super().__init__(suite, contract)
        if not hasattr(suite, "commanded"):
            raise SuiteError("the suite has no method `commanded`: it does not say what its controllers command")
        self.record = Record()
        self.executor: Executor | None = None
        column = {joint: i for i, joint in enumerate(suite.joint_names)}
        self._columns = [column[joint] for joint in contract.model.commanded_joints]
        self._executed: list[tuple[int, int, int]] = []  # of accepted chunks: from, until, observation

    def advance_to(self, instant_ns: int) -> None:
        sample_ns = (self.ns // SAMPLE_NS + 1) * SAMPLE_NS
        while sample_ns <= instant_ns:
            super().advance_to(sample_ns)
            self._sample()
            sample_ns += SAMPLE_NS
        super().advance_to(instant_ns)

    def show(self, chunk: Chunk) -> None:
        super().show(chunk)
        if chunk.verdict is Verdict.ACCEPTED:
            first_ns = chunk.block.observation_ns + round(chunk.observation_to_command_s * NS_PER_S)
            self.record.seams_ns += [first_ns, chunk.start_ns]
            end_ns = chunk.instant_ns(len(chunk.positions) - 1)
            self._executed.append((first_ns, end_ns, chunk.block.observation_ns))

    def send(self, points: Points) -> None:
        """Straight lines to the controllers."""
        self.suite.follow(self.contract.model.commanded_joints, points.stamps_ns, points.positions, None)

    def _sample(self) -> None:
        record, suite = self.record, self.suite
        record.stamps_ns.append(self.ns)
        record.commanded.append(np.asarray(suite.commanded())[self._columns])
        record.measured.append(suite.observe(images=False).joints.positions[self._columns])
        record.sources_ns.append(self._source() if self.executor is None else self.executor.source(self.ns))

    def _source(self) -> int | None:
        for begin_ns, end_ns, observation_ns in reversed(self._executed):
            if begin_ns <= self.ns < end_ns:
                return observation_ns
        return None


class JitteredPolicy(SessionPolicy):
    """A model whose answers take more or less long."""

    def __init__(self, model: object, world: SuiteWorld, latency_s: float, seed: int) -> None:
        super().__init__(model, world.now_ns, round(latency_s * NS_PER_S))
        self._rng = np.random.default_rng(seed)

    def next_latency_ns(self) -> int:
        return round(super().next_latency_ns() * self._rng.uniform(1 - JITTER, 1 + JITTER))


class ExecutorEpisode:
    """Another executor at work in a suite that was just reset."""

    def __init__(
        self,
        world: RecordedWorld,
        embodiment: Embodiment,
        policy: SessionPolicy,
        parameters: NodeParameters,
        steps: int,
        executor: Executor,
    ) -> None:
        self.world, self.embodiment, self.policy, self.executor = world, embodiment, policy, executor
        self.settings = replace(parameters.loop, steps=steps)
        self.buffer = ObservationBuffer(embodiment)
        self.model = embodiment.contract.model
        self.chunks, self._epoch = 0, 0
        self._step_ns = NS_PER_S / self.model.action_hz
        self._grippers = np.isin(self.model.commanded_joints, list(embodiment.contract.site.grippers))
        self._asked: Block | None = None
        self._tick_ns: int | None = None  # the next one; from the first chunk on
        self._observation_ns = 0  # that is due, or under way
        world.executor = executor

    def play(self, task: TaskInfo) -> Played:
        """Follow the task's instruction until success or until its time is over."""
        world, end_ns = self.world, round(task.duration_s * NS_PER_S)
        self._prompt = self.embodiment.prompt(task.instruction)
        self._open()
        while not (outcome := world.suite.outcome()).success and world.ns < end_ns:
            frame_ns = self._next_frame_ns()
            events = (end_ns, (world.ns // OUTCOME_NS + 1) * OUTCOME_NS, frame_ns, self._tick_ns, self.policy.due_ns)
            world.advance_to(min(event for event in events if event is not None))
            if world.ns == frame_ns:
                self._look()
                if world.ns >= self._observation_ns:
                    self._ask(self.model.chunk.frame_offsets_steps)
            while isinstance(reply := self.policy.poll(), Reply):
                self._take(reply)
            if world.ns == self._tick_ns:
                self._send(self.executor.tick(world.ns))
                self._tick_ns += round(self._step_ns)
        end = "success" if outcome.success else "time"
        return Played(task, outcome, end, world.ns / NS_PER_S, self.chunks, {}, tuple(self.policy.model_s))

    def _open(self) -> None:
        """Open a window with a frame of now and ask."""
        self._epoch += 1
        self.policy.reset(self._prompt, self._epoch)
        self._observation_ns = self.world.ns
        self._look()
        self._ask((0,))

    def _look(self) -> None:
        seen = self.world.suite.observe(images=True)
        for camera in self.buffer.cameras:
            self.buffer.add_image(camera, seen.stamp_ns, self.world.ns, lambda image=seen.images[camera]: image)
        self.buffer.add_joint_state(seen.stamp_ns, self.world.ns, self.world.suite.joint_names, seen.joints.positions)

    def _ask(self, offsets: tuple[int, ...]) -> None:
        self._asked = self.buffer.block(self._observation_ns, offsets)
        state = self.embodiment.normalised_state(self._asked.state)
        seed = self.settings.noise_seed(self.chunks if self.settings.fresh_noise else 0)
        self.policy.submit(Request(self._epoch, self._asked.canvas, state, self.settings.steps, seed, 0))

    def _take(self, reply: Reply) -> None:
        now_ns, block = self.world.ns, self._asked
        self._asked = None
        self.chunks += 1
        rows = self.embodiment.at_stops(self.embodiment.positions(reply.actions, block.state))
        rows = without_noise(rows, self.settings.smoothing_window, self._grippers)
        self._send(self.executor.take(rows, block.observation_ns, now_ns))
        self.world.record.seams_ns.append(now_ns)
        if self._tick_ns is None or not self.executor.always_asks:
            self._tick_ns = now_ns + round(self._step_ns)
        if self.executor.always_asks:
            self._open()
        else:
            self._observation_ns = self.executor.end_ns()

    def _send(self, points: Points | None) -> None:
        if points is not None:
            self.world.send(points)

    def _next_frame_ns(self) -> int | None:
        """The next instant of a block that is waited for."""
        if self._asked is not None:
            return None
        offsets = self.model.chunk.frame_offsets_steps
        instants = (self._observation_ns + round(offset * self._step_ns) for offset in offsets)
        return next((instant for instant in instants if instant > self.world.ns), None)


def rehearse(stage: Stage, rehearsal: Rehearsal) -> Rehearsed:
    """Play one episode and judge its motion."""
    task = stage.suite.reset(rehearsal.split, rehearsal.seed)
    world = RecordedWorld(stage.suite, stage.contract)
    model, embodiment = stage.model("checkpoint")
    policy = JitteredPolicy(model, world, rehearsal.latency_s, rehearsal.seed)
    if rehearsal.executor in PLANS:
        loop = replace(stage.parameters.loop, **PLANS[rehearsal.executor])
        episode = Episode(world, embodiment, policy, replace(stage.parameters, loop=loop), rehearsal.steps)
    else:
        executor = EXECUTORS[rehearsal.executor](NS_PER_S / stage.contract.model.action_hz)
        episode = ExecutorEpisode(world, embodiment, policy, stage.parameters, rehearsal.steps, executor)
    played = episode.play(task)
    body = np.flatnonzero(~np.isin(stage.contract.model.commanded_joints, list(stage.contract.site.grippers)))
    measures = None
    if world.record.seams_ns and len(world.record.stamps_ns) > 3:
        measures = measure(world.record, Limits.of(stage.contract).acceleration, body)
    return Rehearsed(
        rehearsal,
        measures,
        float(played.outcome.progress),
        bool(played.outcome.success),
        played.chunks,
        sum(played.rejected.values()),
        tuple(played.motion.seam_position_jumps),
    )
