"""Which executor spins a node of ours.

rclpy's classic executors assemble a wait set of all entities in Python before every wait, which costs a node that hears
two hundred messages a second a fifth of a core, and every message a part of a millisecond. The events executor leaves
that to C++ and is taken where the distribution has it (Jazzy and later; Humble has not). It knows no guard conditions:
work from another thread goes in through `create_task`, which both have.
"""

from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node


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


def single_threaded_executor() -> Executor:
    """An executor that runs all callbacks in the thread that spins it."""
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor()
    return EventsExecutor()
