"""Names of tensors in the released checkpoints, against the names of the networks here.

One rule per component leads from our name to where that tensor lies in the release (:func:`locate`). Everything else
follows from it: what is missing, what is unexpected, reading, and writing a checkpoint in the released layout.

Facts: dreamzero0/dreamzero at ab790c1; the video part of the names is that of Wan-AI's own files, the image tower that
of open-clip.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from dreamzero_policy.model.config import AutoencoderConfig, ImageEncoderConfig

PREFIXES = {
    "transformer": "action_head.model.",
    "vae": "action_head.vae.model.",
    "text_encoder": "action_head.text_encoder.",
    "image_encoder": "action_head.image_encoder.model.",
}


class Place(NamedTuple):
    """Where one of our tensors lies in the release: a tensor, or one of its three equal parts along axis 0."""

    key: str
    third: int | None = None


# Replacements from our names to the released ones, applied in order.
TRANSFORMER_NAMES = (
    ("condition_embedder.time_embedder.linear_1.", "time_embedding.0."),
    ("condition_embedder.time_embedder.linear_2.", "time_embedding.2."),
    ("condition_embedder.text_embedder.linear_1.", "text_embedding.0."),
    ("condition_embedder.text_embedder.linear_2.", "text_embedding.2."),
    ("condition_embedder.time_proj.", "time_projection.1."),
    ("condition_embedder.image_embedder.norm1.", "img_emb.proj.0."),
    ("condition_embedder.image_embedder.ff.net.0.proj.", "img_emb.proj.1."),
    ("condition_embedder.image_embedder.ff.net.2.", "img_emb.proj.3."),
    ("condition_embedder.image_embedder.norm2.", "img_emb.proj.4."),
    (".norm2.", ".norm3."),  # the only norm of a block that has weights
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".to_out.0.", ".o."),
    (".add_k_proj.", ".k_img."),
    (".add_v_proj.", ".v_img."),
    (".norm_added_k.", ".norm_k_img."),
    (".ffn.net.0.proj.", ".ffn.0."),
    (".ffn.net.2.", ".ffn.2."),
    (".scale_shift_table", ".modulation"),
)
TRANSFORMER_HEAD = {
    "scale_shift_table": "head.modulation",
    "proj_out.weight": "head.head.weight",
    "proj_out.bias": "head.head.bias",
}
TEXT_NAMES = (
    ("encoder.embed_tokens.", "token_embedding."),
    ("shared.", "token_embedding."),
    ("encoder.final_layer_norm.", "norm."),
    ("encoder.block.", "blocks."),
    (".layer.0.SelfAttention.relative_attention_bias.", ".pos_embedding.embedding."),
    (".layer.0.SelfAttention.", ".attn."),
    (".layer.0.layer_norm.", ".norm1."),
    (".layer.1.layer_norm.", ".norm2."),
    (".layer.1.DenseReluDense.wi_0.", ".ffn.gate.0."),
    (".layer.1.DenseReluDense.wi_1.", ".ffn.fc1."),
    (".layer.1.DenseReluDense.wo.", ".ffn.fc2."),
)
IMAGE_NAMES = (
    ("embeddings.class_embedding", "visual.cls_embedding"),
    ("embeddings.position_embedding.weight", "visual.pos_embedding"),
    ("embeddings.patch_embedding.", "visual.patch_embedding."),
    ("pre_layrnorm.", "visual.pre_norm."),
    ("post_layernorm.", "visual.post_norm."),
    ("encoder.layers.", "visual.transformer."),
    (".self_attn.out_proj.", ".attn.proj."),
    (".layer_norm1.", ".norm1."),
    (".layer_norm2.", ".norm2."),
    (".mlp.fc1.", ".mlp.0."),
    (".mlp.fc2.", ".mlp.2."),
)
AUTOENCODER_NAMES = (
    (".mid_block.resnets.0.", ".middle.0."),
    (".mid_block.attentions.0.", ".middle.1."),
    (".mid_block.resnets.1.", ".middle.2."),
    (".conv_in.", ".conv1."),
    (".norm_out.", ".head.0."),
    (".conv_out.", ".head.2."),
)
RESIDUAL_NAMES = (
    (".norm1.", ".residual.0."),
    (".conv1.", ".residual.2."),
    (".norm2.", ".residual.3."),
    (".conv2.", ".residual.6."),
    (".conv_shortcut.", ".shortcut."),
)

_STACKED = re.compile(r"(.*)\.self_attn\.([qkv])_proj\.(.*)")


def locate(component: str, key: str, autoencoder: AutoencoderConfig) -> Place:
    """Where the release keeps our tensor ``key`` of a component, prefix included.

    The names inside an autoencoder follow from how many layers its levels have, hence its configuration.
    """
    place = {
        "transformer": _in_transformer,
        "vae": lambda key: _in_autoencoder(key, autoencoder),
        "text_encoder": lambda key: Place(_rename(key, TEXT_NAMES)),
        "image_encoder": _in_image_encoder,
    }[component](key)
    return place._replace(key=PREFIXES[component] + place.key)


def known_unused(keys: Iterable[str], config: ImageEncoderConfig) -> list[str]:
    """Those of the released names that the released model carries and never uses.

    The tower ends before its last block, so that block, the norm behind it, the head and the temperature of the
    contrastive training that made the tower have no effect.
    """
    prefix = PREFIXES["image_encoder"]
    unused = ("log_scale", "visual.head", "visual.post_norm.", f"visual.transformer.{config.num_layers - 1}.")
    return [key for key in keys if key.startswith(tuple(prefix + name for name in unused))]


def without_place(config: ImageEncoderConfig) -> dict[str, tuple[int, ...]]:
    """Released tensors that no network here has room for, and their shapes in the release (head width: 1024)."""
    prefix = PREFIXES["image_encoder"]
    return {f"{prefix}log_scale": (), f"{prefix}visual.head": (config.dim, 1024)}


def stored_shape(place: Place, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape a tensor has in the release, from the shape of ours that lies in it."""
    name = place.key.removeprefix(PREFIXES["image_encoder"])
    if place.third is not None:
        return (3 * shape[0], *shape[1:])
    leading = {"visual.cls_embedding": (1, 1), "visual.pos_embedding": (1,)}
    return (*leading.get(name, ()), *shape)


