"""The lifecycle base: transitions live here once, a node fills four hooks.

rclpy swallows what a transition callback raises. Here the exception is logged with one line that names the thing, the
transition fails, and what was set up so far is torn down, so that the node stays alive and can be configured again.
"""

from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode, State, TransitionCallbackReturn


class ManagedNode(LifecycleNode):
    """Subclasses fill `set_up`, `begin`, `end` and `tear_down`; `tear_down` must bear being called at any point."""

    def set_up(self) -> None:
        """Load, connect, warm up (unconfigured → inactive)."""

    def begin(self) -> None:
        """Start working (inactive → active)."""

    def end(self) -> None:
        """Stop working, safely (active → inactive)."""

    def tear_down(self) -> None:
        """Free everything (inactive → unconfigured)."""

    def failed(self, message: str) -> None:
        """Take notice of a transition that failed."""

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        outcome = self._attempt(self.set_up, super().on_configure, state)
        if outcome is not TransitionCallbackReturn.SUCCESS:
            self.tear_down()
        return outcome

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        return self._attempt(self.begin, super().on_activate, state)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        return self._attempt(self.end, super().on_deactivate, state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        return self._attempt(self.tear_down, super().on_cleanup, state)

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        return self._attempt(self._end_and_tear_down, super().on_shutdown, state)

    def on_error(self, state: State) -> TransitionCallbackReturn:
        return self._attempt(self._end_and_tear_down, super().on_error, state)

    def _end_and_tear_down(self) -> None:
        try:
            self.end()
        finally:
            self.tear_down()

    def _attempt(
        self, hook: Callable[[], None], transition: Callable[[State], TransitionCallbackReturn], state: State
    ) -> TransitionCallbackReturn:
        try:
            hook()
        except Exception as error:
            message = f"{hook.__name__} failed: {error}"
            self.get_logger().error(message)
            self.failed(message)
            return TransitionCallbackReturn.FAILURE
        return transition(state)
