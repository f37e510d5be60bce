"""What video files promise: the frame that was asked for, from any codec, from the middle of a file."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.video import VideoWriter, frame_times, frames_at, join

FPS = 30


def flat(level: int) -> np.ndarray:
    return np.full((64, 64, 3), level, np.uint8)


def written(path: Path, levels: range) -> Path:
    writer = VideoWriter(path, 64, 64, FPS)
    for level in levels:
        writer.add(flat(level))
    writer.close()
    return path


def levels_at(path: Path, times: list[float]) -> list[float]:
    return [float(frame.mean()) for frame in frames_at(path, times)]


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libsvtav1", {"g": "2", "crf": "30"}),  # as LeRobot writes
        ("libx264", {"bf": "3", "g": "250", "crf": "18"}),  # reordered frames, one key frame
        ("libx265", {"g": "30", "x265-params": "log-level=none"}),
    ],
)
def test_frames_are_found_by_their_stamps_in_any_codec(tmp_path, codec, options):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 64, 64, "yuv420p", Fraction(1, FPS)
        for number in range(40):
            frame = av.VideoFrame.from_ndarray(flat(20 + 5 * number), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    times = frame_times(path, 0.0, np.inf)
    np.testing.assert_allclose(times, np.arange(40) / FPS, atol=1e-3)
    middle = frame_times(path, 10 / FPS, 20 / FPS)
    np.testing.assert_allclose(middle, np.arange(10, 20) / FPS, atol=1e-3)
    got = levels_at(path, [middle[0], middle[3], middle[3], middle[9]])
    np.testing.assert_allclose(got, [70, 85, 85, 115], atol=4)


def test_joined_files_keep_every_frame_at_its_place(tmp_path):
    parts = [written(tmp_path / f"{i}.mp4", range(30 * i, 30 * i + 7 + i)) for i in range(4)]
    begins = join(parts, tmp_path / "whole.mp4")
    assert begins == [Fraction(n, FPS) for n in (0, 7, 15, 24)]
    for i, begin in enumerate(begins):
        times = frame_times(tmp_path / "whole.mp4", float(begin), float(begin) + (7 + i) / FPS)
        assert len(times) == 7 + i
        np.testing.assert_allclose(
            levels_at(tmp_path / "whole.mp4", times.tolist()), range(30 * i, 30 * i + 7 + i), atol=3
        )


def test_what_a_file_cannot_give_is_said(tmp_path):
    path = written(tmp_path / "a.mp4", range(10))
    with pytest.raises(EpisodeError, match=r"a.mp4: no frame can be decoded at 5.000 s, 0 of 1 were"):
        list(frames_at(path, [5.0]))
    with pytest.raises(EpisodeError, match="even width and height"):
        VideoWriter(tmp_path / "odd.mp4", 63, 64, FPS)
    writer = VideoWriter(tmp_path / "b.mp4", 64, 64, FPS)
    with pytest.raises(EpisodeError, match=r"frame 0 is \(32, 64, 3\) uint8, expected \(64, 64, 3\)"):
        writer.add(flat(0)[:32])
    writer.close()
