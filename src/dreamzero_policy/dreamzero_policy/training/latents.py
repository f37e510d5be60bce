"""Windows of latents: encoded once by the trained autoencoder, kept on disk, drawn in batches.

A window is encoded as a stream that begins with its own first frame, as a session does. Windows of one recording
share a file; the file names the contract, so that latents of one robot never train another.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamzero_policy.data.episodes import Episode
from dreamzero_policy.data.windows import anchors, chunks_after, window
from dreamzero_policy.model.autoencoder import Stream, VideoAutoencoder
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Embodiment, Image


class LatentsError(ValueError):
    """Latents that cannot be used; the message says why."""


@dataclass(frozen=True, eq=False)
class LatentWindow:
    """A window after the autoencoder. F = 1 + 2 n latent frames, n chunks."""

    prompt: str
    first_frame: Image  # [height, width, 3]
    latents: Tensor  # [C, F, h, w] normalised
    state: Tensor  # [n, D] normalised
    action: Tensor  # [n, 24, A] normalised

    @property
    def chunks(self) -> int:
        return len(self.state)


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows padded at their ends to the longest one, and to the widths of the model.

    `chunk_valid` [B, n] tells chunks from padding, `action_valid` [max_action_dim] columns of the contract from
    padding.
    """

    prompts: tuple[str, ...]
    first_frame: Tensor  # [B, 3, H, W] in [−1, 1]
    latents: Tensor  # [B, C, 1 + 2 n, h, w]
    state: Tensor  # [B, n, max_state_dim]
    action: Tensor  # [B, 24 n, max_action_dim]
    chunk_valid: Tensor  # [B, n] bool
    action_valid: Tensor  # [max_action_dim] bool


def collate(windows: Sequence[LatentWindow], config: ModelConfig) -> Batch:
    """A batch of windows of any lengths."""
    geometry, count = config.geometry, max(item.chunks for item in windows)
    channels, _, height, width = windows[0].latents.shape
    per_chunk, frames = geometry.actions_per_chunk, geometry.frames_per_chunk
    latents = torch.zeros(len(windows), channels, 1 + frames * count, height, width)
    state = torch.zeros(len(windows), count, geometry.max_state_dim)
    action = torch.zeros(len(windows), count * per_chunk, geometry.max_action_dim)
    chunk_valid = torch.zeros(len(windows), count, dtype=torch.bool)
    for row, item in enumerate(windows):
        latents[row, :, : item.latents.shape[1]] = item.latents
        state[row, : item.chunks, : item.state.shape[1]] = item.state
        action[row, : item.chunks * per_chunk, : item.action.shape[2]] = item.action.flatten(0, 1)
        chunk_valid[row, : item.chunks] = True
    pixels = torch.from_numpy(np.stack([item.first_frame for item in windows])).permute(0, 3, 1, 2)
    return Batch(
        tuple(item.prompt for item in windows),
        pixels.float() / 127.5 - 1,
        latents,
        state,
        action,
        chunk_valid,
        torch.arange(geometry.max_action_dim) < windows[0].action.shape[2],
    )


@torch.no_grad()
def encode_windows(
    autoencoder: VideoAutoencoder,
    embodiment: Embodiment,
    episodes: Iterable[tuple[int, Episode]],
    per_episode: int,
    seed: int,
) -> Iterable[LatentWindow]:
    """Windows at random anchors of every numbered episode, as long as they can be."""
    model = embodiment.contract.model
    for number, episode in episodes:
        places = anchors(model, episode)
        rng = np.random.default_rng((seed, number))
        # The first anchor is always there: how a task begins must be seen.
        chosen = np.union1d(places[:1], rng.choice(places, min(per_episode, len(places)), replace=False))
        for anchor in chosen:
            item = window(embodiment, episode, int(anchor), chunks_after(model, episode, int(anchor)))
            video = torch.from_numpy(item.canvas).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
            latents = autoencoder.encode(video.to(autoencoder.dtype), Stream())[0].float()
            yield LatentWindow(
                item.prompt, item.canvas[0], latents, torch.from_numpy(item.state), torch.from_numpy(item.action)
            )


def save_latents(path: Path, contract: Contract, windows: Sequence[LatentWindow]) -> None:
    """Write windows to one `.npz`; ragged arrays are laid end to end, split again by `chunks`."""
    arrays = {
        "contract_hash": np.array(contract.hash),
        "prompts": np.array([item.prompt for item in windows]),
        "chunks": np.array([item.chunks for item in windows]),
        "first_frame": np.stack([item.first_frame for item in windows]),
        "latents": np.concatenate([item.latents.transpose(0, 1).numpy().astype(np.float16) for item in windows]),
        "state": np.concatenate([item.state.numpy() for item in windows]),
        "action": np.concatenate([item.action.numpy() for item in windows]),
    }
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as file:
        np.savez(file, **arrays)
    aside.replace(path)


def load_latents(path: Path, contract: Contract) -> list[LatentWindow]:
    """Read what `save_latents` wrote.

    Raises:
        LatentsError: the windows belong to another contract.
    """
    with np.load(path) as file:
        content = {name: file[name] for name in file.files}
    if str(content["contract_hash"]) != contract.hash:
        raise LatentsError(
            f"{path} was made for contract {str(content['contract_hash'])[:12]}, not {contract.hash[:12]}"
        )
    per_chunk = contract.model.chunk.latent_frames
    chunks = content["chunks"]
    frame_ends, chunk_ends = np.cumsum(1 + per_chunk * chunks), np.cumsum(chunks)
    windows = []
    for i, count in enumerate(chunks):
        frames = content["latents"][frame_ends[i] - 1 - per_chunk * count : frame_ends[i]]
        rows = slice(chunk_ends[i] - count, chunk_ends[i])
        windows.append(
            LatentWindow(
                str(content["prompts"][i]),
                content["first_frame"][i],
                torch.from_numpy(frames.astype(np.float32)).transpose(0, 1).contiguous(),
                torch.from_numpy(content["state"][rows]),
                torch.from_numpy(content["action"][rows]),
            )
        )
    return windows
