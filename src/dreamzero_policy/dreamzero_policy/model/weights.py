"""Tensors in safetensors files: what is in them, reading them in place, writing them in shards.

A file is an 8-byte little-endian length, a JSON header (name to dtype, shape and byte range) and the data. Decisions:

* headers are read alone, so that a checkpoint of any size is described at once, also one whose data is a hole;
* every header is checked against the size of its file: a file that was cut off is found before anything is loaded;
* tensors are views of the mapped file; nothing is copied until somebody changes a dtype;
* writing streams: one tensor is in memory at a time, shards are planned before.

Nothing here executes what it reads. Torch's own files (.pt, .pth) are read only when asked for, through
``weights_only=True``; any other pickle is refused.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TORCH_SUFFIXES = (".pt", ".pth")
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
REMAP_BYTES = 256 << 20  # a mapping is renewed after so many bytes, so that pages of converted tensors are given back
SHARD_BYTES = 5 << 30
ALIGNMENT = 8  # of the data, as the format asks


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be loaded; the message names the file and, where there is one, the key."""


@dataclass(frozen=True)
class TensorInfo:
    """What a header says about a tensor: its dtype under the format's name, its shape, its file and byte range."""

    dtype: str
    shape: tuple[int, ...]
    file: Path | None = None
    start: int = 0  # bytes from the beginning of the file

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * DTYPES[self.dtype].itemsize


class Weights(Mapping[str, Tensor]):
    """The tensors of some files by name. Looking one up maps it; :attr:`infos` needs headers only.

    ``loaded`` holds tensors that are there already, from a torch file.
    """

    def __init__(self, infos: dict[str, TensorInfo], loaded: dict[str, Tensor] | None = None) -> None:
        self.infos = infos
        self._loaded = loaded or {}
        self._maps: dict[Path, Tensor] = {}
        self._served: dict[Path, int] = {}

    def __getitem__(self, key: str) -> Tensor:
        if key in self._loaded:
            return self._loaded[key]
        info = self.infos[key]
        if info.file not in self._maps:
            self._maps[info.file] = map_file(info.file)
            self._served[info.file] = 0
        dtype, data = DTYPES[info.dtype], self._maps[info.file][info.start : info.start + info.nbytes]
        self._served[info.file] += info.nbytes
        if self._served[info.file] > REMAP_BYTES:
            del self._maps[info.file]  # tensors still in use keep the mapping they came from
        if info.start % dtype.itemsize:
            data = data.clone()  # no dtype can look at bytes that are not aligned for it
        return data.view(dtype).view(info.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)


def map_file(path: Path) -> Tensor:
    """The bytes of a file, mapped; changing them does not change the file."""
    try:
        return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be mapped: {error}") from error


