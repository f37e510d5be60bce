"""Films: what a camera saw beside what the model had predicted for the same instants, as MP4 small enough for a page.

Episodes are the same however often they are played, so the ones worth seeing are chosen when all results are there, and
played again with the predictions decoded.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest

import av
import cv2
import numpy as np

from dreamzero_policy.evaluation.closed_loop import Footage
from dreamzero_policy.evaluation.stage import Job, Result, Stage
from dreamzero_policy.runtime.canvas import Image, camera_view
from dreamzero_policy.runtime.contract import ModelSection
from dreamzero_policy.runtime.observation import NS_PER_S

PANEL = (240, 320)  # height, width [px]
GAP_PX = 4
RATE_HZ = 10
SAME_NS = 1_000_000  # two instants closer than this are one: grids of frames are rounded to nanoseconds
DARK = 24  # grey value where there is no picture


@dataclass(frozen=True)
class Film:
    """An episode to look at."""

    result: Result
    progress: float  # of the episode that was filmed; that of the result, if episodes repeat as they should
    mp4: bytes


def worth_seeing(results: Sequence[Result], count: int) -> list[Result]:
    """Up to `count` episodes: failures and successes in turn, every family before one comes again."""
    sides = [_by_turns([result for result in results if result.success is success]) for success in (True, False)]
    mixed = [result for pair in zip_longest(*sides) for result in pair if result is not None]
    return mixed[:count]


def _by_turns(results: Sequence[Result]) -> list[Result]:
    """One of every split and family, then the next of each, in the order of their seeds."""
    shelves: dict[tuple[str, str], list[Result]] = {}
    for result in sorted(results, key=lambda result: (result.seed, result.split)):
        shelves.setdefault((result.split, result.family), []).append(result)
    return [result for row in zip_longest(*shelves.values()) for result in row if result is not None]


def shoot(stage: Stage, result: Result) -> Film:
    """Play an episode again and film it."""
    model = stage.contract.model
    footage = Footage(model.cameras[0])
    played = stage.play(Job(result.method, result.split, result.seed), footage)
    return Film(result, float(played.outcome.progress), encoded(frames(footage, model)))


def frames(footage: Footage, model: ModelSection) -> list[Image]:
    """Pictures of the film, seen at the left, predicted for that instant at the right."""
    stamps, dreamed = np.array(sorted(footage.seen)), np.array(sorted(footage.dreamed))
    shown = []
    for instant_ns in range(int(stamps[0]), int(stamps[-1]) + 1, NS_PER_S // RATE_HZ):
        seen_ns = stamps[np.searchsorted(stamps, instant_ns + SAME_NS, side="right") - 1]
        known = np.searchsorted(dreamed, seen_ns + SAME_NS, side="right") - 1
        picture = np.full((PANEL[0], 2 * PANEL[1] + GAP_PX, 3), DARK, np.uint8)
        picture[:, : PANEL[1]] = _sized(footage.seen[int(seen_ns)], cv2.INTER_AREA)
        if known >= 0:
            view = camera_view(footage.dreamed[int(dreamed[known])], model, footage.camera)
            picture[:, -PANEL[1] :] = _sized(view, cv2.INTER_CUBIC)
        shown.append(picture)
    return shown


def encoded(pictures: Sequence[Image]) -> bytes:
    """An MP4 (H.264) of the pictures, all of one size."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE_HZ, options={"preset": "veryfast", "crf": "27"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, RATE_HZ)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def _sized(image: Image, interpolation: int) -> Image:
    return image if image.shape[:2] == PANEL else cv2.resize(image, PANEL[::-1], interpolation=interpolation)
