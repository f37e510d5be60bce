"""Video files of data sets: H.264 in MP4, written frame by frame, joined without encoding again, read by timestamp.

Files are written without reordered frames, so packets can be joined by shifting their stamps, and with a key frame
at least every `KEY_FRAMES` frames, so an episode in the middle of a file is found quickly. Reading takes any codec that
FFmpeg knows. A frame that cannot be decoded is an error that names the file, never a repaired picture.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.runtime.embodiment import Floats, Image

CODEC, PIXELS = "h264", "yuv420p"
QUALITY = 18  # constant rate factor: views made of decoded frames differ by about two levels of 255
KEY_FRAMES = 10


class VideoWriter:
    """One file under construction."""

    def __init__(self, path: Path, width_px: int, height_px: int, fps: int) -> None:
        if width_px % 2 or height_px % 2:
            raise EpisodeError(f"{path}: {width_px} x {height_px} px, H.264 needs an even width and height")
        self.frames = 0
        self.size = (height_px, width_px)
        self._path = path
        self._container = av.open(str(path), "w", format="mp4")
        stream = self._container.add_stream(
            "libx264", rate=fps, options={"preset": "veryfast", "crf": str(QUALITY), "threads": "1"}
        )
        stream.width, stream.height, stream.pix_fmt, stream.time_base = width_px, height_px, PIXELS, Fraction(1, fps)
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = KEY_FRAMES, 0
        self._stream = stream

    def add(self, image: Image) -> None:
        """The next frame, RGB [height, width, 3]."""
        if image.shape != (*self.size, 3) or image.dtype != np.uint8:
            raise EpisodeError(
                f"{self._path}: frame {self.frames} is {image.shape} {image.dtype}, expected {(*self.size, 3)} uint8"
            )
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts = self.frames
        self.frames += 1
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()


def join(parts: Sequence[Path], whole: Path) -> list[Fraction]:
    """Write the parts one after the other; gives the instant [s] in the whole at which each begins."""
    begins, begin = [], Fraction(0)
    with av.open(str(whole), "w", format="mp4") as output:
        stream = None
        for part in parts:
            begins.append(begin)
            with av.open(str(part)) as source:
                template = source.streams.video[0]
                stream = stream or output.add_stream_from_template(template)
                end = Fraction(0)
                for packet in source.demux(template):
                    if packet.dts is None:
                        continue
                    base = packet.time_base
                    end = max(end, (packet.pts + packet.duration) * base)
                    shift = int(begin / base)
                    packet.pts += shift
                    packet.dts += shift
                    packet.stream = stream
                    output.mux(packet)
            begin += end
    return begins


def frame_times(path: Path, begin_s: float, end_s: float) -> Floats:
    """Stamps [s] of the frames of a file in [begin, end), without decoding.

    Raises:
        EpisodeError: the file cannot be read.
    """
    half = 0.5e-3  # s, of rounded stamps at either end
    with _opened(path) as (container, stream):
        _seek(container, stream, begin_s)
        times = []
        for packet in container.demux(stream):
            if packet.pts is None:
                continue
            time_s = float((packet.pts - (stream.start_time or 0)) * stream.time_base)
            if begin_s - half <= time_s < end_s - half:
                times.append(time_s)
            elif float((packet.dts or packet.pts) * stream.time_base) > end_s + 1.0:
                break
    return np.unique(times)


def frames_at(path: Path, times: Sequence[float]) -> Iterator[Image]:
    """The frames with the given rising stamps [s], RGB [height, width, 3].

    Raises:
        EpisodeError: the file cannot be read, is damaged, or ends too early.
    """
    if not len(times):
        return
    with _opened(path) as (container, stream):
        _seek(container, stream, times[0])
        grain = float(stream.time_base) / 2
        wanted = 0
        for frame in container.decode(stream):
            if frame.pts is None or frame.is_corrupt:
                raise EpisodeError(f"{path}: a frame near {times[wanted]:.3f} s is damaged; record or download it anew")
            time_s = float((frame.pts - (stream.start_time or 0)) * stream.time_base)
            if time_s < times[wanted] - grain:
                continue
            image = frame.to_ndarray(format="rgb24")
            while wanted < len(times) and abs(times[wanted] - time_s) <= grain:
                yield image
                wanted += 1
            if wanted == len(times):
                return
            if times[wanted] < time_s - grain:
                break
    raise EpisodeError(
        f"{path}: no frame can be decoded at {times[wanted]:.3f} s, {wanted} of {len(times)} were; the file is damaged"
    )


def frame_size(path: Path) -> tuple[int, int]:
    """(height, width) of a file. Raises EpisodeError if it cannot be read."""
    with _opened(path) as (_, stream):
        return stream.height, stream.width


class _opened:  # noqa: N801 (reads as a verb where it stands)
    """A file and its first video stream; what FFmpeg refuses becomes an EpisodeError that names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> tuple[av.container.InputContainer, av.video.stream.VideoStream]:
        if not self._path.is_file():
            raise EpisodeError(f"{self._path} is absent")
        try:
            self._container = av.open(str(self._path))
        except (av.FFmpegError, ValueError) as error:
            raise EpisodeError(f"{self._path} cannot be read as video: {error}") from error
        if not self._container.streams.video:
            self._container.close()
            raise EpisodeError(f"{self._path} has no video stream")
        stream = self._container.streams.video[0]
        if stream.codec_context is None:
            self._container.close()
            raise EpisodeError(f"{self._path} has a video stream of a kind that cannot be decoded")
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"err_detect": "explode"}
        return self._container, stream

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._container.close()
        if isinstance(error, av.FFmpegError):
            raise EpisodeError(f"{self._path} is damaged: {error}") from error


def _seek(container: av.container.InputContainer, stream: av.video.stream.VideoStream, time_s: float) -> None:
    offset = int(time_s / float(stream.time_base)) + (stream.start_time or 0)
    container.seek(max(offset, stream.start_time or 0), stream=stream, backward=True)