def read_header(path: Path) -> dict[str, TensorInfo]:
    """What is in one safetensors file. Raises :class:`CheckpointError` when the file is not whole."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))
            if length > LONGEST_HEADER:
                raise CheckpointError(f"{path} is not a safetensors file")
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if len(text) < length:
        raise CheckpointError(
            f"{path} cannot be read, it may be cut off: its header needs {8 + length} bytes, the file has {size}"
        )
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        entries = {
            key: (TensorInfo(v["dtype"], tuple(v["shape"]), path, 8 + length + v["data_offsets"][0]), v["data_offsets"])
            for key, v in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    for key, (info, (start, end)) in entries.items():
        if info.dtype not in DTYPES:
            raise CheckpointError(f"{path}: {key} has dtype {info.dtype}, known are {', '.join(DTYPES)}")
        if end - start != info.nbytes:
            raise CheckpointError(
                f"{path}: {key} of shape {list(info.shape)} and dtype {info.dtype} needs {info.nbytes} bytes, "
                f"its header reserves {end - start}"
            )
        if 8 + length + end > size:
            raise CheckpointError(
                f"{path} cannot be read, it may be cut off: {key} {list(info.shape)} ends at byte "
                f"{8 + length + end}, the file has {size}"
            )
    return {key: info for key, (info, _) in entries.items()}


def open_weights(folder: Path, names: Iterable[str], *, torch_files: bool = False) -> Weights:
    """The weights of a folder: the first of the file names that exists, or the shards that its index lists.

    With ``torch_files``, a folder without safetensors may have one .pt or .pth file instead, which is read with
    ``weights_only=True``. Raises :class:`CheckpointError`.
    """
    names = tuple(names)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} does not exist")
    for name in names:
        if (folder / f"{name}.index.json").is_file():
            return Weights(_read_shards(folder, folder / f"{name}.index.json"))
        if (folder / name).is_file():
            return Weights(read_header(folder / name))
    pickles = sorted(path for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    plain = [path for path in pickles if path.suffix in TORCH_SUFFIXES]
    if torch_files and len(plain) == 1:
        return read_torch_file(plain[0])
    hint = f"; {pickles[0].name} is a pickle and is not read, convert it to safetensors" if pickles else ""
    raise CheckpointError(f"{folder} has no weights, expected {' or '.join(names)}{hint}")


def _read_shards(folder: Path, index: Path) -> dict[str, TensorInfo]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} is not an index of shards: {error!r}") from error
    headers = {}
    for shard in shards:
        if not (folder / shard).is_file():
            raise CheckpointError(f"{folder / shard} is named by the index and does not exist")
        headers[shard] = read_header(folder / shard)
    for key, shard in weight_map.items():
        if key not in headers[shard]:
            raise CheckpointError(f"{index} says that {key} is in {shard}, which does not have it")
    return {key: info for header in headers.values() for key, info in header.items()}


def read_torch_file(path: Path) -> Weights:
    """The tensors of a .pt or .pth file, mapped; nothing it contains is executed. Raises :class:`CheckpointError`."""
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises its unpickler's, zipfile's and its own errors
        raise CheckpointError(f"{path} cannot be read as plain tensors: {str(error).splitlines()[0]}") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path} is not a table of tensors")
    if odd := {str(value.dtype) for value in tensors.values()} - {str(dtype) for dtype in DTYPE_NAMES}:
        raise CheckpointError(f"{path} has tensors of dtype {', '.join(sorted(odd))}")
    return Weights({k: TensorInfo(DTYPE_NAMES[v.dtype], tuple(v.shape), path) for k, v in tensors.items()}, tensors)


# ------------------------------------------------------------------------------------------------- writing


def write_weights(
    folder: Path,
    name: str,
    tensors: Mapping[str, TensorInfo],
    get: Callable[[str], Tensor] | None,
    *,
    shard_bytes: int = SHARD_BYTES,
    always_index: bool = False,
) -> list[Path]:
    """Write tensors as ``name``, or in shards with an index when they are more than ``shard_bytes``.

    Args:
        folder: created when missing.
        name: file name without shards, e.g. ``model.safetensors``.
        tensors: what will be written, in this order; files and offsets in it are ignored.
        get: gives one tensor at a time; None leaves a hole in place of the data, which costs no disk.
        shard_bytes: largest data of a shard; a larger tensor gets a shard of its own.
        always_index: write shards and index even where one file would do.
    """
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes must be at least 1, got {shard_bytes}")
    folder.mkdir(parents=True, exist_ok=True)
    shards = _plan(tensors, shard_bytes)
    stem = name.removesuffix(".safetensors")
    files = [f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    indexed = always_index or len(shards) > 1
    if not indexed:
        files = [name]
    for file, keys in zip(files, shards, strict=True):
        _write_file(folder / file, {key: tensors[key] for key in keys}, get)
    if indexed:
        index = {
            "metadata": {"total_size": sum(info.nbytes for info in tensors.values())},
            "weight_map": {key: file for file, keys in zip(files, shards, strict=True) for key in keys},
        }
        (folder / f"{name}.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return [folder / file for file in files]


def _plan(tensors: Mapping[str, TensorInfo], shard_bytes: int) -> list[list[str]]:
    shards, filled = [[]], 0
    for key, info in tensors.items():
        if shards[-1] and filled + info.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += info.nbytes
    return shards


def _write_file(path: Path, tensors: dict[str, TensorInfo], get: Callable[[str], Tensor] | None) -> None:
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for key, info in tensors.items():
        header[key] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [end, end + info.nbytes]}
        end += info.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if get is None:
            file.truncate(8 + len(text) + end)
            return
        for key, info in tensors.items():
            tensor = get(key)
            if tuple(tensor.shape) != info.shape or DTYPE_NAMES[tensor.dtype] != info.dtype:
                raise CheckpointError(
                    f"{path}: {key} was announced as {info.dtype} {list(info.shape)} and is "
                    f"{DTYPE_NAMES[tensor.dtype]} {list(tensor.shape)}"
                )
            file.write(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
