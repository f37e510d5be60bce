"""Methods: the ways to act that are compared, by name.

`wam-N`, `flash-N` and `vla-N` are a checkpoint (the one under evaluation, its Flash version, its VLA-like twin trained
without the video loss) with N denoising steps. `no-injection-N` is the checkpoint under evaluation whose past, after
the first frame of a window, is what it predicted itself. The rest have no model. `demonstration` is the suite's own
expert played through the loop: what the runtime leaves to any policy. The others look at nothing: `random`, `hold`
(stand still) and `mean-demonstration`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Weights = Literal["checkpoint", "flash", "vla"]

TABLE = (
    "wam-16",
    "wam-4",
    "wam-1",
    "flash-4",
    "flash-1",
    "no-injection-4",
    "no-injection-1",
    "vla-4",
    "vla-1",
    "demonstration",
    "random",
    "hold",
    "mean-demonstration",
)
WITHOUT_MODEL: Mapping[str, str] = {
    "demonstration": "demonstrations through the loop",
    "random": "random smooth motion",
    "hold": "hold still",
    "mean-demonstration": "replay of the mean demonstration",
}
MODELS: Mapping[str, tuple[Weights, str]] = {
    "wam": ("checkpoint", "WAM"),
    "flash": ("flash", "Flash"),
    "no-injection": ("checkpoint", "WAM without injection"),
    "vla": ("vla", "VLA-like twin"),
}
OPTIONS: Mapping[Weights, str] = {
    "checkpoint": "--checkpoint",
    "flash": "--flash-checkpoint",
    "vla": "--vla-checkpoint",
}
REFERENCE = "wam-4"  # what others are compared with, and whose numbers stand on top, where it was measured
MOST_STEPS = 64
A_DEMONSTRATOR = "a --world that can demonstrate its tasks (a suite with the method `demonstration`)"


class MethodError(ValueError):
    """A method that does not exist or lacks what it needs; the message names it."""


@dataclass(frozen=True)
class Method:
    """One way to act."""

    name: str
    title: str
    weights: Weights | None = None  # None: no model
    steps: int = 0
    injection: bool = True  # real frames enter the cache


def method(name: str) -> Method:
    """The method of this name. Raises MethodError for an unknown one."""
    if name in WITHOUT_MODEL:
        return Method(name, WITHOUT_MODEL[name])
    found = re.fullmatch(rf"({'|'.join(MODELS)})-(\d+)", name)
    if not found or not 1 <= int(found[2]) <= MOST_STEPS:
        raise MethodError(
            f"no method {name!r}; expected {', '.join(f'{kind}-N' for kind in MODELS)} with N denoising steps "
            f"(1 to {MOST_STEPS}), {', '.join(WITHOUT_MODEL)}"
        )
    weights, title = MODELS[found[1]]
    steps = int(found[2])
    return Method(name, f"{title}, {steps} step{'s' * (steps > 1)}", weights, steps, found[1] != "no-injection")


def lack(wanted: Method, weights: Iterable[str], demonstrations: Path | None, demonstrates: bool) -> str:
    """What a method needs and does not have; empty if nothing. `demonstrates`: whether the suite has demonstrations."""
    if wanted.weights is not None and wanted.weights not in weights:
        return OPTIONS[wanted.weights]
    if wanted.name == "mean-demonstration" and demonstrations is None and not demonstrates:
        return f"--demonstrations or {A_DEMONSTRATOR}"
    if wanted.name == "demonstration" and not demonstrates:
        return A_DEMONSTRATOR
    return ""


def headline(names: Iterable[str], served: str = REFERENCE) -> str:
    """The method whose numbers stand on top of a result: as the checkpoint is `served`, the reference, or the first."""
    names = list(names)
    return next((name for name in (served, REFERENCE) if name in names), names[0])
