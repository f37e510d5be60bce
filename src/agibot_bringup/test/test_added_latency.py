"""What gate and bridge add is measured over real topics, and everything that is sent comes through."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CONTRACT = Path(__file__).parents[3] / "config" / "agibot_g1.yaml"


@pytest.mark.stack
@pytest.mark.parametrize("node", ["gate", "bridge"])
def test_messages_come_through_the_node_and_straight(node: str) -> None:
    command = [
        sys.executable,
        "-m",
        "agibot_bringup.benchmarks.added_latency",
        node,
        str(CONTRACT),
        "--seconds",
        "0.5",
        "--json",
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    assert (found["node"], found["messages"] + found["lost"]) == (node, 50)
    assert found["messages"] > 25 and found["node_cpu_ms"] >= 0
    for key in ("p50", "p95", "p99"):
        assert found["added_ms"][key] == pytest.approx(found["through_ms"][key] - found["direct_ms"][key], abs=2e-3)
