"""A bag of every storage kind, all the way: converted, trained on for one epoch, and replayed with what was trained."""

import json
from pathlib import Path

import pytest
import yaml
from rosbags.rosbag2 import CompressionMode, StoragePlugin
from typer.testing import CliRunner

from dreamzero_policy.cli.main import app
from dreamzero_policy.runtime.contract import Contract, load_contract, save_contract

from ..data.conftest import HEIGHT_PX, WIDTH_PX
from ..data.test_convert_bags import write_bag
from .test_pipeline import SMALL

CONFIG = Path(__file__).parents[4] / "config"
KINDS = {
    "mcap_compressed": (StoragePlugin.MCAP, CompressionMode.NONE, False),
    "mcap_raw_zstd": (StoragePlugin.MCAP, CompressionMode.STORAGE, True),
    "sqlite_compressed": (StoragePlugin.SQLITE3, CompressionMode.NONE, False),
    "sqlite_raw_zstd_messages": (StoragePlugin.SQLITE3, CompressionMode.MESSAGE, True),
    "sqlite_zstd_file": (StoragePlugin.SQLITE3, CompressionMode.FILE, False),
}


def small_cameras() -> Contract:
    """The shipped contract on a site with cameras of 64 x 48 pixels."""
    shipped = load_contract(CONFIG / "agibot_g1.yaml")
    size = {"width_px": WIDTH_PX, "height_px": HEIGHT_PX}
    cameras = {name: camera.model_copy(update=size) for name, camera in shipped.site.cameras.items()}
    return shipped.model_copy(update={"site": shipped.site.model_copy(update={"cameras": cameras})})


@pytest.mark.timeout(1800)
def test_bags_of_every_storage_kind_are_converted_trained_on_and_replayed(tmp_path):
    contract = small_cameras()
    save_contract(contract, tmp_path / "contract.yaml")
    (tmp_path / "bags").mkdir()
    for name, (plugin, zstd, raw) in KINDS.items():
        write_bag(tmp_path / "bags" / name, contract, plugin, zstd, raw)
    model = yaml.safe_load((CONFIG / "models" / "tiny.yaml").read_text())
    for section, sizes in SMALL.items():
        model[section] = sizes if isinstance(sizes, str) else model[section] | sizes
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model))
    recipe = {
        "model": "model.yaml",
        "contract": "contract.yaml",
        "autoencoder": {"steps": 2, "images": 2, "clips": 1, "clip_frames": 5},
        "latents": {"windows_per_episode": 1, "validation": 0.3},
        "joint": {"steps": len(KINDS), "batch": 1, "save_every": 5, "validate_every": 5, "dream_every": 0},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def run(*arguments: object) -> str:
        done = CliRunner().invoke(app, list(map(str, arguments)))
        assert done.exit_code == 0, f"{arguments}: {done.output}"
        return done.stdout

    given = ("--contract", tmp_path / "contract.yaml")
    told = ("--instruction", "touch the cube", "--processes", 1, "--json")
    document = json.loads(run("convert", "bag", tmp_path / "bags", tmp_path / "set", *told, *given))
    assert document["episodes"] == len(KINDS) and document["gaps"] == 0
    run(
        *("train", "--config", tmp_path / "recipe.yaml", "--data", tmp_path / "set"),
        *("--out", tmp_path / "policy", "--threads", 1),
    )
    hashes = {}
    for name in KINDS:
        options = ("--checkpoint", tmp_path / "policy", "--prompt", "touch the cube", "--steps", 1, "--json", *given)
        replayed = json.loads(run("replay", tmp_path / "bags" / name, "--dtype", "float32", *options))
        assert len(replayed["chunks"]) >= 2 and not replayed["problems"]["damage"]
        hashes[name] = replayed["chunk_hash"]
    assert len(set(hashes.values())) == 1  # the same pictures and states, however they are stored
