"""What the model is told besides the video: the instruction and the first picture of the window.

Text goes through a UMT5 encoder; features beyond a prompt's true length are set to zero, sample by sample, and the
transformer attends to them all the same, as the released weights were trained. The picture goes through a CLIP tower
whose hidden state before the last block is used.

Small models need no vocabulary file: :class:`ByteTokenizer` maps bytes to ids. Released models come with a tokenizer of
their own, which is not part of their checkpoint: :class:`FileTokenizer`. Prompt cleaning is deliberately plain:
HTML entities are unescaped twice, Unicode is put in its composed form, white space is collapsed. Repair of wrongly
decoded text (what ``ftfy`` does in the original) is left out; prompts are expected to be proper Unicode.
"""

from __future__ import annotations

import html
import logging
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPVisionModel
from transformers.models.umt5.configuration_umt5 import UMT5Config
from transformers.models.umt5.modeling_umt5 import UMT5EncoderModel

from dreamzero_policy.model.config import ImageEncoderConfig, TextEncoderConfig

log = logging.getLogger(__name__)

PAD_ID, END_ID, UNKNOWN_ID, FIRST_BYTE_ID = 0, 1, 2, 3
BYTE_VOCABULARY = FIRST_BYTE_ID + 256

POSITION_BASE = 100.0  # of the rates: the slowest wave turns once in some 600 patches
POSITION_SIZE = 0.3  # about the spread of a drawn patch embedding

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class PromptTooLongError(ValueError):
    """The prompt has more tokens than the model was built for."""


def clean_prompt(prompt: str) -> str:
    """Unescape HTML twice, compose Unicode (NFC), collapse white space."""
    return " ".join(unicodedata.normalize("NFC", html.unescape(html.unescape(prompt))).split())


