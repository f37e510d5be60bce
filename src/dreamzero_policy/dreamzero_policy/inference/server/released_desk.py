"""One connection that speaks the released server's protocol: every connection has frames and a memory of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from dreamzero_policy.inference.protocol import official
from dreamzero_policy.inference.protocol.arrays import ProtocolError
from dreamzero_policy.inference.server.capacity import Account
from dreamzero_policy.inference.server.gathering import Gathering
from dreamzero_policy.inference.server.limits import RateLimit
from dreamzero_policy.inference.server.logs import defect, event
from dreamzero_policy.inference.server.refusal import Refusal
from dreamzero_policy.inference.server.turns import NotWanted

if TYPE_CHECKING:
    from dreamzero_policy.inference.server.service import Service

PROTOCOL = "released"
FAILED = 1011  # close code behind every error, as the released server has it


class ReleasedDesk:
    """One client's connection. It is let in with its first call, so one that only looks takes no room."""

    def __init__(self, service: Service, connection: ServerConnection, number: int) -> None:
        self._service, self._connection, self.number = service, connection, number
        self._limit = RateLimit(service.settings.messages_hz)
        self._account: Account | None = None
        self._gathering = Gathering(service.policy, service.transforms)

    async def run(self) -> None:
        """Serve until the connection ends, however it ends."""
        try:
            with contextlib.suppress(ConnectionClosed):
                await self._connection.send(self._service.names.config.pack())
                async for data in self._connection:
                    if not await self._serve(data):
                        break
        finally:
            if self._account is not None:
                self._service.capacity.release(self._account)
                self._service.measures.sessions.labels(PROTOCOL).dec()

    async def _serve(self, data: bytes | str) -> bool:
        """Answer one request. False if that ended the connection."""
        try:
            answer = await self._answer(data)
        except NotWanted:
            return False
        except (ProtocolError, Refusal) as error:
            code = error.code if isinstance(error, Refusal) else "malformed"
            self._service.measures.refusals.labels(PROTOCOL, code).inc()
            event("refused", connection=self.number, code=code, reason=str(error))
            await self._fail(f"{code}: {error}")
            return False
        except Exception as error:  # whatever it is, it ends this connection and no other
            defect("connection_failed", connection=self.number)
            self._service.measures.refusals.labels(PROTOCOL, "internal").inc()
            await self._fail(f"internal: the server failed at this request: {type(error).__name__}")
            return False
        await self._connection.send(answer)
        return True

    async def _fail(self, text: str) -> None:
        await self._connection.send(text)
        closing = asyncio.create_task(self._connection.close(FAILED, "error; see the text before"))
        with contextlib.suppress(ConnectionClosed):
            async for _ in self._connection:  # or the client's own goodbye would not be heard behind its requests
                pass
        await closing

    async def _answer(self, data: bytes | str) -> bytes | str:
        received_s = time.monotonic()
        if not self._limit.take():
            raise Refusal("rate", f"more than {self._service.settings.messages_hz:g} messages a second")
        request = official.decode_request(self._service.names, data)
        if isinstance(request, official.Reset):
            if self._account is not None:
                await self._service.work(self._account, "reset", self._gathering.begin)
            return official.RESET_ANSWER
        account = self._admitted()
        views = await asyncio.to_thread(self._gathering.views, request)
        try:
            turn = await self._service.work(account, "infer", lambda: self._gathering.infer(request, views))
        except ValueError as error:
            raise Refusal("refused", str(error)) from error
        account.gave_chunk()
        measures = self._service.measures
        measures.chunks.labels(PROTOCOL).inc()
        measures.blocks.labels(PROTOCOL).inc()
        measures.answer.labels(PROTOCOL).observe(time.monotonic() - received_s)
        return official.encode_actions(turn.result)

    def _admitted(self) -> Account:
        if self._account is None:
            self._service.require_not_draining()
            self._account = self._service.capacity.admit(self._service.chunk_s)
            self._service.measures.sessions.labels(PROTOCOL).inc()
        self._service.capacity.use(self._account)
        return self._account
