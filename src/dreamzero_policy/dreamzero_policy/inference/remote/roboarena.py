"""The protocol of DreamZero's released server from the robot's side: see `inference/protocol/official.py`.

One session, one request at a time, no numbers: answers come in the order of the questions. The server observes and
predicts in one call, so only chunks can be asked for, and it sees four frames of a block (`OFFSETS_STEPS`) as the
cameras gave them; it has the crop, the canvas, the prompt's template and the normaliser itself.

What that server does silently is known by its answers. A state that it did not find is zeros there, and its relative
actions then begin at zero and not where the robot stands; where it found no joints it answers one row of zeros; an
error is a text in place of an array.
"""

import logging
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.inference.mailbox import Ask, Imagine, Reset
from dreamzero_policy.inference.protocol import official
from dreamzero_policy.inference.protocol.arrays import ProtocolError
from dreamzero_policy.inference.remote.dialogue import Frame, ServerReady
from dreamzero_policy.inference.remote.settings import RemoteSettings
from dreamzero_policy.inference.remote.trouble import ServerTrouble
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.faults import Fault
from dreamzero_policy.runtime.policy import Answer, Purpose, Reply, Request

LOG = logging.getLogger("dreamzero.remote")
OFFSETS_STEPS = (-23, -16, -8, 0)  # of 24: what the released client sends (test_client_AR.py)
ASPECT = 0.01  # by which the shape of an image may differ from that of what the server wants


@dataclass(frozen=True)
class Awaited:
    """An answer to come; without a request that of a reset."""

    request: Request | None
    since_s: float  # monotonic


