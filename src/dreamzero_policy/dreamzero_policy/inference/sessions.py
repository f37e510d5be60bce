"""The sessions of one robot, by number: what stands behind a `runtime.policy.Policy`, in whatever process.

All follow one prompt, whose keys and values they share. A session exists once it is asked. Each keeps the chunk it gave
last: looking ahead goes beyond that one. What a chunk said the cameras would see is kept until its block comes: how far
it was off is computed when :meth:`Sessions.surprise` is asked for, never on the way to an answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.inference.denoising import Denoising
from dreamzero_policy.inference.loading import Policy as Model
from dreamzero_policy.inference.memory import Snapshot
from dreamzero_policy.inference.prediction import Observation, Prediction
from dreamzero_policy.inference.session import Session
from dreamzero_policy.inference.surprise import Awaited, Comparison
from dreamzero_policy.model.flow import Sample
from dreamzero_policy.runtime.policy import Observed, Purpose, Reply, Request


class Sessions:
    """Those of one prompt and epoch at a time."""

    def __init__(self, model: Model, make: Callable[..., Session] = Session) -> None:
        self._model, self._make = model, make
        self._blank: Session | None = None  # has the prompt and has seen nothing
        self._open: dict[int, Session] = {}
        self._given: dict[int, Prediction] = {}  # the newest of each session
        self._newest: tuple[Session, Prediction] | None = None
        self._awaited = Awaited()
        self._comparison: Comparison | None = None  # of the newest block, until it is asked for
        self.observation: Observation | None = None  # the newest, of whichever session

    def reset(self, prompt: str) -> None:
        """Forget everything seen, in all of them."""
        if self._blank is None:
            # Blocks are whole: every frame since the last one is there, as in training. The released server's way
            # of encoding (`vae_mode="release"`) is for clients that send fewer.
            self._blank = self._make(self._model, prompt, vae_mode="stream")
        else:
            self._blank.reset(prompt)
        self._open, self._given, self._newest = {}, {}, None
        self._awaited, self._comparison = Awaited(), None

    def answer(self, request: Request, waited_s: float = 0.0) -> Reply | Observed:
        """Observe the block, predict what is asked for. ``waited_s``: how long the prompt was waited for.

        Raises ValueError for what a session refuses.
        """
        began = time.perf_counter()
        session = self._open.setdefault(request.session, self._blank.fork())
        if request.canvas is not None:
            self._comparison = None
            self._observe(session, request)
        if request.purpose is Purpose.OBSERVE:
            return Observed(request.epoch)
        options = {"steps": request.steps, "seed": request.seed, "prefix": request.prefix}
        if request.purpose is Purpose.LOOK_AHEAD:
            prediction = session.look_ahead(self._chunk_of(request.session), request.state, **options)
        else:
            prediction = session.predict(request.state, **options)
        return self._reply(request, session, prediction, waited_s, began)

    def denoising(self, request: Request) -> Denoising:
        """What denoising the chunk takes that is asked for, to be done together with others. Raises ValueError.

        The request has no block and asks for a `CHUNK`; :meth:`concluded` gives the reply.
        """
        session = self._existing(request.session)
        return session.denoising(request.state, steps=request.steps, seed=request.seed, prefix=request.prefix)

    def concluded(self, request: Request, chunk: Denoising, sample: Sample, began: float) -> Reply:
        """The reply to a request whose chunk was denoised. ``began``: when that was, by `time.perf_counter`."""
        session = self._existing(request.session)
        return self._reply(request, session, session.concluded(chunk, sample, request.seed, began), 0.0, began)

    def _reply(
        self, request: Request, session: Session, prediction: Prediction, waited_s: float, began: float
    ) -> Reply:
        self._given[request.session] = prediction
        self._newest = session, prediction
        self._awaited.add(request.session, prediction)
        timings_s = dict(prediction.timings_s)
        if request.canvas is None:
            timings_s |= {"encode": 0.0, "observe": 0.0}  # those of an earlier request
        return Reply(
            epoch=request.epoch,
            actions=prediction.actions,
            steps=prediction.steps,
            evaluations=prediction.evaluations,
            seed=prediction.seed,
            guidance_scale=prediction.cfg_scale,
            timings_s=timings_s | {"prompt": waited_s, "model": waited_s + time.perf_counter() - began},
            held_rows=prediction.held_rows,
        )

    def _observe(self, session: Session, request: Request) -> None:
        """Take the block in, and keep what it takes to compare it with what was predicted."""
        block, number = session.chunk_index + 1, request.session
        foreseen = self._awaited.take(number, session.window, block) if len(request.canvas) > 1 else None
        if foreseen is None or not request.followed:
            self.observation = session.observe(request.canvas)
            return
        stream, observation = session.stream, session.observe(request.canvas)
        self.observation = observation
        latents, canvas = observation.latents, request.canvas
        opened = observation.window_opened
        self._comparison = Comparison(
            foreseen.expected_latents, lambda: session.encoded(canvas, stream)[0] if opened else latents
        )

    def fork(self, number: int, into: int) -> None:
        """A second session, with the memory of the first. Raises ValueError where there is none, or one already."""
        if into in self._open:
            raise ValueError(f"session {into} exists already")
        self._open[into] = self._existing(number).fork()

    def snapshot(self, number: int) -> Snapshot:
        """A session's memory at this instant. Raises ValueError where there is no such session."""
        return self._existing(number).snapshot()

    def rollback(self, number: int, snapshot: Snapshot) -> None:
        """Remember what was remembered at the snapshot. What was predicted since is forgotten as well.

        Raises ValueError where there is no such session, or for a snapshot of another prompt's.
        """
        self._existing(number).rollback(snapshot)
        self._given.pop(number, None)
        self._awaited.forget(number)
        self._comparison = None

    def _existing(self, number: int) -> Session:
        if number not in self._open:
            raise ValueError(f"there is no session {number}, only {sorted(self._open)}")
        return self._open[number]

    def _chunk_of(self, number: int) -> Prediction:
        if number not in self._given:
            raise ValueError(f"session {number} has given no chunk yet that could be looked beyond")
        return self._given[number]

    def surprise(self) -> NDArray[np.float32] | None:
        """How far the newest block was from what was expected, by cell [f, h, w] (`inference/surprise.py`).

        None where no chunk was about it, and the second time.

        A window that this block opened makes the autoencoder run over the block.
        """
        comparison, self._comparison = self._comparison, None
        return None if comparison is None else comparison.cells()

    @property
    def newest(self) -> tuple[Session, Prediction] | None:
        """The newest prediction and whose it is; None before there is one."""
        return self._newest

    def opened(self, number: int) -> Session | None:
        """The session of that number; None if it was not asked yet."""
        return self._open.get(number)

    def dream(self) -> np.ndarray | None:
        """The video of the newest chunk, uint8 [T, height, width, 3]; None before there is one."""
        if self._newest is None:
            return None
        session, prediction = self._newest
        return session.decode(prediction)
