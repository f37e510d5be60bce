"""This runtime's own protocol from the robot's side: `docs/reference/protocol.md`.

A request of the loop becomes an `observe`, a `predict`, or both at once. A connection that was lost is resumed by its
token where the server still keeps its place, but only to have that place: the loop begins a new epoch, since a block
is missing.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.inference.mailbox import Ask, Imagine, Reset
from dreamzero_policy.inference.protocol import SESSION_PATH, messages
from dreamzero_policy.inference.protocol.arrays import ProtocolError
from dreamzero_policy.inference.protocol.frames import decode_frames, encode_frames
from dreamzero_policy.inference.remote.dialogue import Frame, ServerReady
from dreamzero_policy.inference.remote.settings import RemoteSettings
from dreamzero_policy.inference.remote.trouble import ServerTrouble
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.faults import Fault, Trouble
from dreamzero_policy.runtime.policy import Answer, Dream, Observed, Purpose, Remark, Reply, Request, Surprise

FAULTS = {
    "full": Fault.SERVER_BUSY,
    "draining": Fault.SERVER_BUSY,
    "rate": Fault.SERVER_BUSY,
    "deadline": Fault.SERVER_SILENT,
    "malformed": Fault.SERVER_REFUSED,
    "protocol": Fault.SERVER_REFUSED,
    "contract": Fault.SERVER_REFUSED,
    "memory": Fault.SERVER_REFUSED,
    "refused": Fault.SERVER_REFUSED,
}  # every other code: SERVER_ERROR
GONE = "token"  # no session has it (any more)


@dataclass
class Seat:
    """What outlives a connection: the ids, and the place that a server keeps."""

    token: str | None = None
    next_id: int = 0


class Kind(Enum):
    """What an answer is for."""

    RESET = auto()
    OBSERVATION = auto()  # with a chunk behind it
    LAST = auto()  # the answer to the loop's request: a chunk, or an observation where nothing else was asked
    DREAM = auto()


@dataclass(frozen=True)
class Awaited:
    kind: Kind
    since_s: float  # monotonic
    request: Request | None = None


class SessionDialogue:
    """One connection's. See `dialogue.py`."""

    path: str | None = SESSION_PATH
    pings = True
    takes_more = True  # the server reads while it computes

    def __init__(self, settings: RemoteSettings, contract: Contract, seat: Seat) -> None:
        self.settings, self.contract, self.seat = settings, contract, seat
        self._first_id = seat.next_id
        self._awaited: dict[int, Awaited] = {}  # of this epoch, by id
        self._void: set[int] = set()  # of older ones: answered too, and then dropped
        self._epoch = -1
        self._blocks: dict[int, int] = {}  # the newest of each branch
        self._draining = ""

    @property
    def waiting_since_s(self) -> float | None:
        return min((a.since_s for a in self._awaited.values() if a.kind is not Kind.DREAM), default=None)

    async def greet(
        self, send: Callable[[Frame], Awaitable[None]], receive: Callable[[], Awaitable[Frame]]
    ) -> ServerReady:
        if self.seat.token is not None:
            await send(messages.encode(messages.Resume(id=self._id(), token=self.seat.token)))
            answer = self._decoded(await receive())
            if isinstance(answer, messages.Opened):
                return self._welcomed(answer)
            if not isinstance(answer, messages.Error) or answer.code != GONE:
                raise self._unwelcome(answer)
        await send(
            messages.encode(
                messages.Open(
                    id=self._id(), contract=self.contract.hash, prompt="", epoch=0, period_s=self.settings.period_s
                )
            )
        )
        answer = self._decoded(await receive())
        if not isinstance(answer, messages.Opened):
            raise self._unwelcome(answer)
        return self._welcomed(answer)

    def speak(self, ask: Ask) -> list[bytes]:
        if self._draining and not isinstance(ask, Imagine):
            raise ServerTrouble(Fault.SERVER_BUSY, self._draining)
        if isinstance(ask, Reset):
            self._epoch, self._blocks = ask.epoch, {}
            self._void |= self._awaited.keys()
            self._awaited = {}
            return [messages.encode(messages.Reset(id=self._await(Kind.RESET), epoch=ask.epoch, prompt=ask.prompt))]
        if ask.epoch != self._epoch:
            return []
        if isinstance(ask, Imagine):
            return [messages.encode(messages.Dream(id=self._await(Kind.DREAM), epoch=ask.epoch))]
        return self._request(ask)

    def heard(self, frame: Frame) -> list[Answer]:
        told = self._decoded(frame)
        if isinstance(told, messages.Draining):
            self._draining = f"{self.settings.place} goes away within {told.within_s:.0f} s"
            return []
        if isinstance(told, messages.Error):
            return self._failed(told)
        if not self._first_id <= told.id < self.seat.next_id:
            raise _invalid(f"{told.type} with id {told.id}, which was never asked")
        if isinstance(told, messages.Surprise):
            return [Surprise(told.epoch, told.cells)] if told.epoch == self._epoch else []
        if told.id in self._void:
            self._void.discard(told.id)
            return []
        if (awaited := self._awaited.pop(told.id, None)) is None:
            text = f"{self.settings.place} answered {told.id} ({told.type}) once more; it was left out"
            return [Remark(Trouble(Fault.SERVER_ANSWER_OUTDATED, "server", text))]
        return self._answer(told, awaited)

    def farewell(self) -> list[bytes]:
        return [messages.encode(messages.Close(id=self._id()))]

    def closed(self, code: int | None, reason: str) -> Exception:
        if self._draining:
            return ServerTrouble(Fault.SERVER_BUSY, self._draining)
        how = "was lost" if code is None else f"was closed with code {code}" + (f" ({reason})" if reason else "")
        return ServerTrouble(Fault.SERVER_UNREACHABLE, f"the connection to {self.settings.place} {how}")

    # What is asked

    def _request(self, ask: Request) -> list[bytes]:
        sent: list[messages.Ask] = []
        chunk = ask.purpose is not Purpose.OBSERVE
        if ask.canvas is not None:
            self._blocks[ask.session] = self._blocks.get(ask.session, -1) + 1
            quality = self.settings.jpeg_quality if self.settings.encoding == "jpeg" else None
            sent.append(
                messages.Observe(
                    id=self._await(Kind.OBSERVATION if chunk else Kind.LAST, ask),
                    epoch=ask.epoch,
                    branch=ask.session,
                    block=self._blocks[ask.session],
                    stamps_ns=list(ask.stamps_ns),
                    frames=encode_frames(ask.canvas, self.settings.encoding, quality),
                    compare=ask.followed,
                )
            )
        if chunk:
            prefix = ask.prefix and messages.Prefix(
                rows=ask.prefix.rows, columns=ask.prefix.columns, soft_rows=ask.prefix.soft_rows
            )
            sent.append(
                messages.Predict(
                    id=self._await(Kind.LAST, ask),
                    epoch=ask.epoch,
                    branch=ask.session,
                    block=self._blocks[ask.session],
                    state=ask.state,
                    steps=ask.steps,
                    seed=ask.seed,
                    look_ahead=ask.purpose is Purpose.LOOK_AHEAD,
                    prefix=prefix,
                    deadline_s=self.settings.inference_timeout_s,
                )
            )
        return [messages.encode(message) for message in sent]

    def _await(self, kind: Kind, request: Request | None = None) -> int:
        number = self._id()
        self._awaited[number] = Awaited(kind, time.monotonic(), request)
        return number

    def _id(self) -> int:
        self.seat.next_id += 1
        return self.seat.next_id - 1

    # What is answered

    def _answer(self, told: messages.Told, awaited: Awaited) -> list[Answer]:
        ask = awaited.request
        if awaited.kind is Kind.DREAM and isinstance(told, messages.Dreamt):
            return [Dream(told.epoch, self._dreamt(told))]
        if awaited.kind is Kind.LAST and isinstance(told, messages.Chunk) and ask.purpose is not Purpose.OBSERVE:
            return [self._reply(told, ask)]
        if isinstance(told, messages.Observed) and (told.epoch, told.branch) == (ask.epoch, ask.session):
            return [Observed(told.epoch)] if awaited.kind is Kind.LAST else []
        if awaited.kind is Kind.RESET and isinstance(told, messages.WasReset):
            return []
        raise _invalid(f"{told.type} came where {awaited.kind.name.lower()} {told.id} was asked for")

    def _dreamt(self, told: messages.Dreamt) -> NDArray[np.uint8]:
        try:
            return decode_frames(told.frames)
        except ProtocolError as error:
            raise _invalid(str(error)) from error

    def _reply(self, told: messages.Chunk, ask: Request) -> Reply:
        if (told.epoch, told.branch) != (ask.epoch, ask.session):
            raise _invalid(
                f"a chunk of epoch {told.epoch}, branch {told.branch} where epoch {ask.epoch}, branch {ask.session} "
                "was asked for"
            )
        (rows, columns), model = told.actions.shape, self.contract.model
        if rows != model.chunk.actions or columns < model.action_width:
            expected = f"[{model.chunk.actions}, {model.action_width}]"
            raise _invalid(f"actions [{rows}, {columns}], the contract has {expected}")
        return Reply(
            epoch=told.epoch,
            actions=told.actions,
            steps=told.steps,
            evaluations=told.evaluations,
            seed=told.seed,
            guidance_scale=told.guidance_scale,
            timings_s=told.timings_s,
            held_rows=told.held_rows,
        )

    def _failed(self, error: messages.Error) -> list[Answer]:
        awaited = self._awaited.pop(error.id, None)
        if not error.closing and (error.id in self._void or (awaited is not None and awaited.kind is Kind.DREAM)):
            self._void.discard(error.id)
            return []  # about what is no longer asked, or nothing depends on it
        raise self._trouble(error)

    def _trouble(self, error: messages.Error) -> ServerTrouble:
        fault = FAULTS.get(error.code, Fault.SERVER_ERROR)
        return ServerTrouble(fault, f"{self.settings.place} says {error.code}: {error.message}")

    def _unwelcome(self, answer: messages.Told) -> ServerTrouble:
        if isinstance(answer, messages.Error):
            return self._trouble(answer)
        if isinstance(answer, messages.Draining):
            return ServerTrouble(Fault.SERVER_BUSY, f"{self.settings.place} goes away within {answer.within_s:.0f} s")
        return _invalid(f"{answer.type} in place of opened")

    def _welcomed(self, opened: messages.Opened) -> ServerReady:
        if opened.contract != self.contract.hash:
            text = f"contract {opened.contract[:12]} in place of {self.contract.hash[:12]}"
            raise ServerTrouble(Fault.SERVER_REFUSED, f"{self.settings.place} serves {text}")
        self.seat.token = opened.token
        return ServerReady(
            opened.checkpoint,
            f"{opened.parameters / 1e6:.1f} M parameters, {opened.dtype} on {opened.device}, guidance "
            f"{opened.guidance_scale:g}, on {self.settings.place}; contract {opened.contract[:12]}, checkpoint "
            f"{opened.checkpoint[:12]}",
            steps=opened.steps,
            statistics=opened.statistics,
            calibration=opened.calibration,
        )

    def _decoded(self, frame: Frame) -> messages.Told:
        try:
            return messages.decode_told(frame)
        except ProtocolError as error:
            raise _invalid(str(error)) from error


def _invalid(text: str) -> ServerTrouble:
    return ServerTrouble(Fault.SERVER_ANSWER_INVALID, f"the server's answer is none: {text}")
