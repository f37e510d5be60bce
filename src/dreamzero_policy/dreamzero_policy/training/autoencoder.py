"""Trains the small video autoencoder on a robot's own canvases.

The network is the stock causal Wan autoencoder. Single frames and short clips take turns, so that the first frame of a
window and the frames that follow it, which pass through other layers, both learn. Loss: absolute and squared error of
the pixels and a faint pull of the latents towards a normal distribution. Afterwards mean and spread of every latent
channel are measured and stored in the configuration, so that the transformer sees latents of mean 0 and spread 1.

Two things were needed for small networks and few steps: pixels weigh more where a picture differs from the mean of all,
since objects are small and most of a picture is always the same; and clips are cut to full rows or columns of tiles,
since an empty tile teaches nothing and costs as much.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from numpy.typing import NDArray
from torch import Tensor, nn

from dreamzero_policy.data.episodes import Episode
from dreamzero_policy.model.autoencoder import Stream, VideoAutoencoder
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.runtime.contract import ModelSection
from dreamzero_policy.runtime.embodiment import Image
from dreamzero_policy.training.progress import Reporter
from dreamzero_policy.training.state_file import read_state, write_state


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings:
    """How the autoencoder is trained."""

    steps: int = 2000
    learning_rate: float = 2e-3
    warm_up: int = 50
    images: int = 8  # single frames in a batch
    clips: int = 2  # clips in a batch
    clip_frames: int = 17  # raw frames of a clip: 1 + 4 n; latents drift where a window is much longer than the clips
    clip_share: float = 0.5  # of the steps that take clips
    kl_weight: float = 1e-5
    change_weight: float = 8.0  # extra weight of a pixel, by half its largest difference from the mean picture
    episodes: int = 600  # held in memory, drawn from all
    bfloat16: bool = False  # autocast; pays on a CPU with AMX or AVX-512 BF16, and is many times slower without
    save_every: int = 200  # steps: progress kept for a later continuation
    start: Path | None = None  # folder of a trained autoencoder to go on from; with 0 steps it stays as it is
    seed: int = 0


def draw_clip(episodes: Sequence[Episode], frames: int, rng: np.random.Generator) -> Image:
    """Canvases [frames, height, width, 3] of consecutive pictures of a random episode."""
    episode = episodes[rng.integers(len(episodes))]
    first = rng.integers(len(episode.canvas) - frames + 1)
    return episode.canvas[first : first + frames]


def full_strips(model: ModelSection) -> list[tuple[slice, slice]]:
    """Rows and columns of the canvas that have a view in every cell, and the whole, as slices of its pixels."""
    canvas, view = model.canvas, model.view
    seen = {cell for tile in canvas.tiles for cell in tile.cells}
    rows = [
        (slice(row * view.height_px, (row + 1) * view.height_px), slice(None))
        for row in range(canvas.rows)
        if all((row, column) in seen for column in range(canvas.columns))
    ]
    columns = [
        (slice(None), slice(column * view.width_px, (column + 1) * view.width_px))
        for column in range(canvas.columns)
        if all((row, column) in seen for row in range(canvas.rows))
    ]
    return [*rows, *columns, (slice(None), slice(None))]


def batch_of(clips: Sequence[Image]) -> Tensor:
    """Canvases [B][T, H, W, 3] uint8 to video [B, 3, T, H, W] in [−1, 1]."""
    return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def mean_picture(episodes: Sequence[Episode]) -> Tensor:
    """The mean over all pictures [3, 1, H, W] in [−1, 1]."""
    total = sum(episode.canvas.sum(0, dtype=np.int64) for episode in episodes)
    mean = total / sum(len(episode.canvas) for episode in episodes)
    return torch.from_numpy(mean / 127.5 - 1).permute(2, 0, 1)[:, None].float()


def autoencoder_loss(
    network: AutoencoderKLWan,
    video: Tensor,
    usual: Tensor,
    settings: AutoencoderSettings,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Loss and its parts for video [B, 3, T, H, W]; `usual` [3, 1, H, W] is the mean picture."""
    posterior = network.encode(video).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator)
    decoded = network.decode(posterior.mean + posterior.std * noise).sample
    error = decoded - video
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    change = (video - usual).abs().amax(1, keepdim=True) / 2
    weight = 1 + settings.change_weight * change
    loss = (weight * (error.abs() + 4 * error.square())).mean() + settings.kl_weight * kl
    return {"loss": loss, "squared": error.square().mean(), "kl": kl}