class Tokenizer(Protocol):
    """Prompts to padded ids."""

    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask [B, text_length] int64; the mask is 1 on real tokens, the closing token included."""
        ...


@dataclass(frozen=True)
class ByteTokenizer:
    """UTF-8 bytes as tokens. Ids: 0 padding, 1 end, 2 unknown (never produced), 3 + b for byte b."""

    text_length: int

    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Raises :class:`PromptTooLongError` rather than cutting a prompt."""
        ids = torch.full((len(prompts), self.text_length), PAD_ID, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            tokens = [FIRST_BYTE_ID + byte for byte in clean_prompt(prompt).encode("utf-8")] + [END_ID]
            if len(tokens) > self.text_length:
                raise PromptTooLongError(
                    f"the prompt has {len(tokens) - 1} bytes, this model takes at most {self.text_length - 1}: "
                    f"{prompt!r}"
                )
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        return ids, mask


class TokenizerError(RuntimeError):
    """Tokenizer files that cannot be used; the message names the directory."""


class FileTokenizer:
    """A tokenizer directory of transformers, padded to the model's length.

    A prompt that is too long loses its end, as it did when the released models were trained; a warning says so.
    """

    def __init__(self, path: str | Path, text_length: int, vocab_size: int) -> None:
        """Raises :class:`TokenizerError` when the files are missing, or know more tokens than the text encoder."""
        from transformers import AutoTokenizer  # slow to import and needed for released models only

        if not Path(path).is_dir():
            raise TokenizerError(f"no tokenizer at {path}: it is not a directory")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        except Exception as error:  # transformers raises many kinds
            raise TokenizerError(f"the tokenizer at {path} cannot be loaded: {str(error).splitlines()[0]}") from error
        if len(self._tokenizer) > vocab_size:
            raise TokenizerError(
                f"the tokenizer at {path} has {len(self._tokenizer)} tokens, the text encoder knows {vocab_size}"
            )
        self.text_length = text_length

    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        cleaned = [clean_prompt(prompt) for prompt in prompts]
        for prompt, ids in zip(cleaned, self._tokenizer(cleaned, verbose=False)["input_ids"], strict=True):
            if len(ids) > self.text_length:
                log.warning("a prompt of %d tokens is cut to %d: %r", len(ids), self.text_length, prompt)
        batch = self._tokenizer(
            cleaned, padding="max_length", truncation=True, max_length=self.text_length, return_tensors="pt"
        )
        return batch["input_ids"], batch["attention_mask"]


def build_text_encoder(config: TextEncoderConfig) -> UMT5EncoderModel:
    """The stock encoder of the given sizes, untrained."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=config.vocab_size,
            d_model=config.dim,
            d_kv=config.head_dim,
            d_ff=config.ffn_dim,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )


class ImageTower(CLIPVisionModel):
    """The stock tower up to what is used of it: its last block has weights, as the released one has, and never runs."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Pixels [B, 3, S, S] to hidden states before the last block [B, tokens, dim], the class token first."""
        hidden = self.pre_layrnorm(self._embedded(pixel_values))
        for block in self.encoder.layers[:-1]:
            hidden = block(hidden, attention_mask=None)
        return hidden

    def _embedded(self, pixels: Tensor) -> Tensor:
        """What the stock embeddings give, by a product: the gradient of a convolution is slow on CPUs in bfloat16."""
        table, size = self.embeddings, self.embeddings.patch_size
        patches = pixels.unflatten(3, (-1, size)).unflatten(2, (-1, size)).permute(0, 2, 4, 1, 3, 5)
        seen = F.linear(patches.flatten(3).flatten(1, 2), table.patch_embedding.weight.flatten(1))
        first = table.class_embedding.to(seen.dtype).expand(len(seen), 1, -1)
        return torch.cat([first, seen], dim=1) + table.position_embedding.weight

    @torch.no_grad()
    def initialise_positions(self) -> None:
        """Position embeddings to start training from: sines and cosines of row and column, as strong as the patches.

        Drawn ones are weak noise, and a small tower that is asked for what is in a patch forgets where the patch is.
        """
        table = self.embeddings.position_embedding.weight  # [1 + G², dim], the class token first
        grid, dim = math.isqrt(len(table) - 1), table.shape[1]
        rates = POSITION_BASE ** -torch.linspace(0, 1, dim // 4)
        angles = torch.arange(grid)[:, None] * rates
        axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # [G, dim / 2]
        rows, columns = axis.repeat_interleave(grid, 0), axis.repeat(grid, 1)
        table[1:, : 2 * axis.shape[1]] = POSITION_SIZE * torch.cat([rows, columns], dim=1)


def build_image_encoder(config: ImageEncoderConfig) -> ImageTower:
    """The tower of the given sizes, untrained."""
    return ImageTower(
        CLIPVisionConfig(
            image_size=config.image_size,
            patch_size=config.patch_size,
            hidden_size=config.dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.ffn_dim,
            hidden_act="gelu",
            layer_norm_eps=1e-5,
        )
    )


class TextConditioner:
    """Prompts to text features."""

    def __init__(self, encoder: UMT5EncoderModel, tokenizer: Tokenizer) -> None:
        self.encoder = encoder
        self.tokenizer = tokenizer

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """[B, text_length, text_dim], zero after each prompt's own length."""
        ids, mask = (x.to(self.encoder.device) for x in self.tokenizer(prompts))
        return encode_tokens(self.encoder, ids, mask)


def encode_tokens(encoder: UMT5EncoderModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Ids and mask [B, N] to features [B, N, text_dim], zero where the mask is."""
    features = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    return features * mask[..., None].to(features.dtype)


class ImageConditioner:
    """Canvases to image tokens."""

    def __init__(self, encoder: ImageTower) -> None:
        self.encoder = encoder

    def encode(self, video: Tensor) -> Tensor:
        """Frames [B, 3, H, W] in [−1, 1] to hidden states before the last block [B, tokens, dim]."""
        pixels = clip_pixels(video, self.encoder.config.image_size).to(self.encoder.dtype)
        return self.encoder(pixel_values=pixels)


def clip_pixels(image: Tensor, size: int) -> Tensor:
    """[B, 3, H, W] in [−1, 1] to the tower's input: bicubic without antialias to a square, then CLIP's mean and std."""
    pixels = image.float()
    if pixels.shape[-2:] != (size, size):  # at its own size bicubic gives every pixel back
        pixels = F.interpolate(pixels, (size, size), mode="bicubic", align_corners=False)
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (pixels * 0.5 + 0.5 - mean) / std
