"""Windows of latents: encoded once by the trained autoencoder, kept on disk, drawn in batches.

A window is encoded as a stream that begins with its own first frame, as a session does. What advice leads to is encoded
behind what was seen up to there, chunk by chunk. A folder of files holds the windows of a side, whole episodes in each,
and more may come; a file names the contract, so that latents of one robot never train another.
"""

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamzero_policy.data.episodes import Episode, EpisodeError
from dreamzero_policy.data.windows import Window, anchors, chunks_after, window
from dreamzero_policy.model.autoencoder import Stream, VideoAutoencoder
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Embodiment, Image

FIELDS = (
    "contract_hash",
    "episode",
    "prompts",
    "prompt_index",
    "chunks",
    "first_frame",
    "latents",
    "history",
    "has_history",
    "state",
    "action",
    "opening",
)


class LatentsError(ValueError):
    """Latents that cannot be used; the message says why."""


@dataclass(frozen=True, eq=False)
class LatentWindow:
    """A window after the autoencoder. F = 1 + 2 n latent frames, n chunks."""

    prompts: tuple[str, ...]  # phrasings of the instruction as the model is given them; one is drawn at every step
    first_frame: Image  # [height, width, 3]
    latents: Tensor  # [C, F, h, w] normalised
    state: Tensor  # [n, D] normalised
    action: Tensor  # [n, 24, A] normalised
    opening: bool = False  # the first of its episode: nothing was done yet
    history: Tensor | None = None  # as latents: what was seen, where that is not what is to be predicted
    episode: str = ""

    @property
    def chunks(self) -> int:
        return len(self.state)

    @property
    def begins_at_rest(self) -> bool:
        """Whether its first chunk sets out from rest, as those of the node's loop do."""
        return self.opening or self.history is not None

    def beginning(self, latent_frames: int) -> "LatentWindow":
        """Its first chunk alone, of so many latent frames."""
        return replace(
            self,
            latents=self.latents[:, : 1 + latent_frames],
            state=self.state[:1],
            action=self.action[:1],
            history=None,  # one frame, the same on both sides
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows padded at their ends to the longest one, and to the widths of the model. Each has one of its prompts.

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
    image: Tensor | None = None  # [B, M, image_dim] features of the first frames, where they are known beforehand
    history: Tensor | None = None  # as latents: the past of the chunks; None where it is what they are to predict

    def on(self, device: torch.device) -> "Batch":
        """The same batch there."""
        if self.latents.device == device:
            return self
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})

    def part(self, rows: Sequence[int]) -> "Batch":
        """Some of its windows."""
        index = torch.tensor(rows, device=self.latents.device)
        whole = ("prompts", "action_valid")
        tensors = {n: value[index] for n, value in vars(self).items() if n not in whole and value is not None}
        return replace(self, prompts=tuple(self.prompts[row] for row in rows), **tensors)


def collate(windows: Sequence[LatentWindow], config: ModelConfig, wording: np.random.Generator | None = None) -> Batch:
    """A batch of windows of any lengths. ``wording`` draws the phrasing of each; without it, it is the first."""
    geometry, count = config.geometry, max(item.chunks for item in windows)
    channels, _, height, width = windows[0].latents.shape
    per_chunk, frames = geometry.actions_per_chunk, geometry.frames_per_chunk
    latents = torch.zeros(len(windows), channels, 1 + frames * count, height, width)
    state = torch.zeros(len(windows), count, geometry.max_state_dim)
    action = torch.zeros(len(windows), count * per_chunk, geometry.max_action_dim)
    chunk_valid = torch.zeros(len(windows), count, dtype=torch.bool)
    history = torch.zeros_like(latents) if any(item.history is not None for item in windows) else None
    for row, item in enumerate(windows):
        latents[row, :, : item.latents.shape[1]] = item.latents
        if history is not None:
            history[row, :, : item.latents.shape[1]] = item.latents if item.history is None else item.history
        state[row, : item.chunks, : item.state.shape[1]] = item.state
        action[row, : item.chunks * per_chunk, : item.action.shape[2]] = item.action.flatten(0, 1)
        chunk_valid[row, : item.chunks] = True
    pixels = torch.from_numpy(np.stack([item.first_frame for item in windows])).permute(0, 3, 1, 2)
    return Batch(
        tuple(item.prompts[0 if wording is None else wording.integers(len(item.prompts))] for item in windows),
        pixels.float() / 127.5 - 1,
        latents,
        state,
        action,
        chunk_valid,
        torch.arange(geometry.max_action_dim) < windows[0].action.shape[2],
        history=history,
    )


@torch.no_grad()
def encode_windows(
    autoencoder: VideoAutoencoder, embodiment: Embodiment, episode: Episode, name: str, count: int, seed: int
) -> Iterator[LatentWindow]:
    """Windows at random anchors of an episode, as long as they can be. The draw follows from seed and name.

    How a task begins must be seen, so the first anchor is always there. Of an attempt with advice there are also those
    behind every full window, where the node's loop opens the next one: every chunk is in one of them.

    Raises:
        EpisodeError: the episode is too short for a chunk, or has no picture where one is needed.
    """
    model = embodiment.contract.model
    places = anchors(model, episode)
    if not len(places):
        raise EpisodeError(f"episode {name}: {episode.steps} steps are too few for a chunk of {model.chunk.actions}")
    prompts = tuple(embodiment.prompt(phrasing) for phrasing in episode.phrasings)
    rng = np.random.default_rng((seed, *name.encode()))
    always = places[:1] if episode.advised is None else places[:: model.chunk.chunks_per_window]
    chosen = np.union1d(always, rng.choice(places, min(count, len(places)), replace=False))
    for anchor in chosen:
        try:
            item = window(embodiment, episode, int(anchor), chunks_after(model, episode, int(anchor)))
        except EpisodeError as error:
            raise EpisodeError(f"episode {name}: {error}") from error
        latents, history = _encoded(autoencoder, item)
        yield LatentWindow(
            prompts,
            item.canvas[0],
            latents,
            torch.from_numpy(item.state),
            torch.from_numpy(item.action),
            bool(anchor == places[0]),
            history,
            name,
        )


