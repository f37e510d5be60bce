"""A bag being replayed: its events and its chunks, for one contract.

Chunks come by a stream of their own, since a chunk is recorded behind the frames that it names.
"""

from collections.abc import Iterator
from pathlib import Path

from dreamzero_policy.data.bag_errors import DAMAGED
from dreamzero_policy.data.bag_events import BagEvents, Unreadable
from dreamzero_policy.data.bag_files import METADATA, Bag, is_bag, lost_metadata, storage_files
from dreamzero_policy.data.bag_messages import CHUNK, decoded
from dreamzero_policy.data.bags import INSTRUCTIONS
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.replay.live import LiveChunk
from dreamzero_policy.runtime.contract import Contract


class BagStream(BagEvents):
    """An open bag for one contract."""

    def __init__(self, bag: Bag, contract: Contract) -> None:
        """Find the topics.

        Raises:
            EpisodeError: a camera or the joint states are missing, or a topic is ambiguous or of another type.
        """
        super().__init__(bag, contract)
        self._chunks = {connection.topic for connection in bag.connections if connection.msgtype == CHUNK}
        if len(self._chunks) > 1:
            raise EpisodeError(f"bag {bag.path} holds chunks of several nodes, {sorted(self._chunks)}; keep one")

    @property
    def instruction(self) -> str:
        """The first phrasing of the file beside the bag; empty if there is none."""
        given = self.bag.path / INSTRUCTIONS
        lines = given.read_text(encoding="utf-8").splitlines() if given.is_file() else []
        return next((line.strip() for line in lines if line.strip()), "")

    def live_chunks(self) -> Iterator[LiveChunk | Unreadable]:
        """What the node published, as far as it can be read; broken stretches are told by the events."""
        if not self._chunks:
            return
        for connection, recorded_ns, data in self.bag.messages(self._chunks, told=False):
            try:
                chunk = LiveChunk.of(decoded(data, CHUNK, self.bag.typestore))
            except DAMAGED as error:
                chunk = Unreadable(connection.topic, recorded_ns, f"{type(error).__name__}: {error}")
            yield chunk


def require_bag(path: Path) -> None:
    """Raises EpisodeError for what is no bag, with what to give instead. A folder may have lost its metadata.yaml."""
    if is_bag(path):
        return
    if not path.exists():
        raise EpisodeError(f"there is no bag {path}")
    if not path.is_dir():
        raise EpisodeError(f"{path} is no bag: expected a folder with {METADATA}, or one .mcap or .db3 file")
    files = storage_files(path)
    if not files:
        raise EpisodeError(f"{path} has neither {METADATA} nor an .mcap or .db3 file: it is no bag")
    if len(files) > 1 and not lost_metadata(path):
        raise EpisodeError(f"{path} has no {METADATA} and files of several names; give one of them, {files[0]}")
