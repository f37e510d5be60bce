"""Every topic and service in the layouts for RViz and Foxglove is one that a node of the stack has.

What our nodes have is in the security policies, which test_security.py compares with the nodes at run time.
"""

import json
import re
from pathlib import Path

import yaml

from .security_policies import allowed

LAUNCH = Path(__file__).parents[1] / "launch"
CAMERAS = ("head", "hand_left", "hand_right")


def published() -> set[str]:
    return set().union(*(may.publish for may in allowed().values()))


def displays() -> list[dict]:
    return yaml.safe_load((LAUNCH / "agibot_g1.rviz").read_text())["Visualization Manager"]["Displays"]


def foxglove() -> dict:
    return json.loads((LAUNCH / "agibot_g1.foxglove.json").read_text())


def strings(value: object) -> set[str]:
    """Every string in a document, at any depth."""
    if isinstance(value, dict):
        return set().union(*(strings(key) | strings(item) for key, item in value.items())) if value else set()
    if isinstance(value, list):
        return set().union(*map(strings, value)) if value else set()
    return {value} if isinstance(value, str) else set()


def panels_in(layout: dict | str) -> set[str]:
    return {layout} if isinstance(layout, str) else panels_in(layout["first"]) | panels_in(layout["second"])


def test_rviz_shows_topics_that_are_published() -> None:
    topics = {text for text in strings(displays()) if text.startswith("/")}
    assert topics <= published()
    wanted = {"/robot_description", "/policy_node/predicted_image"} | {f"/{name}/color/image_raw" for name in CAMERAS}
    assert wanted <= topics


def test_foxglove_shows_topics_that_are_published() -> None:
    config = foxglove()["configById"]
    says = {config[panel]["topicName"] for panel in config if panel.startswith("Publish!")}
    asks = {config[panel]["serviceName"] for panel in config if panel.startswith("CallService!")}
    topics = {re.split(r"[.\[{]", text)[0] for text in strings(config) if text.startswith("/")} - says - asks
    assert topics <= published()
    assert asks <= set().union(*(may.reply for may in allowed().values()))
    assert says <= set().union(*(may.subscribe for may in allowed().values()))
    wanted = {"/robot_description", "/policy_node/predicted_image", "/policy_node/status", "/safety_gate/status"}
    wanted |= {"/diagnostics", "/dual_arm_controller/joint_trajectory"}
    assert wanted | {f"/{name}/color/image_raw/compressed" for name in CAMERAS} <= topics


def test_foxglove_has_a_place_for_every_panel() -> None:
    document = foxglove()
    assert panels_in(document["layout"]) == set(document["configById"])


def test_what_foxglove_plots_of_the_status_are_its_fields() -> None:
    from dreamzero_msgs.msg import PolicyStatus

    paths = {text for text in strings(foxglove()) if text.startswith("/policy_node/status.")}
    assert paths
    for path in paths:
        assert path.removeprefix("/policy_node/status.") in PolicyStatus.get_fields_and_field_types()


def test_a_watcher_may_hear_what_the_layouts_show() -> None:
    heard = allowed()["watcher"].subscribe
    shown = {text for text in strings(displays()) if text.startswith("/")}
    shown |= {
        re.split(r"[.\[{]", text)[0]
        for name, panel in foxglove()["configById"].items()
        if not name.startswith(("Publish!", "CallService!"))
        for text in strings(panel)
        if text.startswith("/")
    }
    assert shown <= heard
