"""`dreamzero replay` from the command line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dreamzero_policy.cli.main import app
from dreamzero_policy.inference.loading import load_policy

from .conftest import CONFIG


@pytest.fixture
def run(checkpoint: Path):
    def run(bag: Path, *more: object, acting: str = "--checkpoint"):
        fixed = {"--contract": checkpoint / "contract.yaml", acting: checkpoint, "--parameters": CONFIG / "policy.yaml"}
        options = [str(part) for pair in fixed.items() for part in pair]
        return CliRunner().invoke(app, ["replay", str(bag), *options, *map(str, more)])

    return run


def test_one_command_gives_one_json_object_and_a_folder(run, guided, tmp_path):
    result = run(guided, "--steps", 2, "--json", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert {"chunk_hash", "matches_live", "realtime_factor", "chunks", "tolerance"} <= set(document)
    assert (document["mode"], document["matches_live"], len(document["chunks"])) == ("open_loop", None, 5)
    assert {"index", "stamp_s", "hash", "verdict", "model_s", "error"} <= set(document["chunks"][0])
    assert document["tolerance"]["same_machine_and_threads"] == "bit-equal"
    assert document["realtime_factor"] > 0
    assert json.loads((tmp_path / "out" / "replay.json").read_text()) == document
    lines = [json.loads(line) for line in (tmp_path / "out" / "chunks.jsonl").read_text().splitlines()]
    assert [line["hash"] for line in lines] == [chunk["hash"] for chunk in document["chunks"]]
    assert (len(lines[0]["positions"]), len(lines[0]["positions"][0])) == (24, 20)
    again = run(guided, "--steps", 2, "--json", "--out", tmp_path / "out")
    assert again.exit_code == 1
    assert "is not empty; name another folder with --out" in again.stderr


def test_parity_ends_with_0_where_all_is_equal_and_with_1_where_something_differs(run, live_bag):
    equal = run(live_bag, "--mode", "parity", "--json")
    assert equal.exit_code == 0, equal.output
    assert json.loads(equal.stdout)["matches_live"] is True
    assert "yes, " in equal.stderr
    differs = run(live_bag, "--mode", "parity", "--seed", 7)
    assert differs.exit_code == 1
    assert "noise_seed is 1140 live, 7 here" in " ".join(differs.stdout.replace("│", " ").split())
    assert run(live_bag, "--seed", 7).exit_code == 0  # in open loop that is no failure


def test_what_the_node_computed_in_is_seen_in_its_first_chunk(run, live, checkpoint, tmp_path):
    half = load_policy(checkpoint, dtype="bfloat16", threads=1)
    bag = live(3.0, {0.2: "touch the cube"}, model=half).write(tmp_path / "half")
    document = json.loads(run(bag, "--json").stdout)
    assert (document["matches_live"], document["tolerance"]["dtype"]) == (True, "bfloat16")
    forced = json.loads(run(bag, "--json", "--dtype", "float32").stdout)
    assert (forced["matches_live"], forced["tolerance"]["dtype"]) == (False, "float32")
    assert forced["live"]["first_difference"]["field"].startswith("positions: row 0 of")
    far = forced["live"]["largest_difference"]
    assert json.loads(run(bag, "--json", "--dtype", "float32", "--tolerance", 2 * far).stdout)["matches_live"] is True


def test_a_counterfactual_is_asked_for_by_from(run, guided):
    result = run(guided, "--from", 1.5, "--prompt", "lift the bowl", "--json", acting="--recorded-checkpoint")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["mode"], document["counterfactual"]["chunks"]) == ("counterfactual", 3)


def test_what_cannot_be_replayed_is_told_in_one_line_and_ends_with_1(run, guided, tmp_path):
    file = next(guided.glob("*.mcap"))
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(file.read_bytes()[:5000])
    for bag, text in ((cut, "cut.mcap cannot be read"), (tmp_path / "nowhere", "there is no bag")):
        result = run(bag, "--json")
        assert result.exit_code == 1
        assert result.stdout == ""
        assert text in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_refused_bag_leaves_nothing_in_the_way_of_the_right_one(run, guided, tmp_path):
    cut, out = tmp_path / "cut.mcap", tmp_path / "out"
    cut.write_bytes(next(guided.glob("*.mcap")).read_bytes()[:5000])
    for wrong in ((cut,), (guided, "--from", 900, "--prompt", "lift the bowl")):
        acting = "--recorded-checkpoint" if "--from" in wrong else "--checkpoint"
        assert run(*wrong, "--out", out, acting=acting).exit_code == 1
    assert run(guided, "--steps", 1, "--out", out).exit_code == 0
    assert (out / "report.html").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--mode", "guess"),
        ("--from", 1.0),
        ("--mode", "counterfactual", "--prompt", "lift"),
        ("--mode", "parity", "--recorded-checkpoint", "x"),
        ("--latency", 0.1),
        ("--dtype", "auto"),
        ("--prompt", " "),
    ],
)
def test_options_that_make_no_sense_together_are_refused(guided, options):
    assert CliRunner().invoke(app, ["replay", str(guided), *map(str, options)]).exit_code == 2
