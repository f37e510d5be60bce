"""The report: one HTML file with the table, the claims, plots and films. Everything is inside; it loads nothing."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from dreamzero_policy.evaluation import plots
from dreamzero_policy.evaluation.films import Film

QUANTITIES = ("success", "progress")
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2430; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.faint, td.faint, figcaption { color: #6b7280; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #d5d9e0; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; min-width: 12rem; white-space: normal; }
th { white-space: normal; vertical-align: bottom; }
td.holds { color: #23724a; font-weight: 600; } td.fails { color: #b4531a; font-weight: 600; }
div.films { display: grid; grid-template-columns: repeat(auto-fill, minmax(26rem, 1fr)); gap: 1rem; }
figure { margin: 0; } video { width: 100%; background: #181818; }
svg { font-family: system-ui, sans-serif; max-width: 100%; height: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .85rem; }
dt { color: #6b7280; } dd { margin: 0; overflow-wrap: anywhere; }
"""


def page(document: Mapping[str, Any], films: Sequence[Film]) -> str:
    """The whole file."""
    methods, suites = document["methods"], document["suites"]
    sections = [
        f"<h1>Evaluation: {escape(methods[document['headline']]['title'])}</h1>",
        f'<p class="faint">{_scope(document)}</p>',
        "<h2>All methods</h2>",
        _table(methods, suites),
        *(plots.intervals(methods, suites, quantity) for quantity in QUANTITIES),
        "<h2>Claims</h2>",
        _claims(document["claims"]),
        plots.claims(document["claims"]),
        "<h2>By family and by what is new</h2>",
        *(plots.groups(methods, suites, by, quantity) for by in ("by_family", "by_novelty") for quantity in QUANTITIES),
        *_open_loop(document),
        *_films(films),
        "<h2>Made with</h2>",
        _made_with(document),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>dreamzero eval</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def rate(value: float | None, interval: Sequence[float] | None) -> str:
    """`62.2 % (55.0 to 69.1)`, or a dash where nothing was measured."""
    if value is None:
        return "–"
    return f"{100 * value:.1f} % ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def points(value: float, interval: Sequence[float]) -> str:
    """A difference, in points."""
    return f"{100 * value:+.1f} ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})"


def _scope(document: Mapping[str, Any]) -> str:
    seeds = document["seeds"]
    return (
        f"{seeds['episodes_per_suite']} episodes of {escape(' and '.join(document['suites']))} each, seeds "
        f"{seeds['first']} to {seeds['last']}, the same for all methods. The model answers "
        f"{1e3 * document['latency_s']:.0f} ms of simulated time after it is asked. In brackets: 95 % intervals."
    )


def _table(methods: Mapping[str, Any], suites: Sequence[str]) -> str:
    head = ["method", *(f"{suite}: {quantity}" for suite in suites for quantity in QUANTITIES)]
    rows = []
    for name, entry in methods.items():
        cells = [f"<span title='{escape(name)}'>{escape(entry['title'])}</span>"]
        for suite in suites:
            cells += [rate(entry[suite][q], entry[suite][f"{q}_interval"]) for q in QUANTITIES]
        rejected = sum(entry["rejected_chunks"].values())
        cells.append(f"{rejected} of {entry['chunks']}" if entry["chunks"] else "–")
        rows.append(cells)
    return _html_table([*head, "chunks rejected"], rows)


def _claims(claims: Iterable[Mapping[str, Any]]) -> str:
    head = ["claim", "difference [points]", "episodes", "verdict", "longer than a window"]
    body = []
    for claim in claims:
        verdict = claim["verdict"]
        kind = {"holds": "holds", "does not hold": "fails"}.get(verdict, "faint")
        measured = verdict != "not measured"
        longer = claim.get("longer_than_a_window", {})
        long = (
            f"{longer['verdict']}, {points(longer['difference'], longer['interval'])}" if "difference" in longer else ""
        )
        body.append(
            f"<tr><td>{escape(claim['claim'])}</td>"
            f"<td>{points(claim['difference'], claim['interval']) if measured else '–'}</td>"
            f"<td>{claim['episodes']}</td><td class='{kind}'>{verdict}</td><td>{long}</td></tr>"
        )
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    return f'<div class="wide"><table><tr>{cells}</tr>{"".join(body)}</table></div>'


def _open_loop(document: Mapping[str, Any]) -> Iterable[str]:
    measured = {name: entry for name, entry in document.get("open_loop", {}).items() if entry["episodes"]}
    if not measured:
        return
    yield "<h2>Open loop, on recorded episodes</h2>"
    yield (
        '<p class="faint">Predicted frames against recorded ones on the cameras’ tiles, without the frames that were '
        "given. Beside them the recorded frames through the autoencoder, and the last given frame repeated.</p>"
    )
    rows = []
    for name, entry in measured.items():
        cells = [f"<code>{escape(name)}</code>", str(entry["episodes"])]
        for quantity, digits in (("psnr", 1), ("ssim", 3)):
            marks = entry[quantity]
            cells += [
                f"{marks[mark]['mean']:.{digits}f}" if mark in marks else "–"
                for mark in ("predicted", "autoencoder", "still")
            ]
        rows.append(cells)
    marks = ("predicted", "autoencoder", "still")
    head = ["method", "episodes", *(f"{quantity}: {mark}" for quantity in ("PSNR [dB]", "SSIM") for mark in marks)]
    yield _html_table(head, rows)
    yield plots.action_errors(measured, document["step_s"])


def _films(films: Sequence[Film]) -> Iterable[str]:
    if not films:
        return
    yield "<h2>Seen and predicted</h2>"
    yield '<p class="faint">Left: the camera. Right: what the model had predicted for that instant.</p>'
    figures = []
    for film in films:
        result, data = film.result, base64.b64encode(film.mp4).decode()
        outcome = "done" if result.success else f"{100 * result.progress:.0f} % of the way"
        if film.progress != result.progress:
            outcome += f" (played again for the film: {100 * film.progress:.0f} %)"
        figures.append(
            f'<figure><video controls loop muted preload="metadata" src="data:video/mp4;base64,{data}"></video>'
            f"<figcaption>“{escape(result.instruction)}”: {outcome}. {escape(result.family)}, {escape(result.split)}, "
            f"seed {result.seed}, {result.seconds:.1f} s</figcaption></figure>"
        )
    yield f'<div class="films">{"".join(figures)}</div>'


def _made_with(document: Mapping[str, Any]) -> str:
    entries = {
        "world": document["world"],
        "contract": document["contract_hash"],
        **{f"weights: {name}": digest for name, digest in document["checkpoints"].items()},
        "model on": f"{document['device']}, {document['dtype']}",
        **{f"node: {name}": _told(value) for name, value in document["node"].items()},
        **document["versions"],
    }
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in entries.items()) + "</dl>"


def _told(value: Any) -> str:
    """A parameter's value; of several that belong together, all."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {own}" for name, own in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'
