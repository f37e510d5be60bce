"""The report's numbers as Parquet: a row for every chunk, and a row for every step of every chunk.

Steps are written while the replay goes on, so that a recording may be of any length; what a page can show of them is
read back at the end, thinned out.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dreamzero_policy.replay.kept import Kept
from dreamzero_policy.runtime.embodiment import Floats

CHUNKS, STEPS = "chunks.parquet", "steps.parquet"
GROUP_ROWS = 50_000  # rows of a part of the file
SERIES = ("predicted", "commands", "states")
FORMAT = {"compression": "zstd"}


def steps_schema(joints: tuple[str, ...]) -> pa.Schema:
    """Columns of `steps.parquet`: `predicted/JOINT` and so on [rad, m]."""
    fields = [("chunk", pa.int32()), ("row", pa.int16()), ("time_ns", pa.int64()), ("executed", pa.bool_())]
    return pa.schema(fields + [(f"{series}/{joint}", pa.float32()) for series in SERIES for joint in joints])


class StepsFile:
    """`steps.parquet`, chunk by chunk. `executed` says whether the robot was given a row, or would have been."""

    def __init__(self, folder: Path, joints: tuple[str, ...]) -> None:
        self._path, self._schema = folder / STEPS, steps_schema(joints)
        self._writer = pq.ParquetWriter(self._path, self._schema, **FORMAT)
        self._held: list[dict[str, Any]] = []
        self._rows = 0

    def add(self, kept: Kept) -> None:
        rows, joints = kept.positions.shape
        unknown = np.full((rows, joints), np.nan)
        values = (kept.positions, unknown if kept.commands is None else kept.commands, kept.states)
        instants = np.array(kept.instants_ns, np.int64)
        self._held.append(
            {
                "chunk": np.full(rows, kept.result["index"], np.int32),
                "row": np.arange(rows, dtype=np.int16),
                "time_ns": instants,
                "executed": (instants >= kept.start_ns) & (kept.start_ns > 0),
                "values": np.concatenate(values, axis=1).astype(np.float32),
            }
        )
        self._rows += rows
        if self._rows >= GROUP_ROWS:
            self._flush()

    def close(self) -> Path:
        self._flush()
        self._writer.close()
        return self._path

    def _flush(self) -> None:
        if not self._held:
            return
        columns = [np.concatenate([held[name] for held in self._held]) for name in self._schema.names[:4]]
        values = np.concatenate([held["values"] for held in self._held])
        columns += [pa.array(column, from_pandas=True) for column in values.T.copy()]  # not a number: null
        self._writer.write_table(pa.table(columns, schema=self._schema))
        self._held, self._rows = [], 0


def thinned(path: Path, most: int) -> tuple[int, dict[str, Floats]]:
    """Columns of a steps file with at most about `most` rows: every n-th row of a chunk, and its last. Gives n too."""
    file = pq.ParquetFile(path)
    every = -(-file.metadata.num_rows // most)
    parts = []
    for batch in file.iter_batches():
        row, chunk = batch["row"].to_numpy(), batch["chunk"].to_numpy()
        last = np.append(chunk[1:] != chunk[:-1], True)
        parts.append(batch.filter(pa.array((row % every == 0) | last)))
    table = pa.Table.from_batches(parts, file.schema_arrow)
    return every, {name: table[name].to_numpy() for name in table.column_names}


def write_chunks(folder: Path, chunks: list[dict[str, Any]]) -> None:
    """`chunks.parquet`: what `replay.json` says of every chunk, nested keys joined by points."""
    rows = [_flat(chunk) for chunk in chunks]
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    pq.write_table(table, folder / CHUNKS, **FORMAT)


def _flat(value: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat = {}
    for key, entry in value.items():
        if isinstance(entry, dict):
            flat |= _flat(entry, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = entry
    return flat