def _in_transformer(key: str) -> Place:
    return Place(TRANSFORMER_HEAD.get(key) or _rename(key, TRANSFORMER_NAMES))


def _in_image_encoder(key: str) -> Place:
    if stacked := _STACKED.fullmatch(key):  # query, key and value are one tensor there
        block, part, rest = stacked.groups()
        return Place(_rename(f"{block}.attn.to_qkv.{rest}", IMAGE_NAMES), "qkv".index(part))
    return Place(_rename(key, IMAGE_NAMES))


def _in_autoencoder(key: str, config: AutoencoderConfig) -> Place:
    if key.startswith("quant_conv."):
        return Place(key.replace("quant_conv.", "conv1."))
    if key.startswith("post_quant_conv."):
        return Place(key.replace("post_quant_conv.", "conv2."))
    key = _rename(key, AUTOENCODER_NAMES)
    if ".middle." in key or "_blocks." in key:
        key = _rename(key, RESIDUAL_NAMES)
    # Wan 2.1 numbers the layers of a half one after the other, Wan 2.2 within each level.
    if config.residual:
        key = key.replace(".down_blocks.", ".downsamples.").replace(".up_blocks.", ".upsamples.")
        inner = "downsamples" if key.startswith("encoder.") else "upsamples"
        resnets = config.num_res_blocks + (key.startswith("decoder."))
        key = key.replace(".resnets.", f".{inner}.")
        return Place(re.sub(r"\.(down|up)sampler\.", f".{inner}.{resnets}.", key))
    key = key.replace(".down_blocks.", ".downsamples.")
    level = re.fullmatch(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.(.*)", key)
    if level is None:
        return Place(key)
    block, kind, index, rest = level.groups()
    resnets = config.num_res_blocks + 1
    number = int(block) * (resnets + 1) + (resnets if kind == "upsamplers" else int(index))
    return Place(f"decoder.upsamples.{number}.{rest}")


def _rename(key: str, names: tuple[tuple[str, str], ...]) -> str:
    for old, new in names:
        key = key.replace(old, new)
    return key
