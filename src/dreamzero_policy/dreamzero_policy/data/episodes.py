"""Episodes: what was seen, measured and commanded during one demonstration, on the contract's action grid.

One `.npz` file each, without compression, named by the caller. Numbers are in the contract's units and order;
pictures are the very canvases that live operation makes (`Embodiment.canvas`), at some of the steps. A file says which
contract it was recorded for, and one of another contract, of another layout or with numbers that are not finite is
refused by name. Other phrasings of the instruction stand in the optional field `instructions`, the instruction first.

An attempt with advice (`advice.py`) is an episode too, with what its actions would have led to beside what was seen.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Floats, Image

SUFFIX = ".npz"
READ_ERRORS = (OSError, EOFError, ValueError, LookupError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class EpisodeError(ValueError):
    """An episode that cannot be used; the message names the file, the field and both values."""


@dataclass(frozen=True, eq=False)
class Episode:
    """One demonstration of N action steps with V pictures.

    Where there is `advised` the episode consists of n whole chunks and one step. Rows of state and action are those of
    the advice, given at each chunk anew; `canvas` is what was seen of what happened instead.
    """

    instruction: str
    state: Floats  # [N, D] measured at each step
    action: Floats  # [N, A] commanded at each step: absolute targets
    canvas: Image  # [V, height, width, 3]
    view_steps: NDArray[np.int64]  # [V] rising: the step at whose instant each picture was taken
    instructions: tuple[str, ...] = ()  # every phrasing, the instruction first; empty where only the one is known
    advised: Image | None = None  # [n, frames of a chunk, height, width, 3] what the advice of each chunk leads to

    @property
    def phrasings(self) -> tuple[str, ...]:
        """Every known phrasing, the instruction first."""
        return self.instructions or (self.instruction,)

    @property
    def steps(self) -> int:
        return len(self.state)

    def canvas_at(self, steps: NDArray[np.int64]) -> Image:
        """The pictures [T, height, width, 3] of the given steps. Raises EpisodeError if one was not taken."""
        found = np.searchsorted(self.view_steps, steps)
        missing = (found == len(self.view_steps)) | (
            self.view_steps[np.minimum(found, len(self.view_steps) - 1)] != steps
        )
        if missing.any():
            raise EpisodeError(f"no picture was taken at step {steps[missing][0]}")
        return self.canvas[found]

    def save(self, path: Path, contract: Contract) -> None:
        """Write the file whole or not at all."""
        aside = path.with_name(path.name + ".part")
        with aside.open("wb") as file:
            np.savez(
                file,
                contract_hash=contract.hash,
                instruction=self.instruction,
                instructions=np.array(self.phrasings),
                state=self.state,
                action=self.action,
                canvas=self.canvas,
                view_steps=self.view_steps,
                **({} if self.advised is None else {"advised": self.advised}),
            )
        aside.replace(path)


def load_episode(path: Path, contract: Contract) -> Episode:
    """Read and check one episode.

    Raises:
        EpisodeError: names the file and what does not fit.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
    except READ_ERRORS as error:
        raise EpisodeError(f"{path} cannot be read: {error}") from error
    if absent := sorted({"contract_hash", "instruction", "state", "action", "canvas", "view_steps"} - set(content)):
        raise EpisodeError(f"{path} has no field {absent[0]}")
    if str(content["contract_hash"]) != contract.hash:
        raise EpisodeError(
            f"{path} was recorded for contract {str(content['contract_hash'])[:12]}, not {contract.hash[:12]}"
        )
    model, steps, pictures = contract.model, len(content["state"]), len(content["view_steps"])
    expected = {
        "state": (steps, len(model.state_joints)),
        "action": (steps, model.action_width),
        "canvas": (pictures, *model.canvas_size_px, 3),
        "view_steps": (pictures,),
    }
    if "advised" in content:
        chunk = model.chunk
        expected["advised"] = ((steps - 1) // chunk.actions, chunk.frames, *model.canvas_size_px, 3)
    for name, shape in expected.items():
        if content[name].shape != shape:
            raise EpisodeError(f"{path}: {name} has shape {content[name].shape}, the contract makes it {shape}")
    for name in ("state", "action"):
        if not np.isfinite(content[name]).all():
            raise EpisodeError(f"{path}: {name} is not finite at step {np.argwhere(~np.isfinite(content[name]))[0][0]}")
    at = content["view_steps"]
    if not len(at) or at[0] < 0 or at[-1] >= steps or (np.diff(at) <= 0).any():
        raise EpisodeError(f"{path}: view_steps must rise within the {steps} steps, got {at.tolist()}")
    instruction = str(content["instruction"])
    instructions = tuple(map(str, content.get("instructions", np.array([instruction])).ravel()))
    if instructions[:1] != (instruction,):
        raise EpisodeError(f"{path}: instructions begin with {instructions[:1]}, the instruction is {instruction!r}")
    return Episode(
        instruction,
        content["state"],
        content["action"],
        content["canvas"],
        content["view_steps"],
        instructions,
        content.get("advised"),
    )


def episode_paths(folder: Path) -> list[Path]:
    """All episodes of a folder, by name. Raises EpisodeError if there are none."""
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    if not paths:
        raise EpisodeError(f"{folder} holds no episodes (*{SUFFIX})")
    return paths
