"""How far what was expected lies from what the cameras then saw: the one definition, live and in a replay.

Surprise is the difference between the expected latents of a chunk and those of the block that came, squared and
averaged over the channels of every cell of the latent grid, in the autoencoder's normalised units. Decisions:

* Expected is the mean of all that may come (`Prediction.expected_latents`), not the sample that was drawn: a sample has
  textures of its own, which no camera will see, and their distance to the truth is no surprise.
* What is compared are the latents that the chunk was about: of the block as the continuation of the clip that the chunk
  continues. A block that opens a window enters the session as its newest frame alone, encoded without a past; that one
  latent frame is none of the predicted ones (each of those stands for four frames and what came before). So the block
  is encoded once more behind the stream of the window that ended. A block that continues a window has its latents.
* Nothing is computed before the answer is on its way: a :class:`Comparison` keeps what it needs (frames, a stream whose
  tensors are shared), and the device is waited for when somebody asks for the numbers.
* The session is only read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamzero_policy.inference.prediction import Prediction


@torch.inference_mode()
def difference(expected: Tensor, seen: Tensor) -> Tensor:
    """Mean square over the channels of the difference of latents [C, f, h, w]: [f, h, w] on their device."""
    return (expected.float() - seen.float()).square().mean(0)


@dataclass(frozen=True, eq=False)
class Comparison:
    """An expected block and the one that came, [C, f, h, w] each."""

    expected: Tensor
    seen: Callable[[], Tensor]

    def cells(self) -> NDArray[np.float32]:
        """The difference, cell by cell. Encodes the block if that was not done, and waits for the device."""
        return difference(self.expected, self.seen()).cpu().numpy()


@dataclass
class Awaited:
    """Chunks whose blocks have not come yet, of any number of sessions. At most two a session: looking ahead."""

    _chunks: dict[tuple[int, int, int], Prediction] = field(default_factory=dict)  # by session, window and block

    def add(self, session: int, prediction: Prediction) -> None:
        """The block that a chunk was about is the next one behind what it continued."""
        self._chunks[session, prediction.window, prediction.chunk_index + 1] = prediction

    def take(self, session: int, window: int, block: int) -> Prediction | None:
        """The chunk that was about a block which comes now, behind that window; None if nothing was predicted."""
        prediction = self._chunks.pop((session, window, block), None)
        self._chunks = {key: kept for key, kept in self._chunks.items() if key[0] != session or key[2] > block}
        return prediction

    def forget(self, session: int) -> None:
        """The past of this session has changed: none of its chunks is about a block that will come."""
        self._chunks = {key: kept for key, kept in self._chunks.items() if key[0] != session}
