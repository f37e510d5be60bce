"""Plots of an evaluation as inline SVG, drawn with matplotlib: nothing is loaded when the page is opened."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#2f6db3", "#d9772b", "#3a8f5c", "#9b4f96", "#7a7a7a", "#b8860b")
INK, FAINT, LINE = "#1d2430", "#6b7280", "#d5d9e0"
FIRST = ("wam-4", "vla-4", "flash-1", "wam-1", "no-injection-4", "mean-demonstration")  # where there is room for six
STYLE = {
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "svg.hashsalt": "dreamzero",  # the same plot gives the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": LINE,
}


def intervals(methods: Mapping[str, Any], splits: Sequence[str], quantity: str) -> str:
    """Every method's mean and interval, a row each, the splits beside each other in colour."""
    names = list(methods)
    figure, axes = _figure(7.2, 0.9 + 0.42 * len(names))
    for s, split in enumerate(splits):
        for row, name in enumerate(names):
            rates = methods[name][split]
            if rates["episodes"]:
                at = row + 0.24 * (s - (len(splits) - 1) / 2)
                _whisker(axes, at, rates[quantity], rates[f"{quantity}_interval"], COLOURS[s])
        axes.plot([], [], "o", color=COLOURS[s], label=split)
    _rows(axes, [methods[name]["title"] for name in names])
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set_title(f"{quantity}, mean and 95 % interval", loc="left", fontsize=10)
    axes.legend(
        frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(splits), borderaxespad=0.1
    )
    return svg(figure)


def groups(methods: Mapping[str, Any], splits: Sequence[str], by: str, quantity: str) -> str:
    """By family or novelty: a row for each group, a colour for each of six methods at most."""
    shown = sorted(methods, key=lambda name: (FIRST + (name,)).index(name))[: len(COLOURS)]
    names = sorted({(split, group) for name in shown for split in splits for group in methods[name][split][by]})
    figure, axes = _figure(7.2, 0.9 + (0.2 + 0.14 * len(shown)) * max(1, len(names)))
    for m, name in enumerate(shown):
        for row, (split, group) in enumerate(names):
            rates = methods[name][split][by].get(group)
            if rates:
                at = row + 0.8 / len(shown) * (m - (len(shown) - 1) / 2)
                _whisker(axes, at, rates[quantity], rates[f"{quantity}_interval"], COLOURS[m])
        axes.plot([], [], "o", color=COLOURS[m], label=methods[name]["title"])
    _rows(axes, [f"{group} ({split})" for split, group in names])
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set_title(f"{quantity} {by.replace('_', ' ')}", loc="left", fontsize=10)
    if len(shown) > 1:
        figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=3)
    return svg(figure)


def claims(document: Sequence[Mapping[str, Any]]) -> str:
    """The difference behind every claim against what it has to exceed."""
    measured = [claim for claim in document if claim["verdict"] != "not measured"]
    if not measured:
        return ""
    figure, axes = _figure(7.2, 0.9 + 0.36 * len(measured))
    for row, claim in enumerate(measured):
        colour = COLOURS[2] if claim["verdict"] == "holds" else COLOURS[1]
        _whisker(axes, row, claim["difference"], claim["interval"], colour)
        bound = -claim.get("margin", 0.0)
        axes.plot([bound, bound], [row - 0.35, row + 0.35], color=INK, linewidth=1)
    _rows(axes, [claim["claim"] for claim in measured])
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:+.0f}")
    axes.set_xlabel("difference [points]; the line is what has to be exceeded")
    return svg(figure)


def action_errors(open_loop: Mapping[str, Any], step_s: float) -> str:
    """Action error over the horizon of a chunk, a line for every method, a panel for every joint group."""
    measured = {name: entry for name, entry in open_loop.items() if entry["episodes"]}
    if not measured:
        return ""
    keys = list(next(iter(measured.values()))["action_error"])
    rows = -(-len(keys) // 3)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.4 + 1.9 * rows), layout="constrained")
        panels = figure.subplots(rows, 3, squeeze=False).ravel()
    for panel, key in zip(panels, keys, strict=False):
        for colour, (name, entry) in zip(COLOURS * 2, measured.items(), strict=False):
            group = entry["action_error"][key]
            seconds = [step_s * step for step in range(len(group["by_step"]))]
            panel.plot(seconds, group["by_step"], color=colour, linewidth=1.4, label=name)
        panel.set_title(f"{key.replace('_position', '').replace('_', ' ')} [{', '.join(group['unit'])}]", fontsize=8)
        panel.set_ylim(bottom=0)
        quiet(panel)
    for panel in panels[len(keys) :]:
        panel.set_axis_off()
    for panel in panels[max(0, len(keys) - 3) : len(keys)]:
        panel.set_xlabel("s into the chunk")
    figure.legend(
        *panels[0].get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside lower center", ncols=4
    )
    return svg(figure)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
    quiet(axes)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def quiet(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _whisker(axes: Axes, at: float, value: float, interval: Sequence[float], colour: str) -> None:
    axes.plot(interval, [at, at], color=colour, linewidth=2, solid_capstyle="round")
    axes.plot([value], [at], "o", color=colour, markersize=4.5)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)


def svg(figure: Figure) -> str:
    """The figure as an element of a page: without prologue, document type and metadata."""
    stream = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 width="100%"', re.sub(r' height="[\d.]+pt"', "", text, count=1))
