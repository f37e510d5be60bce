"""A policy server from start to end: load, warm up, serve, drain."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Callable
from typing import Literal, TypeVar
from urllib.parse import urlsplit

import torch
import websockets.asyncio.server as websockets_server
from websockets.asyncio.server import ServerConnection

from dreamzero_policy.inference.denoising import Denoising, denoise_together
from dreamzero_policy.inference.parallel.crew import Crew
from dreamzero_policy.inference.protocol import SESSION_PATH, messages, official
from dreamzero_policy.inference.protocol.frames import Frames
from dreamzero_policy.inference.server.branches import Branches, Limits
from dreamzero_policy.inference.server.capacity import Account, Capacity
from dreamzero_policy.inference.server.front_door import FrontDoor
from dreamzero_policy.inference.server.logs import defect, event
from dreamzero_policy.inference.server.measures import Measures
from dreamzero_policy.inference.server.preparation import Prepared, prepare
from dreamzero_policy.inference.server.refusal import Refusal
from dreamzero_policy.inference.server.released_desk import ReleasedDesk
from dreamzero_policy.inference.server.session_desk import Hosted, SessionDesk
from dreamzero_policy.inference.server.settings import Settings
from dreamzero_policy.inference.server.turns import Joint, Turn, Turns
from dreamzero_policy.model.flow import Sample

T = TypeVar("T")

READ_AHEAD = 2  # messages of a connection that are received and not looked at


class Service:
    """One model, its sessions, its connections. With a crew, this process leads those that hold the model."""

    def __init__(self, settings: Settings, crew: Crew | None = None) -> None:
        self.settings, self.measures, self.turns = settings, Measures(), Turns()
        self._crew = crew
        self.state: Literal["loading", "ready", "draining"] = "loading"
        self.port = settings.port  # the one that is listened on, once it is
        self.computing = False  # the model's thread did not end in time
        self._desks: dict[int, SessionDesk | ReleasedDesk] = {}
        self._hosted: dict[str, Hosted] = {}  # by token
        self._numbers = itertools.count(1)
        self._enough = asyncio.Event()  # of draining

    # ---------------------------------------------------------------- from start to end

    async def run(self, stop: asyncio.Event, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop` is set, then drain. `ready` is called when sessions may begin.

        Raises CheckpointError, ContractError, ConfigError, SettingsError or OSError if it cannot begin.
        """
        settings = self.settings
        server = await websockets_server.serve(
            self._serve,
            settings.host,
            settings.port,
            process_request=FrontDoor(self).answer,
            origins=[None],  # a page in somebody's browser is no client
            compression=None,
            max_size=settings.message_bytes,
            max_queue=READ_AHEAD,
            close_timeout=2.0,
            server_header=None,
            ssl=settings.tls,
        )
        try:
            self.port = next(iter(server.sockets)).getsockname()[1]
            event("listening", host=settings.host, port=self.port, tls=settings.certificate is not None)
            loading, stopped = asyncio.create_task(self._load()), asyncio.create_task(stop.wait())
            await asyncio.wait({loading, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not loading.done():
                loading.cancel()
                return
            loading.result()
            ready()
            await stopped
            await self._drain()
        finally:
            server.close(code=1001, reason="the server ends")
            await server.wait_closed()
            self.computing = not await asyncio.to_thread(self.turns.end)
            if self._crew is not None and self.state == "draining" and not self.computing:
                self.policy.end()
            event("ended")

    async def _load(self) -> None:
        prepared: Turn[Prepared] = await self.turns.take(Account(1.0, 1.0), lambda: prepare(self.settings, self._crew))
        ready = prepared.result
        self.policy, self.transforms = ready.policy, ready.transforms
        self.contract_hash, self.checkpoint_hash = ready.contract_hash, ready.checkpoint_hash
        self._statistics, self._calibration = ready.statistics, ready.calibration
        self.names = official.Names.of(ready.transforms.model)
        chunk = ready.transforms.model.chunk
        self.chunk_s = chunk.actions / ready.transforms.model.action_hz
        self.capacity = Capacity(
            chunk_s=ready.chunk_s,
            most_load=self.settings.most_load,
            session_bytes=self.settings.memories * ready.memory_bytes,
            most_bytes=ready.free_bytes // 2 if self.settings.memory_bytes is None else self.settings.memory_bytes,
            idle_s=self.settings.idle_s,
        )
        self._limits = Limits(self.settings.memories, self.settings.most_steps, len(self.transforms.model.state_joints))
        if self.settings.batch > 1:
            self.turns.join(self.settings.batch, self._denoise_together)
        self.state = "ready"
        event(
            "ready",
            host=self.settings.host,
            port=self.port,
            checkpoint=str(self.settings.checkpoint),
            contract=self.contract_hash[:12],
            chunk_ms=round(1e3 * ready.chunk_s, 1),
            sessions_at_rate=int(self.settings.most_load * self.chunk_s / ready.chunk_s),
            session_mb=round(self.capacity.session_bytes / 1e6, 1),
            seconds=round(prepared.model_s, 1),
        )

    def _denoise_together(self, chunks: list[Denoising]) -> list[Sample]:
        self.measures.batch.observe(len(chunks))
        with torch.inference_mode():
            return denoise_together(self.policy.transformer, chunks)

    async def _drain(self) -> None:
        """No new sessions; those that are open are answered until they close, or `drain_s` is over."""
        self.state = "draining"
        event("draining", connections=self.connections, within_s=self.settings.drain_s)
        told = messages.Draining(within_s=self.settings.drain_s)
        telling = [
            asyncio.create_task(desk.say(told)) for desk in self._desks.values() if isinstance(desk, SessionDesk)
        ]
        if self._desks:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), self.settings.drain_s)
        for task in telling:
            task.cancel()

    def hurry(self) -> None:
        """Drain no longer."""
        self._enough.set()

    async def _serve(self, connection: ServerConnection) -> None:
        number, own = next(self._numbers), urlsplit(connection.request.path).path == SESSION_PATH
        protocol, kind = ("session", SessionDesk) if own else ("released", ReleasedDesk)
        desk = self._desks[number] = kind(self, connection, number)
        self.measures.connections.labels(protocol).inc()
        event("connected", connection=number, protocol=protocol, peer=_peer(connection))
        try:
            await desk.run()
        except Exception:  # a defect here must not take the server along
            defect("connection_failed", connection=number)
        finally:
            del self._desks[number]
            self.measures.connections.labels(protocol).dec()
            event("disconnected", connection=number, code=connection.close_code)
            if self.state == "draining" and not self._desks:
                self._enough.set()

    # ---------------------------------------------------------------- for desks

    @property
    def connections(self) -> int:
        return len(self._desks)

    def refresh_measures(self) -> None:
        """Bring those up to date that are not counted as they happen."""
        self.measures.ready.set(self.state == "ready")
        self.measures.waiting.set(self.turns.waiting)
        if self.state != "loading":
            self.measures.load.set(self.capacity.load)
            self.measures.session_bytes.set(self.capacity.session_bytes)

    async def work(
        self,
        account: Account,
        name: str,
        work: Callable[[], T],
        *,
        before_s: float | None = None,
        wanted: Callable[[], bool] = lambda: True,
        joint: Joint | None = None,
    ) -> Turn[T]:
        """Have the model do a piece of work for a session. Raises as `Turns.take`."""
        turn = await self.turns.take(account, work, before_s=before_s, wanted=wanted, joint=joint)
        self.measures.queue.observe(turn.queue_s)
        self.measures.model.labels(name).observe(turn.model_s)
        self.measures.busy.inc(turn.model_s)
        return turn

    def require_not_draining(self) -> None:
        if self.state == "draining":
            raise Refusal("draining", "the server is going away and takes no new sessions", closing=True)

    def require_block(self, frames: Frames) -> None:
        """Refuse, before it is decoded, what no session could take."""
        size, count = self.transforms.model.canvas_size_px, self.transforms.model.chunk.frames
        if (frames.height, frames.width) != size or len(frames.images) not in (1, count):
            raise Refusal(
                "refused",
                f"{len(frames.images)} frames of {frames.height} x {frames.width}, expected 1 or {count} of "
                f"{size[0]} x {size[1]}",
            )

    async def open(self, ask: messages.Open, desk: SessionDesk) -> Hosted:
        """Begin a session. Raises Refusal."""
        self.require_not_draining()
        if ask.contract != self.contract_hash:
            raise Refusal(
                "contract",
                f"the robot runs contract {ask.contract[:12]}, this server's checkpoint was trained for "
                f"{self.contract_hash[:12]} ({self.transforms.model.embodiment}); serve a checkpoint that was trained "
                "for the robot's contract",
                closing=True,
            )
        account = self.capacity.admit(self.chunk_s if ask.period_s is None else ask.period_s)
        try:
            turn = await self.work(
                account, "open", lambda: Branches(self.policy, ask.prompt, ask.epoch, limits=self._limits)
            )
        except BaseException:
            self.capacity.release(account)
            raise
        hosted = Hosted(next(self._numbers), secrets.token_urlsafe(24), account, turn.result, desk)
        self._hosted[hosted.token] = hosted
        self.measures.sessions.labels("session").inc()
        event("opened", session=hosted.number, connection=desk.number, period_s=account.period_s)
        return hosted

    async def resume(self, token: str, desk: SessionDesk) -> Hosted:
        """Go on with a session over another connection. Raises Refusal `token`."""
        hosted = self._hosted.get(token)
        if hosted is None:
            raise Refusal("token", "no session has this token; its time may be over, or the server was restarted")
        async with hosted.taking:
            if hosted.desk is not None:
                await hosted.desk.take_over()
            if self._hosted.get(token) is not hosted:
                raise Refusal("token", "the session has just ended")
            if hosted.expiry is not None:
                hosted.expiry.cancel()
            hosted.desk, hosted.expiry = desk, None
        self.measures.resumed.inc()
        event("resumed", session=hosted.number, connection=desk.number)
        return hosted

    def park(self, hosted: Hosted) -> None:
        """The connection of a session is gone: keep it for a while."""
        hosted.desk = None
        event("left", session=hosted.number, resume_s=self.settings.resume_s)
        hosted.expiry = asyncio.get_running_loop().call_later(self.settings.resume_s, self._expire, hosted)

    def _expire(self, hosted: Hosted) -> None:
        if hosted.desk is None:
            self.measures.expired.inc()
            self.end(hosted)

    def end(self, hosted: Hosted) -> None:
        """Give a session's memory and rate back."""
        if self._hosted.pop(hosted.token, None) is not None:
            self.capacity.release(hosted.account)
            self.measures.sessions.labels("session").dec()
            event("closed", session=hosted.number)

    def opened(self, hosted: Hosted, number: int, resumed: bool) -> messages.Opened:
        policy, branches = self.policy, hosted.branches
        return messages.Opened(
            id=number,
            token=hosted.token,
            resumed=resumed,
            epoch=branches.epoch,
            branches={str(branch): block for branch, block in branches.newest.items()},
            contract=self.contract_hash,
            checkpoint=self.checkpoint_hash,
            parameters=sum(policy.parameters.values()),
            device=str(policy.device),
            dtype=str(policy.dtype).removeprefix("torch."),
            threads=self.settings.threads,
            guidance_scale=policy.config.sampler.cfg_scale,
            steps=policy.config.sampler.steps if self.settings.steps is None else self.settings.steps,
            canvas=list(self.transforms.model.canvas_size_px),
            frames=self.transforms.model.chunk.frames,
            period_s=hosted.account.period_s,
            resume_s=self.settings.resume_s,
            memory_bytes=self.capacity.session_bytes,
            message_bytes=self.settings.message_bytes,
            statistics=self._statistics,
            calibration=self._calibration,
        )


def _peer(connection: ServerConnection) -> str:
    address = connection.remote_address
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)
