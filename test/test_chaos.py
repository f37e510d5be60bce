"""A short chaos run: real processes, a relay that damages what passes, and nothing that must not happen happens."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dreamzero_policy.runtime.contract import load_contract

pytestmark = pytest.mark.stack
CHAOS_DOMAIN = "63"  # apart from those of other tests
SEED = 713  # deals estop, clock_back, controller_gone and model_slow first
REMOTE_SEED = 36427  # deals server_killed, server_slow, server_hung and server_restarted first


def chaos(folder: Path, *options: str) -> dict[str, Any]:
    """The summary of half a minute in which nothing happened that must not."""
    done = subprocess.run(
        [sys.executable, "-m", "dreamzero_policy.cli.main", "chaos"]
        + ["--minutes", "0.5", "--json", "--out", str(folder), *options],
        env=dict(os.environ, ROS_DOMAIN_ID=CHAOS_DOMAIN),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["not_noticed"] == {} and summary["late_rests"] == []
    assert summary["commands_outside_limits"] == 0 < summary["command_samples"]
    assert summary["moves_while_stopped"] == 0 == summary["leaked_processes"]
    assert summary["longest_trajectory_s"] <= 1.5
    return summary


def test_faults_are_told_and_no_command_leaves_the_limits(tmp_path: Path) -> None:
    summary = chaos(tmp_path / "out", "--seed", str(SEED))
    assert summary["faults_injected"] >= 3 and {"estop", "clock_back"} <= summary["injected"].keys()
    assert summary["memory"].keys() == {"twin", "policy", "policy.model"}
    assert load_contract(tmp_path / "out" / "contract.yaml")


def test_a_server_that_is_killed_is_told_and_followed_again_in_a_new_epoch(tmp_path: Path) -> None:
    summary = chaos(tmp_path / "out", "--remote", "--seed", str(REMOTE_SEED))
    assert "server_killed" in summary["injected"]
    assert 0 < summary["max_rest_s"]["server_killed"] <= 1.6  # the plan's own rest, and its way to the relay
    assert summary["memory"].keys() == {"twin", "policy", "server"}
