"""Who listens on a controller's topic: somebody who plays what is sent there, or recorders and displays alone.

Middleware counts both alike. They are told apart by the names of their nodes, as shell patterns; a node whose name is
not known yet is waited for.
"""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from dreamzero_policy.runtime.observation import NS_PER_S

OBSERVERS = ("rosbag2_recorder*", "_ros2cli_*", "foxglove_bridge*", "rviz*", "plotjuggler*", "state_validity")
UNKNOWN = "_NODE_NAME_UNKNOWN_"  # what rmw says of a node that it has not heard of yet
AGAIN_NS = NS_PER_S // 2  # names are asked for again after that, also where the number of listeners is as before


class Audience:
    """Of one topic. Names cost more than numbers, and are asked for only when there is reason to."""

    def __init__(self, count: Callable[[], int], names: Callable[[], Iterable[str]], observers: Sequence[str]) -> None:
        """`count` and `names` ask the middleware for the topic's listeners."""
        self._count, self._names, self._observers = count, names, tuple(observers)
        self._known: tuple[int, int] | None = None  # listeners, and when their names were asked for
        self._plays = False

    def plays(self, monotonic_ns: int) -> bool:
        """Whether somebody listens who does not only look on."""
        count = self._count()
        if self._known is None or count != self._known[0] or monotonic_ns - self._known[1] >= AGAIN_NS:
            names = tuple(self._names()) if count else ()
            self._plays = any(name != UNKNOWN and not self._looks_on(name) for name in names)
            whole = len(names) == count and UNKNOWN not in names
            self._known = (count, monotonic_ns) if whole else None
        return self._plays

    def _looks_on(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._observers)
