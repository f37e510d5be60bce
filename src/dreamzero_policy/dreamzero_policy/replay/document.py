"""What a replay says: every chunk as it came, and their sums. Given a folder, it writes chunks as they are complete."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from dreamzero_policy.runtime.embodiment import Floats

CHUNKS, DOCUMENT = "chunks.jsonl", "replay.json"


class Results:
    """Collects results; a context that closes its file."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` gets `chunks.jsonl`, with the positions of every chunk."""
        self.chunks: list[dict[str, Any]] = []
        self._folder, self._file = folder, None

    def __enter__(self) -> "Results":
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file: TextIO | None = (self._folder / CHUNKS).open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, result: dict[str, Any], positions: Floats) -> None:
        self.chunks.append(result)
        if self._file is not None:
            rows = positions.astype(np.float32).tolist()
            self._file.write(json.dumps(result | {"positions": rows}) + "\n")

    def as_dict(self) -> dict[str, Any]:
        rejected = Counter(chunk["verdict"] for chunk in self.chunks if chunk["verdict"] != "accepted")
        changed = [chunk["counterfactual"] for chunk in self.chunks if chunk["counterfactual"] is not None]
        return {
            "chunks": self.chunks,
            "rejected": dict(sorted(rejected.items())),
            "error": {against: self._error(against) for against in ("commands", "states")},
            "counterfactual": {
                "chunks": len(changed),
                "largest_change": max(change["largest_change"] for change in changed),
                "mean_change": float(np.mean([change["mean_change"] for change in changed])),
            }
            if changed
            else None,
        }

    def _error(self, against: str) -> dict[str, Any] | None:
        """Means over chunks."""
        errors = [chunk["error"][against] for chunk in self.chunks if chunk["error"][against] is not None]
        if not errors:
            return None
        keys = errors[0]["groups"]
        return {
            "chunks": len(errors),
            "mean": float(np.mean([error["mean"] for error in errors])),
            "last": float(np.mean([error["last"] for error in errors])),
            "groups": {key: float(np.mean([error["groups"][key] for error in errors])) for key in keys},
        }

    def write(self, document: dict[str, Any]) -> None:
        """Beside the chunks, where there is a folder."""
        if self._folder is not None:
            (self._folder / DOCUMENT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
