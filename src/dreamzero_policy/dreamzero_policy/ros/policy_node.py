"""policy_node: a world-action model as a ROS 2 lifecycle node.

    cameras, joint states ──► ObservationBuffer ──► Loop ──► <controller>/joint_trajectory
                                                     │ ▲
                                        worker process (the model)

configure loads and warms up, activate starts, deactivate brings the robot to rest, cleanup frees. The node itself
holds no tensor: callbacks only store messages and move the loop on, the model runs in a process of its own.
"""

import gc
import signal
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import rclpy
from ament_index_python.packages import get_package_share_directory
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.action.server import ServerGoalHandle
from rclpy.clock import ClockChange, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from dreamzero_msgs.action import RunPolicy
from dreamzero_msgs.msg import PolicyStatus
from dreamzero_msgs.srv import ResetSession
from dreamzero_policy.inference.worker import Ready, WorkerPolicy
from dreamzero_policy.ros import parameters, qos
from dreamzero_policy.ros.executors import single_threaded_executor
from dreamzero_policy.ros.goal_server import GoalServer
from dreamzero_policy.ros.lifecycle import ManagedNode
from dreamzero_policy.ros.messages import decoder, to_ns, to_stamp
from dreamzero_policy.ros.world import RosWorld
from dreamzero_policy.runtime.allocator import keep_freed_memory
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.runtime.latency import stages_s
from dreamzero_policy.runtime.loop import Loop, LoopSettings, Phase
from dreamzero_policy.runtime.observation import NS_PER_S, ObservationBuffer, ObservationError
from dreamzero_policy.runtime.regime import RegimeSettings
from dreamzero_policy.runtime.trained import load_statistics

TICK_S = 0.05
FEEDBACK_S = 0.2
SWITCH_INTERVAL_S = 0.5e-3  # a thread with an answer waits no longer than this for a busy callback's interpreter
LAST_CALLBACKS = 50  # handled after the end has begun, so that a goal's result can leave
STATES = {
    Phase.IDLE: PolicyStatus.IDLE,
    Phase.WAITING: PolicyStatus.WAITING,
    Phase.THINKING: PolicyStatus.RUNNING,
    Phase.FAULT: PolicyStatus.FAULT,
}


@dataclass
class GoalRun:
    """A RunPolicy goal being followed."""

    handle: ServerGoalHandle
    began_ns: int
    chunks_before: int
    missing_since_ns: int | None = None


