"""The LeRobot data set on disk: paths, `info.json`, tasks and rows of episodes, of v3.0 (written) and v2.x (read).

v3.0 keeps many episodes in one file; a row of `meta/episodes` says where each one stands:

    meta/info.json  stats.json  tasks.parquet  episodes/chunk-000/file-000.parquet
    data/chunk-000/file-000.parquet
    videos/observation.images.<camera>/chunk-000/file-000.mp4

v2.0 and v2.1 keep one Parquet file and one video a camera for each episode, and JSON lines for episodes and tasks.
The layout is that of huggingface/lerobot, `src/lerobot/datasets`, at 7427f31. What this project adds stands under the
key `dreamzero` of `info.json` (contract hash, units), in the column `episode_id` of the episodes, and in
`meta/contract.yaml`; other readers leave it aside.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.recordings import action_joints, units
from dreamzero_policy.data.video import CODEC, PIXELS
from dreamzero_policy.runtime.contract import Contract

VERSION = "v3.0"
INFO, STATS, TASKS, CONTRACT = "meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/contract.yaml"
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
EPISODES_PATH = f"meta/episodes/{FILE}.parquet"
DATA_PATH = f"data/{FILE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{FILE}.mp4"
FILES_PER_CHUNK = 1000
DATA_FILE_MB, VIDEO_FILE_MB = 100, 200
OLD_EPISODES, OLD_TASKS, MODALITY = "meta/episodes.jsonl", "meta/tasks.jsonl", "meta/modality.json"

STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
OURS = "dreamzero"  # this project's key in info.json
EPISODE_ID = "episode_id"
COUNTERS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64"} | {
    "index": "int64",
    "task_index": "int64",
}


def is_lerobot(folder: Path) -> bool:
    return (folder / INFO).is_file()


def features(contract: Contract, sizes: Mapping[str, tuple[int, int]], fps: int) -> dict[str, Any]:
    """The `features` of `info.json`; `sizes` are (height, width) of the contract's cameras."""
    vectors = {STATE: contract.model.state_joints, ACTION: action_joints(contract.model)}
    document: dict[str, Any] = {
        key: {"dtype": "float32", "shape": [len(names)], "names": list(names)} for key, names in vectors.items()
    }
    for camera in contract.model.cameras:
        height, width = sizes[camera]
        document[IMAGES + camera] = {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": height,
                "video.width": width,
                "video.codec": CODEC,
                "video.pix_fmt": PIXELS,
                "video.is_depth_map": False,
                "video.fps": fps,
                "video.channels": 3,
                "has_audio": False,
            },
        }
    return document | {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in COUNTERS.items()}


def info(contract: Contract, sizes: Mapping[str, tuple[int, int]], fps: int) -> dict[str, Any]:
    """`info.json` of a data set without episodes."""
    model = contract.model
    return {
        "codebase_version": VERSION,
        "robot_type": model.embodiment,
        "total_episodes": 0,
        "total_frames": 0,
        "total_tasks": 0,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": VIDEO_FILE_MB,
        "fps": fps,
        "splits": {},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": features(contract, sizes, fps),
        OURS: {
            "contract_hash": contract.hash,
            "units": {STATE: list(units(model.state)), ACTION: list(units(model.action))},
        },
    }


def data_schema(contract: Contract) -> pa.Schema:
    """Columns of the data files."""
    widths = {STATE: len(contract.model.state_joints), ACTION: contract.model.action_width}
    vectors = [pa.field(key, pa.list_(pa.float32(), width)) for key, width in widths.items()]
    return pa.schema([*vectors, *(pa.field(key, pa.type_for_alias(dtype)) for key, dtype in COUNTERS.items())])


# Reading


@dataclass(frozen=True)
class VideoSpan:
    """Where one episode stands in one video file; `end_s` is None where the file holds nothing else."""

    path: Path
    begin_s: float
    end_s: float | None


@dataclass(frozen=True)
class EpisodeRow:
    """One episode as the metadata describe it."""

    name: str
    index: int
    length: int
    tasks: tuple[str, ...]
    data: Path
    videos: Mapping[str, VideoSpan]  # by feature


