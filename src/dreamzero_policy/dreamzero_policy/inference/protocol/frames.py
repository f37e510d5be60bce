"""Images on the wire: raw and PNG are lossless, JPEG has a quality. RGB in memory, whatever the file says.

A compressed image says its size in its head: one of another size than expected is refused before it is decoded, so that
a few bytes never unfold into gigabytes.
"""

import io
from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from dreamzero_policy.inference.protocol.arrays import ProtocolError
from dreamzero_policy.runtime.compressed import is_cut_off

Encoding = Literal["raw", "png", "jpeg"]
LOSSLESS = ("raw", "png")
MOST_FRAMES = 64
PNG_LEVEL = 1  # higher ones take several times as long for a few per cent


class Frames(BaseModel):
    """T images of one size."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    encoding: Encoding
    quality: Annotated[int, Field(ge=1, le=100)] | None = None  # of JPEG, as libjpeg counts; says what was done
    height: Annotated[int, Field(ge=1, le=8192)]
    width: Annotated[int, Field(ge=1, le=8192)]
    images: Annotated[list[bytes], Field(min_length=1, max_length=MOST_FRAMES)]  # raw: height * width * 3 bytes each


def encode_frames(canvas: NDArray[np.uint8], encoding: Encoding = "raw", quality: int | None = None) -> Frames:
    """RGB [T, height, width, 3] → frames on the wire.

    Raises:
        ProtocolError: the canvas is no such array, or the quality does not go with the encoding.
    """
    if canvas.dtype != np.uint8 or canvas.ndim != 4 or canvas.shape[3] != 3 or not 1 <= len(canvas) <= MOST_FRAMES:
        raise ProtocolError(
            f"frames are uint8 [1 to {MOST_FRAMES}, height, width, 3], got {canvas.dtype} {list(canvas.shape)}"
        )
    if (quality is not None) != (encoding == "jpeg"):
        raise ProtocolError(f"a quality goes with jpeg and with nothing else, got {encoding} and {quality}")
    if encoding == "raw":
        images = [frame.tobytes() for frame in canvas]
    else:
        options = (
            (cv2.IMWRITE_JPEG_QUALITY, quality) if encoding == "jpeg" else (cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL)
        )
        suffix = ".jpg" if encoding == "jpeg" else ".png"
        images = [cv2.imencode(suffix, frame[..., ::-1], options)[1].tobytes() for frame in canvas]
    _, height, width, _ = canvas.shape
    return Frames(encoding=encoding, quality=quality, height=height, width=width, images=images)


def decode_frames(frames: Frames) -> NDArray[np.uint8]:
    """Frames on the wire → RGB [T, height, width, 3], writable.

    Raises:
        ProtocolError: an image is damaged, of another kind than it says, or of another size.
    """
    if frames.encoding != "raw":
        return np.stack([_decompressed(frames, image) for image in frames.images])
    size = frames.height * frames.width * 3
    for image in frames.images:
        if len(image) != size:
            raise ProtocolError(
                f"a raw frame of {frames.height} x {frames.width} has {len(image)} bytes, expected {size}"
            )
    pixels = np.frombuffer(bytearray(b"".join(frames.images)), np.uint8)
    return pixels.reshape(-1, frames.height, frames.width, 3)


def _decompressed(frames: Frames, data: bytes) -> NDArray[np.uint8]:
    try:
        with Picture.open(io.BytesIO(data), formats=(frames.encoding.upper(),)) as head:
            width, height = head.size
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Picture.DecompressionBombError) as error:
        raise ProtocolError(f"a frame of {len(data)} bytes is no {frames.encoding}: {error}") from error
    if (height, width) != (frames.height, frames.width):
        raise ProtocolError(f"a frame is {height} x {width}, the message says {frames.height} x {frames.width}")
    if is_cut_off(memoryview(data)):
        raise ProtocolError(f"a frame of {len(data)} bytes is cut off: the end marker of {frames.encoding} is missing")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ProtocolError(f"a frame of {len(data)} bytes is a damaged {frames.encoding}: {error}") from error
    if image is None or image.shape != (height, width, 3):
        raise ProtocolError(f"a frame of {len(data)} bytes is a damaged {frames.encoding}")
    return image
