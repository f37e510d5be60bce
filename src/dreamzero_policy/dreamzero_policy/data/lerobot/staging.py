"""Staging: one episode being written, step by step, and kept only when it is finished.

An episode under construction is a folder of its own inside the data set, `.staging/<name>.part`, that takes its name
when the last step is in it. So a process that is killed leaves whole episodes and nothing else, an episode that turns
out useless is dropped without a trace, and several processes can stage episodes of different names at the same time.
Images go straight into the video encoder and numbers into a file: memory holds nothing of an episode under
construction, and its numbers once, when it is finished.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.lerobot import statistics
from dreamzero_policy.data.lerobot.layout import ACTION, IMAGES, STATE, read_json, write_json
from dreamzero_policy.data.recordings import Images, require_numbers
from dreamzero_policy.data.video import VideoWriter
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Floats

FOLDER = ".staging"
NUMBERS, DESCRIPTION = "numbers.npz", "episode.json"
ROWS = "rows.f64"  # state and action of every step, one behind the other
SAMPLE_EVERY = 15  # steps between the images that statistics are made of
NAME = re.compile(r"[\w][\w.#-]*")


class Draft:
    """An episode under construction. Leaving the `with` block without `finish` drops it."""

    def __init__(self, folder: Path, name: str, contract: Contract, fps: int) -> None:
        if not NAME.fullmatch(name) or name.endswith(".part"):
            raise EpisodeError(f"episode name {name!r} cannot be a file name: letters, digits and . # - _ are allowed")
        self.name = name
        self._contract, self._fps = contract, fps
        self._widths = len(contract.model.state_joints), contract.model.action_width
        self._place = folder / FOLDER / name
        self._part = self._place.with_name(name + ".part")
        self.steps = 0
        self._rows: BinaryIO | None = None
        self._videos: dict[str, VideoWriter] = {}
        self._samples = {camera: statistics.PixelCounts() for camera in contract.model.cameras}
        self._done = False

    def __enter__(self) -> "Draft":
        shutil.rmtree(self._part, ignore_errors=True)
        self._part.mkdir(parents=True)
        self._rows = (self._part / ROWS).open("wb")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._rows.close()
        if not self._done:
            for video in self._videos.values():
                video.close()
            shutil.rmtree(self._part, ignore_errors=True)

    def add(self, state: Floats, action: Floats, images: Images) -> None:
        """The next step: state [D] and action [A] in the contract's units, an image of every camera.

        Raises:
            EpisodeError: a camera is missing, an image has another size than the one before, or a vector has another
                width than the contract's.
        """
        step = self.steps
        for camera in self._contract.model.cameras:
            if camera not in images:
                raise EpisodeError(
                    f"episode {self.name}: camera {camera} has no image at step {step}, there are {sorted(images)}"
                )
            image = images[camera]
            if camera not in self._videos:
                path = self._part / f"{camera}.mp4"
                self._videos[camera] = VideoWriter(path, image.shape[1], image.shape[0], self._fps)
            self._videos[camera].add(image)
            if step % SAMPLE_EVERY == 0:
                self._samples[camera].add(image)
        for name, values, width in (("state", state, self._widths[0]), ("action", action, self._widths[1])):
            if np.shape(values) != (width,):
                raise EpisodeError(
                    f"episode {self.name}: {name} has the shape {np.shape(values)} at step {step}, the contract makes "
                    f"it {(width,)}"
                )
            self._rows.write(np.asarray(values, np.float64).tobytes())
        self.steps += 1

    def finish(self, instructions: Sequence[str]) -> None:
        """Keep the episode.

        Args:
            instructions: what was done, in one or several phrasings; the first one is the episode's task.

        Raises:
            EpisodeError: there is no step or no instruction, or a number is not finite.
        """
        if not self.steps or not instructions or not all(instructions):
            raise EpisodeError(
                f"episode {self.name}: {self.steps} steps and instructions {list(instructions)}, both are needed"
            )
        self._rows.close()
        rows = np.memmap(self._part / ROWS, np.float64, "r", shape=(self.steps, sum(self._widths)))
        state, action = rows[:, : self._widths[0]], rows[:, self._widths[0] :]
        require_numbers(self.name, state, action, self._contract.model)
        sizes = {}
        for camera, video in self._videos.items():
            video.close()
            sizes[camera] = list(video.size)
        np.savez(self._part / NUMBERS, state=state.astype(np.float32), action=action.astype(np.float32))
        tables = {STATE: statistics.of_rows(state), ACTION: statistics.of_rows(action)}
        for camera, samples in self._samples.items():
            tables[IMAGES + camera] = samples.table()
        document = {
            "contract_hash": self._contract.hash,
            "fps": self._fps,
            "instructions": list(dict.fromkeys(instructions)),
            "sizes": sizes,
            "statistics": tables,
        }
        write_json(self._part / DESCRIPTION, document)
        (self._part / ROWS).unlink()
        shutil.rmtree(self._place, ignore_errors=True)
        self._part.rename(self._place)
        self._done = True


@dataclass(frozen=True)
class Staged:
    """A finished episode that waits for its place in the data set."""

    folder: Path
    description: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def numbers(self) -> tuple[Floats, Floats]:
        with np.load(self.folder / NUMBERS) as file:
            return file["state"], file["action"]


def staged_bytes(folder: Path) -> int:
    """Size of everything that waits."""
    return sum(path.stat().st_size for path in (folder / FOLDER).glob("*/*") if path.parent.suffix != ".part")


def staged(folder: Path) -> list[Staged]:
    """Finished episodes of a data set by name."""
    places = sorted(path for path in (folder / FOLDER).glob("*") if path.is_dir() and path.suffix != ".part")
    return [Staged(place, read_json(place / DESCRIPTION)) for place in places]
