"""What is normal: how far blocks were from what was expected in runs in which nothing went wrong, as a small file.

A distance between latents means nothing by itself, and its mean over the picture hardly anything: an arm that moves
fills it, and a table that stays hides in it. So every cell of the latent grid has a standard of its own:

* its deviation is a number of standard deviations above the mean of that cell, both of logarithms, since differences
  are positive and their spread grows with them;
* where an arm works, a cell stays hard to foresee for some blocks, so what is new is what counts: the deviation less
  the share of the block before that normally persists, again in standard deviations of that cell;
* every camera has a score of its own, the mean over its few worst cells in units of what is normal for that camera: a
  hand's camera sees everything move. The score of a block is that of the camera that is worst off.

The percentile of that score among normal runs is what is told. Scores of normal runs are made with the standard of the
*other* runs: a run that had taken part in its own yardstick would look too normal.

The file is made by `dreamzero calibrate` and lies in the checkpoint's folder. It is about one contract, one checkpoint
and one number of denoising steps, and says which; it is no part of the checkpoint's hash.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.float32]  # [f, h, w] mean squares of normalised latents
Floats = NDArray[np.float64]

CALIBRATION_FILE = "surprise.json"
FORM = 2  # of the file; the first had percentiles of distances alone
LEVELS = (*range(100), 99.5, 99.9, 100)  # percentiles that are kept
WORST_CELLS = 6  # of a camera
SMALLEST = 1e-4  # a difference below it is none: rounding
FOLDS = 8  # parts of the normal runs, each scored by the others
PRIOR_BLOCKS = 10  # so many blocks of the mean cell's spread are added to every cell's own
UPPER = 97  # percentile of normal scores of a camera that is one above its median


class CalibrationError(ValueError):
    """A calibration that cannot be made, read or used; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class NormalCells:
    """The standard of every cell [f, h, w], and of every camera."""

    mean: Floats  # of the logarithm of the difference
    spread: Floats  # its standard deviation
    persistence: float  # share of a deviation that the next block normally has too
    news: Floats  # standard deviation of the rest
    cameras: NDArray[np.int64]  # [h, w] which camera a cell shows; -1: none
    middle: Floats  # median of each camera's score
    upper: Floats  # how far above it UPPER is

    @classmethod
    def of(cls, runs: Sequence[Sequence[Cells]], cameras: NDArray[np.int64]) -> "NormalCells":
        """By two blocks at least, in the order of each run."""
        logarithms = np.stack([_logarithms(block) for run in runs for block in run])
        mean, spread = logarithms.mean(axis=0), _steadied(logarithms - logarithms.mean(axis=0))
        told = [[(_logarithms(block) - mean) / spread for block in run] for run in runs]
        pairs = [pair for run in told for pair in pairwise(run)]
        before, after = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
        persistence = float((before * after).sum() / max((before**2).sum(), 1e-9)) if pairs else 0.0
        news = _steadied(after - persistence * before) if pairs else np.ones_like(mean)
        count = int(cameras.max()) + 1
        plain = cls(mean, spread, persistence, news, cameras, np.zeros(count), np.ones(count))
        found = np.array([plain.by_camera(*pair) for run in runs for pair in _with_before(run)])
        middle, upper = np.percentile(found, (50, UPPER), axis=0)
        return replace(plain, middle=middle, upper=np.maximum(upper - middle, 1e-3))

    def deviations(self, cells: Cells, before: Cells | None) -> Floats:
        """Standard deviations above what was to be expected behind the block before, if there was one [f, h, w]."""
        deviations = (_logarithms(cells) - self.mean) / self.spread
        if before is None:
            return deviations
        return (deviations - self.persistence * (_logarithms(before) - self.mean) / self.spread) / self.news

    def by_camera(self, cells: Cells, before: Cells | None) -> Floats:
        """Score of every camera."""
        deviations = self.deviations(cells, before)
        worst = np.zeros(len(self.middle))
        for camera in range(len(worst)):
            shown = np.sort(deviations[:, self.cameras == camera].ravel())
            worst[camera] = shown[-WORST_CELLS:].mean() if shown.size else 0.0
        return (worst - self.middle) / self.upper

    def score(self, cells: Cells, before: Cells | None) -> float:
        """Of the camera that is worst off; infinite where a difference is no finite number."""
        if not np.isfinite(cells).all():
            return float("inf")
        return float(self.by_camera(cells, before).max())

    def scores(self, run: Sequence[Cells]) -> list[float]:
        """Of all blocks of a run, each with the one before."""
        return [self.score(block, before) for block, before in _with_before(run)]


CELLS = tuple(field.name for field in fields(NormalCells))


