"""Rank 0 leads and the others follow: every verb of the transformer is done by all, on parts of the same things.

On rank 0, :func:`lead` gives the transformer's verbs a front that says what is done before it is done. Keys and values
of text and image, and caches, are never sent: every process makes its own part of them and keeps it under a number. The
object that rank 0 hands out knows the number. When nobody has the object any more, the next verb tells the others to
let go of theirs. So sessions fork, roll back and end as they do in one process, and know nothing of this.

What is refused is refused before it is said. Anything that fails behind that leaves the processes at different places,
from which there is no way back: the process ends, and the others with it (`watch.py`).
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from dreamzero_policy.inference.parallel.crew import Crew
from dreamzero_policy.model.blocks import KeyValue
from dreamzero_policy.model.cache import KVCache
from dreamzero_policy.model.transformer import Context, WorldActionTransformer

log = logging.getLogger(__name__)

END = "end"


@dataclass(frozen=True)
class Sent:
    """A tensor that follows."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Held:
    """Something that every process has a part of."""

    number: int


@dataclass(frozen=True)
class HeldContext:
    """A context of such things."""

    text: Held
    image: Held | None


@dataclass(frozen=True)
class Command:
    """A verb, under which number its result is kept, and which are let go of before it. Arguments as described."""

    verb: str
    keep: int | None
    let_go: tuple[int, ...]
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()


def verbs_of(transformer: WorldActionTransformer) -> dict[str, Callable[..., Any]]:
    """What can be asked of every process: the transformer's own verbs, and those that change a cache."""
    return {
        "encode_text": transformer.encode_text,
        "encode_image": transformer.encode_image,
        "empty_cache": transformer.empty_cache,
        "observe": transformer.observe,
        "denoise": transformer.denoise,
        "fork": KVCache.fork,
        "clone": KVCache.clone,
        "forget": KVCache.forget,
        "clear": KVCache.clear,
    }


# ---------------------------------------------------------------- what rank 0 hands out


class Handle:
    """The number of something held. It ends with the last object that has it."""

    def __init__(self, number: int, unused: deque[int]) -> None:
        self.number, self._unused = number, unused

    def __del__(self) -> None:
        self._unused.append(self.number)


class HeldLayers(tuple[KeyValue, ...]):
    """Keys and values of every layer, this process's part; the others have theirs under the handle's number."""

    handle: Handle


class HeldCache(KVCache):
    """A cache, this process's part; what is done to it is done to the others' too."""

    def __init__(self, own: KVCache, handle: Handle, leader: Leader) -> None:
        super().__init__(own._storage, own.length)
        self.handle, self._leader = handle, leader

    def fork(self) -> HeldCache:
        return self._leader.cache("fork", self)

    def clone(self) -> HeldCache:
        return self._leader.cache("clone", self)

    def forget(self, start: int, stop: int, turn: Tensor) -> None:
        self._leader.do("forget", self, start, stop, turn)

    def clear(self) -> None:
        self._leader.do("clear", self)


# ---------------------------------------------------------------- leading


