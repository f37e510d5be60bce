"""What a chunk said the cameras would see, and how far that was from what they then saw.

Surprise is the root mean square distance between the predicted latents of a chunk and those of the block that came, in
the autoencoder's normalised units. Beside it stands the same distance for the newest latent before that block,
repeated: what knowing nothing reaches, so large where much moves.
"""

from dataclasses import dataclass

from dreamzero_policy.runtime.embodiment import Image


@dataclass(eq=False)
class Foresight:
    """Of one chunk. The distances are None until its block was seen, and stay so where none followed."""

    canvas: Image  # [T, height, width, 3] predicted frames of a block
    surprise: float | None = None
    still: float | None = None
