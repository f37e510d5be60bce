"""The demo's own node: watches status and chunks, sends goals, records the bag, collects the numbers of the run."""

import time
from collections.abc import Callable
from pathlib import Path

from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from dreamzero_msgs.action import RunPolicy
from dreamzero_msgs.msg import ActionChunk, PolicyStatus
from dreamzero_policy.cli.summary import RunRecord
from dreamzero_policy.ros import qos
from dreamzero_policy.ros.recorder import Recorder, topics_of_a_run
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.latency import STAGES, STAGES_TO_ANSWER

VERDICTS = {
    value: name.lower()
    for name, value in vars(ActionChunk).items()
    if isinstance(value, int) and (name.startswith("REJECTED_") or name == "ACCEPTED")
}


class Observer(Node):
    """Looks on from outside, through the same topics anybody can use."""

    def __init__(self, policy: str) -> None:
        super().__init__("demo")
        self._policy = policy
        self._record = RunRecord()
        self._recorder: Recorder | None = None
        self._status: PolicyStatus | None = None
        self._status_at = 0.0
        self._began = 0.0  # when the first goal was sent
        self._outcome: tuple[int, str] | None = None
        self._task, self._task_progress, self._task_success = "", 0.0, False
        self.create_subscription(PolicyStatus, f"{policy}/status", self._on_status, qos.LATCHED)
        self.create_subscription(ActionChunk, f"{policy}/chunk", self._on_chunk, qos.EVENT)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.EVENT)
        self._client = ActionClient(self, RunPolicy, f"{policy}/run_policy")
        self._stop = self.create_client(Trigger, f"{policy}/stop")
        self._twin_parameters = self.create_client(SetParameters, "/twin/set_parameters")
        self._twin_reset = self.create_client(Trigger, "/twin/reset")

    # Starting

    def ready(self) -> bool:
        return (
            self._status is not None
            and self._status.state == PolicyStatus.IDLE
            and not self._status.waiting_for
            and self._client.server_is_ready()
            and self._twin_reset.service_is_ready()
            and self._twin_parameters.service_is_ready()
        )

    def starting(self) -> str:
        if self._status is None:
            return "starting the processes …"
        if self._status.state == PolicyStatus.LOADING:
            return self._status.message
        return "; ".join(self._status.waiting_for) or self._status.message or "waiting for the action server …"

    def failure(self) -> str:
        return self._status.message if self._status and self._status.state == PolicyStatus.FAULT else ""

    # The run

    @property
    def recording(self) -> bool:
        return self._recorder is not None

    def start_recording(self, folder: Path, contract: Contract) -> None:
        self._recorder = Recorder(self, folder, topics_of_a_run(contract, self._policy))
        self._sources = [f"{camera.topic}/compressed" for camera in contract.site.cameras.values()]
        self._sources.append(contract.site.joint_states.topic)

    def reset_twin(self, seed: int) -> Callable[[], str | None]:
        """Ask for the home pose and a scene by seed; gives a function that tells the scene's task once it is done."""
        request = SetParameters.Request(parameters=[Parameter("seed", value=seed).to_parameter_msg()])
        answers = []
        self._twin_parameters.call_async(request).add_done_callback(
            lambda _: self._twin_reset.call_async(Trigger.Request()).add_done_callback(answers.append)
        )
        return lambda: answers[0].result().message if answers else None

    def unheard(self) -> list[str]:
        """Sources of which the recorder has not received anything yet."""
        return [topic for topic in self._sources if topic not in self._recorder.heard]

    def send_goal(self, prompt: str, duration_s: float) -> None:
        self._outcome = None
        self._began = self._began or time.monotonic()
        self._record.prompts.append(prompt)
        goal = RunPolicy.Goal(prompt=prompt, max_duration=Duration(seconds=duration_s).to_msg())
        self._client.send_goal_async(goal).add_done_callback(self._on_accepted)

    def goal_done(self) -> bool:
        return self._outcome is not None

    def judge(self, prompt: str) -> None:
        """Keep what the twin says of the task that was asked last."""
        self._record.tasks.append({"prompt": prompt, "progress": self._task_progress, "success": self._task_success})

    def goal_outcome(self) -> tuple[int, str]:
        return self._outcome

    def stop_policy(self) -> None:
        if self._stop.service_is_ready():
            self._stop.call_async(Trigger.Request())

    def moving(self) -> bool:
        return self._status is not None and (
            self._status.state in (PolicyStatus.STOPPING, PolicyStatus.RUNNING) or self._status.buffered_s > 0
        )

    def elapsed_s(self) -> float:
        return time.monotonic() - self._began if self._began else 0.0

    def figures(self, total_s: float) -> list[tuple[str, str]]:
        """What a person wants to see while it runs."""
        status, record = self._status, self._record
        return [
            ("time", f"{self.elapsed_s():.0f} of {total_s:.0f} s"),
            ("chunks", f"{record.chunks}  ({status.chunk_rate_hz:.2f} Hz)"),
            ("latency", f"{status.latency_s * 1e3:.0f} ms (model {status.model_s * 1e3:.0f} ms)"),
            ("regime", status.regime),
            ("rejected", str(sum(record.rejected.values()))),
            ("progress", f"{self._task_progress:.2f}" + (" done" if self._task_success else "")),
            ("twin", f"{record.twin_real_time_factor[-1]:.2f} x real time" if record.twin_real_time_factor else "…"),
        ]

    def finish(self) -> RunRecord:
        if self._recorder is not None:
            self._record.seconds = self.elapsed_s()
            self._recorder.close()
            self._recorder = None
        return self._record

    # What arrives

    def _on_accepted(self, future) -> None:
        future.result().get_result_async().add_done_callback(self._on_result)

    def _on_result(self, future) -> None:
        answer = future.result()
        status = "" if answer.status == GoalStatus.STATUS_SUCCEEDED else f" (goal status {answer.status})"
        self._outcome = answer.result.error_code, answer.result.error_message + status

    def _on_status(self, status: PolicyStatus) -> None:
        now = time.monotonic()
        if self._began and status.state in (PolicyStatus.RUNNING, PolicyStatus.WAITING):
            seconds = self._record.regime_seconds
            seconds[status.regime] = seconds.get(status.regime, 0.0) + now - self._status_at
        self._status, self._status_at = status, now
        self._record.plan_underruns = status.plan_underruns
        self._record.dropped_frames = dict(zip(status.camera_names, status.dropped_frames, strict=True))

    def _on_chunk(self, chunk: ActionChunk) -> None:
        record = self._record
        record.contract_hash, record.checkpoint_hash = chunk.contract_hash, chunk.checkpoint_hash
        record.denoise_steps, record.guidance_scale = chunk.denoise_steps, chunk.guidance_scale
        record.model_s.append(chunk.model_s)
        record.transport_s.append(chunk.transport_s)
        record.overhead_s.append(chunk.overhead_s)
        for stage in STAGES if chunk.verdict == ActionChunk.ACCEPTED else STAGES_TO_ANSWER:
            record.stages_s.setdefault(stage, []).append(getattr(chunk, f"{stage}_s"))
        if chunk.verdict != ActionChunk.ACCEPTED:
            record.rejected[VERDICTS[chunk.verdict]] += 1
            return
        record.chunks += 1
        record.observation_to_command_s.append(chunk.observation_to_command_s)
        record.seam_velocity_jumps.append(chunk.seam_velocity_jump)

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            values = {pair.key: pair.value for pair in status.values}
            if "real_time_factor" in values and self._recorder is not None:
                self._record.twin_real_time_factor.append(float(values["real_time_factor"]))
            if "task" in values:
                self._task, self._task_progress = values["task"], float(values["task_progress"])
                self._task_success = values["task_success"] == "true"
