"""Open loop: how far predictions are from what was recorded, on episodes that a model has not been trained on.

A session is led through every episode window by window, exactly as a training window is cut, and never acts: it is
given the recorded frames and states up to an instant, predicts the chunk behind it, and is then given the block that
really came. Compared are

* actions, in the contract's units, against the recorded commands: mean absolute error by joint group and by step;
* frames, on the cameras' tiles of the canvas only, against the recorded views (of an attempt with advice against those
  that the advice led to): PSNR and SSIM. What the model was given is never compared. Beside them stand two marks of the
  same frames: the recorded block through the autoencoder (`autoencoder`, about the best there is) and the last given
  frame, repeated (`still`, what knowing nothing reaches).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dreamzero_policy.data.episodes import Episode
from dreamzero_policy.data.windows import chunks_after, window
from dreamzero_policy.evaluation.methods import method
from dreamzero_policy.evaluation.policies import UninjectedSession
from dreamzero_policy.evaluation.stage import Stage
from dreamzero_policy.evaluation.statistics import mean
from dreamzero_policy.inference.session import Session
from dreamzero_policy.runtime.canvas import Image, camera_view
from dreamzero_policy.runtime.contract import ModelSection
from dreamzero_policy.runtime.embodiment import Embodiment, Floats

PEAK = 255.0
SIGMA, RADIUS = 1.5, 5  # px: the Gaussian window of 11 x 11 of Wang et al. 2004
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
MARKS = ("predicted", "autoencoder", "still")


@dataclass(frozen=True)
class Recorded:
    """One method on one recorded episode."""

    method: str
    folder: Path
    episode: str


@dataclass
class Errors:
    """Of one episode: absolute action errors by chunk, and the likeness of frames by mark."""

    actions: list[Floats] = field(default_factory=list)  # each [H, A]
    psnr: dict[str, list[float]] = field(default_factory=lambda: {mark: [] for mark in MARKS})
    ssim: dict[str, list[float]] = field(default_factory=lambda: {mark: [] for mark in MARKS})


def measure(stage: Stage, item: Recorded) -> Errors:
    """Lead a session through an episode.

    Raises:
        EpisodeError: the episode does not fit the contract, or lacks a picture.
    """
    how = method(item.method)
    model, embodiment = stage.model(how.weights)
    episode = stage.recorded(item.folder).episode(item.episode)
    make = Session if how.injection else UninjectedSession
    session = make(model, embodiment.prompt(episode.instruction), vae_mode="stream", steps=how.steps)
    errors, section = Errors(), embodiment.contract.model
    anchor = int(episode.view_steps[0])
    while (chunks := chunks_after(section, episode, anchor)) > 0:
        session.reset()
        _measure_window(
            session,
            embodiment,
            episode,
            anchor,
            chunks,
            errors,
            video=how.weights != "vla",  # its video was never trained
            injection=how.injection,
        )
        anchor += chunks * section.chunk.actions
    return errors


def _measure_window(
    session: Session,
    embodiment: Embodiment,
    episode: Episode,
    anchor: int,
    chunks: int,
    errors: Errors,
    *,
    video: bool,
    injection: bool,
) -> None:
    section = embodiment.contract.model
    cut = window(embodiment, episode, anchor, chunks)
    rows = np.arange(section.chunk.actions) + section.chunk.first_action_step
    session.observe(cut.canvas[:1])
    given = cut.canvas[0]
    for k in range(chunks):
        start = anchor + k * section.chunk.actions
        prediction = session.predict(cut.state[k])
        actions = embodiment.actions(prediction.actions, episode.state[start])
        errors.actions.append(np.abs(actions - episode.action[start + rows]))
        block = cut.canvas[1 + k * section.chunk.frames : 1 + (k + 1) * section.chunk.frames]
        led_to = block if cut.advised is None else cut.advised[k]
        if video:
            dreamed = session.decode(prediction)
            _compare(errors, "predicted", section, dreamed, led_to)
            _compare(errors, "still", section, np.repeat(given[None], len(led_to), 0), led_to)
        if k + 1 < chunks:
            latents = session.observe(block).latents
            if video and injection:
                again = session.decode(replace(prediction, video_latents=latents))
                _compare(errors, "autoencoder", section, again, block)
            given = block[-1]


def _compare(errors: Errors, mark: str, section: ModelSection, ours: Image, theirs: Image) -> None:
    for our_frame, their_frame in zip(ours, theirs, strict=True):
        tiles = [
            (camera_view(our_frame, section, camera), camera_view(their_frame, section, camera))
            for camera in section.cameras
        ]
        ours_seen, theirs_seen = (np.concatenate([view.ravel() for view in side]) for side in zip(*tiles, strict=True))
        errors.psnr[mark].append(psnr(ours_seen, theirs_seen))
        errors.ssim[mark].append(float(np.mean([ssim(*pair) for pair in tiles])))


def psnr(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio [dB] of uint8 images, 100 at most (equal images have none)."""
    square = np.mean((ours.astype(np.float64) - theirs.astype(np.float64)) ** 2)
    return float(10 * np.log10(PEAK**2 / max(square, PEAK**2 * 1e-10)))


def ssim(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> float:
    """Structural similarity of two uint8 images [height, width, 3], mean over pixels and channels.

    Wang et al. 2004 with their constants; pixels whose window would reach over the border are left out.
    """

    def local(values: Floats) -> Floats:
        return gaussian_filter(values, (SIGMA, SIGMA, 0), truncate=RADIUS / SIGMA)

    x, y = ours.astype(np.float64), theirs.astype(np.float64)
    mx, my = local(x), local(y)
    vx, vy, vxy = local(x * x) - mx * mx, local(y * y) - my * my, local(x * y) - mx * my
    values = ((2 * mx * my + C1) * (2 * vxy + C2)) / ((mx * mx + my * my + C1) * (vx + vy + C2))
    inner = values[RADIUS:-RADIUS, RADIUS:-RADIUS]
    return float((inner if inner.size else values).mean())


def summed_up(model: ModelSection, episodes: Sequence[Errors]) -> dict[str, Any]:
    """Means over episodes with intervals; episodes without a whole chunk do not count."""
    counted = [errors for errors in episodes if errors.actions]
    if not counted:
        return {"episodes": 0}
    by_step = [np.mean(errors.actions, axis=0) for errors in counted]  # each [H, A]
    document: dict[str, Any] = {"episodes": len(counted), "chunks": sum(len(errors.actions) for errors in counted)}
    document["action_error"] = {
        key: {
            "unit": sorted(units),
            **_estimate([rows[:, columns].mean() for rows in by_step]),
            "by_step": np.mean([rows[:, columns].mean(axis=1) for rows in by_step], axis=0).tolist(),
        }
        for key, units, columns in _groups(model)
    }
    for name in ("psnr", "ssim"):
        marks = {mark: [np.mean(getattr(e, name)[mark]) for e in counted if getattr(e, name)[mark]] for mark in MARKS}
        document[name] = {mark: _estimate(values) for mark, values in marks.items() if values}
    return document


def _groups(model: ModelSection) -> list[tuple[str, set[str], NDArray[np.int64]]]:
    """Key, units and columns of every commanded group."""
    found, column = [], 0
    for group in model.action:
        if group.commanded:
            found.append((group.key, set(group.units), np.arange(column, column + group.width)))
        column += group.width
    return found


def _estimate(values: Sequence[float]) -> Mapping[str, Any]:
    estimate = mean(np.array(values))
    return {"mean": estimate.value, "interval": estimate.interval.as_list()}
