"""The goals of ~/run_policy: one is followed at a time, and each ends with a number and a reason."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rclpy.action.server import ServerGoalHandle
from rclpy.duration import Duration
from rclpy.node import Node

from dreamzero_msgs.action import RunPolicy
from dreamzero_policy.ros.goal_server import GoalServer
from dreamzero_policy.runtime.faults import Fault, Outcome, Trouble
from dreamzero_policy.runtime.loop import Loop, Phase
from dreamzero_policy.runtime.observation import NS_PER_S

INVALID = (Fault.CAMERA_INVALID, Fault.JOINTS_INVALID)


@dataclass
class GoalRun:
    """A goal being followed."""

    handle: ServerGoalHandle
    began_ns: int
    chunks_before: int
    # Since when something has been missing, by its outcome; the node's clock may have stopped with what is missing.
    missing_since_monotonic_ns: dict[Outcome, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """Why a goal cannot begin; the code is one of RunPolicy.Result."""

    code: int
    message: str


class Goals:
    """An action server for a loop. `follow` and `stop` are the node's ways to begin an instruction and to end it."""

    def __init__(
        self,
        node: Node,
        loop: Loop,
        *,
        refusal: Callable[[str], Refusal | None],
        follow: Callable[[str], None],
        stop: Callable[[int, str], None],
        observation_timeout_s: float,
        server_timeout_s: float,
        max_consecutive_rejections: int,
    ) -> None:
        self._node, self._loop = node, loop
        self._refusal, self._follow, self._stop = refusal, follow, stop
        self._patience_ns = {
            Outcome.HOLD: observation_timeout_s * NS_PER_S,
            Outcome.WAIT: server_timeout_s * NS_PER_S,
        }
        self._max_consecutive_rejections = max_consecutive_rejections
        self._run: GoalRun | None = None
        self._server = GoalServer(node, RunPolicy, "~/run_policy", self._begin)

    def finish(self, code: int, message: str) -> None:
        """End the goal being followed, if there is one."""
        if self._run is not None:
            run, self._run = self._run, None
            self._conclude(run, code, message)

    def clock_jumped(self) -> None:
        """The time of the goal counts anew."""
        if self._run is not None:
            self._run.began_ns = self._now_ns()

    def watch(self, troubles: Sequence[Trouble]) -> None:
        """Give feedback; end the goal if it is time to, or if the troubles have lasted too long."""
        run, loop = self._run, self._loop
        if run is None:
            return
        now_ns, chunk = self._now_ns(), loop.last_chunk
        run.handle.publish_feedback(
            RunPolicy.Feedback(
                chunk_index=loop.chunk_index,
                latency_s=chunk.observation_to_command_s if chunk else 0.0,
                buffered_s=loop.plan.remaining_s(now_ns) if loop.plan else 0.0,
                regime=loop.regime,
            )
        )
        limit_ns = Duration.from_msg(run.handle.request.max_duration).nanoseconds
        missing = self._missing_for_too_long(run, troubles)
        if run.handle.is_cancel_requested:
            self._stop(RunPolicy.Result.CANCELLED, "cancelled")
        elif limit_ns and now_ns - run.began_ns >= limit_ns:
            self._stop(RunPolicy.Result.DURATION_REACHED, f"ran for {limit_ns / NS_PER_S:.1f} s")
        elif loop.phase is Phase.FAULT:
            self.finish(RunPolicy.Result.MODEL_FAILED, loop.message)
        elif loop.counters.consecutive_rejections >= self._max_consecutive_rejections:
            self._stop(RunPolicy.Result.TOO_MANY_REJECTIONS, loop.message)
        elif missing:
            codes, faults = RunPolicy.Result, {trouble.fault for trouble in missing}
            code = codes.INVALID_OBSERVATION if faults & set(INVALID) else codes.OBSERVATION_LOST
            if all(fault.outcome is Outcome.WAIT for fault in faults):
                code = codes.SERVER_LOST
            self._stop(code, "; ".join(trouble.text for trouble in missing))

    def _missing_for_too_long(self, run: GoalRun, troubles: Sequence[Trouble]) -> list[Trouble]:
        """What is missing now, of every kind that has been missing for longer than it may."""
        now_ns, found = time.monotonic_ns(), []
        for outcome, patience_ns in self._patience_ns.items():
            missing = [trouble for trouble in troubles if trouble.fault.outcome is outcome]
            if not missing:
                run.missing_since_monotonic_ns.pop(outcome, None)
            elif now_ns - run.missing_since_monotonic_ns.setdefault(outcome, now_ns) >= patience_ns:
                found += missing
        return found

    def destroy(self) -> None:
        self._server.destroy()

    def _begin(self, handle: ServerGoalHandle) -> None:
        # Accepted and then aborted, because a rejection cannot say why.
        prompt = handle.request.prompt.strip()
        run = GoalRun(handle, self._now_ns(), self._loop.counters.chunks)
        if (refusal := self._refusal(prompt)) is not None:
            self._conclude(run, refusal.code, refusal.message)
        elif not prompt:
            self._conclude(run, RunPolicy.Result.EMPTY_PROMPT, "the goal's prompt is empty")
        else:
            self.finish(RunPolicy.Result.STOPPED, "another goal took over")
            self._run = run
            self._follow(prompt)

    def _conclude(self, run: GoalRun, code: int, message: str) -> None:
        result = RunPolicy.Result(
            error_code=code,
            error_message=message,
            chunks=self._loop.counters.chunks - run.chunks_before,
            duration=Duration(nanoseconds=max(0, self._now_ns() - run.began_ns)).to_msg(),
        )

        def conclude(handle: ServerGoalHandle) -> RunPolicy.Result:
            if code == RunPolicy.Result.DURATION_REACHED:
                handle.succeed()
            elif code == RunPolicy.Result.CANCELLED:
                handle.canceled()
            else:
                handle.abort()
            return result

        self._server.finish(run.handle, conclude)

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds
