"""The messages of a session, in both directions, and what each may hold.

A client asks, with an ``id`` of its own choosing, and gets exactly one answer with that id: the message named below, or
:class:`Error`. It may ask several things at once (observe, then predict): they are done in the order they were sent.
:class:`Surprise` and :class:`Draining` come unasked.

======================  ====================  ============================================================
ask                     answer                what it does
======================  ====================  ============================================================
:class:`Open`           :class:`Opened`       begin a session; first message of a connection
:class:`Resume`         :class:`Opened`       go on with one whose connection was lost, by its token
:class:`Observe`        :class:`Observed`     a block enters a branch's memory
:class:`Predict`        :class:`Chunk`        the next chunk of a branch; changes nothing
:class:`Dream`          :class:`Dreamt`       the video of the newest chunk
:class:`Fork`           :class:`Forked`       a second branch with the memory of the first
:class:`Snapshot`       :class:`Kept`         keep a branch's memory as it is
:class:`Rollback`       :class:`RolledBack`   go back to it
:class:`Reset`          :class:`WasReset`     forget everything seen; perhaps another prompt
:class:`Close`          :class:`Closed`       end the session and give its memory back
======================  ====================  ============================================================

*Branches* are numbered memories of one session and one prompt; one exists once it observed. *Epochs* are the client's:
``open``, ``reset`` and ``rollback`` begin one, and whatever carries another is refused, so nothing of the past is ever
mixed with the present. *Blocks* are counted from 0 since the epoch's reset; ``observe`` and ``predict`` say which one
they mean, and one that is not the next (or the newest) is refused, so a lost or repeated message is never silent.
"""

import math
from typing import Annotated, Any, Literal, Union

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from dreamzero_policy.inference.protocol.arrays import ProtocolError, pack, unpack
from dreamzero_policy.inference.protocol.frames import Frames

PROTOCOL = 1
LONGEST_PROMPT = 4096  # characters
MOST_STEPS = 1000

Id = Annotated[int, Field(ge=0, lt=2**63)]
Epoch = Annotated[int, Field(ge=0, lt=2**63)]
Branch = Annotated[int, Field(ge=0, lt=2**16)]
Index = Annotated[int, Field(ge=0, lt=2**31)]
Stamp = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # [ns] of the robot's clock
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Text = Annotated[str, Field(max_length=LONGEST_PROMPT)]
Token = Annotated[str, Field(min_length=1, max_length=256)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{str(value)[:40]} is no finite number of seconds from 0 on")
    return float(value)


def _array(dtype: type, dimensions: int) -> BeforeValidator:
    expected = np.dtype(dtype)

    def check(value: Any) -> NDArray:
        if not isinstance(value, np.ndarray) or value.dtype != expected or value.ndim != dimensions:
            found = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
            raise ValueError(f"got {found}, expected an array {expected} of {dimensions} dimensions")
        if expected.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"{np.count_nonzero(~np.isfinite(value))} of {value.size} values are not finite")
        return value

    return BeforeValidator(check)


Seconds = Annotated[float, BeforeValidator(_seconds)]
Vector = Annotated[Any, _array(np.float32, 1)]
Rows = Annotated[Any, _array(np.float32, 2)]
Columns = Annotated[Any, _array(np.int64, 1)]
Timings = dict[Annotated[str, Field(max_length=32)], Seconds]


