"""Who listens on a controller's topic: somebody who plays what is sent there, or recorders and displays alone.

Middleware counts both alike. They are told apart by the names of their nodes, as shell patterns. A node's name may come
a little later than its listener, and is waited for; who never has one (DDS without ROS, another version of ROS) plays.
"""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Protocol

from dreamzero_policy.runtime.observation import NS_PER_S

OBSERVERS = ("rosbag2_recorder*", "_ros2cli_*", "foxglove_bridge*", "rviz*", "plotjuggler*", "state_validity")
UNKNOWN = "_NODE_NAME_UNKNOWN_"  # what rmw says of a node that it has not heard of yet
AGAIN_NS = NS_PER_S // 2  # names are asked for again after that, also where the number of listeners is as before
SOON_NS = NS_PER_S // 10  # the same, while a name is not known
NAMELESS_NS = 3 * NS_PER_S  # who has no name after that, gets none


class Publisher(Protocol):
    """What is asked of one of rclpy's."""

    topic_name: str

    def get_subscription_count(self) -> int: ...


class Node(Protocol):
    """What is asked of one of rclpy's: the listeners of a topic, each with a `node_name`."""

    def get_subscriptions_info_by_topic(self, topic_name: str) -> Iterable[Any]: ...


class Audience:
    """Of one topic. Names cost more than numbers, and are asked for only when there is reason to."""

    def __init__(self, count: Callable[[], int], names: Callable[[], Iterable[str]], observers: Sequence[str]) -> None:
        """`count` and `names` ask the middleware for the topic's listeners."""
        self._count, self._names, self._observers = count, names, tuple(observers)
        self._count_before = -1
        self._again_ns = self._nameless_since_ns = 0  # when names are asked for again; since when one is not known
        self._plays = self._nameless = False

    @classmethod
    def of(cls, node: Node, publisher: Publisher, observers: Sequence[str] = OBSERVERS) -> "Audience":
        """Who hears a publisher of a node."""

        def names() -> list[str]:
            return [listener.node_name for listener in node.get_subscriptions_info_by_topic(publisher.topic_name)]

        return cls(publisher.get_subscription_count, names, observers)

    def plays(self, monotonic_ns: int) -> bool:
        """Whether somebody listens who does not only look on."""
        count = self._count()
        if count != self._count_before or monotonic_ns >= self._again_ns:
            self._ask(count, monotonic_ns)
        return self._plays

    def _ask(self, count: int, monotonic_ns: int) -> None:
        names = tuple(self._names()) if count else ()
        nameless = UNKNOWN in names or len(names) < count
        if nameless and not self._nameless:
            self._nameless_since_ns = monotonic_ns
        self._nameless, self._count_before = nameless, count
        waited = nameless and monotonic_ns - self._nameless_since_ns >= NAMELESS_NS
        self._again_ns = monotonic_ns + (SOON_NS if nameless and not waited else AGAIN_NS)
        self._plays = waited or any(name != UNKNOWN and not self._looks_on(name) for name in names)

    def _looks_on(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._observers)
