"""Surprise of a real policy_node: told on its topic and in diagnostics, and with `hold` the robot comes to rest."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from ament_index_python.packages import get_package_share_directory

from dreamzero_policy.inference.worker_process import checkpoint_hash
from dreamzero_policy.runtime.calibration import CALIBRATION_FILE, Calibration

from .replayed import PLAYER, listening, policy_beside, running, write_bag
from .robot import CONTRACT

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped one, calibrated by runs in which hardly anything was off: whatever it sees surprises it."""
    folder = tmp_path_factory.mktemp("checkpoint") / "copy"
    shutil.copytree(Path(get_package_share_directory("dreamzero")) / "checkpoints" / "agibot_g1_tiny", folder)
    Calibration.of(
        [[np.full((2, 8, 8), size, np.float32) for size in np.random.default_rng(0).uniform(1e-3, 2e-3, 200)]],
        np.zeros((8, 8), int),
        contract_hash=CONTRACT.hash,
        checkpoint_hash=checkpoint_hash(folder),
        denoise_steps=1,  # as the checkpoint says
        regimes=("stop_and_go",),
    ).save(folder / CALIBRATION_FILE)
    return folder


def test_a_surprised_robot_comes_to_rest_is_told_why_and_looks_anew(ros, checkpoint: Path, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "noise", 8.0)
    surprise = {"surprise_action": "hold", "surprise_blocks": 2, "surprise_hold_s": 3.0}
    with (
        listening() as (listener, wait),
        running(PLAYER, tmp_path / "player", bag=bag, player="own", loop=True, rate_share=0.25),
        policy_beside(tmp_path / "policy", checkpoint=checkpoint, **surprise),
    ):
        wait(lambda: listener.statuses and "surprise_held" in listener.statuses[-1].faults, "hold")
        held, before = listener.statuses[-1], listener.chunks[-1].epoch
        assert len(listener.distances) >= 2 and min(listener.distances) > 0
        assert "2 blocks in a row were not as predicted" in "".join(held.waiting_for)
        wait(lambda: listener.statuses[-1].buffered_s == 0.0, "rest")
        assert "surprise_held" in listener.statuses[-1].faults
        wait(lambda: listener.diagnosis.get("fault.surprise_held", "0") != "0", "diagnosis")
        assert listener.diagnosis["surprise_percentile"] == "100.0"
        assert float(listener.diagnosis["surprise"]) == pytest.approx(listener.distances[-1], abs=1e-3)
        wait(lambda: listener.chunks[-1].epoch > before, "chunk of a new look")
    assert listener.unheard and not listener.trajectories
    assert all(not any(trajectory.points[-1].velocities) for trajectory in listener.unheard)


def test_a_calibration_of_something_else_is_refused_where_something_is_to_follow(
    ros, checkpoint: Path, tmp_path: Path
) -> None:
    with (
        listening() as (listener, wait),
        policy_beside(tmp_path / "policy", checkpoint=checkpoint, surprise_action="warn", denoise_steps=4) as policy,
    ):
        wait(lambda: any(status.message.startswith("set_up failed") for status in listener.statuses), "refusal")
        assert policy.poll() is None
    (message,) = {status.message for status in listener.statuses if status.message.startswith("set_up failed")}
    assert "surprise.json is of denoising steps 1, this policy has 4" in message and "dreamzero calibrate" in message
