"""The audit of a chaos run counts what it is there to count."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamzero_policy.cli.chaos import passed
from dreamzero_policy.cli.chaos_audit import Audit
from dreamzero_policy.runtime.contract import load_contract

CONTRACT = load_contract(Path(__file__).parents[4] / "config" / "agibot_g1.yaml")
HEAD = "head_controller"  # speed limit 1 rad/s, acceleration 6 rad/s², yaw to 1.5707 rad
MS = 1_000_000


@pytest.fixture
def audit() -> Audit:
    audit = Audit(CONTRACT)
    joints = [joint for controller in CONTRACT.site.controllers for joint in controller.joints]
    audit.begin(dict.fromkeys(joints, 0.1), 0)
    return audit


def turn(audit: Audit, to_rad: float, seconds: float, now_ns: int = 0) -> None:
    """The head's yaw from where it stands to an angle, from rest to rest, from 50 ms on."""
    ms = round(seconds * 1e3)
    start = audit._commands[HEAD].plan.sample([now_ns + 50 * MS])[0][0].tolist()
    audit.sent(
        HEAD,
        [50 * MS, (50 + ms) * MS],
        np.array([start, [to_rad, start[1]]]),
        np.zeros((2, 2)),
        now_ns,
    )


def test_a_gentle_turn_is_inside_the_limits(audit: Audit) -> None:
    turn(audit, 0.3, 0.8)
    assert (audit.trajectories, audit.samples, audit.outside) == (1, 81, 0)
    assert audit.longest_s == pytest.approx(0.85)
    assert audit.rest_ns() == 850 * MS


@pytest.mark.parametrize(
    ("to_rad", "seconds", "what"), [(0.7, 0.7, "velocity"), (0.3, 0.4, "acceleration"), (1.6, 4.0, "position")]
)
def test_a_command_beyond_a_limit_is_counted_and_named(audit: Audit, to_rad: float, seconds: float, what: str) -> None:
    turn(audit, to_rad, seconds)
    assert audit.outside > 0
    assert audit.worst.startswith("idx11_head_joint1") and what in audit.worst


def test_motion_is_counted_only_where_nothing_must_move(audit: Audit) -> None:
    turn(audit, 0.3, 0.8)
    for ms in range(0, 900, 10):
        audit.tick(ms * MS)
    assert audit.moves_while_stopped == 0
    turn(audit, 0.1, 0.8, now_ns=1000 * MS)
    audit.must_rest_within(0.5, 1000 * MS)
    for ms in range(1000, 2000, 10):
        audit.tick(ms * MS)
    assert audit.moves_while_stopped == pytest.approx(34, abs=1)  # from 1.51 to 1.85 s


def summary(**differing: object) -> dict[str, Any]:
    """Of a run in which nothing happened that must not."""
    memory = {"policy": {"growth_percent_per_hour": 0.9}, "twin": {"growth_percent_per_hour": None}}
    zeros = ("faults_injected", "commands_outside_limits", "moves_while_stopped", "leaked_processes")
    return {**dict.fromkeys(zeros, 0), "not_noticed": {}, "late_rests": [], "memory": memory, **differing}


@pytest.mark.parametrize(
    "differing", [{"commands_outside_limits": 1}, {"not_noticed": {"estop": 1}}, {"late_rests": ["estop"]}]
)
def test_one_command_outside_the_limits_fails_a_run(differing: dict[str, Any]) -> None:
    assert passed(summary(faults_injected=7))
    assert not passed(summary(faults_injected=7, **differing))


def test_memory_that_grows_fails_a_soak_and_not_a_run_with_faults() -> None:
    growing = {"policy": {"growth_percent_per_hour": 1.1}}
    assert passed(summary())
    assert not passed(summary(memory=growing))
    assert passed(summary(faults_injected=7, memory=growing)), "caches of new processes fill"
