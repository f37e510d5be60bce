"""Bags of the twin of every storage kind, all the way: converted, trained on for one epoch, replayed and reported.

Some seconds each; `make bags` sets BAG_SECONDS to five minutes. The same run is stored in every way, so the same chunks
must come out of every bag, bit for bit.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from dreamzero_policy.cli.main import app
from dreamzero_policy.data.dataset import open_dataset
from dreamzero_policy.runtime.contract import load_contract

from .storage_kinds import Kind, read_plain, write_bag, write_plain
from .twin_bag import said_by_twin, with_raw_images

SECONDS = float(os.environ.get("BAG_SECONDS", "6"))
ROOT = Path(__file__).resolve().parents[1]
CONTRACT = ROOT / "config" / "agibot_g1.yaml"
INSTRUCTION = "tidy the table"
SPLIT_S = SECONDS / 3
WINDOW_S = 3.3  # the first frame and four blocks
VALIDATION = 0.3
KINDS = {
    "humble_sqlite": Kind("humble", "sqlite3"),
    "humble_sqlite_split_file_zstd": Kind("humble", "sqlite3", compression="file", split_s=SPLIT_S),
    "humble_sqlite_raw_message_zstd": Kind("humble", "sqlite3", raw_images=True, compression="message"),
    "humble_mcap_split": Kind("humble", "mcap", split_s=SPLIT_S),
    "jazzy_mcap_chunk_zstd": Kind("jazzy", "mcap", compression="chunk_zstd"),
    "jazzy_mcap_raw_split_chunk_lz4": Kind("jazzy", "mcap", raw_images=True, compression="chunk_lz4", split_s=SPLIT_S),
    "jazzy_sqlite_raw": Kind("jazzy", "sqlite3", raw_images=True),
}
SMALL = {
    "transformer": {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "freq_dim": 16}
    | {"control_hidden_dim": 16},
    "autoencoder": {"base_dim": 4, "dim_mult": [1, 1, 1]},
    "text_encoder": {"dim": 16, "num_layers": 1, "num_heads": 2, "head_dim": 8, "ffn_dim": 16},
    "image_encoder": {"dim": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 16},
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the twin's recorder heard."""
    path = tmp_path_factory.mktemp("twin") / "said.mcap"
    write_plain(path, said_by_twin(load_contract(CONTRACT), SECONDS))
    return path


@pytest.fixture
def bag(recorded: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Writes the run as a bag of some kind. Five minutes of raw images are 6 GB, so one is deleted before the next."""

    def make(name: str) -> Path:
        shutil.rmtree(tmp_path / "bags", ignore_errors=True)
        (tmp_path / "bags").mkdir()
        kind, messages = KINDS[name], read_plain(recorded)
        written = write_bag(
            tmp_path / "bags" / name, kind, map(with_raw_images, messages) if kind.raw_images else messages
        )
        (written / "instructions.txt").write_text(f"{INSTRUCTION}\n")
        return written

    return make


def run(*arguments: object) -> str:
    """The output of a command that must succeed."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, f"{arguments}: {done.output}"
    return done.stdout


def write_recipe(folder: Path, steps: int) -> Path:
    """For a model that trains in seconds: so many windows, each once."""
    model = yaml.safe_load((ROOT / "config" / "models" / "tiny.yaml").read_text()) | {"variant": "test"}
    for section, sizes in SMALL.items():
        model[section] |= sizes
    (folder / "model.yaml").write_text(yaml.safe_dump(model))
    recipe = {
        "model": "model.yaml",
        "contract": str(CONTRACT),
        "autoencoder": {"steps": 2, "images": 2, "clips": 1, "clip_frames": 5},
        "latents": {"windows_per_episode": windows_of_a_bag(), "validation": VALIDATION},
        "joint": {"steps": steps, "batch": 1, "save_every": steps, "validate_every": steps, "dream_every": 0},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def windows_of_a_bag() -> int:
    return max(1, int(SECONDS / WINDOW_S))


@pytest.mark.timeout(1800 + 60 * SECONDS)
def test_a_bag_of_every_storage_kind_replays_converts_trains_an_epoch_and_reports(bag, tmp_path):
    for name in KINDS:
        said = json.loads(run("convert", "bag", bag(name), tmp_path / "set", "--processes", 1, "--json"))
        (converted,) = said["by_bag"]
        assert (converted["episodes"], said["damage"], said["gaps"]) == ([name], 0, 0)
        assert converted["actions"] == "commands"
        assert converted["seconds"] == pytest.approx(SECONDS, abs=0.1)
        assert converted["steps"] == pytest.approx(30 * SECONDS, abs=15)
    training = open_dataset(tmp_path / "set", load_contract(CONTRACT)).split(VALIDATION).train
    recipe = write_recipe(tmp_path, windows_of_a_bag() * len(training))
    policy = tmp_path / "policy"
    run("train", "--config", recipe, "--data", tmp_path / "set", "--out", policy, "--threads", 1, "--processes", 1)

    hashes = {}
    for name in KINDS:
        out = tmp_path / "reports" / name
        options = ("--checkpoint", policy, "--steps", 1, "--dtype", "float32", "--out", out, "--json")
        replayed = json.loads(run("replay", bag(name), *options))
        assert (replayed["problems"]["damage"], replayed["problems"]["gaps"]) == (0, 0)
        assert len(replayed["chunks"]) == pytest.approx(SECONDS / 0.8, abs=2)
        assert {chunk["prompt"] for chunk in replayed["chunks"]} == {INSTRUCTION}
        assert replayed["error"]["commands"] is not None and replayed["surprise"] is not None
        assert (out / "report.html").stat().st_size < 30e6
        assert {"film.mp4", "foxglove.mcap", "steps.parquet"} <= {path.name for path in out.iterdir()}
        hashes[name] = replayed["chunk_hash"]
    assert len(set(hashes.values())) == 1, hashes  # the same pictures and states, however they are stored
