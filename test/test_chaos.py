"""A short chaos run: real processes, a relay that damages what passes, and nothing that must not happen happens."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dreamzero_policy.runtime.contract import load_contract

pytestmark = pytest.mark.stack
CHAOS_DOMAIN = "63"  # apart from those of other tests
SEED = 713  # deals estop, clock_back, controller_gone and model_slow first


def test_faults_are_told_and_no_command_leaves_the_limits(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dreamzero_policy.cli.main", "chaos"]
        + ["--minutes", "0.5", "--seed", str(SEED), "--json", "--out", str(tmp_path / "out")],
        env=dict(os.environ, ROS_DOMAIN_ID=CHAOS_DOMAIN),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["faults_injected"] >= 3 and {"estop", "clock_back"} <= summary["injected"].keys()
    assert summary["not_noticed"] == {} and summary["late_rests"] == []
    assert summary["commands_outside_limits"] == 0 < summary["command_samples"]
    assert summary["moves_while_stopped"] == 0 == summary["leaked_processes"]
    assert summary["longest_trajectory_s"] <= 1.5
    assert summary["memory"].keys() == {"twin", "policy", "policy.model"}
    assert load_contract(tmp_path / "out" / "contract.yaml")
