"""What a session remembers, apart from the weights: one object to fork, to keep and to put back.

Two rules make branches cheap. Tensors are never written in place once they are remembered; a new past is a new tuple, a
new stream. The one exception is the cache, which appends behind its past in place, and copies when a branch already did
(``model/cache.py``). So a fork shares everything and copies nothing until both sides observe.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from dreamzero_policy.model.autoencoder import Stream
from dreamzero_policy.model.blocks import KeyValue
from dreamzero_policy.model.cache import KVCache
from dreamzero_policy.model.tokens import TokenLayout


@dataclass
class Window:
    """The open window.

    ``frames`` latent frames are in the cache. ``image`` and ``condition`` [1, 4 + C, F, h, w] belong to its first
    frame, ``stream`` carries the autoencoder over all frames. ``latents`` are the newest frames as they went in, one
    tensor an observation, without a gap: the decoder's past.
    """

    cache: KVCache
    stream: Stream
    image: tuple[KeyValue, ...]
    condition: Tensor | None
    frames: int = 0
    latents: tuple[Tensor, ...] = ()

    def fork(self) -> Window:
        return replace(self, cache=self.cache.fork(), stream=self.stream.copy())

    def condition_of(self, first: int, count: int) -> Tensor | None:
        """The image condition of latent frames ``first`` …"""
        return None if self.condition is None else self.condition[:, :, first : first + count]

    def roll(self, layout: TokenLayout) -> None:
        """Make room for a chunk: the oldest leaves, frame 0 stays, what is left moves up to the positions set free.

        Keys are turned to their new positions. Content is not: what deeper layers made of a frame when the chunk that
        left was still visible, at the old positions, stays as it was.
        """
        leaving = layout.frames_per_chunk
        per_frame = self.cache.length // self.frames
        turn = layout.shift(-leaving, self.cache.keys.device)
        self.cache.forget(per_frame, per_frame * (1 + leaving), turn)
        self.frames -= leaving
        blocks = (self.frames - 1) // leaving
        self.latents = self.latents[len(self.latents) - blocks :]  # without frame 0, behind which there is a gap now


@dataclass
class Memory:
    """All that a session remembers.

    ``text`` are the keys and values of the prompt (and the negative prompt). Counters as in
    :class:`~.session.Session`. ``timings_s`` are the seconds of the newest observation.
    """

    prompt: str
    text: tuple[KeyValue, ...]
    window_index: int = -1
    chunk_index: int = -1
    frames_observed: int = 0
    window: Window | None = None
    timings_s: dict[str, float] = field(default_factory=dict)

    def fork(self) -> Memory:
        return replace(self, window=None if self.window is None else self.window.fork())


@dataclass(frozen=True)
class Snapshot:
    """A session's memory at one instant. Opaque; fits the session it came from and that session's forks."""

    lineage: object
    memory: Memory
