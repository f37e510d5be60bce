"""The link: a thread that keeps one connection to the server, says what it is told and tells what it hears.

    connect ─► greet ─► converse ──lost──► pause ─┐
       ▲                    └─ refused: the end   │
       └──────────────────────────────────────────┘

`desk.py` knows where to connect to. A connection that is lost takes all that was asked with it; it is never asked again
by the link itself. Three clocks find a loss that no message announces: the kernel's (TCP keep-alive and user timeout)
and pings, within `link_timeout_s`, for a network that is cut; `inference_timeout_s` for a server that is there and does
not answer.
"""

import asyncio
import contextlib
import math
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from dreamzero_policy.inference.mailbox import Ask, Reset
from dreamzero_policy.inference.remote.backoff import Backoff
from dreamzero_policy.inference.remote.desk import Desk
from dreamzero_policy.inference.remote.dialogue import Dialogue, ServerReady
from dreamzero_policy.inference.remote.settings import RemoteSettings, RemoteSettingsError
from dreamzero_policy.inference.remote.trouble import ServerTrouble, not_trusted, refusal
from dreamzero_policy.runtime.faults import Fault
from dreamzero_policy.runtime.policy import Answer

CONNECT_S = 5.0  # for TCP, TLS and the handshake
GREET_S = 10.0  # for the first exchange
LOOK_S = 0.1  # a silence is noticed within this
CLOSE_S = 0.2
LONGEST_MESSAGE = 64 << 20  # bytes, of what a server may send
TOO_LONG = 1009  # close code: what this side sent


class Listener(Protocol):
    """Who is told, in the link's thread."""

    def ready(self, ready: ServerReady) -> None:
        """There is a connection. May raise ServerTrouble: this server is not the one that is wanted."""

    def heard(self, answer: Answer) -> None:
        """The server said something."""

    def lost(self, trouble: ServerTrouble, pause_s: float, attempts: int) -> None:
        """There is no connection; the next attempt follows after a pause. `attempts` counts those that failed."""

    def failed(self, trouble: ServerTrouble) -> None:
        """Nothing more comes."""


