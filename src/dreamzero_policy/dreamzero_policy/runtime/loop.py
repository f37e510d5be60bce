"""The loop: observe a block, predict a chunk, judge it, splice it, act; then wait for the frames of the next block.

One object without ROS and without threads. A world calls `advance` whenever something may have changed (a frame came,
the policy answered, a timer ticked); `advance` never blocks. Everything is tagged with an epoch that grows with every
reset, prompt change and clock jump, so that nothing of the past is ever executed late.
"""

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.runtime.braking import braked
from dreamzero_policy.runtime.chunk import Chunk, Judgement, Verdict, without_noise
from dreamzero_policy.runtime.deadline import DeadlineSteps
from dreamzero_policy.runtime.embodiment import Embodiment, Floats
from dreamzero_policy.runtime.faults import Fault, FaultRecord, Trouble
from dreamzero_policy.runtime.latency import LatencyRecord
from dreamzero_policy.runtime.limits import CONTROL_NS, Limits
from dreamzero_policy.runtime.loop_settings import LoopSettings
from dreamzero_policy.runtime.observation import (
    NS_PER_S,
    Block,
    MissingObservation,
    ObservationBuffer,
    ObservationError,
)
from dreamzero_policy.runtime.plan import Plan, Rows, prepare, seam
from dreamzero_policy.runtime.policy import (
    ActionPrefix,
    Answer,
    Dream,
    Failure,
    Interruption,
    Observed,
    Policy,
    Purpose,
    Remark,
    Reply,
    Request,
    Resumption,
    Surprise,
)
from dreamzero_policy.runtime.regime import STOP_AND_GO
from dreamzero_policy.runtime.scheduler import Entry, Scheduler, Turn
from dreamzero_policy.runtime.splice import splice
from dreamzero_policy.runtime.world import World

RATE_WINDOW_S = 10.0
VISIBLE_SHARE = 0.01  # of a joint's velocity limit: slower is standing still, as far as cameras are concerned


class Phase(Enum):
    IDLE = "idle"  # no prompt
    WAITING = "waiting"  # for the frames of the next block
    THINKING = "thinking"  # a request is with the policy
    FAULT = "fault"  # the policy failed; only a new policy helps


@dataclass
class Counters:
    """Numbers since the loop was made."""

    chunks: int = 0
    rejected: Counter[Verdict] = field(default_factory=Counter)
    consecutive_rejections: int = 0
    eased: int = 0  # chunks with joints eased off the ends of their ranges
    underruns: int = 0  # pauses longer than a whole chunk: the chunk was rejected or came too late
    accepted_monotonic_ns: deque[int] = field(default_factory=lambda: deque(maxlen=256))

    def chunk_rate_hz(self) -> float:
        """Accepted chunks per second over the last ten seconds."""
        horizon = time.monotonic_ns() - RATE_WINDOW_S * NS_PER_S
        return sum(stamp >= horizon for stamp in self.accepted_monotonic_ns) / RATE_WINDOW_S


@dataclass(frozen=True)
class Sighting:
    """A block, and where the joints were told to be at its last instant [J]: the plan of then is not kept."""

    block: Block
    commanded: Floats


@dataclass(frozen=True)
class Pending:
    """A request under way."""

    turn: Turn
    block: Block  # the newest one of the session; looking ahead goes beyond it
    anchor: Floats  # [D] state at the first instant of the chunk, in the contract's units
    deadline_s: float | None  # in which the answer is wanted
    submitted_ns: int
    submitted_monotonic_ns: int
    reply: Reply | None = None  # once it is there
    answered_ns: int = 0


