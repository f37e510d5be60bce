"""Compiled kernels in numpy's place: what sampling, fading and judging a plan costs most of its time for.

A splice is some three hundred calls of numpy on arrays so small that the calls cost more than the numbers. The kernels
(`_kernels.c`) do the same operations in the same order in a few calls, bit for bit. The numpy code remains: it is the
reference that tests hold them to, it says why something breaks a limit, and it runs wherever the kernels are not: with
DREAMZERO_KERNELS=numpy, where no C compiler was at hand, or where they were built from another source than lies here.

They are built with the package (setup.py), so nothing is compiled at run time and nothing is written anywhere. A call
holds the interpreter's lock.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.runtime.embodiment import Floats

SWITCH = "DREAMZERO_KERNELS"  # numpy: without the kernels; compiled: not without them
SOURCE = Path(__file__).with_name("_kernels.c")


def _loaded(wanted: str) -> tuple[ModuleType | None, str]:
    """The compiled module, or why there is none.

    Raises:
        ImportError: there is none, and it is asked for.
        ValueError: the switch has another value than it may.
    """
    if wanted not in ("", "numpy", "compiled"):
        raise ValueError(f"{SWITCH} is {wanted!r}, it may be 'numpy', 'compiled' or not set")
    if wanted == "numpy":
        return None, f"{SWITCH}=numpy"
    try:
        from dreamzero_policy.runtime import _kernels
    except ImportError as error:
        module, why = None, f"not built: {error}"
    else:
        stale = SOURCE.is_file() and hashlib.sha256(SOURCE.read_bytes()).hexdigest() != _kernels.SOURCE
        module, why = (None, f"built from another {SOURCE.name} than lies here") if stale else (_kernels, "")
    if wanted == "compiled" and module is None:
        raise ImportError(
            f"{SWITCH}=compiled, but the kernels are {why}; build the package (make setup, or colcon build)"
        )
    return module, why


_compiled, _why_not = _loaded(os.environ.get(SWITCH, ""))


def in_use() -> bool:
    """Whether the functions below may be called."""
    return _compiled is not None


def told() -> str:
    """Which kernels are in use, for a person."""
    return "compiled" if in_use() else f"numpy ({_why_not})"


@contextlib.contextmanager
def switched_off() -> Iterator[None]:
    """The reference meanwhile, in all threads."""
    global _compiled, _why_not
    before = _compiled, _why_not
    _compiled, _why_not = None, "switched off"
    try:
        yield
    finally:
        _compiled, _why_not = before


def sample(
    knots_ns: NDArray[np.int64], positions: Floats, velocities: Floats, instants_ns: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """`Plan.sampled`: positions and velocities [T, J] at instants [T]."""
    shape = len(instants_ns), positions.shape[1]
    at, speeds = np.empty(shape), np.empty(shape)
    _called(_compiled.sample, knots_ns, positions, velocities, instants_ns, at, speeds)
    return at, speeds


def last_acceleration(knots_ns: NDArray[np.int64], positions: Floats, velocities: Floats) -> Floats:
    """`Plan.acceleration_at_end` [J]."""
    out = np.empty(positions.shape[1])
    _called(_compiled.last_acceleration, knots_ns, positions, velocities, out)
    return out


def fade(old: Floats, rows: Floats, step_ns: int, span_ns: float) -> Floats:
    """`faded_in` of plan.py: rows [H, J] faded in over a span."""
    out = np.empty(rows.shape)
    _called(_compiled.fade, old, rows, step_ns, span_ns, out)
    return out


def plan_within(
    knots_ns: NDArray[np.int64],
    positions: Floats,
    velocities: Floats,
    table: Floats,
    tolerances: tuple[float, float, float],
    control_ns: int,
    control_s: float,
) -> bool:
    """`Limits.judged`: whether a plan keeps the limits. Tolerances: ROUNDING, OUTSIDE, START_EXCESS of limits.py."""
    plan = knots_ns, positions, velocities
    return _called(_compiled.plan_within, *plan, table, *tolerances, control_ns, control_s)


def end_within(
    knots_ns: NDArray[np.int64],
    positions: Floats,
    velocities: Floats,
    table: Floats,
    tolerances: tuple[float, float, float],
) -> bool:
    """`Limits.end_judged`: whether a plan ends where a tail may begin."""
    return _called(_compiled.end_within, knots_ns, positions, velocities, table, *tolerances)


def rows_within(rows: Floats, present: Floats, table: Floats, rounding: float) -> bool:
    """`Limits.rows_judged`: whether rows [H, J] are finite and begin near where the plan is [J]."""
    return _called(_compiled.rows_within, rows, present, table, rounding)


def _called(kernel: Callable[..., Any], *arguments: Any) -> Any:
    """What a kernel says. Arrays of another layout or kind than it takes, which are rare, are copied.

    Raises:
        ValueError: arrays do not fit each other; the message has both sizes.
    """
    try:
        return kernel(*arguments)
    except (BufferError, TypeError, ValueError):
        return kernel(*map(_plain, arguments))


def _plain(argument: Any) -> Any:
    """An array in the form that kernels take, which is the very same one if it was already; all else as it is."""
    if not isinstance(argument, np.ndarray):
        return argument
    return np.ascontiguousarray(argument, np.int64 if argument.dtype.kind == "i" else np.float64)
