"""Which of a bag's topics are taken for what the contract's site names."""

from pathlib import Path

import numpy as np
import pytest

from dreamzero_policy.data.bag_files import OpenBag
from dreamzero_policy.data.bag_messages import TRAJECTORY, camera_topics, topic_of
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.observation import NS_PER_S

from .conftest import HEIGHT_PX, WIDTH_PX, BagMaker

COMMANDS = "arms/joint_trajectory"


def bag_with(folder: Path, contract: Contract, *namespaces: str) -> Path:
    """Trajectories of a controller in these namespaces, each ending in /."""
    with BagMaker(folder, contract) as bag:
        for namespace in namespaces:
            bag.trajectory(f"{namespace}arms", NS_PER_S, ["a"], [(0.1, [0.0], [0.0])])
    return folder


@pytest.mark.parametrize(
    ("namespaces", "taken"),
    [
        (("wanted/", ""), "/arms/joint_trajectory"),
        (("g1/wanted/", "g1/"), "/g1/arms/joint_trajectory"),
        (("g1/wanted/",), "/g1/wanted/arms/joint_trajectory"),
    ],
)
def test_what_a_gate_let_through_counts_and_not_what_it_was_asked_for(
    tmp_path: Path, contract: Contract, namespaces: tuple[str, ...], taken: str
) -> None:
    with OpenBag(bag_with(tmp_path / "bag", contract, *namespaces)) as bag:
        assert topic_of(bag, COMMANDS, (TRAJECTORY,)).topic == taken


def test_topics_of_two_robots_are_not_told_apart_by_guessing(tmp_path: Path, contract: Contract) -> None:
    with (
        OpenBag(bag_with(tmp_path / "bag", contract, "left/", "lefty/")) as bag,
        pytest.raises(EpisodeError, match=r"'/left/arms/joint_trajectory', '/lefty/arms/joint_trajectory'.*keep one"),
    ):
        topic_of(bag, COMMANDS, (TRAJECTORY,))


def test_of_a_camera_in_both_forms_the_one_that_the_node_reads_by_default_is_taken(
    tmp_path: Path, contract: Contract
) -> None:
    head, *others = contract.model.cameras
    picture = np.zeros((HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    with BagMaker(tmp_path / "bag", contract) as maker:
        for camera in contract.model.cameras:
            maker.raw_image(camera, NS_PER_S, picture)
        maker.image(head, NS_PER_S, picture)
    with OpenBag(tmp_path / "bag") as bag:
        found = {camera: connection.topic for camera, connection in camera_topics(bag, contract).items()}
    topics = {camera: f"/{contract.site.cameras[camera].topic}" for camera in contract.model.cameras}
    assert found == {head: topics[head] + "/compressed"} | {camera: topics[camera] for camera in others}
