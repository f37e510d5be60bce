"""Bags as the recorders of several ROS distributions leave them, written here without any library that reads bags.

* Humble: metadata.yaml of version 5; SQLite3 with schema 3, without definitions and hashes of types; quality of
  service as text with numbers. (rosbag2 0.15, rosbag2_storage `bag_metadata.hpp` and `sqlite_storage.cpp`)
* Jazzy: metadata.yaml of version 9; SQLite3 with schema 4 or MCAP; quality of service as a list with names; behind a
  message that ends in an empty array the spare bytes of Jazzy's serializer.

A bag is split at so many seconds. `file` and `message` are rosbag2's own compression, `chunk_…` that of MCAP.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import yaml
import zstandard
from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapFile

from dreamzero_policy.runtime.observation import NS_PER_S

from .twin_bag import COMPRESSED, IMAGE, TYPES, Said

SPARE = b"\x07" * 8
MESSAGES_A_TRANSACTION = 1000
QOS = {
    "history": (1, "keep_last"),
    "depth": (10, 10),
    "reliability": (1, "reliable"),
    "durability": (2, "volatile"),
    "deadline": ({"sec": 9223372036, "nsec": 854775807},) * 2,
    "lifespan": ({"sec": 9223372036, "nsec": 854775807},) * 2,
    "liveliness": (1, "automatic"),
    "liveliness_lease_duration": ({"sec": 9223372036, "nsec": 854775807},) * 2,
    "avoid_ros_namespace_conventions": (False, False),
}


@dataclass(frozen=True)
class Kind:
    """How a recorder was set."""

    distribution: str  # "humble" or "jazzy"
    storage: str  # "sqlite3" or "mcap"
    raw_images: bool = False
    compression: str = ""  # "file", "message", "chunk_lz4", "chunk_zstd"
    split_s: float = float("inf")

    @property
    def rosbag2_compression(self) -> str:
        """Mode of the compression that rosbag2 itself does; empty without."""
        return self.compression if self.compression in ("file", "message") else ""


def write_plain(path: Path, messages: Iterable[Said]) -> None:
    """One MCAP file, to be read again by `read_plain`."""
    storage = McapStorage(path, Kind("humble", "mcap"))
    for message in messages:
        storage.write(message, message.data)
    storage.close()


def read_plain(path: Path) -> Iterator[Said]:
    """What was written, in that order."""
    with path.open("rb") as file:
        for schema, channel, message in make_reader(file).iter_messages():
            yield Said(channel.topic, schema.name, message.log_time, message.data)


class StorageFile(Protocol):
    """One file of a bag under construction."""

    def write(self, message: Said, data: bytes) -> None: ...

    def close(self) -> None: ...


@dataclass
class Written:
    """What metadata.yaml says of a file."""

    path: Path
    times_ns: list[int] = field(default_factory=lambda: [2**63 - 1, 0])
    messages: int = 0


def write_bag(folder: Path, kind: Kind, messages: Iterable[Said]) -> Path:
    """Write a bag; messages come in the order of recording."""
    folder.mkdir()
    files: list[Written] = []
    counts: Counter[tuple[str, str]] = Counter()
    storage: StorageFile | None = None
    for message in messages:
        if storage is None or message.recorded_ns >= files[-1].times_ns[0] + kind.split_s * NS_PER_S:
            if storage is not None:
                _finish(storage, files[-1], kind)
            suffix = ".db3" if kind.storage == "sqlite3" else ".mcap"
            files.append(Written(folder / f"{folder.name}_{len(files)}{suffix}"))
            storage = (SqliteFile if kind.storage == "sqlite3" else McapStorage)(files[-1].path, kind)
        data = message.data
        if kind.distribution == "jazzy" and message.kind not in (IMAGE, COMPRESSED):
            data += SPARE
        storage.write(message, zstandard.compress(data) if kind.compression == "message" else data)
        begin_ns, end_ns = files[-1].times_ns
        files[-1].times_ns = [min(begin_ns, message.recorded_ns), max(end_ns, message.recorded_ns)]
        files[-1].messages += 1
        counts[message.topic, message.kind] += 1
    _finish(storage, files[-1], kind)
    (folder / "metadata.yaml").write_text(yaml.safe_dump(_metadata(kind, files, counts), sort_keys=False))
    return folder


def _finish(storage: StorageFile, file: Written, kind: Kind) -> None:
    storage.close()
    if kind.compression == "file":
        packed = file.path.with_name(file.path.name + ".zstd")
        with file.path.open("rb") as plain, packed.open("wb") as target:
            zstandard.ZstdCompressor().copy_stream(plain, target)
        file.path.unlink()
        file.path = packed


class SqliteFile:
    """A .db3 of schema 3 or 4."""

    def __init__(self, path: Path, kind: Kind) -> None:
        self._database, self._topics, self._kind = sqlite3.connect(path), {}, kind
        self._pending = 0
        hashed = kind.distribution == "jazzy"
        more = ", type_description_hash TEXT NOT NULL" if hashed else ""
        self._database.executescript(
            f"""
            CREATE TABLE schema(schema_version INTEGER PRIMARY KEY, ros_distro TEXT NOT NULL);
            CREATE TABLE metadata(id INTEGER PRIMARY KEY, metadata_version INTEGER NOT NULL, metadata TEXT NOT NULL);
            CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,
                serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL{more});
            CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL,
                data BLOB NOT NULL);
            CREATE INDEX timestamp_idx ON messages (timestamp ASC);
            INSERT INTO schema VALUES ({4 if hashed else 3}, '{kind.distribution}');
            """
        )
        if hashed:
            self._database.execute(
                "CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type TEXT NOT NULL, encoding TEXT NOT "
                "NULL, encoded_message_definition TEXT NOT NULL, type_description_hash TEXT NOT NULL)"
            )

    def write(self, message: Said, data: bytes) -> None:
        if message.topic not in self._topics:
            self._topics[message.topic] = len(self._topics) + 1
            row = [self._topics[message.topic], message.topic, message.kind, "cdr", yaml.safe_dump(_qos(self._kind))]
            if self._kind.distribution == "jazzy":
                row.append(TYPES.hash_rihs01(message.kind))
                self._database.execute(
                    "INSERT INTO message_definitions(topic_type, encoding, encoded_message_definition, "
                    "type_description_hash) VALUES (?, 'ros2msg', ?, ?)",
                    (message.kind, TYPES.generate_msgdef(message.kind, ros_version=2)[0], row[-1]),
                )
            self._database.execute(f"INSERT INTO topics VALUES ({', '.join('?' * len(row))})", row)
        self._database.execute(
            "INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)",
            (self._topics[message.topic], message.recorded_ns, data),
        )
        self._pending += 1
        if self._pending % MESSAGES_A_TRANSACTION == 0:
            self._database.commit()

    def close(self) -> None:
        self._database.commit()
        self._database.close()


class McapStorage:
    """An .mcap file."""

    def __init__(self, path: Path, kind: Kind) -> None:
        compressions = {"chunk_lz4": CompressionType.LZ4, "chunk_zstd": CompressionType.ZSTD}
        self._file = path.open("wb")
        self._writer = McapFile(
            self._file, compression=compressions.get(kind.compression, CompressionType.NONE), use_statistics=True
        )
        self._writer.start(profile="ros2", library=f"libmcap of {kind.distribution}")
        self._channels: dict[str, int] = {}
        self._sequence = 0
        self._kind = kind

    def write(self, message: Said, data: bytes) -> None:
        if message.topic not in self._channels:
            text = TYPES.generate_msgdef(message.kind, ros_version=2)[0]
            schema = self._writer.register_schema(message.kind, "ros2msg", text.encode())
            about = {"offered_qos_profiles": yaml.safe_dump(_qos(self._kind))}
            if self._kind.distribution == "jazzy":
                about["topic_type_hash"] = TYPES.hash_rihs01(message.kind)
            self._channels[message.topic] = self._writer.register_channel(message.topic, "cdr", schema, about)
        self._sequence += 1
        when_ns = message.recorded_ns
        self._writer.add_message(self._channels[message.topic], when_ns, data, when_ns, self._sequence)

    def close(self) -> None:
        self._writer.finish()
        self._file.close()


def _qos(kind: Kind) -> list[dict[str, object]]:
    form = 0 if kind.distribution == "humble" else 1
    return [{name: forms[form] for name, forms in QOS.items()}]


def _metadata(kind: Kind, files: list[Written], counts: Counter[tuple[str, str]]) -> dict[str, object]:
    humble = kind.distribution == "humble"
    begin_ns, end_ns = min(file.times_ns[0] for file in files), max(file.times_ns[1] for file in files)
    topics = []
    for (topic, message_kind), count in counts.items():
        about = {"name": topic, "type": message_kind, "serialization_format": "cdr"}
        about["offered_qos_profiles"] = yaml.safe_dump(_qos(kind)) if humble else _qos(kind)
        if not humble:
            about["type_description_hash"] = TYPES.hash_rihs01(message_kind)
        topics.append({"topic_metadata": about, "message_count": count})
    document = {
        "version": 5 if humble else 9,
        "storage_identifier": kind.storage,
        "duration": {"nanoseconds": end_ns - begin_ns},
        "starting_time": {"nanoseconds_since_epoch": begin_ns},
        "message_count": sum(counts.values()),
        "topics_with_message_count": topics,
        "compression_format": "zstd" if kind.rosbag2_compression else "",
        "compression_mode": kind.rosbag2_compression.upper(),
        "relative_file_paths": [file.path.name for file in files],
        "files": [
            {
                "path": file.path.name,
                "starting_time": {"nanoseconds_since_epoch": file.times_ns[0]},
                "duration": {"nanoseconds": file.times_ns[1] - file.times_ns[0]},
                "message_count": file.messages,
            }
            for file in files
        ],
    }
    if not humble:
        document |= {"custom_data": None, "ros_distro": kind.distribution}
    return {"rosbag2_bagfile_information": document}