class Leader:
    """The front of rank 0's transformer. One thread at a time."""

    def __init__(self, transformer: WorldActionTransformer, crew: Crew) -> None:
        self._crew, self._verbs = crew, verbs_of(transformer)
        self._numbers = itertools.count()
        self._unused: deque[int] = deque()
        self._saying = threading.Lock()

    def encode_text(self, text: Tensor) -> tuple[KeyValue, ...]:
        if len(text) % self._crew.shape.cfg:
            raise ValueError(f"{len(text)} rows of text are not prompts and as many negative prompts, as guidance has")
        return self._layers("encode_text", text)

    def encode_image(self, image: Tensor) -> tuple[KeyValue, ...]:
        return self._layers("encode_image", image)

    def empty_cache(self, **sizes: int) -> KVCache:
        return self.cache("empty_cache", **sizes)

    def observe(self, *arguments: Any, **options: Any) -> None:
        self.do("observe", *arguments, **options)

    def denoise(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        return self.do("denoise", *arguments, **options)

    def end(self) -> None:
        """Tell the others that nothing follows."""
        with self._in_step(END):
            self._crew.say(Command(END, None, self._no_longer_used()))

    def cache(self, verb: str, *arguments: Any, **options: Any) -> HeldCache:
        """Do something that gives a cache."""
        number = next(self._numbers)
        own = self.do(verb, *arguments, keep=number, **options)
        return HeldCache(own, Handle(number, self._unused), self)

    def _layers(self, verb: str, features: Tensor) -> HeldLayers:
        number = next(self._numbers)
        layers = HeldLayers(self.do(verb, features, keep=number))
        layers.handle = Handle(number, self._unused)
        return layers

    def do(self, verb: str, *arguments: Any, keep: int | None = None, **options: Any) -> Any:
        """Say it, send what it takes, do it. Raises TypeError for a cache or keys that another transformer made."""
        tensors: list[Tensor] = []
        described = tuple(_described(argument, tensors) for argument in arguments)
        described_options = tuple((name, _described(option, tensors)) for name, option in options.items())
        with self._in_step(verb):
            self._crew.say(Command(verb, keep, self._no_longer_used(), described, described_options))
            for tensor in tensors:
                distributed.broadcast(_real(tensor), src=0, group=self._crew.everyone)
            return self._verbs[verb](*arguments, **options)

    @contextmanager
    def _in_step(self, verb: str) -> Iterator[None]:
        """One at a time, and the end of this process where it fails."""
        with self._saying:
            try:
                yield
            except BaseException as error:
                log.exception("%s failed", verb)
                reason = f"rank 0 failed at {verb}, behind which the processes are not at the same place"
                self._crew.watch.give_up(f"{reason}: {_told(error)}", error)
                raise

    def _no_longer_used(self) -> tuple[int, ...]:
        unused = [self._unused.popleft() for _ in range(len(self._unused))]
        return tuple(unused)


def lead(transformer: WorldActionTransformer, crew: Crew) -> Leader:
    """From now on the others follow what is asked of this transformer, in place."""
    leader = Leader(transformer, crew)
    for verb in ("encode_text", "encode_image", "empty_cache", "observe", "denoise"):
        setattr(transformer, verb, getattr(leader, verb))
    return leader


def _described(argument: Any, tensors: list[Tensor]) -> Any:
    """An argument as it is said; tensors are added to those that follow."""
    match argument:
        case Tensor():
            tensors.append(argument.contiguous())
            return Sent(tuple(argument.shape), argument.dtype)
        case Context():
            image = None if argument.image is None else _described(argument.image, tensors)
            return HeldContext(_described(argument.text, tensors), image)
        case HeldCache() | HeldLayers():
            return Held(argument.handle.number)
        case None | bool() | int() | float() | str():
            return argument
    raise TypeError(f"{type(argument).__name__} is not on the other processes: it was not made by this transformer")


# ---------------------------------------------------------------- following


def follow(transformer: WorldActionTransformer, crew: Crew) -> int:
    """Do what rank 0 says until nothing follows. Returns how many things were still held then."""
    verbs, held = verbs_of(transformer), {}

    def taken(described: Any) -> Any:
        match described:
            case Sent():
                tensor = torch.empty(described.shape, dtype=described.dtype, device=crew.device)
                distributed.broadcast(_real(tensor), src=0, group=crew.everyone)
                return tensor
            case Held():
                return held[described.number]
            case HeldContext():
                return Context(taken(described.text), None if described.image is None else taken(described.image))
        return described

    try:
        with torch.inference_mode():
            while True:
                command: Command = crew.hear()
                for number in command.let_go:
                    del held[number]
                if command.verb == END:
                    return len(held)
                arguments = [taken(each) for each in command.arguments]
                options = {name: taken(each) for name, each in command.options}
                result = verbs[command.verb](*arguments, **options)
                if command.keep is not None:
                    held[command.keep] = result
                del arguments, options, result  # what is let go of next must not live on here
    except BaseException as error:
        log.exception("rank %d failed", crew.rank)
        crew.watch.give_up(f"rank {crew.rank} failed: {_told(error)}", error)
        raise


def _real(tensor: Tensor) -> Tensor:
    """The same memory without complex numbers, which collectives do not know."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _told(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
