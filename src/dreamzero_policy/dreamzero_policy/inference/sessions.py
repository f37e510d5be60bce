"""The sessions of one robot, by number: what stands behind a `runtime.policy.Policy`, in whatever process.

All follow one prompt, whose keys and values they share. A session exists once it is asked. Each keeps the chunk it gave
last: looking ahead goes beyond that one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from dreamzero_policy.inference.loading import Policy as Model
from dreamzero_policy.inference.prediction import Prediction
from dreamzero_policy.inference.session import Session
from dreamzero_policy.runtime.policy import Observed, Purpose, Reply, Request


class Sessions:
    """Those of one prompt and epoch at a time."""

    def __init__(self, model: Model, make: Callable[..., Session] = Session) -> None:
        self._model, self._make = model, make
        self._blank: Session | None = None  # has the prompt and has seen nothing
        self._open: dict[int, Session] = {}
        self._given: dict[int, Prediction] = {}  # the newest of each session
        self._newest: tuple[Session, Prediction] | None = None

    def reset(self, prompt: str) -> None:
        """Forget everything seen, in all of them."""
        if self._blank is None:
            # Blocks are whole: every frame since the last one is there, as in training. The released server's way
            # of encoding (`vae_mode="release"`) is for clients that send fewer.
            self._blank = self._make(self._model, prompt, vae_mode="stream")
        else:
            self._blank.reset(prompt)
        self._open, self._given, self._newest = {}, {}, None

    def answer(self, request: Request, waited_s: float = 0.0) -> Reply | Observed:
        """Observe the block, predict what is asked for. ``waited_s``: how long the prompt was waited for.

        Raises ValueError for what a session refuses.
        """
        began = time.perf_counter()
        session = self._open.setdefault(request.session, self._blank.fork())
        if request.canvas is not None:
            session.observe(request.canvas)
        if request.purpose is Purpose.OBSERVE:
            return Observed(request.epoch)
        options = {"steps": request.steps, "seed": request.seed, "prefix": request.prefix}
        if request.purpose is Purpose.LOOK_AHEAD:
            prediction = session.look_ahead(self._given[request.session], request.state, **options)
        else:
            prediction = session.predict(request.state, **options)
        self._given[request.session] = prediction
        self._newest = session, prediction
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