def train_autoencoder(
    network: AutoencoderKLWan,
    model: ModelSection,
    episodes: Sequence[Episode],
    settings: AutoencoderSettings,
    reporter: Reporter,
    state_path: Path,
) -> None:
    """Train in place, going on from the state file if there is one.

    What a step sees follows from the seed and its number, so that a continued run ends as one that was not interrupted.
    """
    network.train()
    _channels_last(network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=1e-5)
    done = 0
    if state_path.exists():
        state = read_state(state_path)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        done = state["step"]
    strips, usual = full_strips(model), mean_picture(episodes)
    with reporter.stage("autoencoder", settings.steps, done) as stage:
        for step in range(done, settings.steps):
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * warm_cosine(step, settings.warm_up, settings.steps)
            rng = np.random.default_rng((settings.seed, step))
            generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
            clips = rng.random() < settings.clip_share
            count, frames = (settings.clips, settings.clip_frames) if clips else (settings.images, 1)
            rows, columns = strips[rng.integers(len(strips))] if clips else (slice(None), slice(None))
            video = batch_of([draw_clip(episodes, frames, rng)[:, rows, columns] for _ in range(count)])
            with torch.autocast(video.device.type, torch.bfloat16, enabled=settings.bfloat16):
                parts = autoencoder_loss(network, video, usual[..., rows, columns], settings, generator)
            optimiser.zero_grad(set_to_none=True)
            parts["loss"].backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            if (step + 1) % settings.save_every == 0 and step + 1 < settings.steps:
                write_state(
                    {"step": step + 1, "network": network.state_dict(), "optimiser": optimiser.state_dict()}, state_path
                )
            psnr = 10 * torch.log10(4 / parts["squared"].detach()).item()
            stage.note(step + 1, {"clip_psnr" if clips else "image_psnr": psnr, "kl": parts["kl"].item()})
    network.eval()


def _channels_last(network: AutoencoderKLWan) -> None:
    """Faster convolutions on a CPU: half the time of a step."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)


def warm_cosine(step: int, warm_up: int, steps: int) -> float:
    """Share of the learning rate: up in a line, down in half a cosine to 2 %."""
    if step < warm_up:
        return (step + 1) / warm_up
    done = min(1.0, (step - warm_up) / max(1, steps - warm_up))
    return 0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * done)))


@torch.no_grad()
def measure_latents(
    autoencoder: VideoAutoencoder,
    episodes: Sequence[Episode],
    clips: int,
    frames: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation [C] of the raw latents of random clips. The network must not normalise yet."""
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(clips):
        video = batch_of([draw_clip(episodes, frames, rng)]).to(autoencoder.dtype)
        values.append(autoencoder.encode(video, Stream())[0].flatten(1).double())
    latents = torch.cat(values, dim=1)
    return latents.mean(1).numpy(), latents.std(1).numpy()


def with_normalisation(config: ModelConfig, network: AutoencoderKLWan, mean: NDArray, std: NDArray) -> ModelConfig:
    """The configuration with the measured latents; the network's own is set to the same."""
    numbers = {
        "latents_mean": tuple(round(float(x), 5) for x in mean),
        "latents_std": tuple(round(float(x), 5) for x in std),
    }
    network.register_to_config(**{name: list(values) for name, values in numbers.items()})
    return replace(config, autoencoder=replace(config.autoencoder, **numbers))
