"""The released layout: its names, its configuration, and the way there and back."""

import dataclasses
import gzip
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from dreamzero_policy.model import checkpoint
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.model.convert import blank_source, convert
from dreamzero_policy.model.release import without_place
from dreamzero_policy.model.release_config import WAN_2_1, WAN_2_2, read_release
from dreamzero_policy.model.release_documents import release_document
from dreamzero_policy.model.source import Stored, open_source
from dreamzero_policy.model.weights import CheckpointError, TensorInfo, Weights, open_weights

VARIANTS = Path(__file__).parents[4] / "config" / "models"
RELEASED_NAMES = Path(__file__).parent / "golden" / "released_names.json.gz"
UNUSED = ("log_scale", "visual.head")
TOWER = "action_head.image_encoder.model."


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {key: tensor for file in sorted(folder.glob("*.safetensors")) for key, tensor in load_file(file).items()}


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, Stored]:
    tensors = {key: torch.randn(shape).bfloat16() for key, shape in shapes.items()}
    weights = Weights({key: TensorInfo("BF16", shape) for key, shape in shapes.items()}, tensors)
    return {key: Stored(weights, key) for key in shapes}


@pytest.fixture(scope="module")
def config(small_config) -> ModelConfig:
    """Sizes that a release can have: the autoencoder is Wan 2.1's, narrow."""
    return dataclasses.replace(small_config, autoencoder=dataclasses.replace(WAN_2_1, base_dim=4))


@pytest.fixture(scope="module")
def release(config, tmp_path_factory) -> Path:
    """A whole small release with random weights, unused tensors included."""
    torch.manual_seed(0)
    source = blank_source(config)
    for component in source.components.values():
        component.stored = random_tensors(component.shapes)
    source.spare = random_tensors(without_place(config.image_encoder))
    folder = tmp_path_factory.mktemp("release") / "checkpoint"
    convert(source, folder, "release", shard_bytes=200_000)
    return folder


def test_the_names_and_shapes_of_the_14b_are_those_released(tmp_path):
    expected = json.loads(gzip.decompress(RELEASED_NAMES.read_bytes()))
    convert(blank_source(ModelConfig.from_file(VARIANTS / "wan2_1_14b.yaml")), tmp_path, "release")
    infos = open_weights(tmp_path, ("model.safetensors",)).infos
    assert {key: list(info.shape) for key, info in infos.items()} == expected
    assert len(expected) == 2146
    assert sum(math.prod(s) for k, s in expected.items() if k.startswith("action_head.model.")) == 16_484_292_448


@pytest.mark.parametrize("variant", ["tiny", "medium", "wan2_2_5b", "wan2_1_14b"])
@pytest.mark.parametrize("layout", ["release", "dreamzero", "diffusers"])
def test_every_variant_is_complete_in_every_layout_with_its_own_configuration(variant, layout, tmp_path):
    config = ModelConfig.from_file(VARIANTS / f"{variant}.yaml")
    convert(blank_source(config), tmp_path, layout)
    source = open_source(tmp_path)
    source.require_complete()
    assert (source.layout, source.config) == (layout, config)


def test_the_configuration_of_a_released_size_needs_no_section_of_ours():
    for variant in ("wan2_1_14b", "wan2_2_5b"):
        assert "dreamzero" not in release_document(ModelConfig.from_file(VARIANTS / f"{variant}.yaml"))
    assert "dreamzero" in release_document(ModelConfig.from_file(VARIANTS / "tiny.yaml"))


def test_the_constants_of_the_autoencoders_have_one_value():
    assert ModelConfig.from_file(VARIANTS / "wan2_1_14b.yaml").autoencoder == WAN_2_1
    assert ModelConfig.from_file(VARIANTS / "wan2_2_5b.yaml").autoencoder == WAN_2_2


