"""How the nodes beside the robot are run, and which executor spins those that stand in the way of commands.

The events executor spares every message a part of a millisecond. Humble has none.
"""

import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from dreamzero_policy.runtime.interruption import interruption

Made = TypeVar("Made", bound=Node)

SPIN_S = 0.02  # a signal is noticed within this
LAST_CALLBACKS = 20  # handled after the end has begun, so that a last message can leave


def begin() -> threading.Event:
    """Start rclpy; the event is set when the process is to end.

    Signals are ours: a node must still be able to publish when it is told to stop, or when its terminal is gone.
    """
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    return interruption()


def run(
    name: str,
    make: Callable[[], Made],
    refusals: tuple[type[Exception], ...],
    end: Callable[[Made], None] | None = None,
) -> None:
    """Make a node and spin it until a signal ends it. Where there is an `end`, some callbacks are handled after it.

    What a node is refused for as it is made ends the process with a line that begins with its name.
    """
    interrupted = begin()
    try:
        node = make()
    except refusals as error:
        sys.exit(f"{name}: {error}")
    executor = quickest_executor()
    executor.add_node(node)
    try:
        while not interrupted.is_set():
            spin_once(executor, node, SPIN_S)
    finally:
        if end is not None:
            end(node)
            for _ in range(LAST_CALLBACKS):
                spin_once(executor, node, 0.0)
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


def spin_once(executor: Executor, node: Node, timeout_s: float) -> None:
    """As the executor does; a lifecycle transition that the node's state does not have is refused by that word alone.

    rclpy raises there, out of the service, and would end the process.
    """
    try:
        executor.spin_once(timeout_sec=timeout_s)
    except RCLError as error:
        if "transition" not in str(error).lower():
            raise
        node.get_logger().error(f"refused: {error}")


def quickest_executor() -> Executor:
    """An executor that runs all callbacks in the thread that spins it."""
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor()
    return EventsExecutor()
