"""The files of a bag: opened, and read message by message.

Bags are read with `rosbags`, MCAP and SQLite alike. What cannot be read is an EpisodeError that names the bag and the
place. Who wants what can be read gives `Problems`; then it is noted there, and

* a folder whose metadata.yaml is missing or damaged is read file by file,
* an MCAP file that was cut off is read up to where it breaks off (`salvage`),
* a SQLite file that is damaged is read around its damage (`salvage_sqlite`),
* behind a stretch that cannot be read, reading begins again.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_typestore

from dreamzero_policy.data.bag_errors import DAMAGED
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.problems import Problems
from dreamzero_policy.data.salvage import SalvagedMcap
from dreamzero_policy.data.salvage_sqlite import SalvagedSqlite
from dreamzero_policy.runtime.observation import NS_PER_S

METADATA, STORAGES = "metadata.yaml", (".mcap", ".db3")
FIRST_SKIP_NS, SKIP_GROWTH = 50_000_000, 1.5  # behind broken bytes it is tried again so much later, then farther on
LARGEST_NS = 2**62


class Bag:
    """An open bag."""

    def __init__(self, path: Path, parts: list[Any], problems: Problems | None) -> None:
        self.path, self._parts, self._problems = path, parts, problems
        self.connections: list[Connection] = [connection for part in parts for connection in part.connections]
        self.typestore = parts[0].typestore
        if len(parts) > 1:
            self.typestore = get_typestore(Stores.EMPTY)
            for part in parts:
                self.typestore.register(part.typestore.fielddefs)

    @property
    def begin_ns(self) -> int:
        """When the first message was recorded."""
        return min((part.start_time for part in self._parts), default=0)

    @property
    def end_ns(self) -> int:
        """When the last message was."""
        return max((part.end_time for part in self._parts), default=0)

    def messages(
        self, topics: Collection[str] | None = None, told: bool = True, from_ns: int | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Connection, time of recording and bytes of every message, in the order of recording.

        Args:
            topics: of these alone; None: of all.
            told: note what cannot be read; False where another pass over the bag does.
            from_ns: of those recorded from here on.

        Raises:
            EpisodeError: the bag cannot be read further, and nobody asked for what can be read.
        """
        for part in self._parts:
            wanted = [c for c in part.connections if topics is None or c.topic in topics]
            if wanted:
                yield from self._of(part, wanted, told, from_ns)

    def _of(
        self, part: Any, wanted: list[Connection], told: bool, from_ns: int | None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        messages = part.messages(connections=wanted, **({} if from_ns is None else {"start": from_ns}))
        last_ns, place = part.start_time, "its begin"
        skip_ns, reason = FIRST_SKIP_NS, ""
        while True:
            try:
                message = next(messages)
            except StopIteration:
                break
            except DAMAGED as error:
                reason = reason or f"{type(error).__name__}: {error}"
                if self._problems is None:
                    raise EpisodeError(f"bag {self.path} is damaged behind {place}: {reason}") from error
                if last_ns + skip_ns > part.end_time:
                    break
                messages = part.messages(connections=wanted, start=last_ns + skip_ns)
                skip_ns = round(SKIP_GROWTH * skip_ns)
                continue
            if reason:
                self._note(last_ns, place, f" up to {message[1] / NS_PER_S:.3f} s", reason, told)
                skip_ns, reason = FIRST_SKIP_NS, ""
            last_ns, place = message[1], f"{message[0].topic} at {message[1] / NS_PER_S:.3f} s"
            yield message
        if reason:
            self._note(last_ns, place, "", reason, told)

    def _note(self, instant_ns: int, place: str, end: str, reason: str, told: bool) -> None:
        if told:
            self._problems.note("damage", str(self.path), instant_ns, f"is damaged behind {place}{end}: {reason}")


class OpenBag:
    """A bag being read."""

    def __init__(self, path: Path, problems: Problems | None = None) -> None:
        """`problems`: read what can be read and note the rest; without, all of it must be readable."""
        self.path, self._problems = path, problems
        self._stack = ExitStack()

    def __enter__(self) -> Bag:
        """Raises EpisodeError: nothing can be read."""
        try:
            return Bag(self.path, [self._reader(self.path)], self._problems)
        except Exception as error:  # the readers below raise kinds of their own for damaged files
            whole = f"{type(error).__name__}: {error}"
            if self._problems is None:
                raise EpisodeError(
                    f"bag {self.path} cannot be read: {whole}. `dreamzero convert bag` keeps what can be read"
                ) from error
        parts, files = [], storage_files(self.path)
        for file in files:
            try:
                parts.append(self._reader(file))
            except Exception as error:
                parts += self._salvaged(file, f"{type(error).__name__}: {error}")
        if not parts:
            raise EpisodeError(f"bag {self.path} cannot be read: {whole}")
        if self.path.is_dir():
            lost = whole if (self.path / METADATA).is_file() else f"{METADATA} is missing"
            text = f"{lost}; read from {', '.join(file.name for file in files)}"
            self._problems.note("damage", str(self.path), parts[0].start_time, text)
        return Bag(self.path, parts, self._problems)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._stack.close()

    def _reader(self, path: Path) -> AnyReader:
        reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY))
        reader.open()
        self._stack.callback(reader.close)
        return reader

    def _salvaged(self, file: Path, reason: str) -> list[SalvagedMcap | SalvagedSqlite]:
        """What is whole in a file; what is not is noted."""
        try:
            found = SalvagedMcap(file) if file.suffix == ".mcap" else SalvagedSqlite(file)
        except (EpisodeError, *DAMAGED) as error:
            self._problems.note("damage", str(file), 0, str(error))
            return []
        self._stack.callback(found.close)
        if isinstance(found, SalvagedMcap):
            text = f"{reason} Read from its begin; {found.lost_bytes} bytes behind the last whole record are lost"
            self._problems.note("damage", str(file), found.end_time, text)
            return [found]
        for lost in found.lost:
            end = "and nothing behind it can be read"
            if lost.behind_ns is not None:
                end = f"{lost.rows} messages up to {lost.behind_ns / NS_PER_S:.3f} s are lost"
            text = f"{reason} Damaged behind {lost.after_ns / NS_PER_S:.3f} s; {end}"
            self._problems.note("damage", str(file), lost.after_ns, text)
        if not found.lost:  # of the index alone
            self._problems.note("damage", str(file), found.start_time, f"{reason} Every message can be read")
        return [found]


def is_bag(path: Path) -> bool:
    """Whether the path is a rosbag2: a folder with metadata.yaml, or one MCAP or SQLite file."""
    return (path / METADATA).is_file() or (path.is_file() and path.suffix in STORAGES)


def storage_files(path: Path) -> list[Path]:
    """The file itself, or those of a folder in the order of recording: `name_0`, `name_1`, …, `name_10`."""
    if path.is_file():
        return [path]
    number = re.compile(r"_(\d+)$")
    files = [file for file in path.glob("*") if file.suffix in STORAGES]
    return sorted(files, key=lambda file: (int(found[1]) if (found := number.search(file.stem)) else -1, file.name))


def lost_metadata(path: Path) -> bool:
    """Whether a folder is a bag that lost its metadata.yaml: its storage files have its name, as recorders give it."""
    files = storage_files(path) if path.is_dir() and not is_bag(path) else []
    return bool(files) and all(re.fullmatch(re.escape(path.name) + r"(_\d+)?", file.stem) for file in files)
