"""msgpack with numpy arrays, as `openpi_client.msgpack_numpy` lays them out, read without trust.

An array is a map of four byte-string keys: ``__ndarray__`` (true), ``data`` (its bytes, C order), ``dtype`` (numpy's
name with byte order, ``<f4``) and ``shape``; a numpy scalar is a map of ``__npgeneric__``, ``data`` and ``dtype``.
Nothing here unpickles. Arrays that come in are read-only views of the message.
"""

from typing import Any

import msgpack
import numpy as np

DTYPES = ("|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8")
MOST_DIMENSIONS = 8
MOST_ITEMS = 4096  # of a list or a map
LONGEST_TEXT = 64 * 1024  # bytes
SCALAR_KEYS = {b"__npgeneric__", b"data", b"dtype"}
ARRAY_KEYS = {b"__ndarray__", b"data", b"dtype", b"shape"}


class ProtocolError(ValueError):
    """A message that is not one of the protocol; the text says what was found, what is expected, and where."""


def pack(message: Any) -> bytes:
    """Plain data with arrays → bytes.

    Raises:
        ProtocolError: an object that does not exist on the wire.
    """
    try:
        return msgpack.packb(message, default=_as_map)
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"cannot be sent: {error}") from error


def unpack(data: bytes) -> Any:
    """Bytes → plain data with arrays. The inverse of :func:`pack`, but for tuples, which arrive as lists.

    Raises:
        ProtocolError: the bytes are no msgpack, more than one object, nested too deeply, too long, or hold an array
            whose dtype, shape and bytes do not agree.
    """
    try:
        return msgpack.unpackb(
            data,
            object_hook=_from_map,
            max_str_len=LONGEST_TEXT,
            max_array_len=MOST_ITEMS,
            max_map_len=MOST_ITEMS,
            max_ext_len=0,
        )
    except ProtocolError:
        raise
    except (msgpack.UnpackException, ValueError, TypeError, OverflowError, RecursionError) as error:
        kind = type(error).__name__
        raise ProtocolError(
            f"{len(data)} bytes are not one msgpack object of this protocol: {kind}: {error}"
        ) from error


def _as_map(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.str not in DTYPES:
        raise ProtocolError(f"cannot be sent: dtype {value.dtype}, expected one of {', '.join(DTYPES)}")
    if isinstance(value, np.ndarray):
        array = {b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
        return {b"__ndarray__": True} | array
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise ProtocolError(f"cannot be sent: {type(value).__name__}")


def _from_map(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return _array(value)
    if b"__npgeneric__" in value:
        return _scalar(value)
    return value


def _array(value: dict[Any, Any]) -> np.ndarray:
    if set(value) != ARRAY_KEYS:
        raise ProtocolError(f"an array has the keys {sorted(map(str, value))}, expected {sorted(map(str, ARRAY_KEYS))}")
    data, shape, dtype = value[b"data"], value[b"shape"], _dtype(value[b"dtype"])
    if not isinstance(data, bytes):
        raise ProtocolError(f"an array's data is {type(data).__name__}, expected bytes")
    if not isinstance(shape, list) or len(shape) > MOST_DIMENSIONS or not all(_is_size(size) for size in shape):
        raise ProtocolError(f"an array's shape is {str(shape)[:80]}, expected up to {MOST_DIMENSIONS} sizes")
    count = 1
    for size in shape:
        count *= size
    if count * dtype.itemsize != len(data):
        raise ProtocolError(f"an array {dtype.str} {shape} has {len(data)} bytes, expected {count * dtype.itemsize}")
    return np.frombuffer(data, dtype).reshape(shape)


def _scalar(value: dict[Any, Any]) -> np.generic:
    number, dtype = value.get(b"data"), _dtype(value.get(b"dtype"))
    if set(value) != SCALAR_KEYS or not isinstance(number, bool | int | float):
        raise ProtocolError(f"a numpy scalar is {str(value)[:80]}, expected a number and its dtype")
    try:
        return dtype.type(number)
    except (OverflowError, ValueError) as error:
        raise ProtocolError(f"a numpy scalar {number!r} is no {dtype.str}: {error}") from error


def _dtype(name: Any) -> np.dtype:
    if isinstance(name, bytes):
        name = name.decode("ascii", errors="replace")
    if name not in DTYPES:
        raise ProtocolError(f"dtype is {str(name)[:80]!r}, expected one of {', '.join(DTYPES)}")
    return np.dtype(name)


def _is_size(size: Any) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**31