def _encoded(autoencoder: VideoAutoencoder, item: Window) -> tuple[Tensor, Tensor | None]:
    """Latents [C, F, h, w] of what is to be predicted and, where that is not what was seen, of what was."""

    def encode(frames: Image, stream: Stream) -> Tensor:
        video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        return autoencoder.encode(video.to(autoencoder.dtype), stream)[0].float()

    stream = Stream()
    if item.advised is None:
        return encode(item.canvas, stream), None
    latents = [encode(item.canvas[:1], stream)]
    history, blocks = latents.copy(), np.split(item.canvas[1:], item.chunks)
    for block, advised in zip(blocks, item.advised, strict=True):
        latents.append(encode(advised, stream.copy()))
        history.append(encode(block, stream))
    return torch.cat(latents, dim=1), torch.cat(history, dim=1)


def save_latents(path: Path, contract: Contract, windows: Sequence[LatentWindow]) -> None:
    """Write windows to one `.npz`.

    Ragged arrays are laid end to end, split again by `chunks`. Windows of one episode have the same phrasings, so these
    stand once: `prompts` is a JSON list of them, `prompt_index` says which of its entries a window has.
    """
    tables = {prompts: i for i, prompts in enumerate(dict.fromkeys(item.prompts for item in windows))}
    arrays = {
        "contract_hash": np.array(contract.hash),
        "episode": np.array([item.episode for item in windows]),
        "prompts": np.array(json.dumps(list(tables))),
        "prompt_index": np.array([tables[item.prompts] for item in windows]),
        "chunks": np.array([item.chunks for item in windows]),
        "first_frame": np.stack([item.first_frame for item in windows]),
        "latents": _end_to_end([item.latents for item in windows]),
        "history": _end_to_end([windows[0].latents[:, :0], *(i.history for i in windows if i.history is not None)]),
        "has_history": np.array([item.history is not None for item in windows]),
        "state": np.concatenate([item.state.numpy() for item in windows]),
        "action": np.concatenate([item.action.numpy() for item in windows]),
        "opening": np.array([item.opening for item in windows]),
    }
    _write(path, arrays)


def _end_to_end(latents: Sequence[Tensor]) -> np.ndarray:
    """[C, F, h, w] each → [sum of F, C, h, w]."""
    return np.concatenate([each.transpose(0, 1).numpy().astype(np.float16) for each in latents])


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as file:
        np.savez(file, **arrays)
    aside.replace(path)


def load_latents(path: Path, contract: Contract) -> list[LatentWindow]:
    """Read what `save_latents` wrote.

    Raises:
        LatentsError: the file cannot be read, or its windows belong to another contract.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise LatentsError(f"{path} cannot be read: {error}") from error
    if absent := sorted(set(FIELDS) - set(content)):
        raise LatentsError(f"{path} has no field {absent[0]}")
    if str(content["contract_hash"]) != contract.hash:
        raise LatentsError(
            f"{path} was made for contract {str(content['contract_hash'])[:12]}, not {contract.hash[:12]}"
        )
    per_chunk = contract.model.chunk.latent_frames
    chunks, prompts = content["chunks"], [tuple(entry) for entry in json.loads(str(content["prompts"]))]
    frames, has_history = 1 + per_chunk * chunks, content["has_history"]
    frame_ends, history_ends, chunk_ends = np.cumsum(frames), np.cumsum(frames * has_history), np.cumsum(chunks)

    def cut(name: str, end: int, count: int) -> Tensor:
        return torch.from_numpy(content[name][end - count : end]).transpose(0, 1)  # float16; a batch is float32

    windows = []
    for i, count in enumerate(chunks):
        rows = slice(chunk_ends[i] - count, chunk_ends[i])
        windows.append(
            LatentWindow(
                prompts[content["prompt_index"][i]],
                content["first_frame"][i],
                cut("latents", frame_ends[i], frames[i]),
                torch.from_numpy(content["state"][rows]),
                torch.from_numpy(content["action"][rows]),
                bool(content["opening"][i]),
                cut("history", history_ends[i], frames[i]) if has_history[i] else None,
                str(content["episode"][i]),
            )
        )
    return windows


def load_side(folder: Path, contract: Contract) -> list[LatentWindow]:
    """All windows of a folder by the names of their episodes, whichever files they lie in. Raises LatentsError."""
    windows = [window for path in sorted(folder.glob("*.npz")) for window in load_latents(path, contract)]
    return sorted(windows, key=lambda window: window.episode)


def episodes_of(folder: Path) -> set[str]:
    """Names of the episodes whose windows a folder holds. Raises LatentsError for a file that cannot be read."""
    names: set[str] = set()
    for path in folder.glob("*.npz"):
        try:
            with np.load(path, allow_pickle=False) as file:
                names.update(file["episode"].tolist())
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise LatentsError(f"{path} cannot be read: {error}") from error
    return names
