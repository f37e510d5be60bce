"""What a page draws: joints, thinned out and packed into a few bytes a number, and the numbers of every chunk.

A position is a sixteen-bit share of its joint's range, finer than any screen. However long a recording is, joints take
no more than about 3 MB of the page.
"""

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.replay.report.tables import SERIES
from dreamzero_policy.runtime.contract import ModelSection
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S

MOST_ROWS = 20_000
LEVELS = 65_534  # of a packed number; one more stands for "not known"


def seconds_since(begin_ns: int, instants_ns: NDArray[np.int64]) -> Floats:
    return (instants_ns - begin_ns) / NS_PER_S


def joints(columns: dict[str, Floats], model: ModelSection, begin_ns: int) -> dict[str, Any]:
    """Every commanded joint: its rows as predicted, chunk by chunk, and what was recorded, by time."""
    times_s = seconds_since(begin_ns, columns["time_ns"])
    order = np.unique(times_s, return_index=True)[1]  # chunks may overlap: an instant is recorded once
    drawn = []
    for group in model.action:
        if not group.commanded:
            continue
        for joint, unit in zip(group.joints, (_unit(unit) for unit in group.units), strict=True):
            values = {series: columns[f"{series}/{joint}"].astype(np.float64) for series in SERIES}
            known = np.concatenate([column[np.isfinite(column)] for column in values.values()])
            low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
            packed = {"predicted": _packed(values["predicted"], low, high)}
            packed |= {series: _packed(values[series][order], low, high) for series in SERIES[1:]}
            if not np.isfinite(values["commands"]).any():
                del packed["commands"]
            drawn.append({"name": joint, "group": group.key, "unit": unit, "low": low, "high": high, **packed})
    return {
        "times": _base64(times_s.astype("<f4")),
        "chunk": _base64(columns["chunk"].astype("<i4")),
        "executed": _base64(columns["executed"].astype("u1")),
        "recorded_times": _base64(times_s[order].astype("<f4")),
        "joints": drawn,
    }


def chunks(results: list[dict[str, Any]], begin_s: float, span_s: float) -> list[dict[str, Any]]:
    """The numbers of every chunk that are drawn over time; `span_s` is how long one lasts."""
    return [
        {
            "at": _short(chunk["stamp_s"] - begin_s),
            "start": _short((chunk["start_s"] or chunk["stamp_s"]) - begin_s),
            "span": _short(span_s),
            "index": chunk["index"],
            "epoch": chunk["epoch"],
            "prompt": chunk["prompt"],
            "verdict": chunk["verdict"],
            "regime": chunk["regime"],
            "model_ms": _short(1e3 * chunk["model_s"]),
            "live_ms": {k: _short(1e3 * s) for k, s in chunk["live"]["stages_s"].items()} if chunk["live"] else None,
            "latency_ms": _short(1e3 * chunk["latency_s"]),
            "commands": _mean(chunk["error"]["commands"]),
            "states": _mean(chunk["error"]["states"]),
            "surprise": _short(chunk["surprise"]),
            "still": _short(chunk["still"]),
            "change": _short(chunk["counterfactual"]["mean_change"]) if chunk["counterfactual"] else None,
        }
        for chunk in results
    ]


class Horizon:
    """Mean distance from what was recorded, by row of a chunk and group of joints."""

    def __init__(self, model: ModelSection) -> None:
        names = model.commanded_joints
        self._groups = {
            group.key: ([names.index(joint) for joint in group.joints], sorted({_unit(unit) for unit in group.units}))
            for group in model.action
            if group.commanded
        }
        self._rows = model.chunk.actions
        self._sums = {against: np.zeros((self._rows, len(names))) for against in SERIES[1:]}
        self._counts = {against: np.zeros((self._rows, 1)) for against in SERIES[1:]}

    def add(self, positions: Floats, recorded: dict[str, Floats | None]) -> None:
        for against, rows in recorded.items():
            if rows is None or not np.isfinite(positions).all():
                continue
            known = np.isfinite(rows).all(axis=1, keepdims=True)
            self._sums[against] += np.where(known, np.abs(positions - rows), 0.0)
            self._counts[against] += known

    def as_dict(self, step_s: float) -> dict[str, Any]:
        """`seconds` into a chunk, and for every group what it is measured in and the means, null where unknown."""
        found = {"seconds": [_short(row * step_s) for row in range(self._rows)], "groups": []}
        for key, (columns, units) in self._groups.items():
            entry: dict[str, Any] = {"name": key, "unit": ", ".join(units)}
            for against, sums in self._sums.items():
                counts = self._counts[against][:, 0]
                means = sums[:, columns].mean(axis=1) / np.maximum(counts, 1)
                entry[against] = [_short(value) if n else None for value, n in zip(means, counts, strict=True)]
            found["groups"].append(entry)
        return found


def _unit(unit: str) -> str:
    """Of a joint target: grippers are shares of their range for the model, and angles of their driven joint here."""
    return "m" if unit == "m" else "rad"


def _packed(values: Floats, low: float, high: float) -> str:
    share = (values - low) / ((high - low) or 1.0)
    known = np.isfinite(share)
    levels = np.zeros(len(share), "<u2")
    levels[known] = np.round(share[known].clip(0.0, 1.0) * LEVELS) + 1
    return _base64(levels)


def _base64(values: NDArray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _mean(error: dict[str, Any] | None) -> float | None:
    return None if error is None else _short(error["mean"])


def _short(value: float | None) -> float | None:
    """As many digits as anybody can see."""
    return None if value is None else float(f"{value:.6g}")
