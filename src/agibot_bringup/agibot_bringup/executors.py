"""Which executor spins the nodes that stand in the way of commands: safety gate and bridge.

The events executor spares every message a part of a millisecond. Humble has none.
"""

from rclpy.executors import Executor, SingleThreadedExecutor


def quickest_executor() -> Executor:
    """An executor that runs all callbacks in the thread that spins it."""
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor()
    return EventsExecutor()
