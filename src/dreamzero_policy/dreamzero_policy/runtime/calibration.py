"""What is normal: the distribution of surprise over runs in which nothing went wrong, as a small file of a checkpoint.

A distance between latents means nothing by itself; its percentile among those of normal runs does. The file is made by
`dreamzero calibrate` and lies in the checkpoint's folder. It is about one contract, one checkpoint and one number of
denoising steps, and says which; it is no part of the checkpoint's hash.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

CALIBRATION_FILE = "surprise.json"
LEVELS = (*range(100), 99.5, 99.9, 100)  # percentiles that are kept


class CalibrationError(ValueError):
    """A calibration that cannot be made, read or used; the message says why and what to do."""


@dataclass(frozen=True)
class Calibration:
    """Distances of so many blocks of so many runs at LEVELS, rising."""

    contract_hash: str
    checkpoint_hash: str
    denoise_steps: int
    regimes: tuple[str, ...]  # in force in those runs
    runs: int
    blocks: int
    distances: tuple[float, ...]

    @classmethod
    def of(cls, distances: Sequence[float], **origin: object) -> "Calibration":
        """From the distances of all blocks, in any order. Raises CalibrationError where there are none."""
        if not len(distances) or not np.isfinite(distances).all():
            raise CalibrationError(f"a calibration needs distances that are numbers, got {len(distances)}")
        values = np.percentile(np.asarray(distances, np.float64), LEVELS)
        return cls(blocks=len(distances), distances=tuple(values.tolist()), **origin)

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
            levels = document.pop("percentiles")
            regimes = tuple(document.pop("regimes"))
            found = cls(regimes=regimes, distances=tuple(map(float, levels.values())), **document)
            kept = [float(level) for level in levels]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CalibrationError(f"{source} is no calibration of surprise: {type(error).__name__} {error}") from error
        if kept != list(LEVELS) or (np.diff(found.distances) < 0).any():
            raise CalibrationError(
                f"{source}: expected the percentiles {LEVELS[0]} to {LEVELS[-1]}, rising; make it anew"
            )
        return found

    def save(self, path: Path) -> None:
        document = asdict(self)
        values = document.pop("distances")
        document["percentiles"] = {f"{level:g}": value for level, value in zip(LEVELS, values, strict=True)}
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def percentile(self, distance: float) -> float:
        """The share [%] of normal blocks that were less surprising; between two levels in proportion.

        A distance that is no finite number, of a model that computes none, is farther than any.
        """
        return float(np.interp(distance, self.distances, LEVELS)) if np.isfinite(distance) else 100.0

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
