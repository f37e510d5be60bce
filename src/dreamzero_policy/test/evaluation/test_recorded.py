"""Recorded episodes of any form serve the open loop and the mean demonstration alike."""

from pathlib import Path

import numpy as np
import pytest

from dreamzero_policy.data.dataset import open_dataset
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.lerobot.writer import LeRobotWriter
from dreamzero_policy.data.sinks import LeRobotSink
from dreamzero_policy.evaluation.blind import mean_demonstration, recorded_demonstrations
from dreamzero_policy.evaluation.open_loop import Recorded, measure
from dreamzero_policy.evaluation.recorded import RecordedEpisodes
from dreamzero_policy.evaluation.stage import Stage
from dreamzero_policy.runtime.contract import Contract


@pytest.fixture(scope="module")
def lerobot(contract: Contract, demonstrations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstrations as a LeRobot data set, with pictures of one grey."""
    folder = tmp_path_factory.mktemp("lerobot")
    grey = {
        camera: np.full((site.height_px, site.width_px, 3), 90, np.uint8)
        for camera, site in contract.site.cameras.items()
    }
    with LeRobotWriter(folder, contract) as writer:
        sink, views = LeRobotSink.of(writer), open_dataset(demonstrations, contract)
        for name in views.names:
            episode = views.episode(name)
            with sink.draft(name) as draft:
                for state, action in zip(episode.state, episode.action, strict=True):
                    draft.add(state, action, grey)
                draft.finish([episode.instruction])
    return folder


def test_the_mean_demonstration_is_the_same_from_views_and_from_lerobot(
    contract: Contract, demonstrations: Path, lerobot: Path
) -> None:
    rows = [mean_demonstration(recorded_demonstrations(folder, contract)) for folder in (demonstrations, lerobot)]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)


def test_the_open_loop_reads_lerobot(stage: Stage, demonstrations: Path, lerobot: Path) -> None:
    theirs, ours = (measure(stage, Recorded("wam-1", folder, "1")) for folder in (demonstrations, lerobot))
    assert np.shape(ours.actions) == np.shape(theirs.actions)
    assert min(ours.psnr["autoencoder"]) > 5


def test_what_cannot_be_read_is_told_with_its_folder(contract: Contract, lerobot: Path, tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match=f"{tmp_path} holds no episodes"):
        RecordedEpisodes(tmp_path, contract)
    (tmp_path / "bad.npz").write_bytes(b"not an episode")
    with pytest.raises(EpisodeError, match=r"bad\.npz cannot be read"):
        RecordedEpisodes(tmp_path, contract).episode("bad")
    other = contract.model_copy(update={"model": contract.model.model_copy(update={"embodiment": "other"})})
    with pytest.raises(EpisodeError, match=f"{lerobot} was recorded for another contract"):
        RecordedEpisodes(lerobot, other).episode("1")
