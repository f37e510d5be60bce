"""A policy server inside a process that has other things to do: on an event loop of a thread of its own."""

from __future__ import annotations

import asyncio
import threading

from dreamzero_policy.inference.server.service import Service
from dreamzero_policy.inference.server.settings import Settings


class ThreadedService:
    """A service that serves from its making until :meth:`end`.

    Attributes:
        service: made on its own loop; read its state, and use nothing else of it from other threads.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._began = threading.Event()
        self._failure: BaseException | None = None
        self.service: Service | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._main, name="policy-server", daemon=True)
        self._thread.start()

    def wait_until_ready(self, timeout_s: float) -> int:
        """The port. Raises what the service could not begin for, or TimeoutError."""
        if not self._began.wait(timeout_s):
            raise TimeoutError(f"the policy server was not ready after {timeout_s:.0f} s")
        if self._failure is not None:
            raise self._failure
        return self.service.port

    @property
    def address(self) -> str:
        """Where it serves, once it is ready."""
        scheme = "ws" if self._settings.certificate is None else "wss"
        return f"{scheme}://{self._settings.host}:{self.service.port}"

    @property
    def ready(self) -> bool:
        return self._thread.is_alive() and self.service is not None and self.service.state == "ready"

    def room_hz(self) -> float:
        """Chunks per second that it can still promise."""

        async def ask() -> float:
            return self.service.capacity.chunks_left_hz

        return asyncio.run_coroutine_threadsafe(ask(), self.loop).result()

    def end(self, timeout_s: float | None = None) -> None:
        """Drain and stop."""
        if self.loop is not None and self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout_s)

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # told to whoever waits
            self._failure = error
        finally:
            self._began.set()

    async def _run(self) -> None:
        self.loop, self._stop, self.service = asyncio.get_running_loop(), asyncio.Event(), Service(self._settings)
        await self.service.run(self._stop, ready=self._began.set)
