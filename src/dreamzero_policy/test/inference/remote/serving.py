"""A policy server in a thread of the test's process, on a real socket."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dreamzero_policy.inference.server.service import Service
from dreamzero_policy.inference.server.settings import Settings

PATIENCE_S = 240.0


@dataclass
class Served:
    """One that runs."""

    service: Service
    failed: list[BaseException] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"ws://127.0.0.1:{self.service.port}"


@contextmanager
def served(checkpoint: Path, *, port: int = 0, **settings: object) -> Iterator[Served]:
    """Ready to serve, with room for whatever a test asks."""
    options = {"dtype": "float32", "memory_bytes": 2_000_000_000, "most_load": 1.0, "messages_hz": 1e6} | settings
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    running = Served(Service(Settings(checkpoint, port=port, **options)))

    def main() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(running.service.run(stop))
        except BaseException as error:  # told to the test
            running.failed.append(error)

    thread = threading.Thread(target=main, name="server", daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE_S
    try:
        while running.service.state != "ready":
            assert not running.failed, running.failed
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield running
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE_S)