class RoboArenaDialogue:
    """One connection's. See `dialogue.py`."""

    path: str | None = None  # as the address says
    pings = False  # the released server answers none while it computes

    def __init__(self, settings: RemoteSettings, contract: Contract) -> None:
        self.settings, self.contract = settings, contract
        self._names = official.Names.of(contract.model, contract.site.roboarena)
        self._awaited: deque[Awaited] = deque()
        self._epoch, self._prompt, self._session = -1, "", ""
        self._size_px: tuple[int, int] | None = None

    @property
    def waiting_since_s(self) -> float | None:
        return self._awaited[0].since_s if self._awaited else None

    @property
    def takes_more(self) -> bool:
        """The released server reads nothing while it computes: a request would fill the buffers in between and stand
        there, which cannot be told from a network that is cut."""
        return not self._awaited

    async def greet(
        self, send: Callable[[Frame], Awaitable[None]], receive: Callable[[], Awaitable[Frame]]
    ) -> ServerReady:
        try:
            config = official.ServerConfig.unpack(await receive())
            self._names.require(config)
        except official.RemoteError as error:
            raise self._error(error) from error
        except ProtocolError as error:
            raise ServerTrouble(Fault.SERVER_REFUSED, f"{self.settings.place}: {error}") from error
        if config.further:
            LOG.debug("%s says besides: %s", self.settings.place, str(config.further)[:400])
        self._size_px = config.image_resolution
        self._require_sizes()
        size = "as they are" if self._size_px is None else f"{self._size_px[1]} x {self._size_px[0]}"
        said = f"images {size}, {config.action_space}; it does not say what it runs"
        return ServerReady("", f"RoboArena on {self.settings.place}: {said}", steps=1)

    def speak(self, ask: Ask) -> list[bytes]:
        if isinstance(ask, Reset):
            self._epoch, self._prompt, self._session = ask.epoch, ask.prompt, uuid.uuid4().hex
            self._awaited.append(Awaited(None, time.monotonic()))
            return [official.encode_reset()]
        if isinstance(ask, Imagine) or ask.epoch != self._epoch:
            return []
        if ask.purpose is not Purpose.CHUNK or ask.session != 0 or ask.images is None or ask.prefix is not None:
            raise ValueError(f"{ask.purpose} of session {ask.session} cannot be asked for in this protocol")
        self._awaited.append(Awaited(ask, time.monotonic()))
        images = {camera: self._sized(stack) for camera, stack in ask.images(self._numbers(len(ask.canvas))).items()}
        request = official.Infer(images, ask.state.astype(np.float64), self._prompt, self._session)
        return [official.encode_infer(self._names, request)]

    def heard(self, frame: Frame) -> list[Answer]:
        if not self._awaited:
            said = last_line(frame) if isinstance(frame, str) else f"{len(frame)} bytes"
            raise ServerTrouble(Fault.SERVER_ERROR, f"{self.settings.place} says, unasked: {said}")
        awaited = self._awaited.popleft()
        try:
            if awaited.request is None:
                if not official.is_reset(frame):
                    raise ServerTrouble(Fault.SERVER_ERROR, f"{self.settings.place} did not reset: {len(frame)} bytes")
                return []
            rows = official.decode_actions(self._names, frame)
        except official.RemoteError as error:
            raise self._error(error) from error
        except ProtocolError as error:
            raise ServerTrouble(Fault.SERVER_ANSWER_INVALID, f"{self.settings.place}: {error}") from error
        if awaited.request.epoch != self._epoch:
            return []
        self._require_meant(rows, awaited.request)
        return [
            Reply(
                epoch=awaited.request.epoch,
                actions=rows,
                steps=0,  # it does not say
                evaluations=0,
                seed=0,
                guidance_scale=0.0,
                timings_s={"model": time.monotonic() - awaited.since_s},
            )
        ]

    def farewell(self) -> list[bytes]:
        return []

    def closed(self, code: int | None, reason: str) -> Exception:
        how = "was lost" if code is None else f"was closed with code {code}" + (f" ({reason})" if reason else "")
        return ServerTrouble(Fault.SERVER_UNREACHABLE, f"the connection to {self.settings.place} {how}")

    # Images

    def _numbers(self, frames: int) -> list[int]:
        """Which frames of a block are sent: the nearest to the released client's; the one that opens a window alone."""
        if frames == 1:
            return [0]
        chunk = self.contract.model.chunk
        wanted = np.array(OFFSETS_STEPS) * chunk.actions / 24
        distances = np.abs(np.array(chunk.frame_offsets_steps)[None] - wanted[:, None])
        return [int(number) for number in distances.argmin(1)]

    def _require_sizes(self) -> None:
        """Images are only scaled: to cut or pad one would show the model something it was not trained with."""
        for camera, site in self.contract.site.cameras.items():
            if self._size_px is None:
                continue
            height, width = self._size_px
            if abs(site.width_px / site.height_px / (width / height) - 1) > ASPECT:
                raise ServerTrouble(
                    Fault.SERVER_REFUSED,
                    f"{self.settings.place} wants images of {width} x {height}, camera {camera} has {site.width_px} x "
                    f"{site.height_px}, which is another shape: cut it in the camera's driver",
                )

    def _sized(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self._size_px is None or images.shape[1:3] == self._size_px:
            return images
        height, width = self._size_px
        return np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in images])

    # Traps

    def _answered(self, key: str) -> slice:
        """Columns of an action group in the server's rows."""
        widths = {group.key: group.width for group in self.contract.model.action}
        order: Sequence[str] = self._names.action
        begin = sum(widths[other] for other in order[: order.index(key)])
        return slice(begin, begin + widths[key])

    def _require_meant(self, rows: NDArray[np.float32], request: Request) -> None:
        """Whether every group was predicted, and relative ones begin where the robot was said to be."""
        model, site = self.contract.model, self.contract.site
        for group in model.action:
            if not group.commanded:
                continue
            answered = rows[:, self._answered(group.key)]
            if not answered.any():
                raise self._meaningless(f"zeros for {group.key}: it found none in what the model gave")
            joints = [joint for joint in group.joints if joint not in site.grippers]
            if not group.relative or not joints:  # absolute rows do not tell where they begin
                continue
            state = request.state[[model.state_joints.index(joint) for joint in joints]]
            first = answered[0, [group.joints.index(joint) for joint in joints]]
            step = np.array([site.limits[joint].step for joint in joints])
            if (np.abs(first) <= step).all() and (np.abs(first - state) > step).any():
                raise self._meaningless(
                    f"{group.key} {_numbers(first)} where the robot was said to stand at {_numbers(state)}: its rows "
                    f"begin at zero, so it did not find {self._names.state[group.key][0]}"
                )

    def _error(self, error: official.RemoteError) -> ServerTrouble:
        return ServerTrouble(Fault.SERVER_ERROR, f"{self.settings.place} says: {last_line(str(error))}")

    def _meaningless(self, text: str) -> ServerTrouble:
        return ServerTrouble(Fault.SERVER_ANSWER_INVALID, f"{self.settings.place} answered {text}")


def last_line(text: str) -> str:
    """Of a traceback the line that says what was wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else "nothing"


def _numbers(values: NDArray) -> str:
    return "[" + ", ".join(f"{value:.2f}" for value in values) + "]"