def test_a_release_loads_strictly_and_lists_what_nothing_uses(release, config):
    source = open_source(release)
    source.require_complete()
    last = config.image_encoder.num_layers - 1
    assert {key.removeprefix(TOWER).split(".attn")[0].split(".mlp")[0].split(".norm")[0] for key in source.unused} == {
        "log_scale",
        "visual.head",
        "visual.post_norm.weight",
        "visual.post_norm.bias",
        f"visual.transformer.{last}",
    }
    networks, loaded = checkpoint.load(release)
    assert loaded.geometry == config.geometry
    stored = tensors_of(release)
    query = networks.image_encoder.state_dict()["encoder.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(query, stored[f"{TOWER}visual.transformer.0.attn.to_qkv.weight"].chunk(3)[0])


def test_there_and_back_gives_the_same_tensors_and_files(release, tmp_path):
    convert(open_source(release), tmp_path / "ours", "dreamzero", shard_bytes=50_000)
    convert(open_source(tmp_path / "ours"), tmp_path / "diffusers", "diffusers")
    convert(open_source(tmp_path / "diffusers"), tmp_path / "back", "release")
    before, after = tensors_of(release), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys()
    assert {TOWER + name for name in UNUSED} < after.keys()
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype
        assert torch.equal(tensor, after[key]), key
    for file in ("config.json", "experiment_cfg/conf.yaml", "experiment_cfg/metadata.json"):
        assert (release / file).read_bytes() == (tmp_path / "back" / file).read_bytes()


def test_diffusers_own_classes_open_what_is_written_for_them(release, tmp_path):
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import CLIPVisionModel, UMT5EncoderModel

    convert(open_source(release), tmp_path, "diffusers")
    networks, _ = checkpoint.load(release)
    video = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(tmp_path / "transformer"))
    unknown = video.load_state_dict(tensors_of(tmp_path / "transformer"), strict=False)
    assert not unknown.missing_keys
    assert {key.split(".")[0] for key in unknown.unexpected_keys} == {
        "action_encoder",
        "state_encoder",
        "action_decoder",
    }
    opened = {
        "vae": AutoencoderKLWan.from_pretrained(tmp_path / "vae"),
        "text_encoder": UMT5EncoderModel.from_pretrained(tmp_path / "text_encoder"),
        "image_encoder": CLIPVisionModel.from_pretrained(tmp_path / "image_encoder"),
    }
    for name, network in opened.items():
        for key, tensor in getattr(networks, name).state_dict().items():
            assert torch.equal(tensor.float(), network.state_dict()[key].float()), key


def test_folders_without_our_configuration_load_and_say_what_was_assumed(release, tmp_path):
    convert(open_source(release), tmp_path, "diffusers")
    for file in ("config.json", "model_index.json"):
        (tmp_path / file).unlink()
    source = open_source(tmp_path)
    source.require_complete()
    assert source.layout == "diffusers"
    assert "canvas 352 x 640 px, text of 512 tokens" in source.notes[0]
    given = open_source(release).config
    assert open_source(tmp_path, config=given).config == given


def test_a_tower_under_its_older_names_loads_too(release, tmp_path):
    """As transformers before version 5 wrote it: a prefix, and a buffer nobody needs."""
    convert(open_source(release), tmp_path, "diffusers")
    file = tmp_path / "image_encoder" / "model.safetensors"
    old = {f"vision_model.{key}": tensor for key, tensor in load_file(file).items()}
    save_file(old | {"vision_model.embeddings.position_ids": torch.arange(3)}, file)
    open_source(tmp_path).require_complete()


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("diffusion_model_cfg", {"in_dim": 20}, "in_dim is 20; 16 latent channels make 16 without and 36 with"),
        ("diffusion_model_cfg", {"frame_seqlen": 9}, "canvas is 4, diffusion_model_cfg.frame_seqlen is 9"),
        ("text_encoder_cfg", {"dim": 24}, "text_encoder_cfg.dim is 24, diffusion_model_cfg.text_dim is 16"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused_with_both_values(
    release, tmp_path, section, change, message
):
    shutil.copytree(release, tmp_path, dirs_exist_ok=True)
    document = json.loads((tmp_path / "config.json").read_text())
    document.pop("dreamzero", None)
    document["action_head_cfg"]["config"][section] |= change
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=message):
        read_release(tmp_path)


