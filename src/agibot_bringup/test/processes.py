"""Nodes as processes, and a node beside them that talks to them over real DDS, on a domain of their own."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String
from std_srvs.srv import Trigger

TIMEOUT_S = 120.0


class Processes:
    """`statuses` of every node that is listened to, the newest last."""

    def __init__(self) -> None:
        self.domain = random.SystemRandom().randint(1, 100)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        self.running: list[subprocess.Popen] = []
        self.context = Context()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.node = rclpy.create_node("stand", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self._statuses: dict[str, list[str]] = {}
        self._clients: dict[str, Client] = {}

    def start(self, module: str, *parameters: str) -> subprocess.Popen:
        """A node with parameters, NAME:=VALUE each."""
        arguments = [word for parameter in parameters for word in ("-p", parameter)]
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--ros-args", *arguments],
            env=dict(os.environ, ROS_DOMAIN_ID=str(self.domain)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.running.append(process)
        return process

    def statuses_of(self, node: str) -> list[str]:
        """What a node says on its ~/status, from now on."""
        heard = self._statuses[node] = []
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.node.create_subscription(String, f"{node}/status", lambda message: heard.append(message.data), latched)
        return heard

    def now_ns(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def call(self, kind: type, service: str, request: Any) -> Any:
        """A service's answer."""
        client = self._clients.get(service) or self.node.create_client(kind, service)
        self._clients[service] = client
        self.spin_until(client.service_is_ready)
        answer = client.call_async(request)
        self.spin_until(answer.done)
        return answer.result()

    def ask(self, service: str) -> Trigger.Response:
        return self.call(Trigger, service, Trigger.Request())

    def spin_until(self, condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
        until = time.monotonic() + timeout_s
        while not condition():
            for process in self.running:
                assert process.poll() is None, f"{process.args[2]} ended: {process.stdout.read()}"
            assert time.monotonic() < until, f"timed out; last {[heard[-1:] for heard in self._statuses.values()]}"
            self.executor.spin_once(timeout_sec=0.1)

    def spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.executor.spin_once(timeout_sec=0.01)

    def end(self, process: subprocess.Popen, number: signal.Signals = signal.SIGTERM) -> str:
        """End a process by a signal; its whole output."""
        if process.poll() is None:
            process.send_signal(number)
        output, _ = process.communicate(timeout=TIMEOUT_S)
        self.running.remove(process)
        return output

    def close(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
                process.communicate()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
