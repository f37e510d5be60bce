"""The plot of `dreamzero bench motion`: all executors, a panel for each quantity, latency to the right."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from dreamzero_policy.evaluation.plots import COLOURS, LINE, STYLE, quiet, svg

PANELS = (  # key, title, whether the scale is logarithmic (from the value below which all are alike)
    ("max_seam_velocity_jump_rad_s", "largest velocity jump at a seam [rad/s]", 1e-2),
    ("peak_jerk_rad_s3", "peak jerk [rad/s³]", 1e2),
    ("idle_fraction", "time without a predicted row, share", None),
    ("command_age_s", "age of what commands [s]", None),
    ("tracking_error_rad", "tracking error, rms [rad]", None),
    ("progress", "progress of the task", None),
)
STANDING_STILL = ("idle_fraction", "progress")  # what an executor that never moves has as well


def motion_plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """An SVG element. Values of None are left out."""
    names, latencies = (list(dict.fromkeys(row[key] for row in rows)) for key in ("executor", "latency_s"))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 5.4), layout="constrained")
        panels = figure.subplots(2, 3).ravel()
    for panel, (key, title, smallest) in zip(panels, PANELS, strict=True):
        for number, name in enumerate(names):
            own = [row for row in rows if row["executor"] == name and row[key] is not None]
            # who never moved has no jumps, no jerk and no error to show
            shown = [row for row in own if key in STANDING_STILL or row["idle_fraction"] != 1.0]
            first = number == 0
            panel.plot(
                [latencies.index(row["latency_s"]) for row in shown],
                [row[key] for row in shown],
                "o-",
                color=COLOURS[number % len(COLOURS)],
                linewidth=2.2 if first else 1.2,
                markersize=5 if first else 3.5,
                zorder=3 if first else 2,
                label=name.replace("_", " "),
            )
        panel.set_xticks(range(len(latencies)), [f"{latency:g}" for latency in latencies])
        if smallest is not None:
            panel.set_yscale("symlog", linthresh=smallest)
        panel.set_ylim(bottom=0)
        panel.set_title(title, loc="left", fontsize=9)
        panel.grid(axis="y", color=LINE, linewidth=0.6)
        quiet(panel)
    for panel in panels[3:]:
        panel.set_xlabel("latency of an answer [s]")
    figure.legend(
        *panels[0].get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside lower center", ncols=5
    )
    return svg(figure)
