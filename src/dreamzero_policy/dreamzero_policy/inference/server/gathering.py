"""What the model does for a client of the released server's protocol: frames gathered as that server gathers them.

Facts: dreamzero0/dreamzero at ab790c1, `socket_test_optimized_AR.py`. The first call behind a beginning uses the newest
frame, every later one the last four, with the first of them repeated in front where fewer have come (that server's
rule, and the only place where frames are repeated). The session encodes blocks as that server does, `vae_mode` release.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.inference.loading import Policy
from dreamzero_policy.inference.protocol.official import FRAMES_PER_CALL, Infer
from dreamzero_policy.inference.session import Session
from dreamzero_policy.runtime.canvas import Image
from dreamzero_policy.runtime.embodiment import Transforms


class Gathering:
    """One client's frames and memory. `views` may run on any thread, the rest on the model's."""

    def __init__(self, policy: Policy, transforms: Transforms) -> None:
        self._policy, self._transforms = policy, transforms
        self._session: Session | None = None  # made with the first prompt
        self._session_id: str | None = None
        self._views: dict[str, deque[Image]] = {}
        self.begin()

    def begin(self) -> None:
        """Forget everything seen, as after `reset`; the prompt stays until another one comes."""
        self._views = {camera: deque(maxlen=FRAMES_PER_CALL) for camera in self._transforms.model.cameras}
        self._first = True
        if self._session is not None:
            self._session.reset()

    def views(self, request: Infer) -> dict[str, list[Image]]:
        """The views of the frames that matter: the last four of each camera."""
        return {
            camera: [self._transforms.view(camera, image) for image in images[-FRAMES_PER_CALL:]]
            for camera, images in request.images.items()
        }

    def infer(self, request: Infer, views: dict[str, list[Image]]) -> NDArray[np.float32]:
        """Actions [H, A] in the contract's units. Raises ValueError for what the session refuses."""
        if request.session_id is not None and request.session_id != self._session_id:
            if self._session_id is not None:
                self.begin()
            self._session_id = request.session_id
        prompt = self._transforms.prompt(request.prompt)
        if self._session is None:
            self._session = Session(self._policy, prompt, vae_mode="release")
        elif prompt != self._session.prompt:
            self._session.reset(prompt)
        for camera, newest in views.items():
            self._views[camera].extend(newest)
        self._session.observe(self._canvas(1 if self._first else FRAMES_PER_CALL))
        self._first = False
        rows = self._session.predict(self._transforms.normalised_state(request.state)).actions
        return self._transforms.actions(rows, request.state).astype(np.float32)

    def _canvas(self, count: int) -> Image:
        gathered = {}
        for camera, kept in self._views.items():
            frames = list(kept)[-count:]
            gathered[camera] = np.stack([frames[0]] * (count - len(frames)) + frames)
        return self._transforms.canvas(gathered)
