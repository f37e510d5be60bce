"""What a node declares at run time: its process alone on a domain, asked over DDS."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import rclpy
from rclpy.context import Context
from rclpy.node import Node

ACTION_SERVICES = ("send_goal", "cancel_goal", "get_result")
ACTION_TOPICS = ("feedback", "status")
SETTLE_S = 3.0  # what has not changed for so long is all


@dataclass(frozen=True)
class Declared:
    """Absolute names. An action stands here by its topics and services."""

    publish: set[str] = field(default_factory=set)
    subscribe: set[str] = field(default_factory=set)
    reply: set[str] = field(default_factory=set)
    request: set[str] = field(default_factory=set)

    def executed(self, action: str) -> None:
        """Add what offering an action declares."""
        self.reply.update(f"{action}/_action/{name}" for name in ACTION_SERVICES)
        self.publish.update(f"{action}/_action/{name}" for name in ACTION_TOPICS)


@contextmanager
def running(module: str, arguments: Sequence[str], own: Sequence[str] = ()) -> Iterator[tuple[Node, subprocess.Popen]]:
    """A node's process, and a node beside it on a domain of their own. `own` are arguments that are not ROS's."""
    domain = random.SystemRandom().randint(61, 100)
    process = subprocess.Popen(
        [sys.executable, "-m", module, *own, "--ros-args", *arguments],
        env=dict(os.environ, ROS_DOMAIN_ID=str(domain), OMP_NUM_THREADS="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    watcher = rclpy.create_node("watcher", context=context)
    try:
        yield watcher, process
    finally:
        process.kill()
        process.communicate()
        watcher.destroy_node()
        rclpy.shutdown(context=context)


def of(watcher: Node, name: str) -> Declared:
    """What a node declares now."""

    def names(ask: Callable) -> set[str]:
        return {topic for topic, _ in ask(name, "/")}

    return Declared(
        names(watcher.get_publisher_names_and_types_by_node),
        names(watcher.get_subscriber_names_and_types_by_node),
        names(watcher.get_service_names_and_types_by_node),
        names(watcher.get_client_names_and_types_by_node),
    )


def settled(watcher: Node, process: subprocess.Popen, name: str, awaited: str, timeout_s: float = 240.0) -> Declared:
    """What a node declares once it publishes on `awaited` and nothing has changed for a while."""
    until, last, since_s = time.monotonic() + timeout_s, None, time.monotonic()
    while True:
        assert process.poll() is None, f"{name} ended: {process.stdout.read()}"
        assert time.monotonic() < until, f"{name} does not settle: {last}"
        now = of(watcher, name) if (name, "/") in watcher.get_node_names_and_namespaces() else None
        if now != last:
            last, since_s = now, time.monotonic()
        if last is not None and awaited in last.publish and time.monotonic() - since_s > SETTLE_S:
            return last
        time.sleep(0.2)
