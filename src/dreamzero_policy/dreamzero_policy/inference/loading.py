"""A checkpoint made ready to act: networks on their device, in their dtype, warmed up."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dreamzero_policy.inference.acceleration import Acceleration
from dreamzero_policy.model import checkpoint as checkpoints
from dreamzero_policy.model.autoencoder import VideoAutoencoder, speed_up_on_cpu
from dreamzero_policy.model.checkpoint import CheckpointError, Networks
from dreamzero_policy.model.conditioning import (
    ByteTokenizer,
    FileTokenizer,
    ImageConditioner,
    TextConditioner,
    Tokenizer,
    TokenizerError,
)
from dreamzero_policy.model.config import ModelConfig, TextEncoderConfig
from dreamzero_policy.model.source import Part, open_source
from dreamzero_policy.model.transformer import WorldActionTransformer

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Policy:
    """A loaded model. Holds weights only; what a robot remembers is a :class:`~.session.Session`."""

    config: ModelConfig
    transformer: WorldActionTransformer
    autoencoder: VideoAutoencoder
    text: TextConditioner
    image: ImageConditioner
    device: torch.device
    dtype: torch.dtype

    @property
    def networks(self) -> Networks:
        return Networks(self.transformer, self.autoencoder.network, self.text.encoder, self.image.encoder)

    @property
    def parameters(self) -> dict[str, int]:
        """Number of parameters of each network."""
        return {name: sum(p.numel() for p in network.parameters()) for name, network in self.networks.items()}

    @property
    def weight_bytes(self) -> int:
        """Memory of all weights."""
        return sum(p.nbytes for _, network in self.networks.items() for p in network.parameters())

    def warm_up(self, steps: int | None = None, cfg_scale: float | None = None) -> dict[str, float]:
        """Run one window opening, one block and one prediction on black frames, so that the first real ones are fast.

        The block is also encoded for itself: where every block opens a window, nothing but comparing it with what was
        predicted does that.

        Kernels are chosen and memory is taken on first use; nothing is remembered. Returns the seconds of each part and
        logs them.
        """
        from dreamzero_policy.inference.session import Session  # a session needs a policy, a policy only this once

        session = Session(self, "warm up", steps=steps, cfg_scale=cfg_scale)
        geometry = self.config.geometry
        block = (self.config.raw_frames_per_chunk, geometry.canvas_height, geometry.canvas_width, 3)
        frames = np.zeros(block, np.uint8)
        state = np.zeros(geometry.max_state_dim, np.float32)
        parts = (
            ("open_window", lambda: session.observe(frames[:1])),
            ("encode_block", lambda: session.encoded(frames)),
            ("observe_block", lambda: session.observe(frames)),
            ("predict", lambda: session.predict(state)),
        )
        seconds = {}
        for name, run in parts:
            start = time.perf_counter()
            run()
            seconds[name] = time.perf_counter() - start
        summary = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
        log.info("warmed up %s with %d steps on %s: %s", self.config.variant, session.steps, self.device, summary)
        return seconds


def load_policy(
    checkpoint: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int | None = None,
    fast: bool = True,
    tokenizer_path: str | Path | None = None,
    base: str | Path | None = None,
    config: ModelConfig | None = None,
    acceleration: Acceleration | None = None,
    part: Part | None = None,
) -> Policy:
    """Load a checkpoint directory for inference.

    Args:
        checkpoint: directory in any layout of ``model/source.py``.
        device: a torch device.
        dtype: ``float32``, ``bfloat16``, or ``auto`` for the faster of the two here (:func:`fastest_dtype`); norms and
            time embedding stay in float32 always.
        threads: threads of torch's CPU kernels, for the whole process; None leaves them alone.
        fast: use the CPU kernels of :func:`~..model.autoencoder.speed_up_on_cpu`; False is the plain path they are
            tested against.
        tokenizer_path: the tokenizer's directory, for models that need one (released checkpoints do not contain it).
            Default: ``tokenizer/`` in the checkpoint.
        base: the checkpoint that an adapters-only checkpoint was trained on.
        config: overrides what the directory says about the model.
        acceleration: fast paths of the transformer; None is the reference path.
        part: what of each of the transformer's tensors this process keeps, where several hold it together
            (``inference/parallel/``).

    Raises:
        CheckpointError: something in the directory is missing or does not fit.
        ValueError: unknown dtype, or fewer than one thread.
    """
    if dtype not in (*DTYPES, "auto"):
        raise ValueError(f"dtype is {dtype!r}, expected one of {[*DTYPES, 'auto']}")
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)
    dtype = fastest_dtype(device) if dtype == "auto" else dtype
    with checkpoints.collection_paused():
        source = open_source(checkpoint, base, config)
        source.require_complete()
        tokenizer = load_tokenizer(source.config.text_encoder, source.path, tokenizer_path)
        networks = checkpoints.load_source(source, DTYPES[dtype], part)
    for _, network in networks.items():
        network.to(device).eval().requires_grad_(False)
    if fast and torch.device(device).type == "cpu":
        speed_up_on_cpu(networks.vae)
    if acceleration is not None:
        acceleration.apply(networks.transformer)
    return Policy(
        config=source.config,
        transformer=networks.transformer,
        autoencoder=VideoAutoencoder(networks.vae),
        text=TextConditioner(networks.text_encoder, tokenizer),
        image=ImageConditioner(networks.image_encoder),
        device=torch.device(device),
        dtype=DTYPES[dtype],
    )


def fastest_dtype(device: str) -> str:
    """``bfloat16`` where it multiplies matrices clearly faster than float32, found by trying for a few milliseconds.

    CPUs differ: with AMX or AVX-512 bfloat16 wins by two to seven times, without them it loses.
    """
    seconds = {}
    for name, dtype in DTYPES.items():
        x = torch.ones(256, 1024, device=device, dtype=dtype)
        weight = torch.ones(1024, 1024, device=device, dtype=dtype)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            torch.nn.functional.linear(x, weight).sum().item()  # waits for the device
            times.append(time.perf_counter() - start)
        seconds[name] = min(times)
    return "bfloat16" if seconds["bfloat16"] < 0.8 * seconds["float32"] else "float32"


def load_tokenizer(config: TextEncoderConfig, checkpoint: Path, path: str | Path | None) -> Tokenizer:
    """The tokenizer a text encoder needs. Raises :class:`CheckpointError` naming the directory it looked in."""
    if config.tokenizer == "bytes":
        return ByteTokenizer(config.text_length)
    folder = Path(path) if path is not None else checkpoint / "tokenizer"
    if path is None and not folder.is_dir():
        raise CheckpointError(
            f"{checkpoint} contains no tokenizer; pass tokenizer_path, a directory with the tokenizer's own files "
            "(released models use that of google/umt5-xxl)"
        )
    try:
        return FileTokenizer(folder, config.text_length, config.vocab_size)
    except TokenizerError as error:
        raise CheckpointError(str(error)) from error
