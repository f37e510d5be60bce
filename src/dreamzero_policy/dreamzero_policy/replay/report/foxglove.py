"""A file that Foxglove opens: MCAP with JSON messages, so that joints are found by their names.

Pictures are `foxglove.CompressedImage` and what went wrong is `foxglove.Log` (the schemas of foxglove/foxglove-sdk,
fields needed by them alone); joints, chunks and surprise are objects of this project, for plots and raw messages.
Every message is logged at the instant that it is about, so that all topics are in step.
"""

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mcap.writer import Writer

from dreamzero_policy.replay.kept import Kept
from dreamzero_policy.replay.report.film import Moment
from dreamzero_policy.runtime.embodiment import Floats, Image
from dreamzero_policy.runtime.observation import NS_PER_S

FOXGLOVE = "foxglove.mcap"
JPEG_QUALITY = 85
WARNING, ERROR = 3, 4  # levels of foxglove.Log
NUMBER, TEXT, WHOLE = {"type": "number"}, {"type": "string"}, {"type": "integer"}
TIME = {"type": "object", "title": "time", "properties": {"sec": WHOLE, "nsec": WHOLE}}
SCHEMAS = {
    "foxglove.CompressedImage": {
        "timestamp": TIME,
        "frame_id": TEXT,
        "data": {"type": "string", "contentEncoding": "base64"},
        "format": TEXT,
    },
    "foxglove.Log": {
        "timestamp": TIME,
        "level": WHOLE,
        "message": TEXT,
        "name": TEXT,
        "file": TEXT,
        "line": WHOLE,
    },
    "dreamzero.Chunk": {
        "index": WHOLE,
        "epoch": WHOLE,
        "prompt": TEXT,
        "verdict": TEXT,
        "reason": TEXT,
        "regime": TEXT,
        "hash": TEXT,
        "model_s": NUMBER,
        "latency_s": NUMBER,
        "error_commands": NUMBER,
        "error_states": NUMBER,
        "joint_names": {"type": "array", "items": TEXT},
        "times_s": {"type": "array", "items": NUMBER},
        "positions": {"type": "array", "items": {"type": "array", "items": NUMBER}},
    },
    "dreamzero.Surprise": {"surprise": NUMBER, "still": NUMBER, "chunk": WHOLE},
}


class FoxgloveFile:
    """`foxglove.mcap` in a folder."""

    def __init__(self, folder: Path, joints: tuple[str, ...]) -> None:
        self.path, self._joints = folder / FOXGLOVE, joints
        self._file = self.path.open("wb")
        self._writer = Writer(self._file)
        self._writer.start(library="dreamzero replay")
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._numbers: dict[str, int] = {}

    def moment(self, moment: Moment) -> None:
        for topic, canvas in (("/recorded/canvas", moment.recorded), ("/predicted/canvas", moment.predicted)):
            if canvas is not None:
                self._image(topic, moment.instant_ns, canvas)

    def rows(self, name: str, instants_ns: list[int], rows: Floats) -> None:
        """Joint positions [T, J] under `/joints/NAME`."""
        for instant_ns, row in zip(instants_ns, rows, strict=True):
            known = np.isfinite(row)
            if known.any():
                positions = {
                    joint: float(value) for joint, value, there in zip(self._joints, row, known, strict=True) if there
                }
                self._write(f"/joints/{name}", "dreamzero.Joints", instant_ns, positions)

    def chunk(self, kept: Kept) -> None:
        result = kept.result
        message = {key: result[key] for key in SCHEMAS["dreamzero.Chunk"] if key in result}
        for against, error in result["error"].items():
            if error is not None:
                message[f"error_{against}"] = error["mean"]
        message |= {
            "joint_names": list(self._joints),
            "times_s": [instant_ns / NS_PER_S for instant_ns in kept.instants_ns],
            "positions": [[value if np.isfinite(value) else None for value in row] for row in kept.positions.tolist()],
        }
        observed_ns = kept.chunk.block.observation_ns
        self._write("/chunks", "dreamzero.Chunk", observed_ns, message)
        if result["verdict"] != "accepted":
            self.log(observed_ns, WARNING, f"chunk {result['index']}: {result['verdict']}: {result['reason']}")
        if result["surprise"] is not None:
            surprise = {"surprise": result["surprise"], "still": result["still"], "chunk": result["index"]}
            self._write("/surprise", "dreamzero.Surprise", kept.instants_ns[-1], surprise)

    def log(self, instant_ns: int, level: int, text: str) -> None:
        message = {"timestamp": _time(instant_ns), "level": level, "message": text, "name": "replay"}
        self._write("/log", "foxglove.Log", instant_ns, message | {"file": "", "line": 0})

    def close(self, about: dict[str, str]) -> None:
        """`about`: what the file was made with."""
        self._writer.add_metadata("dreamzero replay", about)
        self._writer.finish()
        self._file.close()

    def _image(self, topic: str, instant_ns: int, image: Image) -> None:
        _, jpeg = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
        message = {"timestamp": _time(instant_ns), "frame_id": topic.strip("/"), "format": "jpeg"}
        message["data"] = base64.b64encode(jpeg.tobytes()).decode()
        self._write(topic, "foxglove.CompressedImage", instant_ns, message)

    def _write(self, topic: str, kind: str, instant_ns: int, message: dict[str, Any]) -> None:
        number = self._numbers[topic] = self._numbers.get(topic, -1) + 1
        data = json.dumps(message).encode()
        self._writer.add_message(self._channel(topic, kind), instant_ns, data, instant_ns, number)

    def _channel(self, topic: str, kind: str) -> int:
        if topic not in self._channels:
            if kind not in self._schemas:
                properties = SCHEMAS.get(kind) or {joint: NUMBER for joint in self._joints}
                schema = {"title": kind, "type": "object", "properties": properties}
                self._schemas[kind] = self._writer.register_schema(kind, "jsonschema", json.dumps(schema).encode())
            self._channels[topic] = self._writer.register_channel(topic, "json", self._schemas[kind])
        return self._channels[topic]


def _time(instant_ns: int) -> dict[str, int]:
    return {"sec": instant_ns // NS_PER_S, "nsec": instant_ns % NS_PER_S}
