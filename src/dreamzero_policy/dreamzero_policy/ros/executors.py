"""Which executor spins a node of ours.

rclpy's classic executors assemble a wait set of all entities in Python before every wait, which costs a node that hears
two hundred messages a second a fifth of a core, and every message a part of a millisecond. The events executor leaves
that to C++ and is taken where the distribution has it (Jazzy and later; Humble has not). It knows no guard conditions:
work from another thread goes in through `create_task`, which both have.
"""

from rclpy.executors import Executor, SingleThreadedExecutor


def single_threaded_executor() -> Executor:
    """An executor that runs all callbacks in the thread that spins it."""
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor()
    return EventsExecutor()
