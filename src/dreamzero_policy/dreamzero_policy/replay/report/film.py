"""The film: what the model saw, what it had predicted for that instant, and how far the two are apart.

Pictures stand at even instants, so that a second of film is a second of recording. Each shows the newest recorded
canvas, the newest prediction for then, and their difference; where there is none, or only an old one, it is dark.

A page must not grow with the recording: the film is given so many bytes, and a long one gets fewer pictures a second.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np

from dreamzero_policy.replay.kept import Kept
from dreamzero_policy.runtime.contract import ModelSection
from dreamzero_policy.runtime.embodiment import Image
from dreamzero_policy.runtime.observation import NS_PER_S

FILM = "film.mp4"
MOST_BYTES = 12_000_000
FULL_RATE_S = 1500.0  # a longer recording is shown with fewer pictures a second
LEAST_BIT_RATE, MOST_BIT_RATE = 16_000, 400_000  # [bit/s]
PANEL_PX = 256  # wide: a smaller canvas is enlarged
WIDEST_PX = 384  # a larger one is reduced
GAP_PX = 4
DARK = 24  # grey value where there is no picture
OLD_NS = NS_PER_S  # a picture older than this is not shown any more
SAME_NS = 1_000_000  # two instants closer than this are one: grids are rounded to nanoseconds


@dataclass(frozen=True)
class Moment:
    """One instant; a canvas is None where there is none."""

    instant_ns: int
    recorded: Image | None
    predicted: Image | None


class Moments:
    """Canvases of chunks, in order, to even instants."""

    def __init__(self, model: ModelSection) -> None:
        offsets = model.chunk.frame_offsets_steps
        self._ahead_steps = [model.chunk.actions + offset - model.chunk.first_action_step for offset in offsets]
        spacing = min((b - a for a, b in pairwise(offsets)), default=model.chunk.actions)
        self.period_ns = round(spacing * model.step_s * NS_PER_S)
        self._recorded: deque[tuple[int, Image]] = deque()
        self._predicted: deque[tuple[int, Image]] = deque()
        self._next_ns: int | None = None

    def add(self, kept: Kept) -> Iterator[Moment]:
        """The instants that are complete now: those up to where this chunk's block ends."""
        block = kept.chunk.block
        stamps = next(iter(block.frame_stamps_ns.values()))
        newest = self._recorded[-1][0] if self._recorded else -1
        if stamps[-1] < newest:  # the clock of the recording was set back
            self._recorded.clear()
            self._predicted.clear()
            self._next_ns, newest = None, -1
        self._recorded += [(stamp, frame) for stamp, frame in zip(stamps, block.canvas, strict=True) if stamp > newest]
        self._next_ns = stamps[0] if self._next_ns is None else self._next_ns
        while self._next_ns <= stamps[-1] + SAME_NS:
            yield Moment(self._next_ns, _at(self._recorded, self._next_ns), _at(self._predicted, self._next_ns))
            self._next_ns += self.period_ns
        if kept.foresight is not None:
            self._foresee(kept)

    def _foresee(self, kept: Kept) -> None:
        """What a newer chunk predicts takes the place of what an older one had predicted for later."""
        step_ns = kept.chunk.step_s * NS_PER_S
        instants = [kept.instants_ns[0] + round(step * step_ns) for step in self._ahead_steps]
        while self._predicted and self._predicted[-1][0] >= instants[0] - SAME_NS:
            self._predicted.pop()
        self._predicted += zip(instants, kept.foresight.canvas, strict=True)


def _at(frames: deque[tuple[int, Image]], instant_ns: int) -> Image | None:
    """The newest up to an instant, and forget those before it."""
    while len(frames) > 1 and frames[1][0] <= instant_ns + SAME_NS:
        frames.popleft()
    if not frames or not -SAME_NS <= instant_ns - frames[0][0] <= OLD_NS:
        return None
    return frames[0][1]


class Film:
    """An MP4 (H.264) in a folder, written moment by moment."""

    def __init__(self, folder: Path, model: ModelSection, period_ns: int, seconds: float) -> None:
        """`period_ns` between two moments, `seconds` of the recording."""
        self.path, self.begin_ns, self.pictures = folder / FILM, None, 0
        self.every = max(1, int(np.ceil(seconds / FULL_RATE_S)))
        height, width = model.canvas_size_px
        scale = min(max(1.0, PANEL_PX / width), WIDEST_PX / width)
        self._panel = tuple(2 * round(side * scale / 2) for side in (height, width))
        self._moments = 0
        self._container = av.open(str(self.path), "w", options={"movflags": "+faststart"})
        rate = Fraction(NS_PER_S, period_ns * self.every)
        bit_rate = min(max(8 * MOST_BYTES / max(seconds, 1.0), LEAST_BIT_RATE), MOST_BIT_RATE)
        # The quality is given, and the rate of bits bounds it: so no film is larger than its share of the page.
        options = {"preset": "veryfast", "crf": "23", "maxrate": str(round(bit_rate)), "bufsize": str(round(bit_rate))}
        self._stream = self._container.add_stream("libx264", rate=rate, options=options)
        self._stream.height, self._stream.width = self._panel[0], 3 * self._panel[1] + 2 * GAP_PX
        self._stream.pix_fmt, self._stream.time_base = "yuv420p", 1 / rate
        self._stream.gop_size = 20  # somebody will jump about in it

    def add(self, moment: Moment) -> None:
        if self.begin_ns is None:
            self.begin_ns = moment.instant_ns
        self._moments += 1
        if (self._moments - 1) % self.every:
            return
        frame = av.VideoFrame.from_ndarray(self._picture(moment), format="rgb24")
        frame.pts = self.pictures
        self._container.mux(self._stream.encode(frame))
        self.pictures += 1

    def close(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()

    def _picture(self, moment: Moment) -> Image:
        height, width = self._panel
        picture = np.full((height, 3 * width + 2 * GAP_PX, 3), DARK, np.uint8)
        panels = [moment.recorded, moment.predicted, None]
        if moment.recorded is not None and moment.predicted is not None:
            panels[2] = cv2.absdiff(moment.recorded, moment.predicted)
        for number, canvas in enumerate(panels):
            if canvas is not None:
                left = number * (width + GAP_PX)
                way = cv2.INTER_CUBIC if canvas.shape[1] < width else cv2.INTER_AREA
                picture[:, left : left + width] = cv2.resize(canvas, (width, height), interpolation=way)
        return picture