@dataclass(frozen=True, eq=False)
class Calibration:
    """What is normal for every cell, and the scores of so many blocks of so many runs at LEVELS, rising."""

    contract_hash: str
    checkpoint_hash: str
    denoise_steps: int
    regimes: tuple[str, ...]  # in force in those runs
    runs: int
    blocks: int
    scores: tuple[float, ...]
    cells: NormalCells

    @classmethod
    def of(cls, runs: Sequence[Sequence[Cells]], cameras: NDArray[np.int64], **origin: object) -> "Calibration":
        """From the blocks of every run, in their order. `cameras` [h, w]: `canvas.cameras_of_cells`.

        Raises:
            CalibrationError: there are less than two blocks, or some are of another size or no numbers.
        """
        blocks = [np.asarray(block) for run in runs for block in run]
        shapes = sorted({block.shape for block in blocks})
        if len(blocks) < 2 or len(shapes) > 1 or shapes[0][1:] != cameras.shape or not all(map(_finite, blocks)):
            raise CalibrationError(
                f"a calibration needs two blocks or more of {cameras.shape} cells that are finite numbers; got "
                f"{len(blocks)}, of the sizes {shapes}"
            )
        parts = _parts(runs)
        scores = []
        for number, part in enumerate(parts):
            others = [run for other in parts[:number] + parts[number + 1 :] for run in other]
            cells = NormalCells.of(others, cameras)
            scores += [score for run in part for score in cells.scores(run)]
        return cls(
            runs=len(runs),
            blocks=len(blocks),
            scores=tuple(np.percentile(scores, LEVELS).tolist()),
            cells=NormalCells.of([run for part in parts for run in part], cameras),
            **origin,
        )

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Raises CalibrationError for a file that is none."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CalibrationError(f"{path} is no calibration of surprise: {type(error).__name__} {error}") from error
        return cls.checked(document, str(path))

    @classmethod
    def checked(cls, document: Any, source: str) -> "Calibration":
        """From the content of a file. Raises CalibrationError for one that is none."""
        try:
            document = dict(document)
            form = document.pop("form", 1)
            levels = document.pop("percentiles")
            regimes = tuple(document.pop("regimes"))
            cells = document.pop("cells", None)
            normal = None if cells is None else NormalCells(**{name: _read(name, cells[name]) for name in CELLS})
            found = cls(regimes=regimes, scores=tuple(map(float, levels.values())), cells=normal, **document)
            kept = [float(level) for level in levels]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CalibrationError(f"{source} is no calibration of surprise: {type(error).__name__} {error}") from error
        if form != FORM:
            raise CalibrationError(f"{source} has form {form}, expected {FORM}; make it anew with dreamzero calibrate")
        if kept != list(LEVELS) or (np.diff(found.scores) < 0).any():
            raise CalibrationError(
                f"{source}: expected the percentiles {LEVELS[0]} to {LEVELS[-1]}, rising; make it anew"
            )
        shapes = {normal.mean.shape, normal.spread.shape, normal.news.shape, (len(normal.mean), *normal.cameras.shape)}
        if len(shapes) > 1 or not (normal.spread > 0).all() or not (normal.news > 0).all():
            raise CalibrationError(
                f"{source}: mean, spread and news of cells do not fit together: {shapes}; make it anew"
            )
        return found

    def save(self, path: Path) -> None:
        document = {
            "form": FORM,
            "contract_hash": self.contract_hash,
            "checkpoint_hash": self.checkpoint_hash,
            "denoise_steps": self.denoise_steps,
            "regimes": list(self.regimes),
            "runs": self.runs,
            "blocks": self.blocks,
            "percentiles": {f"{level:g}": value for level, value in zip(LEVELS, self.scores, strict=True)},
            "cells": {name: np.round(getattr(self.cells, name), 5).tolist() for name in CELLS},
        }
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def percentile(self, score: float) -> float:
        """The share [%] of normal blocks that were less surprising; between two levels in proportion.

        A score that is no finite number, of a model that computes none, is farther than any.
        """
        return float(np.interp(score, self.scores, LEVELS)) if np.isfinite(score) else 100.0

    def misfit(self, contract_hash: str, checkpoint_hash: str, denoise_steps: int) -> str:
        """Why it says nothing about such a policy; empty if it does."""
        for name, here, there in (
            ("contract", contract_hash[:12], self.contract_hash[:12]),
            ("checkpoint", checkpoint_hash[:12], self.checkpoint_hash[:12]),
            ("denoising steps", denoise_steps, self.denoise_steps),
        ):
            if here != there:
                return f"{CALIBRATION_FILE} is of {name} {there}, this policy has {here}"
        return ""

    def too_few(self, percentile: float) -> str:
        """Why it cannot tell what lies beyond a percentile; empty if it can: one normal block lies there."""
        if self.blocks * (100 - percentile) >= 100:
            return ""
        return f"{CALIBRATION_FILE} is of {self.blocks} blocks, too few for percentile {percentile:g}: none lies beyond"


def distance(cells: Cells) -> float:
    """Root mean square of the latents' difference."""
    return float(np.sqrt(np.mean(cells, dtype=np.float64)))


def _logarithms(cells: Cells) -> Floats:
    return np.log(np.maximum(cells, SMALLEST).astype(np.float64))


def _finite(block: Cells) -> bool:
    return bool(np.isfinite(block).all())


def _steadied(rest: Floats) -> Floats:
    """Standard deviation of every cell of [n, f, h, w] around zero, drawn to that of all where n is small."""
    variance = (rest**2).mean(axis=0)
    return np.sqrt(
        np.maximum((len(rest) * variance + PRIOR_BLOCKS * variance.mean()) / (len(rest) + PRIOR_BLOCKS), 1e-6)
    )


def _with_before(run: Sequence[Cells]) -> list[tuple[Cells, Cells | None]]:
    """Every block with the one before it; the first has none."""
    return list(zip(run, [None, *run[:-1]], strict=True))


def _read(name: str, value: object) -> object:
    if name == "persistence":
        return float(value)
    return np.array(value, np.int64 if name == "cameras" else np.float64)


def _parts(runs: Sequence[Sequence[Cells]]) -> list[list[Sequence[Cells]]]:
    """Whole runs in FOLDS parts; a single run is cut into as many pieces."""
    told = [list(run) for run in runs if len(run)]
    if len(told) == 1:
        size = -(-len(told[0]) // FOLDS)
        told = [told[0][first : first + size] for first in range(0, len(told[0]), size)]
    parts = [told[first::FOLDS] for first in range(FOLDS)]
    return [part for part in parts if part]
