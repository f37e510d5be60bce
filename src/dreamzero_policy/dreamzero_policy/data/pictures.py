"""Pictures with questions: canvases, what to look for in them, and where it is. What the stage `grounding` trains on.

A folder of compressed `.npz` files, each of some pictures. Like an episode a file says which contract it was made for,
and one of another contract, of another layout or with points outside of the canvas is refused by name. What varies in
length is laid end to end: of N pictures with Q questions and K points in all,

* `canvas` [N, height, width, 3], `state` [N, D] of the robot in it, `questions` [N]: how many each picture has;
* `phrasings`: JSON, for each of the Q questions a list of its wordings; `views` [Q]: how many points it has;
* `points` [K, 2].
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.data.episodes import READ_ERRORS
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Floats, Image

FORM = "grounding"  # by the name of the stage that reads it
PREFIX, SUFFIX = "pictures_", ".npz"
FIELDS = ("contract_hash", "canvas", "state", "questions", "phrasings", "views", "points")


class PictureError(ValueError):
    """Pictures that cannot be used; the message names the file, the field and both values."""


@dataclass(frozen=True, eq=False)
class Question:
    """What to look for, and where it is."""

    phrasings: tuple[str, ...]  # of one instruction, at least one
    points: (
        Floats  # [P, 2] x to the right and y down on the canvas, px from its corner; one for each view that shows it
    )


@dataclass(frozen=True, eq=False)
class Picture:
    """A canvas, the state of the robot that it shows, and at least one question about it."""

    canvas: Image  # [height, width, 3]
    state: Floats  # [D] in the contract's units
    questions: tuple[Question, ...]


def save_pictures(path: Path, contract: Contract, pictures: Sequence[Picture]) -> None:
    """Write a file whole or not at all."""
    asked = [question for picture in pictures for question in picture.questions]
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as file:
        np.savez_compressed(
            file,
            contract_hash=contract.hash,
            canvas=np.stack([picture.canvas for picture in pictures]),
            state=np.stack([picture.state for picture in pictures]),
            questions=np.array([len(picture.questions) for picture in pictures]),
            phrasings=json.dumps([question.phrasings for question in asked]),
            views=np.array([len(question.points) for question in asked]),
            points=np.concatenate([question.points for question in asked]),
        )
    aside.replace(path)


def load_pictures(folder: Path, contract: Contract) -> list[Picture]:
    """All pictures of a folder, file by file by name.

    Raises:
        PictureError: there are none, or names the file and what does not fit.
    """
    paths = sorted(folder.glob(f"{PREFIX}*{SUFFIX}"))
    if not paths:
        raise PictureError(
            f"{folder} holds no pictures ({PREFIX}*{SUFFIX}); `dreamzero collect --form {FORM}` makes them"
        )
    return [picture for path in paths for picture in load_file(path, contract)]


def load_file(path: Path, contract: Contract) -> list[Picture]:
    """The pictures of one file, which share its memory.

    Raises:
        PictureError: names the file and what does not fit.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
        if absent := sorted(set(FIELDS) - set(content)):
            raise PictureError(f"{path} has no field {absent[0]}")
        phrasings = json.loads(str(content["phrasings"]))
    except PictureError:
        raise
    except READ_ERRORS as error:
        raise PictureError(f"{path} cannot be read: {error}") from error
    if str(content["contract_hash"]) != contract.hash:
        raise PictureError(
            f"{path} was made for contract {str(content['contract_hash'])[:12]}, not {contract.hash[:12]}"
        )
    _require_form(path, content, phrasings, contract)
    canvas, points = content["canvas"], np.split(content["points"], np.cumsum(content["views"])[:-1])
    asked = [Question(tuple(words), places) for words, places in zip(phrasings, points, strict=True)]
    ends = np.cumsum(content["questions"])
    return [
        Picture(image, state, tuple(asked[end - count : end]))
        for image, state, count, end in zip(canvas, content["state"], content["questions"], ends, strict=True)
    ]


def _require_form(path: Path, content: dict[str, NDArray], phrasings: Any, contract: Contract) -> None:
    """Raises PictureError unless counts, shapes, words and places fit the contract and each other."""
    (height, width), shape = contract.model.canvas_size_px, content["canvas"].shape
    _require(path, "canvas", shape, (*shape[:1], height, width, 3))
    _require(path, "canvas", content["canvas"].dtype, np.dtype(np.uint8), "type")
    _require(path, "state", content["state"].shape, (*shape[:1], len(contract.model.state_joints)))
    _require(path, "state", content["state"].dtype, np.dtype(np.float64), "type")
    if not np.isfinite(content["state"]).all():
        raise PictureError(f"{path}: state has values that are not finite")
    if not isinstance(phrasings, list) or not phrasings or not all(_are_words(words) for words in phrasings):
        raise PictureError(f"{path}: phrasings must be a list of lists of texts, none of them empty")
    for name, count in (("questions", shape[0]), ("views", len(phrasings))):
        _require(path, name, content[name].shape, (count,))
        if content[name].dtype.kind not in "iu" or (content[name] < 1).any():
            raise PictureError(f"{path}: {name} must be whole numbers from 1 on, got {content[name].tolist()}")
    _require(path, "phrasings", len(phrasings), int(content["questions"].sum()), "length")
    points = content["points"]
    _require(path, "points", points.dtype, np.dtype(np.float64), "type")
    _require(path, "points", points.shape, (int(content["views"].sum()), 2))
    if (outside := ~((points >= 0) & (points < (width, height))).all(1)).any():  # also what is not a number
        raise PictureError(
            f"{path}: points must lie on the canvas of {width} x {height} px, got {points[outside][0].tolist()}"
        )


def _are_words(words: Any) -> bool:
    return isinstance(words, list) and bool(words) and all(isinstance(text, str) and text for text in words)


def _require(path: Path, name: str, found: Any, expected: Any, what: str = "shape") -> None:
    if found != expected:
        raise PictureError(f"{path}: {name} has {what} {found}, expected {expected}")


@dataclass(frozen=True)
class PicturesSink:
    """Where freshly made pictures go: a folder, one file for a range of seeds, named by the first. See `sinks.py`."""

    folder: Path
    contract: Contract

    def __contains__(self, seeds: range) -> bool:
        """Whether the file is there and has as many pictures: an earlier, shorter collection may have ended inside."""
        try:
            with np.load(self._path(seeds), allow_pickle=False) as file:
                return len(file["questions"]) >= len(seeds)
        except READ_ERRORS:
            return False

    def draft(self, seeds: range) -> "PicturesDraft":
        self.folder.mkdir(parents=True, exist_ok=True)
        return PicturesDraft(self._path(seeds), self.contract)

    def _path(self, seeds: range) -> Path:
        return self.folder / f"{PREFIX}{seeds.start:07d}{SUFFIX}"


class PicturesDraft:
    """One file under construction, in memory."""

    def __init__(self, path: Path, contract: Contract) -> None:
        self._path, self._contract = path, contract
        self._pictures: list[Picture] = []

    def __enter__(self) -> "PicturesDraft":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add(self, canvas: Image, state: Floats) -> None:
        """The next picture, and the state [D] of the robot in it."""
        self._pictures.append(Picture(canvas, state, ()))

    def ask(self, phrasings: Sequence[str], points: Floats) -> None:
        """A question about the picture added last."""
        last = self._pictures[-1]
        self._pictures[-1] = replace(last, questions=(*last.questions, Question(tuple(phrasings), points)))

    def finish(self) -> None:
        """Write the file whole or not at all."""
        save_pictures(self._path, self._contract, self._pictures)
