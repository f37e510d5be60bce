"""One connection that speaks the session protocol.

Two tasks: one reads and puts asks in line, one answers them in order. A connection that is lost leaves its session
behind for `resume_s`; the answer under way is finished first, so that the session is whole when it is taken up again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from dreamzero_policy.inference.denoising import Denoising
from dreamzero_policy.inference.protocol import messages
from dreamzero_policy.inference.protocol.arrays import ProtocolError
from dreamzero_policy.inference.protocol.frames import Frames, decode_frames, encode_frames
from dreamzero_policy.inference.server.branches import Branches
from dreamzero_policy.inference.server.capacity import Account
from dreamzero_policy.inference.server.limits import RateLimit
from dreamzero_policy.inference.server.logs import defect, event
from dreamzero_policy.inference.server.refusal import Refusal
from dreamzero_policy.inference.server.turns import Joint, NotWanted, TooLate
from dreamzero_policy.model.flow import Sample

if TYPE_CHECKING:
    from dreamzero_policy.inference.server.service import Service

T = TypeVar("T")

PROTOCOL = "session"
TAKEN_OVER = 4000  # close code: the session goes on over another connection
SURPRISE_WAITS_S = 0.05  # for the ask for a chunk, which goes first
GOODBYE_S = 0.2  # for the old connection to hear that it was taken over
CLOSE_CODES = {"internal": 1011, "draining": 1001}  # behind an error that ends the connection; else 1008


@dataclass(eq=False)
class Hosted:
    """A session on this server, with or without a connection."""

    number: int
    token: str = field(repr=False)
    account: Account
    branches: Branches
    desk: SessionDesk | None = None
    expiry: asyncio.TimerHandle | None = None
    taking: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True)
class Asked:
    """Something a client sent, or why it is refused unread."""

    ask: messages.Ask | Refusal
    id: int | None
    received_s: float  # monotonic


class SessionDesk:
    """One client's connection."""

    def __init__(self, service: Service, connection: ServerConnection, number: int) -> None:
        self._service, self._connection, self.number = service, connection, number
        self._hosted: Hosted | None = None
        self._limit = RateLimit(service.settings.messages_hz)
        self._began = False  # asked for a session
        self._closing = False  # what still comes is not looked at
        self._lost = False  # nobody reads answers any more
        self._left = asyncio.Event()  # the session is free for another connection

    async def run(self) -> None:
        """Serve until the connection ends, however it ends."""
        line: asyncio.Queue[Asked | None] = asyncio.Queue(self._service.settings.most_waiting)
        opening = asyncio.get_running_loop().call_later(self._service.settings.opening_s, self._give_up)
        reader, answerer = (asyncio.create_task(part(line)) for part in (self._read, self._answer_all))
        try:
            await asyncio.wait({reader, answerer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._lost = True
            opening.cancel()
            reader.cancel()
            await asyncio.wait({reader})
            while not line.empty():
                line.get_nowait()
            line.put_nowait(None)
            await asyncio.wait({answerer})
            if self._hosted is not None and self._hosted.desk is self:
                self._service.park(self._hosted)
            self._left.set()

    async def take_over(self) -> None:
        """Another connection has the session's token: end this one, and wait until its work is done."""
        self._hosted = None
        try:
            await asyncio.wait_for(self._connection.close(TAKEN_OVER, "the session goes on elsewhere"), GOODBYE_S)
        except TimeoutError:
            self._connection.transport.abort()  # the other side is gone, or does not read
        await self._left.wait()

    async def say(self, message: messages.Told) -> None:
        """Send what was not asked for."""
        with contextlib.suppress(ConnectionClosed):
            await self._connection.send(messages.encode(message))

    # ---------------------------------------------------------------- reading

    async def _read(self, line: asyncio.Queue[Asked | None]) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for data in self._connection:
                if not self._closing:
                    await line.put(self._asked(data))

    def _asked(self, data: bytes | str) -> Asked:
        received_s = time.monotonic()
        if not self._limit.take():
            limit = self._service.settings.messages_hz
            return Asked(Refusal("rate", f"more than {limit:g} messages a second", closing=True), None, received_s)
        try:
            ask = messages.decode_ask(data)
        except ProtocolError as error:
            number = messages.id_of(data) if isinstance(data, bytes) else None
            return Asked(Refusal("malformed", str(error)), number, received_s)
        return Asked(ask, ask.id, received_s)

    def _give_up(self) -> None:
        if not self._began and not self._lost:
            event("nothing_opened", connection=self.number)
            self._connection.transport.abort()

    # ---------------------------------------------------------------- answering

    async def _answer_all(self, line: asyncio.Queue[Asked | None]) -> None:
        with contextlib.suppress(ConnectionClosed):
            while (asked := await self._next(line)) is not None:
                if (code := await self._serve(asked)) is not None:
                    await self._close(code, line)
                    return

    async def _close(self, code: int, line: asyncio.Queue[Asked | None]) -> None:
        """End the connection. Reading goes on, or the client's own goodbye would not be heard behind its asks."""
        self._closing = True
        while not line.empty():
            line.get_nowait()
        await self._connection.close(code)

    async def _next(self, line: asyncio.Queue[Asked | None]) -> Asked | None:
        if self._hosted is not None and self._hosted.branches.has_surprise:
            try:
                return await asyncio.wait_for(line.get(), SURPRISE_WAITS_S)
            except TimeoutError:
                await self._tell_surprise(self._hosted)
        return await line.get()

    async def _serve(self, asked: Asked) -> int | None:
        """Answer one ask. The code to close with if it was the last one of this connection."""
        measures = self._service.measures
        try:
            answer = await self._answer(asked)
        except NotWanted:
            return 1001
        except Refusal as refusal:
            measures.refusals.labels(PROTOCOL, refusal.code).inc()
            event("refused", connection=self.number, code=refusal.code, reason=refusal.message)
            text = refusal.message[: messages.LONGEST_PROMPT]
            await self._send(messages.Error(id=asked.id, code=refusal.code, message=text, closing=refusal.closing))
            return CLOSE_CODES.get(refusal.code, 1008) if refusal.closing else None
        except Exception as error:  # whatever it is, it ends this session and no other
            hosted, self._hosted = self._hosted, None
            defect("session_failed", connection=self.number, session=hosted and hosted.number)
            if hosted is not None:
                self._service.end(hosted)
            measures.refusals.labels(PROTOCOL, "internal").inc()
            text = f"the server failed at this session: {type(error).__name__}"
            await self._send(messages.Error(id=asked.id, code="internal", message=text, closing=True))
            return CLOSE_CODES["internal"]
        await self._send(answer)
        if isinstance(answer, messages.Closed):
            return 1000
        if isinstance(answer, messages.Chunk) and self._hosted is not None and self._hosted.branches.has_surprise:
            await self._tell_surprise(self._hosted)
        return None

    async def _send(self, answer: messages.Told) -> None:
        await self._connection.send(messages.encode(answer))

    async def _tell_surprise(self, hosted: Hosted) -> None:
        turn = await self._service.work(hosted.account, "surprise", hosted.branches.surprise)
        if turn.result is not None:
            await self._send(turn.result)

    async def _answer(self, asked: Asked) -> messages.Told:
        ask, hosted = asked.ask, self._hosted
        if isinstance(ask, Refusal):
            raise ask
        if isinstance(ask, messages.Open | messages.Resume):
            return await self._begin(ask)
        if hosted is None:
            raise Refusal("order", f"{ask.type} before open or resume")
        if isinstance(ask, messages.Close):
            self._hosted = None
            self._service.end(hosted)
            return messages.Closed(id=ask.id)
        epoch = hosted.branches.epoch
        if isinstance(ask, messages.Reset):
            if ask.epoch == epoch:
                raise Refusal("epoch", f"a reset begins another epoch, {epoch} is the one of now")
            return await self._work(hosted, "reset", lambda: hosted.branches.reset(ask))
        if ask.epoch != epoch:
            raise Refusal("epoch", f"epoch {ask.epoch}, this session is in epoch {epoch}")
        return await self._of_this_epoch(hosted, ask, asked.received_s)

    async def _of_this_epoch(self, hosted: Hosted, ask: messages.Ask, received_s: float) -> messages.Told:
        branches = hosted.branches
        match ask:
            case messages.Observe():
                return await self._observe(hosted, ask, received_s)
            case messages.Predict():
                return await self._predict(hosted, ask, received_s)
            case messages.Dream():
                canvas = await self._work(hosted, "dream", branches.dream)
                frames = await asyncio.to_thread(_encoded, canvas, ask)
                return messages.Dreamt(id=ask.id, epoch=ask.epoch, frames=frames)
            case messages.Fork():
                return await self._work(hosted, "fork", lambda: branches.fork(ask))
            case messages.Snapshot():
                return await self._work(hosted, "snapshot", lambda: branches.snapshot(ask))
            case messages.Rollback():
                return await self._work(hosted, "rollback", lambda: branches.rollback(ask))

    async def _begin(self, ask: messages.Open | messages.Resume) -> messages.Opened:
        if self._hosted is not None:
            raise Refusal("order", "this connection has a session already")
        if ask.protocol != messages.PROTOCOL:
            raise Refusal("protocol", f"protocol {ask.protocol}, this server speaks {messages.PROTOCOL}", closing=True)
        resumed = isinstance(ask, messages.Resume)
        self._began = True
        hosted = await (self._service.resume(ask.token, self) if resumed else self._service.open(ask, self))
        if hosted.desk is not self:
            raise Refusal("token", "yet another connection has just taken the session over")
        self._hosted = hosted
        return self._service.opened(hosted, ask.id, resumed)

    async def _observe(self, hosted: Hosted, ask: messages.Observe, received_s: float) -> messages.Observed:
        self._service.require_block(ask.frames)
        if hosted.branches.has_surprise:
            await self._tell_surprise(hosted)
        began_s = time.monotonic()
        try:
            canvas = await asyncio.to_thread(decode_frames, ask.frames)
        except ProtocolError as error:
            raise Refusal("refused", str(error)) from error
        decode_s, asked_s = time.monotonic() - began_s, time.monotonic()

        def observe() -> messages.Observed:
            return hosted.branches.observe(ask, canvas, decode_s, time.monotonic() - asked_s)

        answer = await self._work(hosted, "observe", observe)
        answer.timings_s["server"] = time.monotonic() - received_s
        self._service.measures.blocks.labels(PROTOCOL).inc()
        return answer

    async def _predict(self, hosted: Hosted, ask: messages.Predict, received_s: float) -> messages.Chunk:
        asked_s = time.monotonic()

        def predict() -> messages.Chunk:
            return hosted.branches.predict(ask, time.monotonic() - asked_s)

        before_s = None if ask.deadline_s is None else received_s + ask.deadline_s
        joint = _JointChunk(hosted.branches, ask, asked_s)
        answer = await self._work(hosted, "predict", predict, before_s, lambda: not self._lost, joint)
        hosted.account.gave_chunk()
        answer.timings_s["server"] = time.monotonic() - received_s
        self._service.measures.chunks.labels(PROTOCOL).inc()
        self._service.measures.answer.labels(PROTOCOL).observe(answer.timings_s["server"])
        return answer

    async def _work(
        self,
        hosted: Hosted,
        name: str,
        work: Callable[[], T],
        before_s: float | None = None,
        wanted: Callable[[], bool] = lambda: True,
        joint: Joint | None = None,
    ) -> T:
        service, account = self._service, hosted.account
        service.capacity.use(account)
        try:
            return (await service.work(account, name, work, before_s=before_s, wanted=wanted, joint=joint)).result
        except TooLate as error:
            raise Refusal("deadline", str(error)) from error


@dataclass(frozen=True)
class _JointChunk:
    """A chunk that may be denoised together with those of other sessions. On the model's thread."""

    branches: Branches
    ask: messages.Predict
    asked_s: float

    def begin(self) -> Denoising | None:
        return self.branches.denoising(self.ask)

    def finish(self, begun: Denoising, sample: Sample, began: float) -> messages.Chunk:
        queue_s = time.monotonic() - self.asked_s - (time.perf_counter() - began)
        return self.branches.concluded(self.ask, begun, sample, began, max(0.0, queue_s))


def _encoded(canvas: NDArray[np.uint8], ask: messages.Dream) -> Frames:
    """Raises Refusal for a quality that does not go with the encoding."""
    try:
        return encode_frames(canvas, ask.encoding, ask.quality)
    except ProtocolError as error:
        raise Refusal("refused", str(error)) from error