class Loop:
    """Couples an observation buffer, a policy and a world."""

    def __init__(
        self,
        embodiment: Embodiment,
        buffer: ObservationBuffer,
        policy: Policy,
        world: World,
        settings: LoopSettings,
        session: str,
        wants_dream: Callable[[], bool] = lambda: False,
        on_surprise: Callable[[NDArray[np.float32]], None] = lambda cells: None,
        sends_images: bool = False,
    ) -> None:
        """`wants_dream` says whether predicted video is to be decoded, `on_surprise` is told of every
        difference [f, h, w] between a block and what was expected, by policies that measure it; it must not command
        the loop. `sends_images`: the policy is given the cameras' own images beside the canvas."""
        self.embodiment, self.buffer, self.policy, self.world = embodiment, buffer, policy, world
        self.settings, self.session = settings, session
        self.wants_dream, self.on_surprise, self.sends_images = wants_dream, on_surprise, sends_images
        model = embodiment.contract.model
        self.model = model
        self.limits = Limits.of(embodiment.contract)
        prepare(model.chunk.actions)
        self.scheduler = Scheduler(model, settings.lead_s, settings.regime)
        self.latency = LatencyRecord()
        self._steps = DeadlineSteps(settings.steps)
        self._first_point_ns = round(settings.first_point_s * NS_PER_S)
        # Beyond a limit's `step` no chunk could begin where the robot stands.
        self._stands_within = np.minimum(embodiment.contract.site.tolerances.tracking, self.limits.step)
        self._grippers = np.isin(model.commanded_joints, list(embodiment.contract.site.grippers))
        self.phase = Phase.IDLE
        self.prompt = ""
        self.epoch = 0
        self.chunk_index = 0
        self.plan: Plan | None = None
        self.last_chunk: Chunk | None = None
        self.message = ""
        self.counters = Counters()
        self.faults = FaultRecord()
        self.failure: Trouble | None = None  # why only a new policy helps
        self.outage: Trouble | None = None  # why nothing can be asked of the policy now
        self._opened = False  # else a window is to be opened with the newest frame
        self._seen: dict[int, Sighting] = {}  # the newest of each session
        self._pending: Pending | None = None
        self._at_rest_ns = 0
        self._resting: Plan | None = None  # the plan that brakes already, if that is the one being executed
        self._opened_monotonic_ns = 0  # when the epoch began: frames of before are not waited on earlier
        self._last_advance_ns = 0

    # Commands

    def run(self, prompt: str) -> None:
        """Follow an instruction from now on, in a new epoch."""
        self.prompt = prompt
        self.counters.consecutive_rejections = 0
        self._reopen(f"following: {prompt}")

    def reset(self, reason: str) -> None:
        """Forget what the model has seen and begin a new epoch with the same prompt."""
        if self.phase is Phase.IDLE:
            self.epoch += 1
            self.message = reason
        else:
            self._reopen(reason)

    def halt(self, reason: str) -> None:
        """Stop following the prompt and come to rest as fast as the limits allow."""
        if self.phase is not Phase.FAULT:
            self.phase = Phase.IDLE
            self.message = reason
        self.epoch += 1
        self.prompt = ""
        self._pending = None
        self._come_to_rest()

    def hold(self, reason: str) -> None:
        """What the robot needs is not there: come to rest as fast as the limits allow, follow the prompt later.

        May be called again and again while that lasts. The window is forgotten: it would have a hole.
        """
        if self.phase in (Phase.WAITING, Phase.THINKING) and self._opened:
            self._reopen(f"holding: {reason}")
        self._come_to_rest()

    def forget_plan(self) -> None:
        """Something else may have moved the robot: the next chunk starts from where it is measured, once it rests."""
        if self.plan is not None:
            self._at_rest_ns = self.plan.end_ns
        self.plan = None

    def clock_jumped(self) -> None:
        """The world's clock was set: stamps of before mean nothing any more. Come to rest, begin a new epoch."""
        now_ns = self.world.now_ns()
        jump_ns = now_ns - self._last_advance_ns
        self._last_advance_ns = now_ns
        self.buffer.clear()
        self.faults.happened(Fault.CLOCK_JUMPED)
        if self.plan is not None:  # the robot is where it was; only the time of day is another
            self.plan = replace(self.plan, knots_ns=self.plan.knots_ns + jump_ns)
            self._come_to_rest()
            self._at_rest_ns = self.plan.end_ns
        else:
            self._at_rest_ns += jump_ns
        self.reset(f"the clock jumped by {jump_ns / NS_PER_S:+.1f} s: new epoch")

    @property
    def pending(self) -> Pending | None:
        """The request under way."""
        return self._pending

    # Progress

    def advance(self, may_observe: bool = True) -> None:
        """Do whatever can be done now: take answers and, if the world is ready, prepare frames and ask for a chunk."""
        self._last_advance_ns = self.world.now_ns()
        while (answer := self.policy.poll()) is not None:
            self._take(answer)
        if self._pending is not None and self._pending.reply is not None and self._may_send(self._pending):
            self._conclude(self._pending)
        if self.phase is Phase.THINKING and self._pending.reply is None:
            self._check_patience()
        if self.phase in (Phase.IDLE, Phase.FAULT):
            self._come_to_rest()  # where it was not possible at once
        if not may_observe:
            return
        if self.phase is Phase.IDLE:
            self._stay_ready()
        if self.phase is not Phase.WAITING or self.outage is not None:
            return
        try:
            if self._opened:
                self._continue_window()
            else:
                self._open_window()
        except (ObservationError, MissingObservation) as error:
            self._break_block(str(error))

    def is_due(self) -> bool:
        """Whether a request is due now, if its frames are there."""
        now_ns = self.world.now_ns()
        return not self._opened or all(instant <= now_ns for instant in self.scheduler.turn(now_ns).instants_ns)

    def waiting_for(self) -> list[str]:
        """What is missing, source by source; empty while all is well."""
        return [trouble.text for trouble in self.buffer.troubles()]

    def _check_patience(self) -> None:
        waited_s = (time.monotonic_ns() - self._pending.submitted_monotonic_ns) / NS_PER_S
        if waited_s > self.settings.inference_timeout_s:
            self._fail(f"the model has not answered for {waited_s:.1f} s", Fault.MODEL_SILENT)

    def _fail(self, message: str, fault: Fault = Fault.MODEL_FAILED) -> None:
        if self.phase is not Phase.FAULT:
            self.phase, self.message, self._pending = Phase.FAULT, message, None
            self.failure, self.outage = Trouble(fault, "model", message), None
            self._come_to_rest()

    def _interrupt(self, trouble: Trouble) -> None:
        """The policy's sessions are gone. The plan is as good as it was: it is finished, to its rest."""
        begins, self.outage = self.outage is None, trouble
        if begins and self.phase in (Phase.WAITING, Phase.THINKING):
            self._reopen(trouble.text)
        elif self.phase is not Phase.FAULT:
            self.message = trouble.text

    def _reopen(self, message: str) -> None:
        if self.phase is Phase.FAULT:
            return
        self.epoch += 1
        self.chunk_index = 0
        self.message = message
        self._opened_monotonic_ns = time.monotonic_ns()
        self.policy.reset(self.embodiment.prompt(self.prompt), self.epoch)
        self._opened, self._seen, self._pending = False, {}, None
        self.phase = Phase.WAITING

    def _break_block(self, message: str) -> None:
        """A block that cannot be observed ends the window: the model's past must not have holes."""
        if self._opened:
            self.faults.happened(Fault.BLOCK_BROKEN)
            self._reopen(f"window reopened: {message}")
        self.message = message

    def _stay_ready(self) -> None:
        """Keep the newest frames decoded, so that an instruction is followed at once; a bad source is known before."""
        instant_ns = self.buffer.newest_common_ns()
        if instant_ns is not None:
            with contextlib.suppress(ObservationError):  # the buffer keeps the reason, `waiting_for` tells it
                self.buffer.prefetch((instant_ns,))

    def _open_window(self) -> None:
        instant_ns = self.buffer.newest_common_ns()
        if instant_ns is None or not self.buffer.covers(instant_ns):
            return
        if self.world.now_ns() < self._at_rest_ns:
            return  # a plan that was forgotten, or is of before a clock jump, is still being finished
        if self.buffer.refused_camera:
            self._stay_ready()  # looks at what it says now; the good pictures that it sent before are no substitute
            return
        if self.world.now_ns() - instant_ns <= self.embodiment.contract.site.tolerances.silence_s * NS_PER_S:
            block = self.buffer.block(instant_ns, (0,))
            self._ask(self.scheduler.open(instant_ns), block)

    def _continue_window(self) -> None:
        turn = self.scheduler.turn(self.world.now_ns())
        if not turn.instants_ns:
            self._ask(turn, None)
            return
        self.buffer.prefetch(turn.instants_ns)
        if self.buffer.covers(turn.instants_ns[-1]):
            self._ask(turn, self.buffer.block_at(turn.instants_ns))

    def _ask(self, turn: Turn, block: Block | None) -> None:
        now_ns = self.world.now_ns()
        if block is not None:
            (commanded,), _ = self._present_plan(block, now_ns).sample([block.observation_ns])
            self._seen[turn.session] = Sighting(block, commanded)
        seen = self._seen[turn.session]
        anchor = self._foreseen(turn, seen) if turn.purpose is Purpose.LOOK_AHEAD else seen.block.state
        deadline_s = self.scheduler.time_left_s(turn, now_ns)
        prefix = self._settled(turn, anchor, now_ns) if self.settings.prefix_conditioning else None
        self._pending = Pending(turn, seen.block, anchor, deadline_s, now_ns, time.monotonic_ns())
        self._opened = True
        self.phase = Phase.THINKING
        followed = self.scheduler.followed(turn)
        self.scheduler.asked(turn)
        self.policy.submit(
            Request(
                epoch=self.epoch,
                canvas=None if block is None else block.canvas,
                state=self.embodiment.normalised_state(anchor),
                steps=self._steps.steps(deadline_s if self.settings.deadline_steps else None),
                seed=self._noise_seed(),
                sent_monotonic_ns=self._pending.submitted_monotonic_ns,
                session=turn.session,
                purpose=turn.purpose,
                prefix=prefix,
                followed=followed,
                stamps_ns=turn.instants_ns,
                images=block.images if block is not None and self.sends_images else None,
            )
        )

    def _noise_seed(self) -> int:
        """Of the next chunk. None is asked for from the noise of one that was rejected: it would be rejected again."""
        number = self.chunk_index if self.settings.fresh_noise else self.counters.consecutive_rejections
        return self.settings.noise_seed(number)

    def _settled(self, turn: Turn, anchor: Floats, now_ns: int) -> ActionPrefix | None:
        """The rows of the turn's chunk that the plan executes before an answer can take over that takes its usual time.

        With a soft mask also those in hand behind them. None where there are none, or where that time is not known yet.
        """
        answer_s = self.latency.answer_s
        if self.plan is None or answer_s is None or turn.purpose is Purpose.OBSERVE:
            return None
        held = self.scheduler.entry(turn, now_ns + round(answer_s * NS_PER_S)).row
        instants_ns = self.scheduler.rows_in_hand_ns(turn)[: None if self.settings.prefix_soft_mask else held]
        if not instants_ns:
            return None
        return self.embodiment.prefix(self.plan.sample(instants_ns)[0], anchor, soft_rows=len(instants_ns) - held)

    def _foreseen(self, turn: Turn, seen: Sighting) -> Floats:
        """State [D] where the chunk in hand will have led: as measured, moved by what the plan still adds.

        What a joint lacks of its command now (a gripper on an object, an arm under load) it is taken to lack then. The
        last row is followed by another one, so the plan is left there and not in its tail.
        """
        timeline = self.scheduler.timeline
        last_ns = timeline.instant_ns(min(turn.base, self.scheduler.rows_end - 1))
        (last,), (velocity,) = self.plan.sample([last_ns])
        then = last + velocity * (timeline.instant_ns(turn.base) - last_ns) / NS_PER_S
        return seen.block.state + self._as_state(then) - self._as_state(seen.commanded)

    def _as_state(self, positions: Floats) -> Floats:
        """State [D] of the commanded joints [J]; what is not commanded counts as zero."""
        commanded = dict(zip(self.model.commanded_joints, positions, strict=True))
        return self.embodiment.state(dict.fromkeys(self.model.state_joints, 0.0) | commanded)

    def _take(self, answer: Answer) -> None:
        if isinstance(answer, Failure):
            self._fail(answer.message, answer.fault)
        elif isinstance(answer, Interruption):
            self._interrupt(answer.trouble)
        elif isinstance(answer, Resumption):
            self.outage, self.message = None, answer.message
        elif isinstance(answer, Remark):
            self.faults.happened(answer.trouble.fault)
            self.message = answer.trouble.text
        elif isinstance(answer, Dream):
            if self.last_chunk is not None and answer.epoch == self.epoch:
                self.world.show_dream(self.last_chunk, answer.canvas)
        elif isinstance(answer, Surprise):
            if answer.epoch == self.epoch:
                self.on_surprise(answer.cells)
        elif self._pending is not None and answer.epoch == self.epoch:
            self._time_latency(self._pending)
            if isinstance(answer, Observed):
                self.phase, self._pending = Phase.WAITING, None
                self.scheduler.dropped()
            else:
                self._pending = replace(self._pending, reply=answer, answered_ns=self.world.now_ns())

    def _may_send(self, pending: Pending) -> bool:
        """Not while controllers, on their way to a first point, would cut a corner of the plan too sharply.

        While the rows in hand last a chunk can wait for that; later its plan is judged as it is.
        """
        now_ns = self.world.now_ns()
        if self.plan is None or pending.deadline_s is None:
            return True
        left_s = pending.deadline_s - (now_ns - pending.submitted_ns) / NS_PER_S
        return left_s <= 0 or bool(self.limits.judge(self._as_sent(self.plan, now_ns)))

    def _time_latency(self, pending: Pending) -> None:
        """What the regime is chosen by: from the observation instant to the first row that could be executed now.

        A frame that opens a window costs less than a block, and waits for its prompt: it tells nothing.
        """
        if len(pending.turn.instants_ns) > 1:
            waited_s = (self.world.now_ns() - pending.block.observation_ns) / NS_PER_S
            before = self.scheduler.mode
            self.scheduler.measured(waited_s + self.settings.lead_s)
            if (mode := self.scheduler.mode) != before:
                self.message = f"{mode}: an answer takes {waited_s:.2f} s"

    def rows(self, reply: Reply, anchor: Floats) -> Floats:
        """Joint targets [H, J] that a reply wants from the state [D] on, smoothed; as they are if any is not finite."""
        rows = self.embodiment.positions(reply.actions, anchor)
        if np.isfinite(rows).all():
            rows = without_noise(self.embodiment.at_stops(rows), self.settings.smoothing_window, self._grippers)
        return rows

    def _conclude(self, pending: Pending) -> None:
        self.phase, self._pending = Phase.WAITING, None
        now_ns = self.world.now_ns()
        turn, block, reply = pending.turn, pending.block, pending.reply
        rows = self.rows(reply, pending.anchor)
        entry = self.scheduler.entry(turn, now_ns, reply.held_rows)
        self._steps.took(reply, (pending.answered_ns - pending.submitted_ns) / NS_PER_S)
        chunk = Chunk(
            self.session,
            self.epoch,
            self.chunk_index,
            self.prompt,
            block,
            reply,
            rows,
            entry.period_s,
            pending.submitted_ns,
            pending.answered_ns,
            regime=self.regime,
            stream=turn.session,
            look_ahead=turn.purpose is Purpose.LOOK_AHEAD,
            anchor=pending.anchor,
            full_steps=self.settings.steps,
            deadline_s=pending.deadline_s,
            first_row=entry.row,
        )
        present = self._present_plan(block, now_ns)
        judgement, plan = self._splice(present, chunk, entry, now_ns)
        chunk.verdict, chunk.reason = judgement.verdict, judgement.reason
        if entry.pause_ns and (not judgement or entry.pause_ns > self.model.chunk.actions * self.scheduler.step_ns):
            self.counters.underruns += 1
        self.chunk_index += 1
        self.last_chunk = chunk
        if judgement:
            self._accept(chunk, present, plan, entry.start_ns)
            self.scheduler.accepted(turn, entry)
        else:
            self.counters.rejected[judgement.verdict] += 1
            self.counters.consecutive_rejections += 1
            self.message = f"chunk {chunk.index} rejected: {judgement.reason}"
            self._time_overhead(chunk)
            self.scheduler.dropped()
        self.latency.add(chunk)
        self.world.show(chunk)
        if self.wants_dream():
            self.policy.dream(self.epoch)

    def _present_plan(self, block: Block, now_ns: int) -> Plan:
        """What is being executed. Joints moved by something else while the robot was at rest are taken where they are.

        Grippers are left out: one that holds an object stands away from its command by intention.
        """
        plan = self.plan
        if plan is None:
            return Plan.rest(block.positions, now_ns)
        if plan.end_ns > block.observation_ns:
            return plan
        moved = (np.abs(block.positions - plan.positions[-1]) > self._stands_within) & ~self._grippers
        return Plan.rest(np.where(moved, block.positions, plan.positions[-1]), now_ns) if moved.any() else plan

    def _splice(self, present: Plan, chunk: Chunk, entry: Entry, now_ns: int) -> tuple[Judgement, Plan]:
        """The plan that goes into the chunk's rows where it enters them; or the present one."""
        step_ns = round(entry.period_s * NS_PER_S)
        last = len(chunk.positions)
        if self.scheduler.mode.regime == STOP_AND_GO:
            # A stop behind the last row would end beyond where that row leads: past the object, or in the table.
            last -= self.settings.stopping_rows
        rows = Rows(chunk.positions[:last], entry.start_ns - entry.row * step_ns, step_ns)
        present = self._as_sent(present, now_ns)
        if entry.joins and entry.start_ns - step_ns > now_ns + self._first_point_ns:
            present = present.carried_on(entry.start_ns, step_ns, len(rows.positions))
        settings = self.settings
        spliced = splice(present, rows, entry.start_ns, settings.blend_s, self.limits, settings.limit_easing_share)
        chunk.way = spliced.way
        judgement, lasts_s = spliced.judgement, spliced.plan.remaining_s(now_ns)
        if judgement and lasts_s > self.settings.max_plan_s:
            reason = f"the plan lasts {lasts_s:.2f} s, max_plan_s is {self.settings.max_plan_s:.2f}"
            judgement = Judgement(Verdict.REJECTED_DURATION, reason)
        self.counters.eased += bool(judgement and spliced.eased)
        return judgement, spliced.plan

    def _accept(self, chunk: Chunk, present: Plan, plan: Plan, start_ns: int) -> None:
        now_ns = self.world.now_ns()  # anew: judging took its time, and the first point counts from publishing
        first_ns = self._execute(plan, now_ns)
        self._time_overhead(chunk)
        (position,), _ = present.sample([start_ns])
        seams = [
            seam(before, self.plan, instant_ns, self.limits.acceleration)
            for before, instant_ns in ((present, now_ns), (self.plan, start_ns))
        ]
        chunk.start_ns = start_ns
        chunk.seam_position_jump = float(np.abs(chunk.positions[chunk.first_row] - position).max())
        chunk.seam_velocity_jump = max(each.velocity_jump for each in seams)
        chunk.seam_jerk = max(each.jerk for each in seams)
        chunk.observation_to_command_s = (first_ns - chunk.block.observation_ns) / NS_PER_S
        self.counters.chunks += 1
        self.counters.consecutive_rejections = 0
        self.counters.accepted_monotonic_ns.append(time.monotonic_ns())

    def _time_overhead(self, chunk: Chunk) -> None:
        waited_from_ns = max(chunk.block.complete_monotonic_ns, self._opened_monotonic_ns)
        model_s = chunk.reply.timings_s.get("model", 0.0)
        chunk.overhead_s = (time.monotonic_ns() - waited_from_ns) / NS_PER_S - model_s

    def _come_to_rest(self) -> None:
        """Brake as soon as that stays inside the limits; if it never does, the plan's own tail is the way to rest."""
        now_ns = self.world.now_ns()
        if self.plan is None or self.plan is self._resting or self.plan.end_ns <= now_ns:
            return
        sent, first_ns = self._as_sent(self.plan, now_ns), now_ns + self._first_point_ns
        brake = braked(sent, first_ns, self.plan.end_ns, self.limits, self.scheduler.step_ns)
        if brake is not None:
            self._execute(brake, now_ns)
            self._resting = self.plan

    def _as_sent(self, plan: Plan, now_ns: int) -> Plan:
        """What a controller will make of it from now on, with the control period before: what limits are to judge."""
        return plan.as_sent(now_ns, now_ns + self._first_point_ns, CONTROL_NS)

    def _execute(self, plan: Plan, now_ns: int) -> int:
        """Act on a plan from now on; when its first point is due [ns]."""
        first_ns = now_ns + self._first_point_ns
        self.plan = self._as_sent(plan, now_ns)
        self.world.act(plan.after(first_ns))
        return first_ns

    @property
    def moving(self) -> bool:
        """Whether the robot is told to move now, fast enough for a camera to see it."""
        if self.plan is None:
            return False
        _, (velocity,) = self.plan.sample([self.world.now_ns()])
        return bool((np.abs(velocity) > VISIBLE_SHARE * self.limits.velocity).any())

    @property
    def regime(self) -> str:
        return self.scheduler.mode.regime
