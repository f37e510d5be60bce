"""policy_node: a world-action model as a ROS 2 lifecycle node.

    cameras, joint states ──► ObservationBuffer ──► Loop ──► <controller>/joint_trajectory
                                                     │ ▲
                                the model: a worker process, or a server

configure loads and warms up, activate starts, deactivate brings the robot to rest, cleanup frees. The node itself
holds no tensor: callbacks only store messages and move the loop on, the model runs in a process of its own or on a
server (`backends.py`).
"""

import gc
import sys
import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import rclpy
from ament_index_python.packages import get_package_share_directory
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockChange, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, Float32, Float32MultiArray, String
from std_srvs.srv import Trigger

from dreamzero_msgs.action import RunPolicy
from dreamzero_msgs.msg import PolicyStatus
from dreamzero_msgs.srv import ResetSession
from dreamzero_policy.inference.remote.policy import RemotePolicy
from dreamzero_policy.inference.worker import WorkerPolicy
from dreamzero_policy.ros import parameters, qos, reports
from dreamzero_policy.ros.backends import LOCAL, backend_of
from dreamzero_policy.ros.executors import single_threaded_executor, spin_once
from dreamzero_policy.ros.goals import Goals, Refusal
from dreamzero_policy.ros.lifecycle import ManagedNode
from dreamzero_policy.ros.messages import cells_message, decoder, to_ns
from dreamzero_policy.ros.world import RosWorld
from dreamzero_policy.runtime import kernels
from dreamzero_policy.runtime.allocator import keep_freed_memory
from dreamzero_policy.runtime.calibration import CalibrationError, Cells
from dreamzero_policy.runtime.clock import ClockWatch
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.emergency_stop import EmergencyStop
from dreamzero_policy.runtime.faults import Fault, Outcome, Trouble
from dreamzero_policy.runtime.interruption import interruption
from dreamzero_policy.runtime.loop import Loop, Phase
from dreamzero_policy.runtime.observation import ObservationBuffer, ObservationError
from dreamzero_policy.runtime.rest import too_long
from dreamzero_policy.runtime.surprise import NONE, WARN, SurpriseWatch

TICK_S = 0.05  # a fault that no message announces is noticed within this
FEEDBACK_S = 0.2
SWITCH_INTERVAL_S = 0.5e-3  # a thread with an answer waits no longer than this for a busy callback's interpreter
LAST_CALLBACKS = 50  # handled after the end has begun, so that a goal's result can leave


