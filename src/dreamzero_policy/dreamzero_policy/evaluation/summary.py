"""The summary: all results of an evaluation as one plain document, what `--json` prints and the report shows."""

import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dreamzero_policy.evaluation.claims import differences, estimates, judged, pairs_of
from dreamzero_policy.evaluation.methods import Method
from dreamzero_policy.evaluation.stage import Result

PACKAGES = ("torch", "diffusers", "transformers", "mujoco", "numpy", "scipy", "ruckig")


def summarise(
    results: Sequence[Result], methods: Sequence[Method], splits: Sequence[str], window_chunks: int, top: str
) -> dict[str, Any]:
    """Everything that follows from the results alone. `top`: the method whose numbers stand for all."""
    on_top = [result for result in results if result.method == top]
    return {
        "headline": top,
        **_rates(on_top),
        "by_family": _grouped(on_top, lambda result: result.family),
        "by_novelty": _grouped(on_top, lambda result: result.novelty),
        "methods": {how.name: _method(how, results, splits) for how in methods},
        "comparisons": _comparisons(results, methods, splits, top),
        "claims": judged(results, window_chunks, top),
    }


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "system"
    return found


def _method(how: Method, results: Sequence[Result], splits: Sequence[str]) -> dict[str, Any]:
    ours = [result for result in results if result.method == how.name]
    document: dict[str, Any] = {"title": how.title, "steps": how.steps or None}
    for split in splits:
        chosen = [result for result in ours if result.split == split]
        document[split] = {
            **_rates(chosen),
            "by_family": _grouped(chosen, lambda result: result.family),
            "by_novelty": _grouped(chosen, lambda result: result.novelty),
        }
    chunks = sum(result.chunks for result in ours)
    rejected: dict[str, int] = {}
    for result in ours:
        for reason, count in result.rejected.items():
            rejected[reason] = rejected.get(reason, 0) + count
    document |= {"chunks": chunks, "rejected_chunks": rejected}
    timed = chunks and how.weights is not None
    document["model_ms"] = sum(result.model_ms * result.chunks for result in ours) / chunks if timed else None
    return document


def _rates(results: Sequence[Result]) -> dict[str, Any]:
    if not results:
        return {"episodes": 0, "success": None, "success_interval": None, "progress": None, "progress_interval": None}
    document: dict[str, Any] = {"episodes": len(results)}
    for name, estimate in estimates(results).items():
        document |= {name: estimate.value, f"{name}_interval": estimate.interval.as_list()}
    return document


def _grouped(results: Sequence[Result], key: Callable[[Result], str]) -> Mapping[str, Any]:
    names = sorted({key(result) for result in results})
    return {name: _rates([result for result in results if key(result) == name]) for name in names}


def _comparisons(
    results: Sequence[Result], methods: Sequence[Method], splits: Sequence[str], top: str
) -> list[dict[str, Any]]:
    """Every method against the one on top, split by split."""
    return [
        {"ours": how.name, "theirs": top, "split": split, **differences(pairs)}
        for how in methods
        for split in splits
        if how.name != top and (pairs := pairs_of(results, how.name, top, (split,)))
    ]