class PolicyNode(ManagedNode):
    """See the module's docstring. All topics are relative or private names."""

    def __init__(self, interrupted: threading.Event) -> None:
        super().__init__("policy_node")
        self._interrupted = interrupted
        parameters.declare(self)
        self.contract: Contract | None = None
        self.buffer: ObservationBuffer | None = None
        self.policy: WorkerPolicy | None = None
        self.loop: Loop | None = None
        self._world: RosWorld | None = None
        self._goal: GoalRun | None = None
        self._state, self._message = PolicyStatus.UNCONFIGURED, ""
        self._active = False
        self._absent_controllers: list[str] = []  # lines that name them; looked up at every tick
        self._owned: list[tuple[Callable[[object], object], object]] = []  # destroyers of what tear_down frees
        self._faults_logged: dict[str, str] = {}
        self._status = self.create_publisher(PolicyStatus, "~/status", qos.LATCHED)
        self._publish_status()

    # Lifecycle

    def set_up(self) -> None:
        self._settings = parameters.read(self, Path(get_package_share_directory("dreamzero")))
        settings = self._settings
        self.contract = load_contract(settings.contract)
        statistics = load_statistics(settings.checkpoint, self.contract, settings.embodiment_tag)
        longest = 2 * self.contract.model.chunk.actions - 1
        if settings.smoothing_window > longest:
            raise parameters.ParameterError(
                f"parameter smoothing_window is {settings.smoothing_window}, a chunk has {longest} samples at most"
            )
        embodiment = Embodiment(self.contract, statistics)
        self._state, self._message = PolicyStatus.LOADING, f"loading {settings.checkpoint}"
        self._publish_status()
        self.policy = WorkerPolicy(
            settings.checkpoint,
            tokenizer=settings.tokenizer,
            base=settings.base_checkpoint,
            device=settings.device,
            dtype=settings.dtype,
            threads=settings.threads,
            steps=settings.denoise_steps,
        )
        self._ready = self.policy.wait_until_ready(settings.load_timeout_s, interrupted=self._interrupted.is_set)
        self.get_logger().info(_introduction(self._ready, self.contract))
        self.buffer = ObservationBuffer(embodiment)
        self._world = RosWorld(self, self.contract, self._ready.checkpoint_hash)
        self.loop = Loop(
            embodiment,
            self.buffer,
            self.policy,
            self._world,
            LoopSettings(
                steps=settings.denoise_steps,
                seed=settings.noise_seed,
                lead_s=settings.lead_s,
                first_point_s=settings.first_point_s,
                inference_timeout_s=settings.inference_timeout_s,
                smoothing_window=settings.smoothing_window,
                blend_s=settings.blend_s,
                regime=RegimeSettings(settings.regime, settings.overlap, settings.slowest_speed_share),
                deadline_steps=settings.deadline_steps,
            ),
            session=uuid.uuid4().hex,
            wants_dream=self._world.wants_dream,
        )
        self._subscribe()
        self._offer()
        progress = self._while_configured(self._progress)
        self.policy.when_answered(lambda: self.executor.create_task(progress))
        self._state, self._message = PolicyStatus.IDLE, "configured"
        self._publish_status()
        gc.collect()
        gc.freeze()  # what stands now stays: later collections look at what came since, and are short

    def begin(self) -> None:
        self._active = True
        self.loop.forget_plan()
        self.loop.message = "active: publish ~/prompt, call ~/start or send a ~/run_policy goal"
        if self._settings.prompt:
            self._follow(self._settings.prompt)
        self._publish_status()

    def end(self) -> None:
        if self._active:
            self._stop(RunPolicy.Result.DEACTIVATED, "deactivated")
            self._active = False
            self._publish_status()

    def tear_down(self) -> None:
        if self.policy is not None:
            self.policy.close()  # first: its answers wake this node
        for resource, destroy in reversed(self._owned):
            destroy(resource)
        self._owned.clear()
        if self._world is not None:
            self._world.destroy()
        self._world = self.policy = self.loop = self.buffer = self.contract = None
        if self._state != PolicyStatus.FAULT:
            self._state, self._message = PolicyStatus.UNCONFIGURED, "cleaned up"
        self._publish_status()

    def failed(self, message: str) -> None:
        self._state, self._message = PolicyStatus.FAULT, message

    def _own(self, resource, destroy):
        self._owned.append((resource, destroy))
        return resource

    def _while_configured(self, callback: Callable[..., None]) -> Callable[..., None]:
        """An event may still be queued when its source has been destroyed; by then there is nothing to tell."""

        def guarded(*arguments) -> None:
            if self.loop is not None:
                callback(*arguments)

        return guarded

    def _subscribe(self) -> None:
        kind, suffix = (Image, "") if self._settings.image_transport == "raw" else (CompressedImage, "/compressed")
        for camera, site in self.contract.site.cameras.items():
            self._own(
                self.create_subscription(
                    kind, site.topic + suffix, self._while_configured(partial(self._on_image, camera)), qos.CAMERA
                ),
                self.destroy_subscription,
            )
        self._own(
            self.create_subscription(
                JointState,
                self.contract.site.joint_states.topic,
                self._while_configured(self._on_joint_state),
                qos.JOINT_STATES,
            ),
            self.destroy_subscription,
        )
        self._own(self.create_subscription(String, "~/prompt", self._on_prompt, qos.EVENT), self.destroy_subscription)

    def _offer(self) -> None:
        for name, kind, callback in (
            ("~/start", Trigger, self._on_start),
            ("~/stop", Trigger, self._on_stop),
            ("~/reset_session", ResetSession, self._on_reset),
        ):
            self._own(self.create_service(kind, name, callback), self.destroy_service)
        self._goals = self._own(
            GoalServer(self, RunPolicy, "~/run_policy", self._begin_goal), lambda server: server.destroy()
        )
        self._diagnostics = self._own(
            self.create_publisher(DiagnosticArray, "/diagnostics", qos.EVENT), self.destroy_publisher
        )
        for period_s, callback in (
            (TICK_S, self._tick),
            (1 / self._settings.status_rate_hz, self._publish_status),
            (FEEDBACK_S, self._watch_goal),
            (1.0, self._publish_diagnostics),
        ):
            self._own(self.create_timer(period_s, self._while_configured(callback)), self.destroy_timer)
        threshold = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        self._own(
            self.get_clock().create_jump_callback(threshold, post_callback=self._on_jump), lambda h: h.unregister()
        )

    # Observations

    def _on_image(self, camera: str, message: CompressedImage | Image) -> None:
        self.buffer.add_image(camera, to_ns(message.header.stamp), self._world.now_ns(), decoder(camera, message))
        self._progress()

    def _on_joint_state(self, message: JointState) -> None:
        try:
            self.buffer.add_joint_state(
                to_ns(message.header.stamp), self._world.now_ns(), message.name, message.position
            )
        except ObservationError:
            return  # the buffer keeps the reason; status and log name it
        self._progress()

    def _on_jump(self, jump: TimeJump) -> None:
        switched = jump.clock_change in (ClockChange.ROS_TIME_ACTIVATED, ClockChange.ROS_TIME_DEACTIVATED)
        if self.loop is not None and (switched or jump.delta.nanoseconds < 0):
            self.loop.clock_jumped()
            if self._goal is not None:
                self._goal.began_ns, self._goal.missing_since_ns = self._world.now_ns(), None

    # Progress

    def _progress(self) -> None:
        self.loop.advance(may_observe=self._active and not self._absent_controllers)

    def _tick(self) -> None:
        if self._settings.require_controllers:
            self._absent_controllers = self._world.absent_controllers()
        self._progress()

    def _waiting_for(self) -> list[str]:
        return self.loop.waiting_for() + self._absent_controllers

    # Commands

    def _on_prompt(self, message: String) -> None:
        if not self._active:
            self.get_logger().warning("a prompt arrived while the node is not active: ignored")
        elif prompt := message.data.strip():
            self._finish_goal(RunPolicy.Result.STOPPED, "another prompt took over")
            self._follow(prompt)

    def _follow(self, prompt: str) -> None:
        self.loop.run(prompt)
        self._progress()  # what opens a window may be there already

    def _on_start(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        prompt = self._settings.prompt
        response.success = not self._refusal() and bool(prompt)
        if self._refusal():
            response.message = self._refusal()
        elif not prompt:
            response.message = "no prompt: set the parameter prompt, publish ~/prompt, or send a ~/run_policy goal"
        else:
            self._finish_goal(RunPolicy.Result.STOPPED, "~/start was called")
            self._follow(prompt)
            response.message = f"following: {prompt}"
        return response

    def _refusal(self) -> str:
        """Why nothing can be followed now; empty if it can."""
        if not self._active:
            return "the node is not active: activate it first"
        return self.loop.message if self.loop.phase is Phase.FAULT else ""

    def _on_stop(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._stop(RunPolicy.Result.STOPPED, "~/stop was called")
        response.success, response.message = True, "coming to rest"
        return response

    def _on_reset(self, request: ResetSession.Request, response: ResetSession.Response) -> ResetSession.Response:
        if self._refusal():
            response.message = self._refusal()
        elif request.prompt.strip() and self.loop.phase is Phase.IDLE:
            response.message = "nothing is being followed: publish ~/prompt or send a ~/run_policy goal"
        elif request.prompt.strip():
            self._finish_goal(RunPolicy.Result.STOPPED, "the session was reset with another prompt")
            self._follow(request.prompt.strip())
            response.success, response.message = True, self.loop.message
        else:
            self.loop.reset("reset: new epoch")
            response.success, response.message = True, self.loop.message
        response.epoch = self.loop.epoch
        return response

    def _stop(self, code: int, message: str) -> None:
        self._finish_goal(code, message)
        self.loop.halt(message)

    # The action

    def _begin_goal(self, handle: ServerGoalHandle) -> None:
        # Accepted and then aborted, because a rejection cannot say why.
        prompt = handle.request.prompt.strip()
        run = GoalRun(handle, self.get_clock().now().nanoseconds, 0 if self.loop is None else self.loop.counters.chunks)
        if not self._active:
            self._conclude_goal(run, RunPolicy.Result.NOT_ACTIVE, "activate the node first")
        elif not prompt:
            self._conclude_goal(run, RunPolicy.Result.EMPTY_PROMPT, "the goal's prompt is empty")
        else:
            self._finish_goal(RunPolicy.Result.STOPPED, "another goal took over")
            self._goal = run
            self._follow(prompt)

    def _finish_goal(self, code: int, message: str) -> None:
        """End the goal being followed, if there is one."""
        if self._goal is not None:
            run, self._goal = self._goal, None
            self._conclude_goal(run, code, message)

    def _conclude_goal(self, run: GoalRun, code: int, message: str) -> None:
        lasted_ns = max(0, self.get_clock().now().nanoseconds - run.began_ns)
        result = RunPolicy.Result(
            error_code=code,
            error_message=message,
            chunks=0 if self.loop is None else self.loop.counters.chunks - run.chunks_before,
            duration=Duration(nanoseconds=lasted_ns).to_msg(),
        )

        def conclude(handle: ServerGoalHandle) -> RunPolicy.Result:
            if code == RunPolicy.Result.DURATION_REACHED:
                handle.succeed()
            elif code == RunPolicy.Result.CANCELLED:
                handle.canceled()
            else:
                handle.abort()
            return result

        self._goals.finish(run.handle, conclude)

    def _watch_goal(self) -> None:
        run = self._goal
        if run is None:
            return
        now_ns, loop = self._world.now_ns(), self.loop
        chunk = loop.last_chunk
        run.handle.publish_feedback(
            RunPolicy.Feedback(
                chunk_index=loop.chunk_index,
                latency_s=chunk.observation_to_command_s if chunk else 0.0,
                buffered_s=loop.plan.remaining_s(now_ns) if loop.plan else 0.0,
                regime=loop.regime,
            )
        )
        limit_ns = Duration.from_msg(run.handle.request.max_duration).nanoseconds
        missing = self._waiting_for()
        run.missing_since_ns = None if not missing else (run.missing_since_ns or now_ns)
        if run.handle.is_cancel_requested:
            self._stop(RunPolicy.Result.CANCELLED, "cancelled")
        elif limit_ns and now_ns - run.began_ns >= limit_ns:
            self._stop(RunPolicy.Result.DURATION_REACHED, f"ran for {limit_ns / NS_PER_S:.1f} s")
        elif loop.phase is Phase.FAULT:
            self._finish_goal(RunPolicy.Result.MODEL_FAILED, loop.message)
        elif loop.counters.consecutive_rejections >= self._settings.max_consecutive_rejections:
            self._stop(RunPolicy.Result.TOO_MANY_REJECTIONS, loop.message)
        elif missing and now_ns - run.missing_since_ns >= self._settings.observation_timeout_s * NS_PER_S:
            invalid = self.buffer.joints.fault or any(stream.fault for stream in self.buffer.cameras.values())
            code = RunPolicy.Result.INVALID_OBSERVATION if invalid else RunPolicy.Result.OBSERVATION_LOST
            self._stop(code, "; ".join(missing))

    # Reports

    def _publish_status(self) -> None:
        now = self.get_clock().now()
        status = PolicyStatus(state=self._state, message=self._message)
        status.header.stamp = now.to_msg()
        if self.loop is not None:
            self._describe_loop(status, now.nanoseconds)
        self._status.publish(status)

    def _describe_loop(self, status: PolicyStatus, now_ns: int) -> None:
        loop, buffer = self.loop, self.buffer
        counters, chunk = loop.counters, loop.last_chunk
        status.waiting_for = self._waiting_for()
        status.state = self._loop_state(now_ns, bool(status.waiting_for))
        status.message = loop.message or self._message
        self._log_faults(status)
        status.regime, status.prompt = loop.regime, loop.prompt
        status.overlap, status.speed = loop.scheduler.mode.way, loop.scheduler.mode.speed
        status.session, status.epoch, status.chunk_index = loop.session, loop.epoch, loop.chunk_index
        if chunk is not None:
            status.observation_stamp = to_stamp(chunk.block.observation_ns)
            status.inference_start, status.inference_end = to_stamp(chunk.asked_ns), to_stamp(chunk.answered_ns)
            status.latency_s, status.model_s = chunk.observation_to_command_s, chunk.reply.timings_s.get("model", 0.0)
        status.chunk_rate_hz = counters.chunk_rate_hz()
        status.buffered_s = loop.plan.remaining_s(now_ns) if loop.plan else 0.0
        status.chunks, status.plan_underruns = counters.chunks, counters.underruns
        status.rejected_reasons = [verdict.name.lower() for verdict in counters.rejected]
        status.rejected_counts = list(counters.rejected.values())
        status.camera_names = list(buffer.cameras)
        status.dropped_frames = [stream.dropped for stream in buffer.cameras.values()]

    def _loop_state(self, now_ns: int, missing: bool) -> int:
        if self.loop.phase is Phase.IDLE and self.loop.plan is not None and self.loop.plan.end_ns > now_ns:
            return PolicyStatus.STOPPING
        if self.loop.phase is Phase.WAITING and not missing and self.loop.last_chunk is not None:
            return PolicyStatus.RUNNING
        return STATES[self.loop.phase]

    def _log_faults(self, status: PolicyStatus) -> None:
        """Each missing source once, not at the rate of the status."""
        if not self._active:
            return
        present = {line.split(":")[0]: line for line in status.waiting_for}
        if self.loop.phase is Phase.FAULT:
            present["fault"] = self.loop.message
        for source, line in present.items():
            if source not in self._faults_logged:
                self.get_logger().warning(line if source == "fault" else f"waiting for {line}")
        for source in self._faults_logged.keys() - present.keys():
            self.get_logger().info(f"{source} is there")
        self._faults_logged = present

    def _publish_diagnostics(self) -> None:
        loop, waiting = self.loop, self._waiting_for()
        level, message = DiagnosticStatus.OK, loop.message or "ok"
        if loop.phase is Phase.FAULT:
            level = DiagnosticStatus.ERROR
        elif self._active and waiting:
            level, message = DiagnosticStatus.WARN, "; ".join(waiting)
        counters = loop.counters
        values = {
            "phase": loop.phase.value,
            "regime": loop.regime,
            "prompt": loop.prompt,
            "epoch": loop.epoch,
            "chunks": counters.chunks,
            "chunk_rate_hz": f"{counters.chunk_rate_hz():.2f}",
            "broken_blocks": counters.broken_blocks,
            "plan_underruns": counters.underruns,
            "contract_hash": self.contract.hash,
            "checkpoint_hash": self._ready.checkpoint_hash,
        }
        values |= {f"rejected.{verdict.name.lower()}": count for verdict, count in counters.rejected.items()}
        values |= {f"duplicate_frames.{camera}": stream.duplicates for camera, stream in self.buffer.cameras.items()}
        values |= {f"dropped_frames.{camera}": stream.dropped for camera, stream in self.buffer.cameras.items()}
        values |= {"overlap": loop.scheduler.mode.way, "speed": f"{loop.scheduler.mode.speed:.2f}"}
        if loop.last_chunk:
            values |= {f"{stage}_s": f"{seconds:.4f}" for stage, seconds in stages_s(loop.last_chunk).items()}
        values |= {f"histogram.{stage}_ms": histogram for stage, histogram in loop.latency.histograms.items()}
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        array.status = [
            DiagnosticStatus(
                level=level,
                name=f"{self.get_fully_qualified_name()}: policy",
                message=message,
                hardware_id=self.contract.model.embodiment,
                values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
            )
        ]
        self._diagnostics.publish(array)


def _introduction(ready: Ready, contract: Contract) -> str:
    return (
        f"model ready: {ready.parameters / 1e6:.1f} M parameters, {ready.dtype} on {ready.device}, "
        f"{ready.threads} thread(s), guidance {ready.guidance_scale:g}, warmed up in {ready.warm_up_s:.1f} s; "
        f"contract {contract.hash[:12]}, checkpoint {ready.checkpoint_hash[:12]}"
    )


def main() -> None:
    # Signals are ours: the node must still be able to publish when it is told to stop.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    interrupted = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: interrupted.set())
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    keep_freed_memory()
    try:
        node = PolicyNode(interrupted)
    except ParameterException as error:
        sys.exit(f"policy_node: {error}")
    executor = single_threaded_executor()
    executor.add_node(node)
    try:
        if node.get_parameter("autostart").value:
            _start(node)
        while not interrupted.is_set():
            executor.spin_once(timeout_sec=TICK_S)
    finally:
        node.end()
        for _ in range(LAST_CALLBACKS):
            executor.spin_once(timeout_sec=0.0)
        node.tear_down()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


def _start(node: PolicyNode) -> None:
    if node.trigger_configure() is TransitionCallbackReturn.SUCCESS:
        node.trigger_activate()


if __name__ == "__main__":
    main()
