"""What a chaos run works with: twin and policy as processes, the relay between, a hand on the emergency stop."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.client import Client
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from dreamzero_msgs.msg import PolicyStatus
from dreamzero_policy.cli.chaos_audit import Audit, Memory
from dreamzero_policy.cli.demo import Interrupted, free_port
from dreamzero_policy.cli.processes import Processes
from dreamzero_policy.ros import qos
from dreamzero_policy.ros.executors import single_threaded_executor
from dreamzero_policy.ros.fault_relay import FaultRelay
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.faults import Fault
from dreamzero_policy.runtime.observation import NS_PER_S

SOURCE = "/source"  # namespace of the twin
POLICY = "/policy_node"
ESTOP_PERIOD_S, ESTOP_TIMEOUT_S = 0.1, 1.5
INFERENCE_TIMEOUT_S = 12.0
LINK_TIMEOUT_S = 6.0  # to a server; longer than one is made slow for
SERVER_PERIOD_S = 10.0  # so that a crowded machine lets the robot in
SERVER_DRAIN_S, SERVER_GONE_S = 2.0, 20.0
SERVER_FAULTS = {fault.label for fault in Fault if fault.label.startswith("server_")}
FROZEN_S = 0.5
START_TIMEOUT_S = 600.0
MODEL_GONE_S = 10.0  # after its node was killed
PROMPTS = (
    "touch the red cube with the left hand",
    "touch the blue block with the right hand",
    "put the green ball on the tray",
)
SWAP = (
    Transition.TRANSITION_DEACTIVATE,
    Transition.TRANSITION_CLEANUP,
    Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_ACTIVATE,
)


class ChaosFailed(RuntimeError):  # noqa: N818 (it tells what happened)
    """The run cannot go on; the message says what did not come."""


class Stand:
    """Everything a fault may reach for. Time is spent in `spin` and `wait` alone."""

    def __init__(
        self,
        contract: Contract,
        contract_file: Path,
        processes: Processes,
        seed: int,
        interrupted: threading.Event,
        remote: bool = False,
    ) -> None:
        """`remote`: the model is on a server, a process of its own."""
        self.contract, self._contract_file = contract, contract_file
        self._server_port = free_port() if remote else None
        self.processes, self._interrupted = processes, interrupted
        self.audit, self.memory = Audit(contract), Memory()
        self.status: PolicyStatus | None = None
        self.estop_is_heard, self._pressed = True, False
        self.policy_starts = 0
        self.leaked_models = 0
        self.relay = FaultRelay(contract, SOURCE, self._on_trajectory, self._on_clock)
        self._node = Node("chaos")
        self._node.create_subscription(PolicyStatus, f"{POLICY}/status", self._on_status, qos.LATCHED)
        self._estop = self._node.create_publisher(Bool, "estop", 10)
        self._prompt = self._node.create_publisher(String, f"{POLICY}/prompt", qos.EVENT)
        self._reset = self._node.create_client(Trigger, f"{POLICY}/reset_estop")
        self._stop = self._node.create_client(Trigger, f"{POLICY}/stop")
        self._scene = self._node.create_client(Trigger, f"{SOURCE}/twin/reset")
        self._transitions = self._node.create_client(ChangeState, f"{POLICY}/change_state")
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._node.create_timer(ESTOP_PERIOD_S, self._hold_estop, clock=steady)
        self._executor = single_threaded_executor()
        for node in (self.relay, self._node):
            self._executor.add_node(node)
        processes.start(
            "twin",
            "agibot_twin.twin_node",
            ("--ros-args", "-r", f"__ns:={SOURCE}", "-r", f"/clock:={SOURCE}/clock")
            + ("-p", "publish_clock:=true", "-p", f"seed:={seed}"),
        )
        if remote:
            self.start_server()
        self.start_policy()

    # Time

    def spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(left, 0.1))
            if self._interrupted.is_set():
                raise Interrupted
            self.memory.read({name: self.processes.pid(name) for name in self.processes.names})
        self.processes.check()

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether the condition came true in time."""
        until = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > until:
                return False
            self.spin(0.02)
        return True

    def require(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Raises ChaosFailed if it does not come true."""
        if not self.wait(condition, timeout_s):
            raise ChaosFailed(f"no {what} after {timeout_s:.0f} s; last status: {self.said()}")

    # The robot

    @property
    def now_ns(self) -> int:
        """The robot's own time, which never jumps."""
        return self.relay.now_ns

    def remaining_s(self) -> float:
        """Commanded motion still to come."""
        return (self.audit.rest_ns() - self.now_ns) / NS_PER_S

    def moving(self) -> bool:
        return self.audit.moving(self.now_ns)

    # The policy

    def start_policy(self) -> None:
        self.status = None
        self.policy_starts += 1
        parameters = {
            "autostart": "true",
            "use_sim_time": "true",
            "contract": self._contract_file.resolve(),
            "require_estop": "true",
            "estop_timeout_s": ESTOP_TIMEOUT_S,
            "inference_timeout_s": INFERENCE_TIMEOUT_S,
            "frozen_camera_s": FROZEN_S,
        }
        if self._server_port is not None:
            parameters |= {
                "backend": "remote",
                "server_url": f"ws://127.0.0.1:{self._server_port}",
                "server_period_s": SERVER_PERIOD_S,
                "link_timeout_s": LINK_TIMEOUT_S,
            }
        arguments = [item for name, value in parameters.items() for item in ("-p", f"{name}:={value}")]
        self.processes.start("policy", "dreamzero_policy.ros.policy_node", ["--ros-args", *arguments])

    def is_up(self) -> bool:
        """The policy is active, hears instructions and could follow one."""
        ready = (PolicyStatus.IDLE, PolicyStatus.WAITING, PolicyStatus.RUNNING)
        return self.status is not None and self.status.state in ready and self._prompt.get_subscription_count() > 0

    def kill_policy(self) -> None:
        """SIGKILL; its model's process must end by itself."""
        models = [] if self._server_port is not None else [self.model()]
        self.processes.kill("policy")
        if not self.wait(lambda: not any(model.is_running() for model in models), MODEL_GONE_S):
            self.leaked_models += 1
            for model in models:
                model.kill()

    def model(self) -> psutil.Process:
        return psutil.Process(self.processes.pid("policy")).children(recursive=True)[0]

    # The server

    def start_server(self) -> None:
        address = ("--listen", f"127.0.0.1:{self._server_port}")
        options = ("--load", "1.0", "--drain-s", str(SERVER_DRAIN_S), "--log", "json")
        self.processes.start("server", "dreamzero_policy.cli.main", ("serve", *address, *options))

    def server(self) -> psutil.Process:
        return psutil.Process(self.processes.pid("server"))

    def kill_server(self) -> None:
        self.processes.kill("server")

    def end_server(self) -> None:
        """SIGTERM: it drains, and ends by itself."""
        server = self.processes.release("server")
        server.terminate()
        self.require(lambda: server.poll() is not None, SERVER_GONE_S, "end of the server")

    def served_again(self, epoch: int) -> None:
        """Wait until the robot has its server back, in a later epoch."""

        def back() -> bool:
            return self.status.epoch > epoch and not SERVER_FAULTS & set(self.status.faults)

        self.require(back, START_TIMEOUT_S, f"epoch after {epoch} with a server")

    # The model beside the node

    def replace_model(self) -> None:
        """What an operator does after a fault: configure again."""
        self.require(self._transitions.service_is_ready, 10.0, "lifecycle service")
        for transition in SWAP:
            future = self._transitions.call_async(ChangeState.Request(transition=Transition(id=transition)))
            self.require(future.done, START_TIMEOUT_S, f"answer to transition {transition}")
            if not future.result().success:
                raise ChaosFailed(f"transition {transition} failed; last status: {self.said()}")

    def prompt(self, text: str) -> None:
        self._prompt.publish(String(data=text))

    def press(self, stop: bool) -> None:
        """The emergency stop, until the next call."""
        self._pressed = stop
        self._hold_estop()

    def reset_estop(self) -> None:
        self._ask(self._reset)

    def begin_anew(self) -> None:
        """Robot and scene as at first. Told without end what to do, an arm may come to stand where no chunk leaves."""
        self._ask(self._stop)
        self.require(lambda: self.remaining_s() <= 0, 10.0, "rest")
        self._ask(self._scene)
        self.spin(1.0)
        self.audit.begin(self.relay.positions, self.now_ns)

    def _ask(self, service: Client) -> None:
        """Until it is granted."""

        def granted() -> bool:
            future = service.call_async(Trigger.Request())
            return self.wait(future.done, 5.0) and future.result().success

        self.require(granted, 20.0, f"granted {service.srv_name}")

    def close(self) -> None:
        self._executor.shutdown()
        self.relay.destroy_node()
        self._node.destroy_node()
        rclpy.try_shutdown()

    def _hold_estop(self) -> None:
        if self.estop_is_heard:
            self._estop.publish(Bool(data=self._pressed))

    def said(self) -> str:
        """The newest status in words."""
        status = self.status
        return "none" if status is None else f"state {status.state}, {status.message}; {'; '.join(status.waiting_for)}"

    # What arrives

    def _on_status(self, status: PolicyStatus) -> None:
        self.status = status

    def _on_trajectory(self, controller: str, message: JointTrajectory) -> None:
        after_ns = [p.time_from_start.sec * NS_PER_S + p.time_from_start.nanosec for p in message.points]
        positions, velocities = [p.positions for p in message.points], [p.velocities for p in message.points]
        self.audit.sent(controller, after_ns, positions, velocities, self.now_ns)

    def _on_clock(self) -> None:
        if self.relay.positions:
            if not self.audit.watching:
                self.audit.begin(self.relay.positions, self.now_ns)
            self.audit.tick(self.now_ns)
