"""A model on disk comes back as it was, or says what is wrong."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from dreamzero_policy.model import checkpoint
from dreamzero_policy.model.checkpoint import CheckpointError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def config_file(small_config, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(yaml.safe_dump(small_config.to_dict()))
    return path


@pytest.fixture(scope="module")
def written(config_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    checkpoint.initialise(config_file, folder, seed=3)
    return folder


@pytest.fixture
def broken(written, tmp_path):
    """A copy to be damaged."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path


def tensors(networks) -> dict[str, torch.Tensor]:
    return {f"{name}.{key}": value for name, network in networks.items() for key, value in network.state_dict().items()}


def test_the_same_seed_writes_the_same_weights(config_file, written, tmp_path):
    checkpoint.initialise(config_file, tmp_path / "again", seed=3)
    checkpoint.initialise(config_file, tmp_path / "other", seed=4)
    files = [path.relative_to(written) for path in written.rglob("*.safetensors")]
    assert len(files) == 4
    for file in files:
        assert (written / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
        assert (written / file).read_bytes() != (tmp_path / "other" / file).read_bytes()


def test_initialising_does_not_touch_the_random_numbers_of_others(config_file, tmp_path):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    checkpoint.initialise(config_file, tmp_path, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_what_was_saved_is_loaded_bit_for_bit(written, small_config, tmp_path):
    networks, config = checkpoint.load(written)
    assert config == small_config
    checkpoint.save(networks, config, tmp_path)
    again, _ = checkpoint.load(tmp_path)
    first, second = tensors(networks), tensors(again)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert value.dtype == second[key].dtype
        assert torch.equal(value, second[key]), key
    assert not any(value.is_meta for value in first.values())


def test_a_cast_keeps_norms_and_times_in_float32(written):
    transformer = checkpoint.load(written, torch.bfloat16)[0].transformer
    kept = {name for name, p in transformer.named_parameters() if p.dtype == torch.float32}
    assert "blocks.0.norm2.weight" in kept
    assert "blocks.0.scale_shift_table" in kept
    assert "condition_embedder.time_embedder.linear_1.weight" in kept
    assert "blocks.0.attn1.to_q.weight" not in kept
    single = checkpoint.load(written, torch.float32)[0].transformer
    assert {p.dtype for p in single.parameters()} == {torch.float32}


def test_the_text_embedding_is_held_once(written):
    encoder = checkpoint.load(written)[0].text_encoder
    assert encoder.get_input_embeddings().weight is encoder.encoder.embed_tokens.weight


def test_one_network_loads_from_its_folder_alone(written, small_config):
    make = checkpoint.builders(small_config)["vae"]
    alone = checkpoint.load_network(written / "vae", make).state_dict()
    whole = checkpoint.load(written)[0].vae.state_dict()
    assert alone.keys() == whole.keys() == checkpoint.read_tensors(written / "vae").keys()
    assert all(torch.equal(alone[key], whole[key]) for key in whole)
    with pytest.raises(CheckpointError, match=r"\d+ tensors are missing .*, \d+ are unexpected"):
        checkpoint.load_network(written / "transformer", make)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it has no config\.json"):
        checkpoint.load(tmp_path)


def test_a_missing_component_is_named(broken):
    shutil.rmtree(broken / "vae")
    with pytest.raises(CheckpointError, match="vae does not exist"):
        checkpoint.load(broken)


def test_a_wrong_shape_names_the_key_and_both_shapes(broken):
    path = broken / "transformer" / WEIGHTS
    values = load_file(path)
    save_file(values | {"proj_out.bias": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"transformer: proj_out\.bias has shape \[3\] in .* makes it \[64\]"):
        checkpoint.load(broken)


def test_missing_and_unexpected_tensors_are_counted_and_named(broken):
    path = broken / "transformer" / WEIGHTS
    values = load_file(path)
    values["surplus"] = values.pop("proj_out.bias")
    save_file(values, path)
    with pytest.raises(CheckpointError, match=r"1 tensors are missing \(first: transformer: proj_out.bias\), 1 .*lus"):
        checkpoint.load(broken)


def test_a_file_cut_off_is_named(broken):
    path = broken / "transformer" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} cannot be read, it may be cut off"):
        checkpoint.load(broken)


def test_a_pickle_is_not_read(broken):
    (broken / "vae" / WEIGHTS).rename(broken / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.bin is a pickle and is not read"):
        checkpoint.load(broken)


def test_shards_are_read_through_their_index(broken):
    path = broken / "transformer" / WEIGHTS
    expected = load_file(path)
    path.unlink()
    half = len(expected) // 2
    items = list(expected.items())
    shards = {"a.safetensors": dict(items[:half]), "b.safetensors": dict(items[half:])}
    for name, values in shards.items():
        save_file(values, path.parent / name)
    index = {"weight_map": {key: name for name, values in shards.items() for key in values}}
    (path.parent / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    checkpoint.load(broken)
    (path.parent / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"b\.safetensors is named by the index and does not exist"):
        checkpoint.load(broken)
