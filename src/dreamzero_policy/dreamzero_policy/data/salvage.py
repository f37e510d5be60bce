"""An MCAP file that was cut off, read from its begin: the writer died, or the disk was full.

Such a file has lost the index at its end, which readers begin with. Here records are followed one after the other, and
the file is over where one is not whole. A chunk (by default of some 800 kB) is whole or lost. Messages come in the
order of recording within a chunk, and chunks in the order of the file. Memory holds one chunk.
"""

import struct
from collections import Counter
from collections.abc import Collection, Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, McapRecord, Message, Schema
from mcap.stream_reader import breakup_chunk
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from dreamzero_policy.data.bag_errors import DAMAGED
from dreamzero_policy.data.episodes import EpisodeError

MAGIC = b"\x89MCAP0\r\n"
RECORD = struct.Struct("<BQ")  # opcode, length
FORMATS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}


class SalvagedMcap:
    """What is whole in one file, with the surface of rosbags' reader."""

    def __init__(self, path: Path) -> None:
        """Find topics, times, and where the file breaks off.

        Raises:
            EpisodeError: it is no MCAP file, or breaks off before the first message.
        """
        self.path = path
        self.start_time, self.end_time = 2**63 - 1, 0
        self.broken_chunks = 0
        self.lost_bytes = 0  # behind the last whole record
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        counts: Counter[int] = Counter()
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise EpisodeError(f"{path} is no MCAP file, or an empty one")
            for opcode, payload in self._records(file):
                try:
                    self._learn(self._unpacked(opcode, payload), counts)
                except DAMAGED:
                    self.broken_chunks += 1
            self.lost_bytes = path.stat().st_size - file.tell()
        if not counts:
            raise EpisodeError(f"{path} breaks off before its first message")
        self.connections = [self._connection(channel, counts) for channel in self._channels.values()]
        self.typestore = self._types()

    def messages(
        self, connections: Collection[Connection], start: int | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """As rosbags' readers; raises one of DAMAGED at a chunk that is broken inside."""
        wanted = {connection.id: connection for connection in connections}
        with self.path.open("rb") as file:
            file.seek(len(MAGIC))
            for opcode, payload in self._records(file):
                found = [
                    record
                    for record in self._unpacked(opcode, payload, start or 0)
                    if isinstance(record, Message) and record.channel_id in wanted and record.log_time >= (start or 0)
                ]
                for message in sorted(found, key=lambda message: message.log_time):
                    yield wanted[message.channel_id], message.log_time, message.data

    def close(self) -> None:
        """Nothing is kept open."""

    @staticmethod
    def _records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
        """The whole records of the data section; the file stands behind the last one afterwards."""
        while True:
            place = file.tell()
            head = file.read(RECORD.size)
            if len(head) < RECORD.size:
                break
            opcode, length = RECORD.unpack(head)
            if opcode == Opcode.DATA_END:
                break
            payload = file.read(length) if length < 2**40 else b""
            if len(payload) < length:
                break
            yield opcode, payload
        file.seek(place)

    @staticmethod
    def _unpacked(opcode: int, payload: bytes, start_ns: int = 0) -> list[McapRecord]:
        """What a record holds that is needed here; a chunk that is over before the start holds nothing."""
        stream = ReadDataStream(BytesIO(payload))
        if opcode == Opcode.CHUNK:
            chunk = Chunk.read(stream)
            return breakup_chunk(chunk, validate_crc=True) if chunk.message_end_time >= start_ns else []
        if opcode == Opcode.MESSAGE:
            return [Message.read(stream, len(payload))]
        kind = {Opcode.SCHEMA: Schema, Opcode.CHANNEL: Channel}.get(opcode)
        return [] if kind is None else [kind.read(stream)]

    def _learn(self, records: list[McapRecord], counts: Counter[int]) -> None:
        for record in records:
            if isinstance(record, Schema):
                self._schemas[record.id] = record
            elif isinstance(record, Channel):
                self._channels[record.id] = record
            elif isinstance(record, Message):
                counts[record.channel_id] += 1
                self.start_time = min(self.start_time, record.log_time)
                self.end_time = max(self.end_time, record.log_time)

    def _connection(self, channel: Channel, counts: Counter[int]) -> Connection:
        schema = self._schemas[channel.schema_id]
        kind = FORMATS.get(schema.encoding, MessageDefinitionFormat.NONE)
        return Connection(
            id=channel.id,
            topic=channel.topic,
            msgtype=schema.name,
            msgdef=MessageDefinition(kind, schema.data.decode(errors="replace")),
            digest="",
            msgcount=counts[channel.id],
            ext=ConnectionExtRosbag2("cdr", []),
            owner=self,
        )

    def _types(self):
        found = {}
        for connection in self.connections:
            if connection.msgdef.format == MessageDefinitionFormat.MSG:
                found |= get_types_from_msg(connection.msgdef.data, connection.msgtype)
            elif connection.msgdef.format == MessageDefinitionFormat.IDL:
                found |= get_types_from_idl(connection.msgdef.data)
        store = get_typestore(Stores.EMPTY)
        store.register(found or get_typestore(Stores.ROS2_JAZZY).fielddefs)
        return store