def test_a_missing_an_unexpected_and_a_misshapen_tensor_are_named(release, tmp_path):
    stored = tensors_of(release)
    for file in ("config.json", "experiment_cfg"):
        origin, copy = release / file, tmp_path / file
        shutil.copytree(origin, copy) if origin.is_dir() else shutil.copyfile(origin, copy)
    key = "action_head.model.head.head.bias"
    save_file(
        {k: v for k, v in stored.items() if k != key} | {"surplus": torch.ones(1)}, tmp_path / "model.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"1 tensors are missing.*proj_out\.bias.*1 are unexpected.*surplus"):
        checkpoint.load(tmp_path)
    save_file(stored | {key: torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"{key} has shape \[3\] in model.safetensors, .* makes it \[64\]"):
        checkpoint.load(tmp_path)


def test_a_destination_in_use_is_left_alone(release, tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(CheckpointError, match="exists and is not an empty folder"):
        convert(open_source(release), tmp_path, "dreamzero")


# -------------------------------------------------------------------------------------------------- adapters

ADAPTED = "blocks.0.self_attn.q"
NAMES = {
    "wrapped": ("base_model.model.", ".default"),
    "injected": ("", ".default"),
    "plain": ("base_model.model.", ""),
}


@pytest.fixture(params=NAMES)
def adapters(request, release, tmp_path) -> Path:
    """An adapters-only checkpoint in each of the ways of naming, with one module that was trained whole."""
    wrapper, name = NAMES[request.param]
    prefix = f"action_head.model.{wrapper}"
    torch.manual_seed(1)
    save_file(
        {
            f"{prefix}{ADAPTED}.lora_A{name}.weight": torch.randn(4, 32),
            f"{prefix}{ADAPTED}.lora_B{name}.weight": torch.randn(32, 4),
            f"{prefix}action_decoder.layer2.b": torch.full((1, 5), 7.0),
        },
        tmp_path / "model.safetensors",
    )
    document = json.loads((release / "config.json").read_text())
    document["action_head_cfg"]["config"] |= {"lora_rank": 4, "lora_alpha": 8, "train_architecture": "lora"}
    (tmp_path / "config.json").write_text(json.dumps(document))
    conf = yaml.safe_load((release / "experiment_cfg/conf.yaml").read_text())
    (tmp_path / "experiment_cfg").mkdir()
    conf |= {"save_lora_only": True, "pretrained_model_path": "somewhere/DreamZero-AgiBot"}
    (tmp_path / "experiment_cfg/conf.yaml").write_text(yaml.safe_dump(conf))
    return tmp_path


def test_adapters_are_merged_into_the_base_they_are_given(adapters, release):
    factors = load_file(adapters / "model.safetensors")
    a, b = (next(v for k, v in factors.items() if f"lora_{x}" in k) for x in "AB")
    base = tensors_of(release)
    merged = checkpoint.load(adapters, torch.float32, base=release)[0].transformer.state_dict()
    weight = base[f"action_head.model.{ADAPTED}.weight"].float() + 8 / 4 * b @ a
    torch.testing.assert_close(merged["blocks.0.attn1.to_q.weight"], weight)
    assert merged["action_decoder.layer2.b"].tolist() == [[7.0] * 5]
    assert torch.equal(
        merged["blocks.0.attn1.to_k.weight"], base["action_head.model.blocks.0.self_attn.k.weight"].float()
    )


def test_adapters_alone_are_refused_with_the_name_their_training_had_for_the_base(adapters):
    with pytest.raises(CheckpointError, match=r"holds 1 adapters .* as base .*calls it somewhere/DreamZero-AgiBot"):
        checkpoint.load(adapters)


def test_a_merged_checkpoint_is_whole(adapters, release, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged") / "checkpoint"
    convert(open_source(adapters, release), folder, "release")
    networks, _ = checkpoint.load(folder)
    expected, _ = checkpoint.load(adapters, base=release)
    for key, tensor in expected.transformer.state_dict().items():
        assert torch.equal(tensor, networks.transformer.state_dict()[key]), key
    assert yaml.safe_load((folder / "experiment_cfg/conf.yaml").read_text())["save_lora_only"] is False


def test_half_an_adapter_and_one_for_another_width_are_refused(adapters, release):
    factors = load_file(adapters / "model.safetensors")
    a = next(key for key in factors if "lora_A" in key)
    save_file(factors | {a: torch.randn(4, 31)}, adapters / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"\[4, 31\] .* do not fit a weight \[32, 32\]"):
        checkpoint.load(adapters, base=release)
    save_file({key: tensor for key, tensor in factors.items() if key != a}, adapters / "model.safetensors")
    with pytest.raises(CheckpointError, match="has no counterpart"):
        checkpoint.load(adapters, base=release)
