"""The journal: results on disk, one line an episode, so that an interrupted evaluation goes on where it was.

`conditions.json` says what all episodes of the folder have in common; an evaluation under other conditions, or with
other weights under the same name, is refused instead of mixed in. A line that was cut off by a crash is dropped.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamzero_policy.evaluation.stage import Job, Result

CONDITIONS, EPISODES = "conditions.json", "episodes.jsonl"


class JournalError(RuntimeError):
    """A folder that belongs to another evaluation, or that is broken; the message names file and values."""


class Journal:
    """Results by job."""

    def __init__(self, folder: Path, conditions: Mapping[str, Any]) -> None:
        """Open or begin the folder.

        Raises:
            JournalError: the folder's episodes were played under other conditions, or cannot be read.
        """
        self._path = folder / EPISODES
        folder.mkdir(parents=True, exist_ok=True)
        self._agree(folder / CONDITIONS, json.loads(json.dumps(conditions)))
        self.results = self._read()
        self._stream = self._path.open("a", encoding="utf-8")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def missing(self, jobs: list[Job], hashes: Mapping[str, str]) -> list[Job]:
        """The jobs without a result. `hashes`: of every method's weights.

        Raises:
            JournalError: a result was made with other weights.
        """
        for result in self.results.values():
            wanted = hashes.get(result.method, result.checkpoint)
            if result.checkpoint != wanted:
                raise JournalError(
                    f"{self._path} has {result.method} of checkpoint {result.checkpoint[:12]}, asked is "
                    f"{wanted[:12]}; name another folder with --out"
                )
        return [job for job in jobs if job not in self.results]

    def add(self, result: Result) -> None:
        """Keep a result. It is on disk when this returns."""
        self.results[Job(result.method, result.split, result.seed)] = result
        self._stream.write(json.dumps(result.as_dict(), ensure_ascii=False) + "\n")
        self._stream.flush()

    def _agree(self, path: Path, conditions: dict[str, Any]) -> None:
        if not path.exists():
            aside = path.with_name(path.name + ".part")
            aside.write_text(json.dumps(conditions, indent=1) + "\n")
            aside.replace(path)
            return
        try:
            ours = json.loads(path.read_text())
        except ValueError as error:
            raise JournalError(f"{path} cannot be read: {error}") from error
        differing = [
            f"{key}: {ours.get(key)!r} | {conditions.get(key)!r}"
            for key in sorted(ours.keys() | conditions.keys())
            if ours.get(key) != conditions.get(key)
        ]
        if differing:
            raise JournalError(
                f"{path.parent} was played under other conditions (there | now): {'; '.join(differing)}; name another "
                "folder with --out"
            )

    def _read(self) -> dict[Job, Result]:
        if not self._path.exists():
            return {}
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            self._path.write_bytes(whole)
        results = {}
        for number, line in enumerate(whole.decode().splitlines(), 1):
            try:
                result = Result(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise JournalError(f"{self._path}, line {number} is no result: {error}") from error
            results[Job(result.method, result.split, result.seed)] = result
        return results
