"""What a replay says: every chunk as it came, and their sums. Given a folder, it writes chunks as they are complete."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from dreamzero_policy.replay.kept import Kept
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S

CHUNKS, DOCUMENT = "chunks.jsonl", "replay.json"


class Listener(Protocol):
    """Whoever makes more of the chunks than numbers."""

    def begin(self, seconds: float) -> None:
        """A recording of about this length begins."""

    def add(self, kept: Kept) -> None:
        """The next chunk."""


class Results:
    """Collects results; a context that closes its file."""

    def __init__(self, folder: Path | None = None, listener: Listener | None = None) -> None:
        """`folder` gets `chunks.jsonl`, with the rows of every chunk; `listener` every chunk."""
        self.chunks: list[dict[str, Any]] = []
        self._folder, self._file, self._listener = folder, None, listener

    def __enter__(self) -> "Results":
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file: TextIO | None = (self._folder / CHUNKS).open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def begin(self, seconds: float) -> None:
        if self._listener is not None:
            self._listener.begin(seconds)

    def add(self, kept: Kept) -> None:
        self.chunks.append(kept.result)
        if self._file is not None:
            rows = {
                "positions": _rows(kept.positions),
                "times_s": [instant_ns / NS_PER_S for instant_ns in kept.instants_ns],
                "states": _rows(kept.states),
                "commands": None if kept.commands is None else _rows(kept.commands),
            }
            self._file.write(json.dumps(kept.result | rows) + "\n")
        if self._listener is not None:
            self._listener.add(kept)

    def as_dict(self) -> dict[str, Any]:
        rejected = Counter(chunk["verdict"] for chunk in self.chunks if chunk["verdict"] != "accepted")
        changed = [chunk["counterfactual"] for chunk in self.chunks if chunk["counterfactual"] is not None]
        surprises = [chunk["surprise"] for chunk in self.chunks if chunk["surprise"] is not None]
        return {
            "chunks": self.chunks,
            "rejected": dict(sorted(rejected.items())),
            "error": {against: self._error(against) for against in ("commands", "states")},
            "surprise": {
                "chunks": len(surprises),
                "median": float(np.median(surprises)),
                "largest": max(surprises),
            }
            if surprises
            else None,
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


def _rows(values: Floats) -> list[list[float | None]]:
    """Rows as JSON has them: float32, null where there is no number."""
    rows = values.astype(np.float32)
    if np.isfinite(rows).all():
        return rows.tolist()
    return [[value if np.isfinite(value) else None for value in row] for row in rows.tolist()]
