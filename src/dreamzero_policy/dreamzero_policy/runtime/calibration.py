"""What is normal: how far blocks were from what was expected in runs in which nothing went wrong, as a small file.

A distance between latents means nothing by itself, and its mean over the picture hardly anything: an arm that moves
fills it, and a table that stays hides in it. So every cell of the latent grid is compared with what is normal for that
cell: its difference is a number of standard deviations above the mean of that cell, both of logarithms, since
differences are positive and their spread grows with them. The score of a block is the mean over its few worst cells,
and the percentile of that score among normal runs is what is told.

Scores of normal runs are made with the cells of the *other* runs: a run that had taken part in its own yardstick would
look too normal.

The file is made by `dreamzero calibrate` and lies in the checkpoint's folder. It is about one contract, one checkpoint
and one number of denoising steps, and says which; it is no part of the checkpoint's hash.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.float32]  # [f, h, w] mean squares of normalised latents

CALIBRATION_FILE = "surprise.json"
FORM = 2  # of the file; the first had percentiles of distances alone
LEVELS = (*range(100), 99.5, 99.9, 100)  # percentiles that are kept
WORST_CELLS = 6  # an object at arm's length is that large in a picture of a view
SMALLEST = 1e-4  # a difference below it is none: rounding
FOLDS = 8  # parts of the normal runs, each scored by the others
PRIOR_BLOCKS = 10  # so many blocks of the mean cell's spread are added to every cell's own


class CalibrationError(ValueError):
    """A calibration that cannot be made, read or used; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class NormalCells:
    """Mean and standard deviation of the logarithm of every cell's difference [f, h, w]."""

    mean: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def of(cls, blocks: Sequence[Cells]) -> "NormalCells":
        """Of two blocks at least."""
        logarithms = _logarithms(np.stack(blocks))
        variance, count = logarithms.var(axis=0), len(logarithms)
        spread = np.sqrt((count * variance + PRIOR_BLOCKS * variance.mean()) / (count + PRIOR_BLOCKS))
        return cls(logarithms.mean(axis=0), np.maximum(spread, 1e-3))

    def deviations(self, cells: Cells) -> NDArray[np.float64]:
        """Standard deviations above normal [f, h, w]."""
        return (_logarithms(cells) - self.mean) / self.spread

    def score(self, cells: Cells) -> float:
        """Mean deviation of the worst cells; infinite where a difference is no finite number."""
        if not np.isfinite(cells).all():
            return float("inf")
        worst = min(WORST_CELLS, cells.size)
        return float(np.partition(self.deviations(cells).ravel(), -worst)[-worst:].mean())


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
    def of(cls, runs: Sequence[Sequence[Cells]], **origin: object) -> "Calibration":
        """From the blocks of every run.

        Raises:
            CalibrationError: there are less than two blocks, or some are of another size or no numbers.
        """
        blocks = [np.asarray(block) for run in runs for block in run]
        if len(blocks) < 2 or len({block.shape for block in blocks}) > 1 or not all(map(_finite, blocks)):
            shapes = sorted({block.shape for block in blocks})
            raise CalibrationError(
                f"a calibration needs two blocks or more of one size that are finite numbers; got {len(blocks)}, of "
                f"the sizes {shapes}"
            )
        parts = _parts(runs)
        scores = [
            cells.score(block)
            for number, part in enumerate(parts)
            for cells in [NormalCells.of([block for other in parts[:number] + parts[number + 1 :] for block in other])]
            for block in part
        ]
        return cls(
            runs=len(runs),
            blocks=len(blocks),
            scores=tuple(np.percentile(scores, LEVELS).tolist()),
            cells=NormalCells.of(blocks),
            **origin,
        )

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Raises CalibrationError for a file that is none."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            form = document.pop("form", 1)
            levels = document.pop("percentiles")
            regimes = tuple(document.pop("regimes"))
            cells = document.pop("cells", None) or {"mean": [], "spread": []}
            normal = NormalCells(np.array(cells["mean"], float), np.array(cells["spread"], float))
            found = cls(regimes=regimes, scores=tuple(map(float, levels.values())), cells=normal, **document)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CalibrationError(f"{path} is no calibration of surprise: {type(error).__name__} {error}") from error
        if form != FORM:
            raise CalibrationError(f"{path} has form {form}, expected {FORM}; make it anew with dreamzero calibrate")
        if [float(level) for level in levels] != list(LEVELS) or (np.diff(found.scores) < 0).any():
            raise CalibrationError(
                f"{path}: expected the percentiles {LEVELS[0]} to {LEVELS[-1]}, rising; make it anew"
            )
        if normal.mean.ndim != 3 or normal.mean.shape != normal.spread.shape or not (normal.spread > 0).all():
            raise CalibrationError(
                f"{path}: expected mean and spread [f, h, w] of cells, got {normal.mean.shape} and "
                f"{normal.spread.shape}; make it anew"
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
            "cells": {name: np.round(getattr(self.cells, name), 5).tolist() for name in ("mean", "spread")},
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


def _logarithms(cells: Cells) -> NDArray[np.float64]:
    return np.log(np.maximum(cells, SMALLEST).astype(np.float64))


def _finite(block: Cells) -> bool:
    return bool(np.isfinite(block).all())


def _parts(runs: Sequence[Sequence[Cells]]) -> list[list[Cells]]:
    """Whole runs in FOLDS parts; of a single run its blocks."""
    told = [list(run) for run in runs if len(run)]
    if len(told) == 1:
        told = [[block] for block in told[0]]
    parts = [[block for run in told[first::FOLDS] for block in run] for first in range(FOLDS)]
    return [part for part in parts if part]