class Message(BaseModel):
    """Fields are exactly those declared; nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


# ---------------------------------------------------------------- a client asks


class Open(Message):
    """``contract`` is the hash of the client's model section; a server with another one refuses. ``prompt`` is complete
    (the contract's template applied). ``period_s`` is how often a chunk will be asked for, which is what admission
    reckons with; default: the contract's chunk length."""

    type: Literal["open"] = "open"
    id: Id
    protocol: Annotated[int, Field(ge=0, lt=2**31)] = PROTOCOL
    contract: Hash
    prompt: Text
    epoch: Epoch
    period_s: Seconds | None = None


class Resume(Message):
    """``token`` as :class:`Opened` gave it. The session goes on with the epoch and memory it had."""

    type: Literal["resume"] = "resume"
    id: Id
    protocol: Annotated[int, Field(ge=0, lt=2**31)] = PROTOCOL
    token: Token


class Observe(Message):
    """``block``: 0 for the frame that opens the branch's first window, then 1, 2, … ``stamps_ns``: one for each frame,
    the last one the observation instant. ``compare``: whether the block may be compared with the chunk that foretold
    it; then a :class:`Surprise` follows, if there was one."""

    type: Literal["observe"] = "observe"
    id: Id
    epoch: Epoch
    branch: Branch = 0
    block: Index
    stamps_ns: list[Stamp]
    frames: Frames
    compare: bool = False


class Prefix(Message):
    """The first k rows of a chunk, settled already: ``rows`` [k, n] normalised in ``columns`` [n] of the network's."""

    rows: Rows
    columns: Columns
    soft_rows: Index = 0


class Predict(Message):
    """``block``: the newest one of the branch, to catch a client that believes otherwise. ``state`` [D] normalised, at
    the first instant of the chunk. ``look_ahead``: the chunk behind the one given last, as if that one's video had been
    observed. ``deadline_s``: from receipt; work that has not begun by then is refused instead of done late."""

    type: Literal["predict"] = "predict"
    id: Id
    epoch: Epoch
    branch: Branch = 0
    block: Index
    state: Vector
    steps: Steps
    seed: Seed
    look_ahead: bool = False
    prefix: Prefix | None = None
    deadline_s: Seconds | None = None


class Dream(Message):
    """Decode the video of the newest chunk; ``encoding`` and ``quality`` of what comes back."""

    type: Literal["dream"] = "dream"
    id: Id
    epoch: Epoch
    encoding: Literal["raw", "png", "jpeg"] = "raw"
    quality: Annotated[int, Field(ge=1, le=100)] | None = None


class Fork(Message):
    """``into`` must be a branch that does not exist."""

    type: Literal["fork"] = "fork"
    id: Id
    epoch: Epoch
    branch: Branch
    into: Branch


class Snapshot(Message):
    """Keep a branch's memory as it is, to roll back to; :class:`Kept` gives it a number."""

    type: Literal["snapshot"] = "snapshot"
    id: Id
    epoch: Epoch
    branch: Branch = 0


class Rollback(Message):
    """To ``snapshot`` as :class:`Kept` numbered it, any number of times. Begins ``new_epoch``, for all branches."""

    type: Literal["rollback"] = "rollback"
    id: Id
    epoch: Epoch
    branch: Branch = 0
    snapshot: Index
    new_epoch: Epoch


class Reset(Message):
    """Begins ``epoch``, whatever was before. Branches and snapshots are gone. Without a prompt the old one stays."""

    type: Literal["reset"] = "reset"
    id: Id
    epoch: Epoch
    prompt: Text | None = None


class Close(Message):
    """Ends the session; its memory is freed at once."""

    type: Literal["close"] = "close"
    id: Id


# ---------------------------------------------------------------- a server answers


class Opened(Message):
    """What was opened, and what holds on this server. ``branches``: the newest block of each; empty unless resumed."""

    type: Literal["opened"] = "opened"
    id: Id
    protocol: Annotated[int, Field(ge=0, lt=2**31)] = PROTOCOL
    token: Token
    resumed: bool
    epoch: Epoch
    branches: dict[str, Index]  # by the branch's number
    contract: Hash
    checkpoint: Hash
    parameters: Index  # of all networks
    device: Annotated[str, Field(max_length=64)]
    dtype: Annotated[str, Field(max_length=32)]
    threads: Index
    guidance_scale: Annotated[float, Field(allow_inf_nan=False)]
    steps: Steps  # of the solver, as the checkpoint is meant to be asked
    canvas: Annotated[list[Index], Field(min_length=2, max_length=2)]  # [height, width] px
    frames: Index  # of a block
    period_s: Seconds  # that was admitted
    resume_s: Seconds  # for which the session outlives its connection
    memory_bytes: Annotated[int, Field(ge=0, lt=2**63)]  # its budget
    message_bytes: Annotated[int, Field(ge=0, lt=2**63)]  # longest message taken
    statistics: dict[str, Any]  # document of the checkpoint's statistics.json, for this contract
    calibration: dict[str, Any] | None  # document of its surprise.json; None where it has none


class Observed(Message):
    """``timings_s``: decode (images), queue, encode (autoencoder), observe (transformer)."""

    type: Literal["observed"] = "observed"
    id: Id
    epoch: Epoch
    branch: Branch
    block: Index
    window: Index  # counts windows since the reset
    window_opened: bool
    timings_s: Timings


class Chunk(Message):
    """``actions`` [H, D] normalised, row i for i action steps after ``observation_ns``, the last stamp of the block.

    ``timings_s``: those of the block (decode, encode, observe) unless it was predicted from before, and of this chunk:
    queue, imagine (looking ahead), denoise, model (all that the model did for it) and server (receipt to answer)."""

    type: Literal["chunk"] = "chunk"
    id: Id
    epoch: Epoch
    branch: Branch
    block: Index
    observation_ns: Stamp
    actions: Rows
    steps: Steps
    evaluations: Index
    seed: Seed
    guidance_scale: Annotated[float, Field(allow_inf_nan=False)]
    held_rows: Index
    timings_s: Timings


class Dreamt(Message):
    type: Literal["dreamt"] = "dreamt"
    id: Id
    epoch: Epoch
    frames: Frames


class Forked(Message):
    type: Literal["forked"] = "forked"
    id: Id
    epoch: Epoch
    into: Branch
    block: Index


class Kept(Message):
    type: Literal["kept"] = "kept"
    id: Id
    epoch: Epoch
    snapshot: Index
    block: Index


class RolledBack(Message):
    """``block``: the newest one that is remembered now; the next one to observe is behind it."""

    type: Literal["rolled_back"] = "rolled_back"
    id: Id
    epoch: Epoch
    branch: Branch
    block: Index


class WasReset(Message):
    type: Literal["was_reset"] = "was_reset"
    id: Id
    epoch: Epoch
    timings_s: Timings  # prompt: the text encoder


class Closed(Message):
    type: Literal["closed"] = "closed"
    id: Id


ErrorCode = Literal[
    "malformed",  # not a message of this protocol
    "protocol",  # another version of it
    "contract",  # another contract
    "order",  # a message that may not come now
    "token",  # no session has that token
    "full",  # no room for another session at its rate, or for its memory
    "memory",  # this session's budget does not hold another branch or snapshot
    "rate",  # more messages than this connection may send
    "epoch",  # of another epoch
    "block",  # not the next block, or not the newest
    "branch",  # no such branch or snapshot, or one that exists
    "deadline",  # it would have come too late
    "refused",  # the session refuses it: shape, size, a value
    "draining",  # the server is going away
    "internal",  # a defect of the server; the session is lost, others are not
]


class Error(Message):
    """``closing``: the server closes the connection after this message. ``id`` is None where none could be read."""

    type: Literal["error"] = "error"
    id: Id | None
    code: ErrorCode
    message: Annotated[str, Field(max_length=LONGEST_PROMPT)]
    closing: bool = False


class Surprise(Message):
    """How far the block was from what had been predicted; see docs/how-to/surprise.md. ``id``: the observation's."""

    type: Literal["surprise"] = "surprise"
    id: Id
    epoch: Epoch
    branch: Branch
    block: Index
    cells: Annotated[Any, _array(np.float32, 3)]  # [f, h, w] mean squares of normalised latents


class Draining(Message):
    """The server answers what is under way and then closes; ``within_s`` from now at the latest."""

    type: Literal["draining"] = "draining"
    within_s: Seconds


Ask = Union[Open, Resume, Observe, Predict, Dream, Fork, Snapshot, Rollback, Reset, Close]  # noqa: UP007 (pydantic)
Told = Union[  # noqa: UP007
    Opened, Observed, Chunk, Dreamt, Forked, Kept, RolledBack, WasReset, Closed, Error, Surprise, Draining
]

_ASK: TypeAdapter[Ask] = TypeAdapter(Annotated[Ask, Field(discriminator="type")])
_TOLD: TypeAdapter[Told] = TypeAdapter(Annotated[Told, Field(discriminator="type")])


def encode(message: Ask | Told) -> bytes:
    """A message → one binary websocket frame."""
    return pack({name: _plain(value) for name, value in message})


def decode_ask(data: bytes) -> Ask:
    """What a client sent. Raises :class:`ProtocolError` for anything that is not one of its messages."""
    return _decoded(_ASK, data)


def decode_told(data: bytes) -> Told:
    """What a server sent. Raises :class:`ProtocolError` for anything that is not one of its messages."""
    return _decoded(_TOLD, data)


def id_of(data: bytes) -> int | None:
    """The id of a message that is none otherwise, to answer it; None where there is none."""
    try:
        document = unpack(data)
    except ProtocolError:
        return None
    found = document.get("id") if isinstance(document, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 2**63 else None


def _decoded(adapter: TypeAdapter, data: bytes) -> Any:
    if not isinstance(data, bytes):
        raise ProtocolError("a text frame, expected a binary one")
    document = unpack(data)
    if not isinstance(document, dict):
        raise ProtocolError(f"a message is a map, got {type(document).__name__}")
    try:
        return adapter.validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[:3]
        raise ProtocolError(
            "; ".join(f"{'.'.join(map(str, e['loc'])) or 'message'}: {e['msg']}" for e in first)
        ) from error


def _plain(value: Any) -> Any:
    return {name: _plain(part) for name, part in value} if isinstance(value, BaseModel) else value
