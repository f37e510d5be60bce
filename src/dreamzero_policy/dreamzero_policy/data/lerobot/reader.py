"""Reading LeRobot data sets, v3.0 and v2.x, as recordings of a contract.

Joints go by name (`columns`), cameras by the contract's names (`observation.images.<camera>`, or through
`modality.json` or renames), rows and frames by timestamp: the nearest within the site's tolerances at the instants of
the contract's action grid, whatever the data set's own rate. A data set that says which contract it was recorded for
must be of this one, unless the caller asks to match it by names. Nothing is filled in.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from dreamzero_policy.data import video
from dreamzero_policy.data.alignment import grid, nearest, require_rising
from dreamzero_policy.data.episodes import Episode, EpisodeError
from dreamzero_policy.data.lerobot import layout
from dreamzero_policy.data.lerobot.columns import Columns, columns, flat_names
from dreamzero_policy.data.lerobot.layout import ACTION, IMAGES, STATE, EpisodeRow
from dreamzero_policy.data.recordings import Images, Recording, require_numbers
from dreamzero_policy.runtime.contract import Contract, ContractError, differing_fields, load_model_section
from dreamzero_policy.runtime.embodiment import Floats, Image, without_statistics


@dataclass(frozen=True)
class Matching:
    """How names and units of a foreign data set map onto the contract."""

    renames: Mapping[str, str] = field(default_factory=dict)  # their joint, group or camera → ours
    units: Mapping[str, str] = field(default_factory=dict)  # our joint or key of a group → its unit there
    any_contract: bool = False  # take a data set of another contract, joints and cameras by name


class LeRobotSource:
    """One data set, read episode by episode."""

    def __init__(self, folder: Path, contract: Contract, matching: Matching | None = None) -> None:
        """Read the metadata.

        Raises:
            EpisodeError: the data set is damaged, of another contract, slower than the contract's action grid, or lacks
                a camera or joint.
        """
        self.folder, self.contract = folder, contract
        self.matching = matching or Matching()
        self.info = layout.read_info(folder)
        self.fps = float(self.info["fps"])
        self.rows = {row.name: row for row in layout.read_episodes(folder, self.info)}
        self.tasks = layout.read_tasks(folder)
        modality = folder / layout.MODALITY
        self._modality = layout.read_json(modality) if modality.is_file() else {}
        self._embodiment = without_statistics(contract)

    @property
    def format(self) -> str:
        return f"LeRobot {self.info['codebase_version']}"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.rows)

    def differences(self) -> list[str]:
        """Where the contract that the data set says it was recorded for differs: `path: ours | theirs`."""
        theirs = self.info.get(layout.OURS, {}).get("contract_hash")
        if theirs in (None, self.contract.hash):
            return []
        try:
            recorded = load_model_section(self.folder / layout.CONTRACT)
        except ContractError:
            return [f"hash: {self.contract.hash} | {theirs}"]
        return differing_fields(self.contract.model, recorded)

    def episode(self, name: str, pictures: bool = True) -> Episode:
        """The compact form. Raises EpisodeError as `recording`, and for damaged or missing frames."""
        return self.recording(name).episode(self._embodiment, pictures)

    def recording(self, name: str) -> Recording:
        """One episode on the contract's action grid.

        Raises:
            EpisodeError: names the episode and the field that cannot be used.
        """
        self.require_fit()
        row = self.rows[name]
        wanted = [STATE, ACTION, "timestamp", "task_index", *self._annotations, *self._image_columns.values()]
        table = self._table(row, list(dict.fromkeys(wanted)))
        stamps = table["timestamp"].to_numpy().astype(np.float64)
        require_rising(stamps, f"episode {name}: timestamp")
        instants = grid(stamps[0], stamps[-1], self.contract.model.action_hz)
        tolerances = self.contract.site.tolerances
        rows = nearest(stamps, instants, tolerances.state_s, f"episode {name}: {STATE}")
        state = self._state_columns.taken(self._vectors(table, self._vector_key("state"), name))[rows]
        action = self._action_columns.taken(self._vectors(table, self._vector_key("action"), name))[rows]
        require_numbers(name, state, action, self.contract.model)

        def images(steps: Sequence[int]) -> Iterator[Images]:
            asked = instants[np.asarray(steps, dtype=np.int64)]
            streams = [self._frames(row, camera, table, stamps, asked) for camera in self.contract.model.cameras]
            for frames in zip(*streams, strict=True):
                yield dict(zip(self.contract.model.cameras, frames, strict=True))

        return Recording(name, self._instructions(row, table), state, action, images)

    def require_fit(self) -> None:
        """Raises EpisodeError unless the data set can be read for the contract."""
        if not self.matching.any_contract and (differences := self.differences()):
            raise EpisodeError(
                f"{self.folder} was recorded for another contract (ours | theirs): {'; '.join(differences)}. "
                "Give --any-contract to match joints and cameras by name."
            )
        if self.fps < self.contract.model.action_hz - 1e-6:
            raise EpisodeError(
                f"{self.folder}: fps is {self.fps:g}, the contract's action grid has {self.contract.model.action_hz:g} "
                "steps per second; commands between rows are not made up"
            )
        _ = self._state_columns, self._action_columns, self._camera_keys

    # Names

    @cached_property
    def _state_columns(self) -> Columns:
        return self._columns("state")

    @cached_property
    def _action_columns(self) -> Columns:
        return self._columns("action")

    def _columns(self, kind: str) -> Columns:
        key, where = self._vector_key(kind), f"{self.folder}: {self._vector_key(kind)}"
        if key not in self.info["features"]:
            raise EpisodeError(f"{where} is absent, the features are {', '.join(self.info['features'])}")
        units = self.info.get(layout.OURS, {}).get("units", {}).get(key)
        feature = self.info["features"][key] | ({"units": units} if units else {})
        groups = self.contract.model.state if kind == "state" else self.contract.model.action
        matching = self.matching
        return columns(
            self.contract, groups, feature, where, matching.renames, matching.units, self._modality.get(kind)
        )

    def _vector_key(self, kind: str) -> str:
        spans = list(self._modality.get(kind, {}).values())
        keys = {span.get("original_key") for span in spans} - {None}
        return keys.pop() if len(keys) == 1 else {"state": STATE, "action": ACTION}[kind]

    @cached_property
    def _camera_keys(self) -> dict[str, str]:
        """The feature of every camera of the contract."""
        images = {key for key, feature in self.info["features"].items() if feature["dtype"] in ("video", "image")}
        theirs = {_short(key): key for key in images}
        for short, entry in self._modality.get("video", {}).items():
            theirs[short] = entry.get("original_key", f"{IMAGES}{short}")
        ours = {self.matching.renames.get(short, short): key for short, key in theirs.items() if key in images}
        if absent := [camera for camera in self.contract.model.cameras if camera not in ours]:
            raise EpisodeError(
                f"{self.folder}: camera {absent[0]} is missing ({IMAGES}{absent[0]}), the data set has "
                f"{', '.join(sorted(theirs)) or 'none'}. Give --rename THEIRS={absent[0]} if it has another name there."
            )
        return {camera: ours[camera] for camera in self.contract.model.cameras}

    @cached_property
    def _image_columns(self) -> dict[str, str]:
        """Cameras whose images stand in the data files."""
        keys = self._camera_keys.items()
        return {camera: key for camera, key in keys if self.info["features"][key]["dtype"] == "image"}

    @cached_property
    def _annotations(self) -> list[str]:
        """Columns that hold further phrasings (GR00T-style `modality.json`)."""
        entries = self._modality.get("annotation", {}).items()
        keys = [(entry or {}).get("original_key", f"annotation.{name}") for name, entry in entries]
        return [key for key in keys if key in self.info["features"] and key != "task_index"]

    # Values

    def _table(self, row: EpisodeRow, wanted: Sequence[str]) -> pa.Table:
        keys = [self._vector_key("state"), self._vector_key("action")]
        wanted = [*keys, *(key for key in wanted if key not in (STATE, ACTION))]
        try:
            names = layout.column_names(row.data)
            if absent := [key for key in wanted if key not in names]:
                raise EpisodeError(f"{row.data} has no column {absent[0]}, it has {', '.join(names)}")
            table = layout.read_table(row.data, wanted, row.index)
        except EpisodeError as error:
            raise EpisodeError(f"episode {row.name}: {error}") from error
        if len(table) != row.length or not len(table):
            raise EpisodeError(f"episode {row.name}: {row.data} has {len(table)} rows, the metadata say {row.length}")
        return table

    def _vectors(self, table: pa.Table, key: str, name: str) -> Floats:
        column = table[key].to_pylist()
        width = int(np.prod(self.info["features"][key]["shape"]))
        for step, vector in enumerate(column):
            size = len(vector) if isinstance(vector, list) else 1
            if vector is None or size != width:
                raise EpisodeError(f"episode {name}: {key} has {size} entries at row {step}, info.json says {width}")
        return np.array(column, dtype=np.float64).reshape(len(column), width)

    def _instructions(self, row: EpisodeRow, table: pa.Table) -> tuple[str, ...]:
        """The task of the rows first, then the episode's other phrasings."""
        phrasings = [self._task(row, table, "task_index")]
        phrasings += [self._task(row, table, key) for key in self._annotations]
        return tuple(dict.fromkeys(text for text in (*phrasings, *row.tasks) if text))

    def _task(self, row: EpisodeRow, table: pa.Table, key: str) -> str:
        values = table[key].to_pylist()
        if changes := [step for step, value in enumerate(values) if value != values[0]]:
            raise EpisodeError(
                f"episode {row.name}: {key} changes from {values[0]!r} to {values[changes[0]]!r} at row {changes[0]}; "
                "cut it into episodes of one task each"
            )
        if isinstance(values[0], str):
            return values[0]
        if int(values[0]) not in self.tasks:
            raise EpisodeError(f"episode {row.name}: {key} is {values[0]}, the tasks are {sorted(self.tasks)}")
        return self.tasks[int(values[0])]

    # Images

    def _frames(
        self, row: EpisodeRow, camera: str, table: pa.Table, stamps: Floats, instants: Floats
    ) -> Iterator[Image]:
        key, tolerance_s = self._camera_keys[camera], self.contract.site.tolerances.frame_s
        where = f"episode {row.name}: {key}"
        if camera in self._image_columns:
            for index in nearest(stamps, instants, tolerance_s, where):
                yield _decoded(table[key][int(index)].as_py(), f"{where} at row {index}")
            return
        try:
            span = row.videos[key]
            end_s = span.end_s if span.end_s is not None else np.inf
            times = video.frame_times(span.path, span.begin_s, end_s)
            chosen = nearest(times - span.begin_s, instants, tolerance_s, where)
            yield from video.frames_at(span.path, times[chosen].tolist())
        except EpisodeError as error:
            message = str(error)
            raise EpisodeError(message if message.startswith("episode ") else f"{where}: {message}") from error

    # For a reader of the data set

    def cameras(self) -> dict[str, tuple[int, int]]:
        """(height, width) of every camera of the data set, under its own name."""
        return {
            _short(key): tuple(feature["shape"][:2])
            for key, feature in self.info["features"].items()
            if feature["dtype"] in ("video", "image")
        }

    def joints(self) -> dict[str, list[str]]:
        """Names of state and action as the data set has them; groups where only `modality.json` names them."""
        found = {}
        for kind in ("state", "action"):
            feature = self.info["features"].get(self._vector_key(kind), {})
            found[kind] = flat_names(feature.get("names")) or list(self._modality.get(kind, {}))
        return found

    def steps(self, name: str) -> int:
        """Rows of an episode, at the data set's own rate."""
        return self.rows[name].length


def _short(key: str) -> str:
    return key.removeprefix(IMAGES).removeprefix("observation.image.")


def _decoded(cell: Any, where: str) -> Image:
    data = cell.get("bytes") if isinstance(cell, Mapping) else None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise EpisodeError(f"{where}: no image can be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
