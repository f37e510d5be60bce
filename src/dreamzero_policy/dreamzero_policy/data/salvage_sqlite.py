"""A SQLite file that was cut off or is damaged inside, read row by row: the disk was full, a copy was broken off.

Rows are read in the order of their numbers, which is that of recording, from the table alone: an index may be damaged
too. Where pages cannot be read, the first number behind them that can is searched for, and the stretch is noted. A file
that is shorter than it says of itself is refused by SQLite, unless it is told to mend its schema (`writable_schema`);
it is opened for reading only, so nothing is written. A journal beside the file is not used: it belongs to the recorder.
"""

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from dreamzero_policy.data.episodes import EpisodeError

FORMATS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}
LARGEST_STEP = 2**40  # rows; farther on nothing is looked for


@dataclass(frozen=True)
class Lost:
    """Rows between two that can be read; the second is None at the end of the file."""

    after_ns: int
    behind_ns: int | None
    rows: int | None  # None at the end: nobody knows


class SalvagedSqlite:
    """What can be read of one file, with the surface of rosbags' reader."""

    def __init__(self, path: Path) -> None:
        """Find topics, times, and what is lost.

        Raises:
            EpisodeError: its tables cannot be read, or no message can.
        """
        self.path = path
        self._database = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1", uri=True)
        self._database.execute("PRAGMA writable_schema=ON")
        try:
            topics = self._database.execute("SELECT id, name, type FROM topics ORDER BY id").fetchall()
            self._definitions = self._read_definitions()
        except sqlite3.Error as error:
            self._database.close()
            raise EpisodeError(f"{path} has no topics that can be read: {error}") from error
        self.lost: list[Lost] = []
        counts: Counter[int] = Counter()
        self.start_time, self.end_time = 2**63 - 1, 0
        for _, topic, timestamp in self._rows("topic_id, timestamp", 0, self.lost):
            counts[topic] += 1
            self.start_time = min(self.start_time, timestamp)
            self.end_time = max(self.end_time, timestamp)
        if not counts:
            self._database.close()
            raise EpisodeError(f"{path} has no message that can be read")
        self.connections = [self._connection(*topic, counts[topic[0]]) for topic in topics]
        self.typestore = self._types()

    def messages(
        self, connections: Collection[Connection], start: int | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """As rosbags' readers, without what is lost. A message whose own pages are damaged is left out with them."""
        wanted = {connection.id: connection for connection in connections}
        for _, topic, timestamp, data in self._rows("topic_id, timestamp, data", 0, []):
            if topic in wanted and timestamp >= (start or 0):
                yield wanted[topic], timestamp, data

    def close(self) -> None:
        self._database.close()

    def _rows(self, columns: str, last: int, lost: list[Lost]) -> Iterator[tuple]:
        """Number and columns of every row behind a number, and a note of what is lost between them."""
        query = f"SELECT id, {columns} FROM messages NOT INDEXED WHERE id > ? ORDER BY id"
        last_ns = 0
        while True:
            try:
                for row in self._database.execute(query, (last,)):
                    last, last_ns = row[0], row[2]
                    yield row
                return
            except sqlite3.Error:
                found = self._next_readable(query, last)
            if found is None:
                lost.append(Lost(last_ns, None, None))
                return
            lost.append(Lost(last_ns, found[2], found[0] - last - 1))
            last = found[0] - 1

    def _next_readable(self, query: str, last: int) -> tuple | None:
        """The first row behind a damaged stretch: steps that double until one can be read, then halves back."""
        bad, step, found = last, 1, None
        while found is None and step < LARGEST_STEP:
            row, readable = self._peek(query, last + step)
            if readable and row is None:
                return None
            if readable:
                found = row
            else:
                bad, step = last + step, 2 * step
        if found is None:
            return None
        good = last + step
        while good - bad > 1:
            middle = (good + bad) // 2
            row, readable = self._peek(query, middle)
            if readable:
                good, found = middle, row
            else:
                bad = middle
        return found

    def _peek(self, query: str, behind: int) -> tuple[tuple | None, bool]:
        """The first row behind a number, None where there is none, and whether that could be read."""
        try:
            return self._database.execute(f"{query} LIMIT 1", (behind,)).fetchone(), True
        except sqlite3.Error:
            return None, False

    def _read_definitions(self) -> dict[str, MessageDefinition]:
        """By type; recorders before Iron wrote none."""
        tables = {name for (name,) in self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "message_definitions" not in tables:
            return {}
        rows = self._database.execute(
            "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
        )
        return {
            kind: MessageDefinition(FORMATS.get(encoding, MessageDefinitionFormat.NONE), text)
            for kind, encoding, text in rows
        }

    def _connection(self, number: int, topic: str, kind: str, count: int) -> Connection:
        definition = self._definitions.get(kind, MessageDefinition(MessageDefinitionFormat.NONE, ""))
        return Connection(number, topic, kind, definition, "", count, ConnectionExtRosbag2("cdr", []), self)

    def _types(self):
        found = {}
        for kind, definition in self._definitions.items():
            if definition.format == MessageDefinitionFormat.MSG:
                found |= get_types_from_msg(definition.data, kind)
            elif definition.format == MessageDefinitionFormat.IDL:
                found |= get_types_from_idl(definition.data)
        store = get_typestore(Stores.EMPTY if found else Stores.ROS2_JAZZY)
        if found:
            store.register(found)
        return store