class Link:
    """One at a time to one server."""

    def __init__(
        self, settings: RemoteSettings, dialogue: Callable[[RemoteSettings], Dialogue], listener: Listener
    ) -> None:
        self.settings, self._dialogue, self._listener = settings, dialogue, listener
        self._desk = Desk(settings)
        self._lock = threading.Lock()
        self._outbox: deque[Ask] = deque()
        self._epoch = self._lost_epoch = -1
        self._loop = asyncio.new_event_loop()
        self._something = asyncio.Event()
        self._main = self._loop.create_task(self._live())
        self._connected = False
        self._thread = threading.Thread(target=self._run, name="server-link", daemon=True)
        self._thread.start()

    # From the caller's thread

    def say(self, ask: Ask) -> None:
        """Send this when it can be sent. A reset makes all before it void; what belongs to a lost epoch is dropped."""
        with self._lock:
            if isinstance(ask, Reset):
                self._outbox.clear()
                self._epoch = ask.epoch
            elif ask.epoch <= self._lost_epoch:
                return
            self._outbox.append(ask)
        with contextlib.suppress(RuntimeError):  # the thread has ended: the loop knows why
            self._loop.call_soon_threadsafe(self._something.set)

    def close(self) -> None:
        """End the connection and the thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join()

    # In the thread

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._main)
        self._loop.close()

    async def _live(self) -> None:
        try:
            await self._stay_connected()
        except ServerTrouble as trouble:
            self._listener.failed(trouble)
        except RemoteSettingsError as error:
            self._listener.failed(ServerTrouble(Fault.SERVER_REFUSED, str(error)))
        except Exception as error:  # a defect here must not look like a server that is silent for ever
            self._listener.failed(ServerTrouble(Fault.MODEL_FAILED, f"{type(error).__name__}: {error}"))

    async def _stay_connected(self) -> None:
        backoff = Backoff(self.settings.longest_pause_s)
        while True:
            try:
                await self._connection(backoff)
            except ServerTrouble as trouble:
                if trouble.final:
                    raise
                if not self._connected or trouble.fault is Fault.SERVER_BUSY:
                    self._desk.forget()
                pause_s = backoff.pause_s(trouble.retry_after_s)
                self._forget()
                self._listener.lost(trouble, pause_s, backoff.attempts)
            await asyncio.sleep(pause_s)

    def _forget(self) -> None:
        """What was asked went with the connection, also what is being asked at this moment: the epoch is over."""
        if self._connected:
            self._connected = False
            with self._lock:
                self._outbox.clear()
                self._lost_epoch = self._epoch

    async def _connection(self, backoff: Backoff) -> None:
        dialogue = self._dialogue(await self._desk.server())
        connection = await _connect(dialogue)
        try:
            try:
                ready = await asyncio.wait_for(dialogue.greet(connection.send, connection.recv), GREET_S)
            except (TimeoutError, asyncio.TimeoutError) as error:
                text = f"{dialogue.settings.place} accepts connections and says nothing for {GREET_S:.0f} s"
                raise ServerTrouble(Fault.SERVER_SILENT, text) from error
            except ConnectionClosed as error:
                raise _closed(dialogue, error) from error
            self._listener.ready(ready)
            self._connected = True
            backoff.connected()
            await self._converse(connection, dialogue)
        except asyncio.CancelledError:
            with contextlib.suppress(ConnectionClosed):
                for frame in dialogue.farewell():
                    await connection.send(frame)
            raise
        finally:
            await connection.close()  # takes CLOSE_S at most

    async def _converse(self, connection: ClientConnection, dialogue: Dialogue) -> None:
        """Until the connection is lost; always raises."""
        tasks = [
            asyncio.ensure_future(work)
            for work in (self._listen(connection, dialogue), self._speak(connection, dialogue), self._watch(dialogue))
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            errors = [task.exception() for task in done]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # What the server said explains more than that it then closed.
        error = next((error for error in errors if isinstance(error, ServerTrouble)), errors[0])
        raise _closed(dialogue, error) if isinstance(error, ConnectionClosed) else error

    async def _listen(self, connection: ClientConnection, dialogue: Dialogue) -> None:
        while True:
            for answer in dialogue.heard(await connection.recv()):
                self._listener.heard(answer)
            self._something.set()  # the dialogue may take more now

    async def _speak(self, connection: ClientConnection, dialogue: Dialogue) -> None:
        while True:
            self._something.clear()
            while dialogue.takes_more and (ask := self._next()) is not None:
                for frame in dialogue.speak(ask):
                    await connection.send(frame)
            await self._something.wait()

    def _next(self) -> Ask | None:
        with self._lock:
            return self._outbox.popleft() if self._outbox else None

    async def _watch(self, dialogue: Dialogue) -> None:
        while True:
            since_s = dialogue.waiting_since_s
            if since_s is not None and time.monotonic() - since_s > self.settings.inference_timeout_s:
                text = f"{dialogue.settings.place} has not answered for {self.settings.inference_timeout_s:.1f} s"
                raise ServerTrouble(Fault.SERVER_SILENT, text)
            await asyncio.sleep(LOOK_S)


async def _connect(dialogue: Dialogue) -> ClientConnection:
    settings = dialogue.settings
    parts = urlsplit(settings.url)
    url = urlunsplit(parts._replace(path=dialogue.path)) if dialogue.path is not None else settings.url
    pings = {"ping_interval": settings.link_timeout_s / 2, "ping_timeout": settings.link_timeout_s}
    try:
        connection = await connect(
            url,
            additional_headers=settings.headers(),
            ssl=settings.tls(),
            proxy=None,
            compression=None,  # pictures are compressed already
            max_size=LONGEST_MESSAGE,
            open_timeout=CONNECT_S,
            close_timeout=CLOSE_S,
            **(pings if dialogue.pings else {"ping_interval": None}),
        )
    except InvalidStatus as error:
        response = error.response
        retry_after = response.headers.get("Retry-After")
        raise refusal(settings.place, response.status_code, bytes(response.body or b""), retry_after) from error
    except InvalidURI as error:
        raise ServerTrouble(Fault.SERVER_REFUSED, str(error)) from error
    except ssl.SSLCertVerificationError as error:
        raise not_trusted(settings.place, error) from error
    except (TimeoutError, asyncio.TimeoutError) as error:
        text = f"{settings.place} does not answer for {CONNECT_S:.0f} s"
        raise ServerTrouble(Fault.SERVER_UNREACHABLE, text) from error
    except (OSError, InvalidHandshake, EOFError) as error:
        raise ServerTrouble(Fault.SERVER_UNREACHABLE, f"{settings.place} is not reached: {error}") from error
    _notice_a_cut_network(connection.transport.get_extra_info("socket"), settings.link_timeout_s)
    return connection


def _closed(dialogue: Dialogue, error: ConnectionClosed) -> Exception:
    """The trouble that a closed connection is. Without a closing frame it was cut, or the server was killed."""
    frame = error.rcvd
    if error.sent is not None and error.sent.code == TOO_LONG:
        return ServerTrouble(Fault.SERVER_ANSWER_INVALID, f"the server sent more than {LONGEST_MESSAGE} bytes at once")
    return dialogue.closed(None if frame is None else frame.code, "" if frame is None else frame.reason)


def _notice_a_cut_network(tcp: socket.socket, timeout_s: float) -> None:
    """The kernel asks the other kernel, so this holds for servers that are busy, and that answer no ping meanwhile."""
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, max(1, math.ceil(timeout_s) - 1))
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(timeout_s * 1e3))
