"""The canvas: from camera images to the one image the model sees, as the contract's model section lays it out.

Crop, antialiased bilinear resize, truncation to uint8 and tiling follow DreamZero's evaluation transforms
(dreamzero0/dreamzero at ab790c1). All images are RGB, rows first. Pure numpy.
"""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.runtime.contract import ModelSection, Part, Tile

Image = NDArray[np.uint8]


GROUP = 4  # taps that torch's kernel multiplies at once


def view_of(image: Image, crop: float | Part, size_px: tuple[int, int]) -> Image:
    """Camera image [height, width, 3] → view of `size_px` (height, width), of what `cropped_pixels` keeps."""
    view_height, view_width = size_px
    rows, kept = cropped_pixels(image.shape[:2], crop)
    cropped = np.ascontiguousarray(image[rows, kept])
    kept_height, kept_width, channels = cropped.shape
    columns = _transposed(cropped).reshape(kept_width, -1).astype(np.float32)
    columns /= np.float32(255)
    narrow = _resized(columns, view_width).reshape(view_width, kept_height, channels)
    low = _resized(_transposed(narrow).reshape(kept_height, -1), view_height)
    return (low * np.float32(255)).astype(np.uint8).reshape(view_height, view_width, channels)


def canvas_of(views: Mapping[str, Image], model: ModelSection) -> Image:
    """Views [T, view height, view width, 3] of every camera → canvas [T, height, width, 3].

    A view narrower than its tile is stretched by repeating its pixel columns.

    Raises:
        ValueError: a camera is absent, a view has another size, or cameras have different numbers of frames.
    """
    if absent := [camera for camera in model.cameras if camera not in views]:
        raise ValueError(f"no views of cameras {absent}, only of {sorted(views)}")
    frames = len(views[model.cameras[0]])
    for camera in model.cameras:
        if views[camera].shape != (expected := (frames, *model.view_size_px(camera), 3)):
            raise ValueError(f"views of {camera} are {views[camera].shape}, expected {expected}")
    canvas = np.zeros((frames, *model.canvas_size_px, 3), np.uint8)
    for tile in model.canvas.tiles:
        rows, columns, repeats = _place(model, tile)
        for repeat in range(repeats):
            canvas[:, rows, columns.start + repeat : columns.stop : repeats] = views[tile.camera]
    return canvas


def camera_view(canvas: Image, model: ModelSection, camera: str) -> Image:
    """One camera's view [..., view height, view width, 3] cut out of a canvas [..., height, width, 3]."""
    rows, columns, repeats = _place(model, model.tile(camera))
    return canvas[..., rows, columns.start : columns.stop : repeats, :]


def cameras_of_cells(model: ModelSection, grid: tuple[int, int]) -> NDArray[np.int64]:
    """Which of the contract's cameras is seen in the middle of each cell of a grid (rows, columns) over the canvas.

    -1 where no tile is.
    """
    height, width = model.canvas_size_px
    shown = np.full((height, width), -1, np.int64)
    for tile in model.canvas.tiles:
        rows, columns, _ = _place(model, tile)
        shown[rows, columns] = model.cameras.index(tile.camera)
    middles = [
        (np.arange(count) * 2 + 1) * size // (2 * count) for count, size in zip(grid, (height, width), strict=True)
    ]
    return shown[np.ix_(*middles)]


def _place(model: ModelSection, tile: Tile) -> tuple[slice, slice, int]:
    """Pixel rows and columns of a tile, and how often each pixel column of its view stands there."""
    height, width = model.view.height_px, model.view.width_px
    rows = slice(tile.row * height, (tile.row + tile.rows) * height)
    columns = slice(tile.column * width, (tile.column + tile.columns) * width)
    return rows, columns, (columns.stop - columns.start) // model.view_size_px(tile.camera)[1]


def cropped_pixels(size_px: tuple[int, int], crop: float | Part) -> tuple[slice, slice]:
    """Rows and columns that a view shows of an image of `size_px` (height, width).

    A share keeps ⌊crop · size⌋ pixels around the centre, half-pixel offsets rounded to even; a part keeps the whole
    pixels nearest to its edges.
    """
    height, width = size_px
    if isinstance(crop, Part):
        return (
            slice(round(crop.top * height), round(crop.bottom * height)),
            slice(round(crop.left * width), round(crop.right * width)),
        )
    return _centred(height, crop), _centred(width, crop)


def _centred(size: int, crop: float) -> slice:
    kept = int(crop * size)
    first = round((size - kept) / 2)
    return slice(first, first + kept)


def _transposed(pixels: NDArray) -> NDArray:
    """Rows and columns [a, b, channels] swapped, in memory of its own: whole pixels move, not single channels."""
    rows, columns, channels = pixels.shape
    whole = pixels.view(np.dtype((np.void, pixels.itemsize * channels)))[..., 0]
    return np.ascontiguousarray(whole.T).view(pixels.dtype).reshape(columns, rows, channels)


def _resized(lines: NDArray[np.float32], size_out: int) -> NDArray[np.float32]:
    """Lines [size_in, …] → [size_out, …], resized along the first axis.

    Sums run tap by tap with the roundings of torch's float32 kernel. That is not pedantry: views are truncated to uint8
    and flat surfaces stand on whole levels, so that one unit in the last place decides between two levels there.
    """
    total = np.zeros((size_out, lines.shape[1]), np.float32)
    line, wide = np.empty_like(total), np.empty(total.shape)
    for index, rounded, fused in _passes(len(lines), size_out):
        np.take(lines, index, axis=0, out=line, mode="clip")
        if fused.any():  # product and sum rounded once; a product of two float32 is exact in float64
            np.multiply(line, fused, out=wide, dtype=np.float64)
            np.add(wide, total, out=wide)
            total[...] = wide
        if rounded.any():
            np.multiply(line, rounded, out=line)
            np.add(total, line, out=total)
    return total


@lru_cache(maxsize=64)
def _passes(size_in: int, size_out: int) -> list[tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32]]]:
    """For each tap: the input line of every output, and its weight [size_out, 1] split by how it is added.

    Torch's kernel rounds the first product and those of whole groups of the taps that follow; the rest it fuses.
    """
    index, weights, number = antialiased_bilinear(size_in, size_out)
    unfused = 1 + (number - 1) // GROUP * GROUP
    taps = np.arange(len(weights))[:, None]
    rounded, fused = np.where(taps < unfused, weights, 0), np.where(taps < unfused, 0, weights)
    return list(zip(index, rounded[..., None], fused[..., None], strict=True))


def antialiased_bilinear(size_in: int, size_out: int) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.intp]]:
    """Which pixels make each output pixel and with what weight, [taps, size_out], and the number of taps [size_out].

    A triangle filter that widens with the scale when shrinking, its weights summing to 1: the rule of PIL and torch's
    `interpolate(mode="bilinear", antialias=True)`, in the latter's float32 arithmetic.
    """
    half, one = np.float32(0.5), np.float32(1)
    scale = np.float32(size_in) / np.float32(size_out)
    support = max(scale, one)
    centres = scale * (np.arange(size_out, dtype=np.float32) + half)
    first = np.maximum((centres - support + half).astype(np.intp), 0)
    end = np.minimum((centres + support + half).astype(np.intp), size_in)
    taps = np.arange((end - first).max())[:, None]
    distance = np.abs((taps.astype(np.float32) + (first.astype(np.float32) - centres) + half) * (one / support))
    weights = np.where(first + taps < end, np.maximum(one - distance, np.float32(0)), np.float32(0))
    return np.minimum(first + taps, size_in - 1), weights / weights.sum(0), end - first
