"""A killed process, a full disk, a broken file: at most the steps since the last save are lost."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from dreamzero_policy.model.config import ConfigError
from dreamzero_policy.training.progress import Reporter
from dreamzero_policy.training.settings import Recipe
from dreamzero_policy.training.state_file import StateError, read_state, write_state
from dreamzero_policy.training.train import train

ALONE = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def command(recipe: Path, out: Path) -> list[str]:
    module = [sys.executable, "-m", "dreamzero_policy.training.train"]
    return [*module, "--recipe", str(recipe), "--run", str(recipe.parent), "--out", str(out)]


def test_a_killed_run_goes_on_from_its_last_save_and_ends_as_if_it_had_not_been_killed(tmp_path, fill_run):
    steps = {"steps": 200, "save_every": 5, "bfloat16": False}
    killed, whole = (fill_run(tmp_path / name, steps) for name in ("killed", "whole"))
    state = killed.parent / "state.pt"
    process = subprocess.Popen(command(killed, tmp_path / "out"), env=os.environ | ALONE, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 250
        while not state.exists() and time.monotonic() < end and process.poll() is None:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    saved = read_state(state)["step"]
    assert 5 <= saved < 200 and saved % 5 == 0
    again = train(Recipe.load(killed), "joint", killed.parent, tmp_path / "out", Reporter())
    once = train(Recipe.load(whole), "joint", whole.parent, tmp_path / "other", Reporter())
    assert again.step == once.step == 200
    for key, tensor in once.average.items():
        assert torch.equal(again.average[key], tensor), key


def test_a_full_disk_leaves_the_last_save_and_names_the_file(tmp_path):
    path = tmp_path / "state.pt"
    write_state({"step": 1, "weights": torch.zeros(1000)}, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # no file may grow beyond that
    try:
        with pytest.raises(StateError, match=r"state\.pt cannot be written: .*the one written before is still there"):
            write_state({"step": 2, "weights": torch.randn(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert read_state(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_state_file_that_was_cut_off_is_named(tmp_path):
    path = tmp_path / "state.pt"
    write_state({"step": 1, "weights": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(StateError, match=r"state\.pt cannot be read"):
        read_state(path)


def test_a_run_whose_stages_before_were_not_finished_is_refused_by_the_missing_file(tmp_path, fill_run):
    recipe = fill_run(tmp_path, {})
    shutil.rmtree(tmp_path / "latents")
    with pytest.raises(StateError, match="has no latents;"):
        train(Recipe.load(recipe), "joint", tmp_path, tmp_path / "out", Reporter())


def test_a_state_of_another_model_is_refused_by_name_and_both_shapes(tmp_path, make_trainer, make_config):
    first, second = make_trainer(), make_trainer(config=make_config(layers=2))
    first.save_state(tmp_path / "state.pt")
    with pytest.raises(StateError, match=r"masters transformer\.blocks\.1\.\S+ is missing, this model has \["):
        second.load_state(tmp_path / "state.pt")


def test_latents_of_another_autoencoder_are_refused_by_field_and_both_values(tmp_path, fill_run):
    recipe = fill_run(tmp_path, {"steps": 0})
    model = yaml.safe_load((tmp_path / "model.yaml").read_text())
    model["transformer"]["num_layers"] = 2  # the latents do not depend on that
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model))
    trained = train(Recipe.load(recipe), "joint", tmp_path, tmp_path / "out", Reporter())
    assert len(trained.networks["transformer"].blocks) == 2
    model["autoencoder"]["base_dim"] = 8
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model))
    with pytest.raises(ConfigError, match=r"model\.yaml: autoencoder\.base_dim is 8, the latents in .* made with 4"):
        train(Recipe.load(recipe), "joint", tmp_path, tmp_path / "out", Reporter())
