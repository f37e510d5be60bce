"""Recorders and displays are no controllers, and who left is noticed although somebody else came."""

from dreamzero_policy.runtime.audience import AGAIN_NS, NAMELESS_NS, OBSERVERS, SOON_NS, UNKNOWN, Audience


class Topic:
    """Its listeners, and how often somebody asked who they are."""

    def __init__(self, *names: str) -> None:
        self.names, self.asked = list(names), 0

    def audience(self) -> Audience:
        return Audience(lambda: len(self.names), self._told, OBSERVERS)

    def _told(self) -> list[str]:
        self.asked += 1
        return list(self.names)


def test_a_controller_plays_and_those_who_only_look_on_do_not() -> None:
    assert Topic("dual_arm_controller").audience().plays(0)
    assert Topic("rosbag2_recorder", "twin").audience().plays(0)
    assert not Topic().audience().plays(0)
    lookers_on = (
        "rosbag2_recorder",
        "_ros2cli_4711",
        "foxglove_bridge",
        "rviz2",
        "rviz",
        "plotjuggler_1",
        "state_validity",
    )
    assert not Topic(*lookers_on).audience().plays(0)


def test_a_controller_that_goes_is_noticed_at_once_though_a_recorder_stays() -> None:
    topic = Topic("rosbag2_recorder", "dual_arm_controller")
    audience = topic.audience()
    assert audience.plays(0)
    topic.names.remove("dual_arm_controller")
    assert not audience.plays(1)


def test_names_are_asked_for_once_while_the_number_stays_and_again_after_a_while() -> None:
    topic = Topic("dual_arm_controller")
    audience = topic.audience()
    assert all(audience.plays(at) for at in range(0, AGAIN_NS, AGAIN_NS // 10))
    assert topic.asked == 1
    topic.names = ["rosbag2_recorder"]  # one left and one came between two looks
    assert audience.plays(AGAIN_NS - 1)
    assert not audience.plays(AGAIN_NS)


def test_a_node_without_a_name_yet_is_asked_for_until_it_has_one() -> None:
    topic = Topic(UNKNOWN)
    audience = topic.audience()
    assert not audience.plays(0)
    topic.names = ["rosbag2_recorder"]
    assert not audience.plays(SOON_NS)
    topic.names = [UNKNOWN, "dual_arm_controller"]
    assert audience.plays(SOON_NS + 1)


def test_a_listener_that_never_has_a_name_plays_after_a_while() -> None:
    audience = Topic(UNKNOWN, "rosbag2_recorder").audience()
    assert [audience.plays(at) for at in range(0, NAMELESS_NS + 1, NAMELESS_NS // 3)] == [False, False, False, True]