class PolicyNode(ManagedNode):
    """See the module's docstring. All topics are relative or private names."""

    def __init__(self, interrupted: threading.Event) -> None:
        super().__init__("policy_node")
        self._interrupted = interrupted
        parameters.declare(self)
        self.contract: Contract | None = None
        self.buffer: ObservationBuffer | None = None
        self.policy: WorkerPolicy | RemotePolicy | None = None
        self.loop: Loop | None = None
        self._world: RosWorld | None = None
        self._surprise: SurpriseWatch | None = None
        self._state, self._message = PolicyStatus.UNCONFIGURED, ""
        self._active = False
        self._troubles: list[Trouble] = []  # looked for at every tick
        self._owned: list[tuple[Callable[[object], object], object]] = []  # destroyers of what tear_down frees
        # Simulated time may stand still or jump; watching goes on.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._estop = EmergencyStop()  # heard, and latched, in every state of the node
        self.create_subscription(Bool, "estop", self._on_estop, qos.EVENT)
        self.create_service(Trigger, "~/reset_estop", self._on_reset_estop)
        self._status = self.create_publisher(PolicyStatus, "~/status", qos.LATCHED)
        self._publish_status()

    # Lifecycle

    def set_up(self) -> None:
        self._settings = parameters.read(self, Path(get_package_share_directory("dreamzero")))
        settings = self._settings
        self.contract = load_contract(settings.contract)
        backend = backend_of(settings, self.contract)  # first: a checkpoint of another contract explains all the rest
        self.policy = backend.policy
        loop, longest = settings.loop, 2 * self.contract.model.chunk.actions - 1
        if loop.smoothing_window > longest:
            raise parameters.ParameterError(
                f"parameter smoothing_window is {loop.smoothing_window}, a chunk has {longest} samples at most"
            )
        if reason := too_long(self.contract, loop.lead_s, loop.regime, loop.max_plan_s):
            raise parameters.ParameterError(reason)
        where = settings.checkpoint if settings.backend == LOCAL else settings.server.place
        self._tell_progress(f"{'loading' if settings.backend == LOCAL else 'connecting to'} {where}")
        self._served = backend.wait_until_ready(self._interrupted.is_set, self._tell_progress)
        self.get_logger().info(f"model ready: {self._served.introduction}; kernels of the splice: {kernels.told()}")
        self._surprise = self._watch_for_surprise()
        self.buffer = ObservationBuffer(self._served.embodiment, settings.frozen_camera_s)
        self._world = RosWorld(
            self, self.contract, self._served.checkpoint_hash, self._settings.output, self._settings.observers
        )
        self.loop = Loop(
            self._served.embodiment,
            self.buffer,
            self.policy,
            self._world,
            replace(loop, steps=self._served.steps, inference_timeout_s=backend.inference_timeout_s),
            session=uuid.uuid4().hex,
            wants_dream=self._world.wants_dream,
            on_surprise=self._on_surprise,
            sends_images=backend.sends_images,
        )
        self._clock_watch = ClockWatch(settings.clock_step_s)
        self._estop.demand(settings.estop_timeout_s if settings.require_estop else None)
        self._subscribe()
        self._offer()
        progress = self._while_configured(self._progress)
        self.policy.when_answered(lambda: self.executor.create_task(progress))
        self._state, self._message = PolicyStatus.IDLE, "configured"
        self._troubles = self._look_for_troubles()
        self._publish_status()
        gc.collect()
        gc.freeze()  # what stands now stays: later collections look at what came since, and are short

    def begin(self) -> None:
        self._active = True
        self.loop.forget_plan()
        self._troubles = self._look_for_troubles()
        self.loop.message = "active: publish ~/prompt, call ~/start or send a ~/run_policy goal"
        if self._settings.prompt and not self._refusal(self._settings.prompt):
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
        self._world = self._surprise = self.policy = self.loop = self.buffer = self.contract = None
        if self._state != PolicyStatus.FAULT:
            self._state, self._message = PolicyStatus.UNCONFIGURED, "cleaned up"
        self._publish_status()

    def failed(self, message: str) -> None:
        self._state, self._message = PolicyStatus.FAULT, message

    def _tell_progress(self, message: str) -> None:
        self._state, self._message = PolicyStatus.LOADING, message
        self._publish_status()

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

    def _watch_for_surprise(self) -> SurpriseWatch:
        """With the checkpoint's calibration, where there is one that fits.

        Raises CalibrationError if there is none and the action needs it.
        """
        settings, calibration = self._settings, self._served.calibration
        if calibration is not None:
            misfit = calibration.misfit(self.contract.hash, self._served.checkpoint_hash, self._served.steps)
            if misfit and settings.surprise.action != NONE:
                raise CalibrationError(f"{misfit}: run dreamzero calibrate for this one, or set surprise_action none")
            if misfit:
                self.get_logger().warning(f"surprise is told without a percentile: {misfit}")
                calibration = None
        return SurpriseWatch(settings.surprise, calibration)

    def _offer(self) -> None:
        for name, kind, callback in (
            ("~/start", Trigger, self._on_start),
            ("~/stop", Trigger, self._on_stop),
            ("~/reset_session", ResetSession, self._on_reset),
        ):
            self._own(self.create_service(kind, name, callback), self.destroy_service)
        self._goals = self._own(
            Goals(
                self,
                self.loop,
                refusal=self._refusal_of_goal,
                follow=self._follow,
                stop=self._stop,
                observation_timeout_s=self._settings.observation_timeout_s,
                server_timeout_s=self._settings.server_timeout_s,
                max_consecutive_rejections=self._settings.max_consecutive_rejections,
            ),
            Goals.destroy,
        )
        self._distances = self._own(self.create_publisher(Float32, "~/surprise", qos.EVENT), self.destroy_publisher)
        self._cells = self._own(
            self.create_publisher(Float32MultiArray, "~/surprise_cells", qos.EVENT), self.destroy_publisher
        )
        self._diagnostics = self._own(
            self.create_publisher(DiagnosticArray, "/diagnostics", qos.EVENT), self.destroy_publisher
        )
        for period_s, callback in (
            (TICK_S, self._tick),
            (1 / self._settings.status_rate_hz, self._publish_status),
            (FEEDBACK_S, lambda: self._goals.watch(self._troubles)),
            (1.0, self._publish_diagnostics),
        ):
            self._own(
                self.create_timer(period_s, self._while_configured(callback), clock=self._steady), self.destroy_timer
            )
        threshold = JumpThreshold(
            min_forward=Duration(seconds=self._settings.clock_jump_s),
            min_backward=Duration(nanoseconds=-1),
            on_clock_change=True,
        )
        self._own(
            self.get_clock().create_jump_callback(threshold, post_callback=self._on_jump), lambda h: h.unregister()
        )

    # Observations

    def _on_image(self, camera: str, message: CompressedImage | Image) -> None:
        self.buffer.add_image(
            camera,
            to_ns(message.header.stamp),
            self._world.now_ns(),
            decoder(camera, message),
            np.frombuffer(message.data, np.uint8),
            self.loop.moving,
        )
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
        """Simulated time was set, or began or ended."""
        switched = jump.clock_change in (ClockChange.ROS_TIME_ACTIVATED, ClockChange.ROS_TIME_DEACTIVATED)
        beyond = jump.delta.nanoseconds < 0 or jump.delta.nanoseconds > self._settings.clock_jump_s * 1e9
        if self.loop is not None and (switched or beyond):
            self._clock_jumped()

    def _clock_jumped(self) -> None:
        self.loop.clock_jumped()
        self._goals.clock_jumped()

    def _on_surprise(self, cells: Cells) -> None:
        """A block was so far from what was expected. To hold is the next tick's matter."""
        too_much = self._surprise.add(cells)
        self._distances.publish(Float32(data=self._surprise.distance))
        self._cells.publish(cells_message(cells))
        if too_much and self._settings.surprise.action == WARN:
            self.loop.faults.happened(Fault.SURPRISE_WARNED)
            self.get_logger().warning(f"{Fault.SURPRISE_WARNED.label}: {too_much}")

    # Progress

    def _look_at_the_clock(self) -> None:
        """To be called before anything is done by the present time."""
        clock = self.get_clock()
        if clock.ros_time_is_active:
            return
        _, _, step_ns = self._clock_watch.read(lambda: clock.now().nanoseconds)
        if step_ns:
            self._clock_jumped()

    def _progress(self) -> None:
        self._look_at_the_clock()
        # A picture that cannot be used is known, and known to be over, by decoding it.
        unready = any(trouble.fault is not Fault.CAMERA_INVALID for trouble in self._troubles)
        self.loop.advance(may_observe=self._active and not unready)

    def _tick(self) -> None:
        self._react()
        self._progress()

    def _react(self) -> None:
        """Look for troubles and do what each asks for."""
        self._look_at_the_clock()
        before, self._troubles = self.loop.faults.present, self._look_for_troubles()
        self.loop.faults.update(self._troubles)
        if not self._active:
            return
        self._log(before)
        for trouble in self._troubles:
            if trouble.fault.outcome is Outcome.STOP and self.loop.phase in (Phase.WAITING, Phase.THINKING):
                self._stop(RunPolicy.Result.ESTOPPED, trouble.text)
            elif trouble.fault.outcome is Outcome.HOLD:
                self.loop.hold(trouble.text)

    def _look_for_troubles(self) -> list[Trouble]:
        troubles = self.buffer.troubles()
        if self._settings.require_controllers:
            troubles += self._world.absent_controllers()
        troubles += filter(None, (self._estop.trouble(), self.loop.failure, self.loop.outage, self._surprise.trouble()))
        return troubles

    def _log(self, before: tuple[Trouble, ...]) -> None:
        """Each trouble once as it begins and once as it ends."""
        for trouble in _not_in(self._troubles, before):
            self.get_logger().warning(f"{trouble.fault.label}: {trouble.text}")
        for trouble in _not_in(before, self._troubles):
            self.get_logger().info(f"{trouble.fault.label}: {trouble.source} is good again")

    # Commands

    def _on_estop(self, message: Bool) -> None:
        self._estop.hear(message.data)
        if message.data:
            if self.loop is not None:
                self._react()
            self._publish_status()

    def _on_reset_estop(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.message = self._estop.reset()
        response.success = not response.message
        if response.success:
            response.message = "released; nothing is followed until an instruction comes"
            if self.loop is not None:
                self._react()
        return response

    def _on_prompt(self, message: String) -> None:
        prompt = message.data.strip()
        if refusal := self._refusal(prompt):
            self.get_logger().warning(f"a prompt was ignored: {refusal}")
        elif prompt:
            self._goals.finish(RunPolicy.Result.STOPPED, "another prompt took over")
            self._follow(prompt)

    def _follow(self, prompt: str) -> None:
        self._look_at_the_clock()
        if self.loop.phase in (Phase.WAITING, Phase.THINKING):
            self.loop.halt("another instruction: what the last one began is not finished")
        self.buffer.believe_cameras()
        self._surprise.forget()
        self.loop.run(prompt)
        self._progress()  # what opens a window may be there already

    def _on_start(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        prompt = self._settings.prompt
        refusal = self._refusal(prompt)
        response.success = not refusal and bool(prompt)
        if refusal:
            response.message = refusal
        elif not prompt:
            response.message = "no prompt: set the parameter prompt, publish ~/prompt, or send a ~/run_policy goal"
        else:
            self._goals.finish(RunPolicy.Result.STOPPED, "~/start was called")
            self._follow(prompt)
            response.message = f"following: {prompt}"
        return response

    def _refusal(self, prompt: str) -> str:
        """Why this instruction cannot be followed now; empty if it can."""
        if not self._active:
            return "the node is not active: activate it first"
        if (stop := self._estop.trouble()) is not None:
            return stop.text
        if self.loop.phase is Phase.FAULT:
            return self.loop.message
        try:
            self.loop.embodiment.prompt(prompt)
        except ValueError as error:
            return str(error)
        return ""

    def _refusal_of_goal(self, prompt: str) -> Refusal | None:
        if not (text := self._refusal(prompt)):
            return None
        codes = RunPolicy.Result
        if not self._active:
            return Refusal(codes.NOT_ACTIVE, text)
        if self._estop.trouble() is not None:
            return Refusal(codes.ESTOPPED, text)
        return Refusal(codes.MODEL_FAILED if self.loop.phase is Phase.FAULT else codes.EMPTY_PROMPT, text)

    def _on_stop(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._stop(RunPolicy.Result.STOPPED, "~/stop was called")
        response.success, response.message = True, "coming to rest"
        return response

    def _on_reset(self, request: ResetSession.Request, response: ResetSession.Response) -> ResetSession.Response:
        if refusal := self._refusal(request.prompt.strip()):
            response.message = refusal
        elif request.prompt.strip() and self.loop.phase is Phase.IDLE:
            response.message = "nothing is being followed: publish ~/prompt or send a ~/run_policy goal"
        elif request.prompt.strip():
            self._goals.finish(RunPolicy.Result.STOPPED, "the session was reset with another prompt")
            self._follow(request.prompt.strip())
            response.success, response.message = True, self.loop.message
        else:
            self.loop.reset("reset: new epoch")
            response.success, response.message = True, self.loop.message
        response.epoch = self.loop.epoch
        return response

    def _stop(self, code: int, message: str) -> None:
        self._look_at_the_clock()
        self._goals.finish(code, message)
        self.loop.halt(message)

    # Reports

    def _publish_status(self) -> None:
        now = self.get_clock().now()
        status = PolicyStatus(state=self._state, message=self._message)
        if self.loop is not None:
            reports.describe_loop(status, self.loop, self._troubles, now.nanoseconds)
        elif (stop := self._estop.trouble()) is not None:
            status.faults, status.waiting_for = reports.labels([stop]), [stop.text]
        status.header.stamp = now.to_msg()
        self._status.publish(status)

    def _publish_diagnostics(self) -> None:
        array = reports.diagnostics(
            self.get_fully_qualified_name(), self.loop, self._served, self._troubles, self._active, self._surprise
        )
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)


def _not_in(troubles: Iterable[Trouble], others: Iterable[Trouble]) -> list[Trouble]:
    known = {(trouble.fault, trouble.source) for trouble in others}
    return [trouble for trouble in troubles if (trouble.fault, trouble.source) not in known]


def main() -> None:
    # Signals are ours: the node must still be able to publish when it is told to stop, or when its terminal is gone.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    interrupted = interruption()
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
            spin_once(executor, node, TICK_S)
    finally:
        node.end()
        for _ in range(LAST_CALLBACKS):
            spin_once(executor, node, 0.0)
        node.tear_down()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


def _start(node: PolicyNode) -> None:
    if node.trigger_configure() is TransitionCallbackReturn.SUCCESS:
        node.trigger_activate()


if __name__ == "__main__":
    main()
