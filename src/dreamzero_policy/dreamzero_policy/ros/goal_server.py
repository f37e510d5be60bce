"""An action server whose goals are begun and, at some later moment, finished.

rclpy's own server runs one callback for the whole of a goal. A callback that waits for events is a coroutine there, and
the events executor polls a waiting coroutine without a pause: a core would be spent on waiting. Here a goal is handed
over when it starts and a result is given when somebody has one; nothing waits in between.
"""

from collections.abc import Callable
from typing import Any

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node

# Gives the result and sets the goal's terminal state: succeed, abort or canceled.
Conclude = Callable[[ServerGoalHandle], Any]


class GoalServer(ActionServer):
    """Accepts every goal and every request to cancel; `begin` is called with each goal that has started."""

    def __init__(self, node: Node, kind: type, name: str, begin: Callable[[ServerGoalHandle], None]) -> None:
        self._begin = begin
        super().__init__(
            node, kind, name, execute_callback=self._unused, cancel_callback=lambda _: CancelResponse.ACCEPT
        )

    def notify_execute(self, goal_handle: ServerGoalHandle, execute_callback: Conclude | None) -> None:
        """Called by rclpy when a goal has been accepted and is executing."""
        self._node.executor.create_task(self._begin, goal_handle)

    def finish(self, goal_handle: ServerGoalHandle, conclude: Conclude) -> None:
        """Send the result that `conclude` gives to whoever asks for it."""
        super().notify_execute(goal_handle, conclude)

    @staticmethod
    def _unused(_goal_handle: ServerGoalHandle) -> None:
        raise AssertionError("goals are finished with `finish`")
