"""The run as a film: what the head camera saw beside what the model had predicted for that very instant."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader

from dreamzero_policy.ros.recorder import recording_types
from dreamzero_policy.runtime.canvas import camera_view
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.observation import NS_PER_S

PANEL = (480, 640)  # height, width [px]
CAPTION_PX = 44
RATE_HZ = 15
BACKGROUND, INK, FAINT = (24, 26, 30), (235, 235, 235), (150, 155, 165)


@dataclass(frozen=True)
class Frame:
    stamp_ns: int
    image: NDArray[np.uint8]


@dataclass(frozen=True)
class Timeline:
    """What a bag holds for the film, each list in the order of its stamps."""

    camera: list[tuple[int, bytes]]  # stamp, JPEG
    dreams: list[Frame]  # the head camera's view, stamped with the instant it predicts
    prompts: list[tuple[int, str]]


def render(bag: Path, film: Path, contract: Contract, node_name: str, progress: Callable[[float], None]) -> None:
    """Write `film` (MP4, H.264) from a recorded run. `progress` receives the share done, 0 to 1."""
    timeline = read_timeline(bag, contract, node_name)
    height, width = PANEL[0] + CAPTION_PX, 2 * PANEL[1]
    with av.open(str(film), "w") as container:
        stream = container.add_stream("libx264", rate=RATE_HZ, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = width, height, "yuv420p", Fraction(1, RATE_HZ)
        begin_ns = timeline.camera[0][0]
        step_ns, chunk = round(contract.model.step_s * NS_PER_S), contract.model.chunk
        fresh_ns, lasts_ns = step_ns * chunk.actions // chunk.frames, step_ns * chunk.actions
        for number, (stamp_ns, jpeg) in enumerate(_at_rate(timeline.camera)):
            picture = compose(
                cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1],
                *dream_at(timeline.dreams, stamp_ns, fresh_ns, lasts_ns),
                _prompt_at(timeline.prompts, stamp_ns),
                (stamp_ns - begin_ns) / NS_PER_S,
            )
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
            progress((stamp_ns - begin_ns) / max(1, timeline.camera[-1][0] - begin_ns))
        container.mux(stream.encode())


def read_timeline(bag: Path, contract: Contract, node_name: str) -> Timeline:
    camera_topic = f"/{contract.site.cameras[contract.model.cameras[0]].topic}/compressed"
    video_topic, status_topic = f"{node_name}/predicted_image", f"{node_name}/status"
    timeline = Timeline([], [], [])
    with AnyReader([bag], default_typestore=recording_types()) as reader:
        wanted = [c for c in reader.connections if c.topic in (camera_topic, video_topic, status_topic)]
        for connection, _, data in reader.messages(connections=wanted):
            message = reader.deserialize(data, connection.msgtype)
            stamp_ns = message.header.stamp.sec * NS_PER_S + message.header.stamp.nanosec
            if connection.topic == camera_topic:
                timeline.camera.append((stamp_ns, message.data.tobytes()))
            elif connection.topic == video_topic:
                image = message.data.reshape(message.height, message.width, 3)
                timeline.dreams.append(Frame(stamp_ns, camera_view(image, contract.model, contract.model.cameras[0])))
            elif not timeline.prompts or timeline.prompts[-1][1] != message.prompt:
                timeline.prompts.append((stamp_ns, message.prompt))
    timeline.camera.sort(key=lambda item: item[0])
    timeline.dreams.sort(key=lambda frame: frame.stamp_ns)
    return timeline


def dream_at(dreams: list[Frame], stamp_ns: int, fresh_ns: int, lasts_ns: int) -> tuple[NDArray[np.uint8] | None, str]:
    """The newest prediction that is for this instant or before, and what it is.

    It is for this instant up to `fresh_ns`, the time between two of them; after `lasts_ns` it shows another scene.
    """
    index = bisect_right(dreams, stamp_ns, key=lambda frame: frame.stamp_ns) - 1
    age_ns = stamp_ns - dreams[index].stamp_ns if index >= 0 else lasts_ns
    if age_ns >= lasts_ns:
        return None, "nothing predicted for this instant"
    label = "predicted for this instant" if age_ns < fresh_ns else f"predicted for {age_ns / NS_PER_S:.1f} s before"
    return dreams[index].image, label


def compose(
    seen: NDArray[np.uint8], dreamed: NDArray[np.uint8] | None, label: str, prompt: str, seconds: float
) -> NDArray[np.uint8]:
    """One picture [height, width, 3] of the film; `dreamed` is the head camera's predicted view, `label` what it is."""
    picture = np.full((PANEL[0] + CAPTION_PX, 2 * PANEL[1], 3), BACKGROUND, np.uint8)
    picture[CAPTION_PX:, : PANEL[1]] = cv2.resize(seen, PANEL[::-1], interpolation=cv2.INTER_LINEAR)
    if dreamed is not None:
        picture[CAPTION_PX:, PANEL[1] :] = cv2.resize(dreamed, PANEL[::-1], interpolation=cv2.INTER_CUBIC)
    picture[CAPTION_PX:, PANEL[1] - 1 : PANEL[1] + 1] = BACKGROUND
    _write(picture, prompt or "no instruction", 14, INK, 0.62)
    _write(picture, f"{seconds:6.1f} s", 2 * PANEL[1] - 100, FAINT)
    _write(picture, label, PANEL[1] + 14, FAINT)
    return picture


def _write(picture: NDArray[np.uint8], text: str, left: int, colour: tuple[int, int, int], size: float = 0.5) -> None:
    cv2.putText(picture, text, (left, 29), cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)


def _at_rate(camera: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """The frame shown at each instant of the film."""
    stamps = [stamp for stamp, _ in camera]
    instants = range(stamps[0], stamps[-1] + 1, NS_PER_S // RATE_HZ)
    return [camera[bisect_right(stamps, instant) - 1] for instant in instants]


def _prompt_at(prompts: list[tuple[int, str]], stamp_ns: int) -> str:
    index = bisect_right(prompts, stamp_ns, key=lambda item: item[0]) - 1
    return prompts[index][1] if index >= 0 else ""