def read_json(path: Path) -> dict[str, Any]:
    """Raises EpisodeError if the file is absent or is no JSON object."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EpisodeError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise EpisodeError(f"{path} holds a {type(document).__name__}, expected a JSON object")
    return document


def read_info(folder: Path) -> dict[str, Any]:
    """`info.json`, with the fields that reading needs. Raises EpisodeError."""
    document = read_json(folder / INFO)
    for field in ("codebase_version", "fps", "features", "data_path"):
        if field not in document:
            raise EpisodeError(f"{folder / INFO} has no field {field}, it has {sorted(document)}")
    if not str(document["codebase_version"]).startswith(("v2.", "v3.")):
        raise EpisodeError(
            f"{folder / INFO}: codebase_version is {document['codebase_version']!r}, this runtime reads v2.x and v3.x"
        )
    return document


def read_table(path: Path, columns: Sequence[str] | None = None, episode: int | None = None) -> pa.Table:
    """A Parquet file, or one episode of it; pages that carry a checksum are verified.

    Raises:
        EpisodeError: it is absent or damaged.
    """
    filters = None if episode is None else [("episode_index", "=", episode)]
    try:
        return pq.read_table(path, columns=columns, filters=filters, partitioning=None, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise EpisodeError(f"{path} cannot be read: {error}") from error


def column_names(path: Path) -> list[str]:
    """Columns of a Parquet file. Raises EpisodeError if it is absent or damaged."""
    try:
        return pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise EpisodeError(f"{path} cannot be read: {error}") from error


def read_tasks(folder: Path) -> dict[int, str]:
    """Task texts by index."""
    if (folder / TASKS).is_file():
        table = read_table(folder / TASKS)
        texts = next((name for name in ("task", "__index_level_0__") if name in table.column_names), None)
        if texts is None or "task_index" not in table.column_names:
            raise EpisodeError(f"{folder / TASKS} has columns {table.column_names}, expected task and task_index")
        return dict(zip(table["task_index"].to_pylist(), table[texts].to_pylist(), strict=True))
    return {row["task_index"]: row["task"] for row in _json_lines(folder / OLD_TASKS)}


def read_episodes(folder: Path, document: Mapping[str, Any]) -> list[EpisodeRow]:
    """All episodes in the order of their index. Raises EpisodeError."""
    video_keys = [key for key, feature in document["features"].items() if feature["dtype"] == "video"]
    if str(document["codebase_version"]).startswith("v2."):
        rows = [_old_row(folder, document, video_keys, row) for row in _json_lines(folder / OLD_EPISODES)]
    else:
        rows = [_row(folder, document, video_keys, row) for row in episode_rows(folder)]
    if twice := [name for name, count in Counter(row.name for row in rows).items() if count > 1]:
        raise EpisodeError(f"episode {twice[0]}: the metadata of {folder} have it twice")
    if len(rows) < int(document.get("total_episodes", 0)):
        raise EpisodeError(
            f"{folder}: the metadata describe {len(rows)} episodes, info.json says {document['total_episodes']}; "
            "a file of meta/episodes is missing"
        )
    return sorted(rows, key=lambda row: row.index)


def episode_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of `meta/episodes` (v3) without the statistics."""
    rows: list[dict[str, Any]] = []
    for path in sorted((folder / "meta" / "episodes").glob("*/*.parquet")):
        rows += read_table(path, [name for name in column_names(path) if not name.startswith("stats/")]).to_pylist()
    return rows


def _row(folder: Path, document: Mapping[str, Any], video_keys: Sequence[str], row: Mapping[str, Any]) -> EpisodeRow:
    index = int(row["episode_index"])
    name = str(row.get(EPISODE_ID) or f"episode_{index:06d}")
    try:
        data = document["data_path"].format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
        videos = {}
        for key in video_keys:
            place = {part: row[f"videos/{key}/{part}"] for part in ("chunk_index", "file_index")}
            path = folder / document["video_path"].format(video_key=key, **place)
            videos[key] = VideoSpan(path, row[f"videos/{key}/from_timestamp"], row[f"videos/{key}/to_timestamp"])
    except KeyError as error:
        raise EpisodeError(f"episode {name}: meta/episodes has no column {error}") from error
    return EpisodeRow(name, index, int(row["length"]), tuple(row.get("tasks") or ()), folder / data, videos)


def _old_row(
    folder: Path, document: Mapping[str, Any], video_keys: Sequence[str], row: Mapping[str, Any]
) -> EpisodeRow:
    index = int(row["episode_index"])
    place = {"episode_index": index, "episode_chunk": index // int(document.get("chunks_size", 1000))}
    videos = {
        key: VideoSpan(folder / document["video_path"].format(video_key=key, **place), 0.0, None) for key in video_keys
    }
    data = folder / document["data_path"].format(**place)
    return EpisodeRow(
        f"episode_{index:06d}", index, int(row["length"]), tuple(map(str, row.get("tasks") or ())), data, videos
    )


def _json_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise EpisodeError(f"{path} cannot be read: {error}") from error


# Writing: every file whole or not at all


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    with replaced(path) as aside:
        aside.write_text(json.dumps(document, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tasks(folder: Path, tasks: Sequence[str]) -> None:
    """`tasks.parquet` as pandas writes it: the texts are the index, which LeRobot's reader relies on."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    column = lambda name, kind, numpy: {  # noqa: E731
        "name": name,
        "field_name": name,
        "pandas_type": kind,
        "numpy_type": numpy,
        "metadata": None,
    }
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [column(None, "unicode", "object") | {"metadata": {"encoding": "UTF-8"}}],
        "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    with replaced(folder / TASKS) as aside:
        pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), aside, write_page_checksum=True)


class replaced:  # noqa: N801 (reads as a verb where it stands)
    """A path to write to; on success it takes the place of the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Path:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._aside = self._path.with_name(self._path.name + ".part")
        return self._aside

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            os.replace(self._aside, self._path)
        else:
            self._aside.unlink(missing_ok=True)
