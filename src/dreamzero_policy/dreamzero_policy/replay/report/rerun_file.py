"""A file that Rerun opens, through its own library, which is optional: `rerun-sdk` unpacks to half a gigabyte.

Its layout comes with it: canvases at the left, joints by group and surprise at the right, one timeline.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dreamzero_policy.replay.kept import Kept
from dreamzero_policy.replay.report.film import Moment
from dreamzero_policy.runtime.contract import ModelSection
from dreamzero_policy.runtime.embodiment import Floats, Image
from dreamzero_policy.runtime.observation import NS_PER_S

RERUN = "replay.rrd"
TIMELINE = "time"
JPEG_QUALITY = 85
HELD_ROWS = 600  # of one quantity, before they are handed over


class RerunMissing(RuntimeError):  # noqa: N818 (it tells what is the matter)
    """The library is not installed; the message says how to get it."""


def library() -> Any:
    """The module `rerun`. Raises RerunMissing."""
    try:
        import rerun
    except ImportError as error:
        raise RerunMissing(
            "a file for Rerun needs its library, which is not installed: pip install 'rerun-sdk>=0.24'"
        ) from error
    return rerun


class RerunFile:
    """`replay.rrd` in a folder."""

    def __init__(self, folder: Path, model: ModelSection, bag: str) -> None:
        """Raises RerunMissing."""
        self._rr = library()
        self.path = folder / RERUN
        self._paths = {
            joint: f"joints/{group.key}/{joint}" for group in model.action if group.commanded for joint in group.joints
        }
        self._joints = model.commanded_joints
        self._held: dict[str, list[tuple[np.ndarray, Floats]]] = {}  # by quantity
        self._recording = self._rr.RecordingStream("dreamzero_replay")
        self._recording.save(str(self.path), default_blueprint=self._layout(model))
        self._recording.send_recording_name(bag)

    def moment(self, moment: Moment) -> None:
        for entity, canvas in (("recorded", moment.recorded), ("predicted", moment.predicted)):
            if canvas is not None:
                self._at(moment.instant_ns)
                self._recording.log(f"canvas/{entity}", self._jpeg(canvas))

    def rows(self, name: str, instants_ns: list[int], rows: Floats) -> None:
        """Joint positions [T, J] under `joints/GROUP/JOINT/NAME`."""
        held = self._held.setdefault(name, [])
        held.append((np.array(instants_ns, np.int64), rows))
        if sum(len(instants) for instants, _ in held) >= HELD_ROWS:
            self._send(name)

    def chunk(self, kept: Kept) -> None:
        result = kept.result
        self._at(kept.chunk.block.observation_ns)
        accepted = result["verdict"] == "accepted"
        text = f"chunk {result['index']} of epoch {result['epoch']}: {result['verdict']} {result['reason']}".rstrip()
        level = self._rr.TextLogLevel.INFO if accepted else self._rr.TextLogLevel.WARN
        self._recording.log("chunks", self._rr.TextLog(f"{text}, “{result['prompt']}”", level=level))
        self._recording.log("latency/model_s", self._rr.Scalars(result["model_s"]))
        if result["surprise"] is not None:
            self._at(kept.instants_ns[-1])
            self._recording.log("surprise/surprise", self._rr.Scalars(result["surprise"]))
            if result["still"] is not None:
                self._recording.log("surprise/still", self._rr.Scalars(result["still"]))

    def log(self, instant_ns: int, level: int, text: str) -> None:
        self._at(instant_ns)
        self._recording.log("log", self._rr.TextLog(text, level=self._rr.TextLogLevel.WARN))

    def close(self, about: dict[str, str]) -> None:
        """`about`: what the file was made with."""
        for name in self._held:
            self._send(name)
        text = "\n".join(f"* {key}: {value}" for key, value in about.items())
        self._recording.log("about", self._rr.TextDocument(text, media_type="text/markdown"), static=True)
        self._recording.flush()
        self._recording.disconnect()

    def _send(self, name: str) -> None:
        """What is held of one quantity; many rows at a time, since every piece has its overhead."""
        held, self._held[name] = self._held[name], []
        if not held:
            return
        instants_ns, rows = (np.concatenate(parts) for parts in zip(*held, strict=True))
        for joint, column in zip(self._joints, rows.T, strict=True):
            known = np.isfinite(column)
            if known.any():
                times = self._rr.TimeColumn(TIMELINE, timestamp=instants_ns[known] / NS_PER_S)
                scalars = self._rr.Scalars.columns(scalars=column[known])
                self._recording.send_columns(f"{self._paths[joint]}/{name}", [times], scalars)

    def _at(self, instant_ns: int) -> None:
        self._recording.set_time(TIMELINE, timestamp=instant_ns / NS_PER_S)

    def _jpeg(self, image: Image) -> Any:
        _, jpeg = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
        return self._rr.EncodedImage(contents=jpeg.tobytes(), media_type="image/jpeg")

    def _layout(self, model: ModelSection) -> Any:
        from rerun import blueprint as rrb

        groups = [group.key for group in model.action if group.commanded]
        pictures = [rrb.Spatial2DView(origin=f"canvas/{name}", name=name) for name in ("recorded", "predicted")]
        plots = [rrb.TimeSeriesView(origin=f"joints/{key}", name=key) for key in groups]
        words = rrb.Tabs(
            rrb.TextLogView(origin="chunks", name="chunks"),
            rrb.TextLogView(origin="log", name="problems"),
            rrb.TextDocumentView(origin="about", name="made with"),
        )
        return rrb.Blueprint(
            rrb.Horizontal(
                rrb.Vertical(*pictures, rrb.TimeSeriesView(origin="surprise", name="surprise"), words),
                rrb.Grid(*plots, grid_columns=2),
                column_shares=(1, 2),
            )
        )
