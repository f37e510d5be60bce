"""Surprise of a real policy_node: told on its topic and in diagnostics, and with `hold` the robot comes to rest."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ament_index_python.packages import get_package_share_directory
from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import Float32

from dreamzero_policy.inference.worker_process import checkpoint_hash
from dreamzero_policy.runtime.calibration import CALIBRATION_FILE, Calibration

from .robot import CONTRACT, Bench, bench

pytestmark = pytest.mark.stack
LOAD_S, PATIENCE_S = 300, 120
DIAGNOSIS = "/policy_node: policy"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped one, calibrated by runs in which hardly anything was off: whatever it sees surprises it."""
    folder = tmp_path_factory.mktemp("checkpoint") / "copy"
    shutil.copytree(Path(get_package_share_directory("dreamzero")) / "checkpoints" / "agibot_g1_tiny", folder)
    Calibration.of(
        np.linspace(1e-6, 2e-6, 200),
        contract_hash=CONTRACT.hash,
        checkpoint_hash=checkpoint_hash(folder),
        denoise_steps=4,
        regimes=("stop_and_go",),
        runs=1,
    ).save(folder / CALIBRATION_FILE)
    return folder


@pytest.fixture
def node(ros, tmp_path: Path, checkpoint: Path) -> Iterator[Bench]:
    with bench(tmp_path, checkpoint=checkpoint, surprise_action="hold", surprise_blocks=2, surprise_hold_s=1.5) as own:
        own.robot.obeys = True
        own.distances = []
        own.robot.create_subscription(Float32, "/policy_node/surprise", own.distances.append, 10)
        own.wait(lambda: own.robot.status and own.robot.status.state == own.robot.status.IDLE, LOAD_S, "idle policy")
        yield own


def values(own: Bench) -> dict[str, str]:
    status = own.robot.diagnoses.get(DIAGNOSIS, DiagnosticStatus())
    return {pair.key: pair.value for pair in status.values}


def test_a_surprised_robot_comes_to_rest_is_told_why_and_looks_anew(node: Bench) -> None:
    node.robot.prompt("touch the red cube with the left hand")
    node.wait(lambda: "surprise_held" in node.robot.status.faults, PATIENCE_S, "hold")
    held, before = node.robot.status, node.robot.chunks[-1].epoch
    assert len(node.distances) == 2 and all(message.data > 0 for message in node.distances)
    assert "2 blocks in a row were not as predicted" in "".join(held.waiting_for)
    node.wait(lambda: not node.robot.moving(), 1.5, "rest")
    node.wait(lambda: "surprise_percentile" in values(node), PATIENCE_S, "diagnosis")
    assert values(node)["surprise_percentile"] == "100.0" and values(node)["surprise_action"] == "hold"
    assert float(values(node)["surprise"]) == pytest.approx(node.distances[-1].data, abs=1e-3)
    node.wait(lambda: node.robot.chunks[-1].epoch > before and len(node.distances) > 2, PATIENCE_S, "new look")
    assert all(not any(trajectory.points[-1].velocities) for trajectory in node.robot.trajectories)
