"""Writing a LeRobot v3.0 data set: finished episodes are packed into files of many.

An episode is staged first (`staging`); when enough wait, or on closing, they are packed in the order of their names:
Parquet with one row group an episode, videos joined without encoding again. The row in `meta/episodes` is what makes an
episode part of the data set and is written last, so a writer that is killed at any moment leaves complete episodes
only, and the next one goes on where it stopped: what was staged is packed, counters and statistics are made up from
the rows. An episode's name (a seed, a bag) is its identity; `in` tells whether it need not be made again.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.lerobot import layout, statistics
from dreamzero_policy.data.lerobot.staging import FOLDER, Draft, Staged, staged, staged_bytes
from dreamzero_policy.data.recordings import Recording
from dreamzero_policy.data.video import join
from dreamzero_policy.runtime.contract import Contract, differing_fields, load_model_section, save_contract

MIB = 2**20


class LeRobotWriter:
    """One data set being written, alone or beside processes that only stage (`Draft`)."""

    def __init__(self, folder: Path, contract: Contract, file_mib: int = layout.VIDEO_FILE_MB) -> None:
        """Begin or continue the data set in `folder`.

        Args:
            folder: made if absent.
            contract: names, units, cameras and rate of the episodes.
            file_mib: staged episodes are packed when they reach this size together.

        Raises:
            EpisodeError: the folder holds a data set of another contract, or another kind of data.
        """
        if not float(contract.model.action_hz).is_integer():
            raise EpisodeError(f"action_hz is {contract.model.action_hz}, a LeRobot data set needs a whole number")
        self.folder, self.contract, self.fps = folder, contract, int(contract.model.action_hz)
        self._file_bytes = file_mib * MIB
        self._require_same_contract()
        folder.mkdir(parents=True, exist_ok=True)
        self._names = {row[layout.EPISODE_ID] for row in layout.episode_rows(folder)}
        self._settle()

    def __enter__(self) -> "LeRobotWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self.close()

    def __contains__(self, name: str) -> bool:
        return name in self._names or (self.folder / FOLDER / name).is_dir()

    @property
    def packed(self) -> frozenset[str]:
        """Names of the episodes that have their place in the data set."""
        return frozenset(self._names)

    def __len__(self) -> int:
        """Finished episodes, packed or not."""
        return len(self._names) + len(staged(self.folder))

    def draft(self, name: str) -> Draft:
        """An episode to be filled step by step. Raises EpisodeError if there is one of that name."""
        if name in self:
            raise EpisodeError(f"episode {name} is in {self.folder} already")
        self.pack_when_due()
        return Draft(self.folder, name, self.contract, self.fps)

    def add(self, recording: Recording) -> None:
        """A whole recording, with an image of every camera at every step.

        Raises:
            EpisodeError: an image is missing, a number is not finite, or there is an episode of that name.
        """
        with self.draft(recording.name) as draft:
            images = recording.images(range(recording.steps))
            for state, action, seen in zip(recording.state, recording.action, images, strict=True):
                draft.add(state, action, seen)
            draft.finish(recording.instructions)

    def pack_when_due(self) -> None:
        """Pack what other processes have staged, if it fills a file."""
        if staged_bytes(self.folder) >= self._file_bytes:
            self.pack()

    def close(self) -> None:
        """Pack what is staged."""
        self.pack()
        folder = self.folder / FOLDER
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def pack(self) -> None:
        """Move every staged episode into the data set's files."""
        for group in self._groups():
            self._pack(group)

    # What is packed

    def _groups(self) -> Iterator[list[Staged]]:
        group, size = [], 0
        for episode in staged(self.folder):
            group.append(episode)
            size += episode.bytes
            if size >= self._file_bytes:
                yield group
                group, size = [], 0
        if group:
            yield group

    def _pack(self, group: list[Staged]) -> None:
        document = self._info(group)
        tasks = self._tasks()
        first = sum(1 for _ in self._names)
        rows = self._rows_of(group, first, document["total_frames"], tasks)
        place = self._next_place()
        self._write_data(group, rows, place, tasks)
        for camera in self.contract.model.cameras:
            self._write_videos(group, rows, place, layout.IMAGES + camera)
        layout.write_tasks(self.folder, list(tasks))
        with layout.replaced(self.folder / layout.EPISODES_PATH.format(**place)) as aside:
            pq.write_table(pa.Table.from_pylist(rows), aside, write_page_checksum=True)
        self._names |= {episode.name for episode in group}
        self._settle()

    def _rows_of(self, group: list[Staged], first: int, frames: int, tasks: dict[str, int]) -> list[dict[str, Any]]:
        rows = []
        for number, episode in enumerate(group, first):
            length = len(episode.numbers()[0])
            instructions = episode.description["instructions"]
            for instruction in instructions:
                tasks.setdefault(instruction, len(tasks))
            rows.append(
                {
                    "episode_index": number,
                    layout.EPISODE_ID: episode.name,
                    "tasks": instructions,
                    "length": length,
                    "dataset_from_index": frames,
                    "dataset_to_index": frames + length,
                }
            )
            frames += length
        return rows

    def _write_data(
        self, group: list[Staged], rows: list[dict[str, Any]], place: dict[str, int], tasks: dict[str, int]
    ) -> None:
        schema = layout.data_schema(self.contract)
        with (
            layout.replaced(self.folder / layout.DATA_PATH.format(**place)) as aside,
            pq.ParquetWriter(aside, schema, compression="snappy", write_page_checksum=True) as file,
        ):
            for episode, row in zip(group, rows, strict=True):
                state, action = episode.numbers()
                frame = np.arange(len(state))
                columns = {
                    "timestamp": (frame / self.fps).astype(np.float32),
                    "frame_index": frame,
                    "episode_index": np.full_like(frame, row["episode_index"]),
                    "index": frame + row["dataset_from_index"],
                    "task_index": np.full_like(frame, tasks[row["tasks"][0]]),
                }
                vectors = {
                    key: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
                    for key, values in ((layout.STATE, state), (layout.ACTION, action))
                }
                file.write_table(pa.table(vectors | columns, schema=schema))
                row |= {f"data/{part}": value for part, value in place.items()}
                row |= {f"meta/episodes/{part}": value for part, value in place.items()}
                described = episode.description["statistics"]
                described |= {key: statistics.of_rows(values) for key, values in columns.items()}
                row |= {f"stats/{key}/{name}": v for key, table in described.items() for name, v in table.items()}

    def _write_videos(self, group: list[Staged], rows: list[dict[str, Any]], place: dict[str, int], key: str) -> None:
        parts = [episode.folder / f"{key.removeprefix(layout.IMAGES)}.mp4" for episode in group]
        with layout.replaced(self.folder / layout.VIDEO_PATH.format(video_key=key, **place)) as aside:
            begins = join(parts, aside)
        for row, begin in zip(rows, begins, strict=True):
            row |= {f"videos/{key}/{part}": value for part, value in place.items()}
            row[f"videos/{key}/from_timestamp"] = float(begin)
            row[f"videos/{key}/to_timestamp"] = float(begin) + row["length"] / self.fps

    # What the rows say

    def _info(self, group: list[Staged]) -> dict[str, Any]:
        """`info.json` as it is, or for the first episodes; every episode must fit it."""
        path = self.folder / layout.INFO
        sizes = group[0].description["sizes"]
        fresh = layout.info(self.contract, sizes, self.fps)
        document = layout.read_json(path) if path.is_file() else fresh
        for episode in group:
            theirs = layout.features(self.contract, episode.description["sizes"], self.fps)
            for key, feature in document["features"].items():
                if theirs.get(key) != feature:
                    raise EpisodeError(
                        f"episode {episode.name}: {key} is {theirs.get(key)}, the data set has {feature}"
                    )
            if episode.description["contract_hash"] != self.contract.hash:
                raise EpisodeError(
                    f"episode {episode.name} was staged for contract {episode.description['contract_hash'][:12]}, "
                    f"not {self.contract.hash[:12]}; delete {episode.folder}"
                )
        if not path.is_file():
            layout.write_json(path, document)
            save_contract(self.contract, self.folder / layout.CONTRACT)
        return document

    def _tasks(self) -> dict[str, int]:
        if not (self.folder / layout.TASKS).is_file():
            return {}
        return {text: index for index, text in sorted(layout.read_tasks(self.folder).items())}

    def _next_place(self) -> dict[str, int]:
        places = [(row["meta/episodes/chunk_index"], row["meta/episodes/file_index"]) for row in self._rows()]
        if not places:
            return {"chunk_index": 0, "file_index": 0}
        chunk, file = max(places)
        following = chunk * layout.FILES_PER_CHUNK + file + 1
        return {"chunk_index": following // layout.FILES_PER_CHUNK, "file_index": following % layout.FILES_PER_CHUNK}

    def _rows(self) -> list[dict[str, Any]]:
        return layout.episode_rows(self.folder)

    def _settle(self) -> None:
        """Make counters and statistics agree with the rows, and clear away what is packed."""
        if not (self.folder / layout.INFO).is_file():
            return
        rows, document = self._rows(), layout.read_json(self.folder / layout.INFO)
        totals = {
            "total_episodes": len(rows),
            "total_frames": sum(row["length"] for row in rows),
            "total_tasks": len(self._tasks()),
            "splits": {"train": f"0:{len(rows)}"},
        }
        if any(document[key] != value for key, value in totals.items()):
            if rows:
                layout.write_json(self.folder / layout.STATS, self._statistics(document["features"]))
            layout.write_json(self.folder / layout.INFO, document | totals)
        for episode in staged(self.folder):
            if episode.name in self._names:
                shutil.rmtree(episode.folder)

    def _statistics(self, features: dict[str, Any]) -> dict[str, statistics.Table]:
        """`stats.json`, one file of episodes at a time."""
        tables: dict[str, list[statistics.Table]] = {key: [] for key in features}
        for path in sorted((self.folder / "meta" / "episodes").glob("*/*.parquet")):
            rows = layout.read_table(path).to_pylist()
            for key, parts in tables.items():
                prefix = f"stats/{key}/"
                of_file = [
                    {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
                    for row in rows
                ]
                parts.append(statistics.combined(of_file))
        return {key: statistics.combined(parts) for key, parts in tables.items()}

    def _require_same_contract(self) -> None:
        """Raises EpisodeError if the folder holds something else than a data set of this contract."""
        if not layout.is_lerobot(self.folder):
            others = Counter(path.suffix for path in self.folder.glob("*") if not path.name.startswith("."))
            if others:
                raise EpisodeError(f"{self.folder} is not empty ({dict(others)}) and is no LeRobot data set")
            return
        document = layout.read_info(self.folder)
        theirs = document.get(layout.OURS, {}).get("contract_hash")
        if document["codebase_version"] != layout.VERSION or theirs is None:
            raise EpisodeError(
                f"{self.folder} is a LeRobot data set of {document['codebase_version']} that this runtime did not "
                "write; convert it into another folder"
            )
        if theirs != self.contract.hash:
            trained = load_model_section(self.folder / layout.CONTRACT)
            lines = differing_fields(self.contract.model, trained)
            raise EpisodeError(
                f"{self.folder} is of contract {theirs[:12]}, not {self.contract.hash[:12]} (ours | theirs): "
                + "; ".join(lines)
            )
