"""`dreamzero eval` from the command line, with real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from dreamzero_policy.cli.main import app
from dreamzero_policy.evaluation import campaign
from dreamzero_policy.evaluation.stage import Setup
from dreamzero_policy.evaluation.suite import SuiteError, find_suite


def arguments(setup: Setup, *more: object) -> list[str]:
    fixed = {
        "--world": setup.world,
        "--contract": setup.contract,
        "--parameters": setup.parameters,
        "--checkpoint": setup.weights["checkpoint"],
    }
    return ["eval", *(str(part) for pair in fixed.items() for part in pair), *map(str, more)]


@pytest.fixture(scope="module")
def table(setup: Setup, demonstrations: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, list[str]]:
    """A whole table with one checkpoint in all roles."""
    out = tmp_path_factory.mktemp("table")
    checkpoint = setup.weights["checkpoint"]
    asked = arguments(setup, "--table", "--episodes", 2, "--seed", 7, "--processes", 2, "--films", 2, "--json")
    asked += ["--flash-checkpoint", str(checkpoint), "--vla-checkpoint", str(checkpoint), "--out", str(out)]
    asked += ["--demonstrations", str(demonstrations), "--recorded", str(demonstrations)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout), asked


def test_one_command_gives_every_method_on_the_same_seeds(table: tuple[Path, dict, list[str]]) -> None:
    out, document, _ = table
    assert len(document["methods"]) == 12  # all but `demonstration`, which this suite does not know
    assert document["seeds"] == {"first": 7, "last": 8, "episodes_per_suite": 2}
    assert {entry[split]["episodes"] for entry in document["methods"].values() for split in ("seen", "unseen")} == {2}
    assert (document["headline"], document["episodes"]) == ("wam-1", 4)  # as its config.json says it is served
    assert {"success", "success_interval", "progress", "progress_interval", "by_family", "by_novelty"} <= set(document)
    assert set(document["by_novelty"]) == {"seen", "position", "phrasing"}
    assert len(document["checkpoint_hash"]) == 64
    assert (document["latency_s"], document["versions"]["torch"][:1]) == (0.15, "2")
    assert json.loads((out / "evaluation.json").read_text()) == document


def test_the_same_weights_in_two_roles_give_the_same_numbers(table: tuple[Path, dict, list[str]]) -> None:
    methods = table[1]["methods"]
    for name, twin in (("wam-4", "flash-4"), ("wam-4", "vla-4"), ("wam-1", "flash-1")):
        assert [methods[name][s]["progress"] for s in ("seen", "unseen")] == [
            methods[twin][s]["progress"] for s in ("seen", "unseen")
        ]


def test_films_show_the_episodes_that_were_counted(table: tuple[Path, dict, list[str]]) -> None:
    out, document, _ = table
    assert len(document["films"]) == 2
    for film in document["films"]:
        assert film["progress_when_filmed"] == film["progress"]
        assert (out / film["file"]).stat().st_size > 1000
    assert (out / "report.html").read_text().count("<video") == 2


def test_what_was_played_is_not_played_again(table: tuple[Path, dict, list[str]]) -> None:
    out, document, asked = table
    before = (out / "episodes.jsonl").read_bytes()
    index = asked.index("--recorded")
    again = [*asked[:index], *asked[index + 2 :], "--films", "0"]
    result = CliRunner().invoke(app, again)
    assert result.exit_code == 0, result.output
    assert (out / "episodes.jsonl").read_bytes() == before
    repeated = json.loads(result.stdout)
    assert repeated["methods"] == document["methods"]
    assert repeated["claims"] == document["claims"]


def test_ctrl_c_keeps_what_was_played_and_leaves_no_process(setup: Setup, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dreamzero_policy.cli.main"]
    command += arguments(setup, "--episodes", 5000, "--steps", 1, "--processes", 1, "--out", tmp_path)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0)
    episodes, deadline = tmp_path / "episodes.jsonl", time.monotonic() + 200
    while not (episodes.exists() and len(episodes.read_bytes().splitlines()) >= 2) and time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "stopped; go on with --out" in output
    assert "Traceback" not in output
    assert psutil.wait_procs(family, timeout=10)[1] == []
    for line in episodes.read_text().splitlines():
        json.loads(line)


def test_demonstrations_go_through_the_loop_and_a_suite_without_them_is_refused_at_once(
    setup: Setup, tmp_path: Path
) -> None:
    asked = arguments(
        setup, "--method", "demonstration", "--episodes", 1, "--processes", 1, "--suite", "seen", "--json"
    )
    asked += ["--out", str(tmp_path), "--films", "1"]
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code == 2
    assert "can demonstrate its tasks" in " ".join(refused.output.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []
    asked[asked.index("--world") + 1] = setup.world.replace("FakeSuite", "DemonstratingSuite")
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    entry = document["methods"]["demonstration"]
    assert (entry["title"], entry["seen"]["success"]) == ("demonstrations through the loop", 1.0)
    assert (entry["chunks"], entry["rejected_chunks"], entry["model_ms"]) == (4, {}, None)
    assert [film["progress"] for film in document["films"]] == [1.0]


def test_recorded_episodes_that_do_not_fit_are_refused_before_anything_is_played(setup: Setup, tmp_path: Path) -> None:
    (tmp_path / "recorded").mkdir()
    (tmp_path / "recorded" / "bad.npz").write_bytes(b"not an episode")
    asked = arguments(setup, "--recorded", tmp_path / "recorded", "--episodes", 1, "--out", tmp_path / "out")
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 1
    assert "bad.npz cannot be read" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_a_method_that_lacks_its_checkpoint_is_refused_with_the_option(setup: Setup) -> None:
    result = CliRunner().invoke(app, arguments(setup, "--method", "flash-4"))
    assert result.exit_code == 2
    assert "--flash-checkpoint" in result.output


def test_an_unknown_suite_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SuiteError, match="no suite 'moon' is installed, only"):
        find_suite("moon")
    with pytest.raises(SuiteError, match=r"there is no file nowhere\.py"):
        find_suite("nowhere.py:Suite")


def test_a_checkpoint_of_another_contract_is_refused_in_one_line(setup: Setup, tmp_path: Path) -> None:
    shipped = Path(__file__).parents[4] / "config" / "agibot_g1.yaml"
    asked = arguments(setup, "--episodes", 1, "--processes", 1, "--out", tmp_path)
    asked[asked.index("--contract") + 1] = str(shipped)
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 1
    assert "was trained for contract" in result.output


def test_without_a_data_set_the_mean_of_the_suites_own_demonstrations_is_replayed(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "SHOWN_SEEDS", range(3))  # left arm up, right arm up, left arm down
    world = setup.world.replace("FakeSuite", "DemonstratingSuite")
    asked = arguments(replace(setup, world=world), "--method", "mean-demonstration", "--suite", "seen", "--json")
    asked += ["--episodes", "2", "--seed", "0", "--processes", "2", "--films", "0", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    families = json.loads(result.stdout)["by_family"]
    assert families["left"]["progress"] == pytest.approx(0.0, abs=1e-3)
    assert families["right"]["progress"] == pytest.approx(1.05 / 3, abs=1e-3)
