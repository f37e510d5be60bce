"""Stops that somebody called for: ~/stop, the robot's SafeStop, estop. They end by a reset alone.

Heard in every state of the node, and kept over deactivation and clean-up: who stops a robot while it is being started
means it as much as who stops it amid a motion. No ROS.
"""


class Latch:
    """`reason`: of the first stop since the last reset; empty: none. `pressed`: what keeps a reset away."""

    def __init__(self) -> None:
        self.reason = self.pressed = ""

    def call(self, why: str) -> None:
        self.reason = self.reason or why

    def press(self, pressed: bool, why: str) -> None:
        """A stop that is held down until it is released."""
        self.pressed = why if pressed else ""
        if pressed:
            self.call(why)

    def reset(self) -> None:
        self.reason = self.pressed
