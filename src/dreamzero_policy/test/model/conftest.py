"""Golden data of the original, and a network small enough to run in every test."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from dreamzero_policy.model.autoencoder import VideoAutoencoder
from dreamzero_policy.model.conditioning import build_image_encoder, build_text_encoder
from dreamzero_policy.model.config import ImageEncoderConfig, TextEncoderConfig
from dreamzero_policy.model.release import locate
from dreamzero_policy.model.release_config import WAN_2_1
from dreamzero_policy.model.transformer import WorldActionTransformer

GOLDEN = Path(__file__).parent / "golden"


def from_release(component: str, tensors: dict[str, torch.Tensor], network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Tensors under their released names to the state dict of the network; a name it lacks raises KeyError."""
    state = {}
    for key, own in network.state_dict().items():
        place = locate(component, key, WAN_2_1)
        tensor = tensors[place.key]
        state[key] = (tensor if place.third is None else tensor.chunk(3)[place.third]).view(own.shape)
    return state


@pytest.fixture(autouse=True)
def _few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def golden():
    """golden("dit") has .config, .weights (float32), .inputs and .outputs."""

    def load(name: str) -> SimpleNamespace:
        folder = GOLDEN / name
        weights = folder / "model.safetensors"
        return SimpleNamespace(
            config=json.loads((folder / "config.json").read_text()),
            weights={k: v.float() for k, v in load_file(weights).items()} if weights.exists() else {},
            inputs=load_file(folder / "inputs.safetensors"),
            outputs=load_file(folder / "outputs.safetensors"),
        )

    return load


@pytest.fixture(scope="session")
def golden_transformer(golden) -> WorldActionTransformer:
    data = golden("dit")
    sizes = data.config["model"]
    network = WorldActionTransformer(
        num_layers=sizes["num_layers"],
        num_attention_heads=sizes["num_heads"],
        attention_head_dim=sizes["dim"] // sizes["num_heads"],
        ffn_dim=sizes["ffn_dim"],
        in_channels=sizes["in_dim"],
        out_channels=sizes["out_dim"],
        text_dim=sizes["text_dim"],
        image_dim=data.config["clip_dim"],
        freq_dim=sizes["freq_dim"],
        action_dim=sizes["action_dim"],
        state_dim=sizes["max_state_dim"],
        control_hidden_dim=sizes["hidden_size"],
        frames_per_chunk=sizes["num_frame_per_block"],
        actions_per_chunk=sizes["num_action_per_block"],
    )
    network.load_state_dict(from_release("transformer", data.weights, network))
    return network.eval().requires_grad_(False)


@pytest.fixture
def golden_autoencoder(golden) -> VideoAutoencoder:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    data = golden("vae")
    network = AutoencoderKLWan(
        base_dim=data.config["dim"],
        latents_mean=data.config["latent_mean"],
        latents_std=data.config["latent_std"],
    )
    network.load_state_dict(from_release("vae", data.weights, network))
    return VideoAutoencoder(network.eval().requires_grad_(False))


@pytest.fixture(scope="session")
def golden_text_encoder(golden):
    sizes = golden("text").config
    network = build_text_encoder(
        TextEncoderConfig(
            tokenizer="bytes",
            vocab_size=sizes["vocab"],
            text_length=sizes["text_len"],
            dim=sizes["dim"],
            num_layers=sizes["num_layers"],
            num_heads=sizes["num_heads"],
            head_dim=sizes["dim_attn"] // sizes["num_heads"],
            ffn_dim=sizes["dim_ffn"],
        )
    )
    network.load_state_dict(from_release("text_encoder", golden("text").weights, network))
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def golden_image_encoder(golden):
    sizes = golden("image").config
    network = build_image_encoder(
        ImageEncoderConfig(
            image_size=sizes["image_size"],
            patch_size=sizes["patch_size"],
            dim=sizes["vision_dim"],
            num_layers=sizes["vision_layers"],
            num_heads=sizes["vision_heads"],
            ffn_dim=sizes["vision_dim"] * sizes["vision_mlp_ratio"],
        )
    )
    network.load_state_dict(from_release("image_encoder", golden("image").weights, network))
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def small_transformer(small_config) -> WorldActionTransformer:
    torch.manual_seed(0)
    network = WorldActionTransformer.from_model_config(small_config)
    network.initialise_weights()
    torch.nn.init.normal_(network.proj_out.weight, std=0.1)  # starts at zero, which would hide everything behind it
    return network.eval().requires_grad_(False)
