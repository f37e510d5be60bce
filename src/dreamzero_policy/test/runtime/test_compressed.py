"""A picture that was cut off is no picture, though some decoders make one of it."""

import cv2
import numpy as np
import pytest

from dreamzero_policy.runtime.compressed import is_cut_off

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def encoded(extension: str) -> bytes:
    return cv2.imencode(extension, PICTURE)[1].tobytes()


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize("padding", [b"", bytes(7), bytes(5000), b"whatever a camera leaves there"])
def test_a_whole_picture_is_whole_whatever_is_behind_it(extension: str, padding: bytes) -> None:
    assert not is_cut_off(memoryview(encoded(extension) + padding))


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_picture_that_ends_in_the_middle_is_cut_off(extension: str, kept: float) -> None:
    data = encoded(extension)
    assert is_cut_off(data[: int(kept * len(data))])


def test_nothing_and_other_formats_are_left_to_their_decoders() -> None:
    assert not is_cut_off(b"") and not is_cut_off(encoded(".bmp"))
