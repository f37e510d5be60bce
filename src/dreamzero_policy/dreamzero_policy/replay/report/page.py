"""The report's page: one HTML file with film, drawings and numbers inside; it loads nothing when it is opened.

Its drawings are made by `charts.js` and `page.js` from the numbers that stand in the page, so that a reader can look
closer at any stretch of a long recording and at the film of that instant. It is small: a library of plots would be 5 MB
of script.
"""

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from dreamzero_policy.replay.report.film import Film

MOST_REJECTED = 200  # chunks in the table; the file of chunks has them all
# The page forbids its browser to ask anybody for anything.
ALONE = "default-src 'none'; media-src data:; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
KEYS = (("predicted", "predicted"), ("commanded", "commanded (recorded)"), ("measured", "measured (recorded)"))


def page(document: dict[str, Any], drawn: dict[str, Any], film: Film) -> str:
    """The whole file. `drawn` is what the page's script draws."""
    title = f"Replay of {'/'.join(Path(document['bag']).parts[-2:])}"  # of a demo the last part is always "bag"
    sections = [
        *_head(document, title),
        f'<div class="tiles">{"".join(_tiles(document))}</div>',
        *_film(film),
        *_over_time(document, drawn),
        *_rejected(document),
        *_problems(document),
        *_horizon(document),
        *_joints(drawn),
        "<h2>Made with</h2>",
        f'<div class="card"><dl>{_terms(made_with(document))}</dl></div>',
    ]
    blob = json.dumps(drawn, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{ALONE}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Whoever asks for the icon of a page asks a server; an empty one spares that.
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{_resource("page.css")}</style></head>\n'
        "<body><main>\n" + "\n".join(sections) + "\n</main>\n"
        f'<script type="application/json" id="data">{blob}</script>\n'
        f"<script>{_resource('charts.js')}</script>\n<script>{_resource('page.js')}</script>\n</body></html>\n"
    )


def made_with(document: dict[str, Any]) -> dict[str, str]:
    """What the result is of: bag, weights, contract, versions."""
    tolerance = document["tolerance"]
    entries = {
        "bag": document["bag"],
        "recorded": f"{document['seconds']:.1f} s from {document['begin_s']:.3f} s on",
        "mode": document["mode"],
        "blocks": "those of the node in the recording" if document["blocks"] == "live" else "of the loop's choice",
        "hash of all chunks": document["chunk_hash"],
        "checkpoint": document["checkpoint_hash"],
        "contract": document["contract_hash"],
        "embodiment": document["embodiment"],
        "seed": document["seed"],
        "denoising steps": document["steps"],
        "model on": f"{tolerance['device']}, {tolerance['dtype']}, {tolerance['threads']} threads, "
        f"{tolerance['machine']} {tolerance['processor']}",
        "another replay on this machine": tolerance["same_machine_and_threads"],
        "versions": ", ".join(f"{name} {version}" for name, version in tolerance["versions"].items()),
    }
    return {name: str(value) for name, value in entries.items()}


def _head(document: dict[str, Any], title: str) -> Iterable[str]:
    prompts = dict.fromkeys(chunk["prompt"] for chunk in document["chunks"])
    how = {
        "open_loop": "The model saw every block as it was recorded; its chunks stand beside what the robot then did.",
        "parity": "The model saw what the node saw; its chunks must be those that the node published.",
        "counterfactual": "From an instant on another instruction or other weights were asked about what was recorded.",
        "timing": "The loop waited and paused as on a robot, with answers that take as long as they took.",
    }
    yield f'<p class="kind">dreamzero replay · {escape(document["mode"].replace("_", " "))}</p><h1>{escape(title)}</h1>'
    length = f"{len(document['chunks'])} chunks in {document['seconds']:.1f} s."
    yield f'<p class="faint">{how[document["mode"]]} {length}</p>'
    yield '<ul class="prompts">' + "".join(f"<li>“{escape(prompt)}”</li>" for prompt in prompts) + "</ul>"


def _tiles(document: dict[str, Any]) -> Iterable[str]:
    chunks, rejected = document["chunks"], sum(document["rejected"].values())
    kinds = ", ".join(f"{n} × {_words(kind)}" for kind, n in document["rejected"].items())
    yield _tile(
        "Chunks rejected",
        f"{rejected} <small>of {len(chunks)}</small>",
        kinds or "every chunk was within the limits",
        "warn" if rejected else "good",
    )
    yield _equality(document)
    for against, name in (("commands", "Error against commands"), ("states", "Error against states")):
        if (error := document["error"][against]) is not None:
            end = f"{error['last']:.4f} in the last row of a chunk"
            yield _tile(name, f"{error['mean']:.4f} <small>rad, m</small>", end)
    if (surprise := document["surprise"]) is not None:
        yield _tile(
            "Surprise, median", f"{surprise['median']:.3f}", f"largest {surprise['largest']:.3f}; 0 is as predicted"
        )
    model_ms = np.array([1e3 * chunk["model_s"] for chunk in chunks])
    yield _tile(
        "Model, here",
        f"{np.median(model_ms):.0f} <small>ms</small>",
        f"95 of 100 chunks within {np.percentile(model_ms, 95):.0f} ms",
    )
    problems = document["problems"]
    found = problems["damage"] + problems["gaps"]
    told = f"{problems['damage']} damaged, {problems['gaps']} gaps" if found else "nothing is missing or broken"
    yield _tile(
        "Recording",
        "sound" if not found else f"{found} <small>{'problem' if found == 1 else 'problems'}</small>",
        told,
        "good" if not found else "warn",
    )


def _equality(document: dict[str, Any]) -> str:
    name, live = "Same as live", document["live"]
    if live is None:
        return _tile(name, "–", "the recording has no chunks to compare with")
    counts = f"{live['equal']} of {live['chunks']} chunks are equal"
    if document["matches_live"]:
        how = f"within {document['tolerance']['positions']:g}" if document["tolerance"]["positions"] else "bit for bit"
        return _tile(name, "yes", f"{counts}, {how}", "good")
    if (first := live["first_difference"]) is not None:
        return _tile(name, "no", f"{counts}; chunk {first['index']} of epoch {first['epoch']} is the first", "bad")
    return _tile(name, "not known", f"{counts}, {live['not_compared']} could not be compared", "warn")


def _tile(name: str, value: str, more: str, kind: str = "") -> str:
    return f'<div class="tile {kind}"><span class="name">{name}</span><b>{value}</b><span>{more}</span></div>'


def _film(film: Film) -> Iterable[str]:
    if not film.pictures:
        return
    encoded = base64.b64encode(film.path.read_bytes()).decode()
    yield '<h2 id="film">What it saw and what it had predicted</h2>'
    yield (
        '<p class="faint">All views on one canvas, as the model sees them. The prediction is the newest that was made '
        "for that very instant, before it came; the difference is black where it was right. A whole picture is dark "
        "where nothing was seen or predicted within the last second.</p>"
    )
    yield (
        '<div class="card film">'
        '<div class="heads"><span>recorded</span><span>predicted</span><span>difference</span></div>'
        f'<video muted loop playsinline preload="auto" src="data:video/mp4;base64,{encoded}"></video>'
        '<div class="hand"><button id="play" type="button">play</button>'
        '<input id="slide" type="range" min="0" max="1" step="0.01" value="0" aria-label="instant of the film">'
        '<select id="pace" aria-label="speed"><option value="0.25">¼ ×</option><option value="0.5">½ ×</option>'
        '<option value="1" selected>1 ×</option><option value="4">4 ×</option></select></div>'
        '<div class="now" id="now"></div></div>'
    )


def _over_time(document: dict[str, Any], drawn: dict[str, Any]) -> Iterable[str]:
    yield "<h2>Over time</h2>"
    yield '<p class="faint">Seconds of the recording. Drag for a closer look, click for the film of that instant.</p>'
    if document.get("surprise"):
        yield (
            '<p class="faint">Surprise is how far what was predicted lies from what the cameras then saw; standing '
            "still is how far the newest picture, repeated, would have been.</p>"
        )
    else:
        yield '<p class="faint">Surprise is not known: no chunk was followed by a block of its own session.</p>'
    if not drawn["film"]["pictures"]:
        yield '<div class="card now" id="now"></div>'
    keys = "".join(f'<span class="key" style="--colour: var(--{tint})">{name}</span>' for tint, name in KEYS)
    yield (
        '<div class="bar"><button id="all" type="button">show all</button><span id="stretch"></span>'
        f'{keys}<span class="key seam" style="--colour: var(--predicted)">a chunk begins</span></div>'
        '<div class="charts" id="overview"></div>'
    )


def _joints(drawn: dict[str, Any]) -> Iterable[str]:
    yield "<h2>Every joint</h2>"
    if drawn["every"] > 1:
        yield f'<p class="faint">Every {drawn["every"]}th row of a chunk is drawn; steps.parquet has them all.</p>'
    for group in dict.fromkeys(joint["group"] for joint in drawn["motion"]["joints"]):
        name = escape(group.replace("_", " "))
        yield f'<h3>{name}</h3><div class="charts two" id="joints-{escape(group)}"></div>'


def _horizon(document: dict[str, Any]) -> Iterable[str]:
    yield "<h2>Error over the horizon of a chunk</h2>"
    yield (
        '<p class="faint">Mean distance of a row from what was recorded at the instant of its execution, over all '
        "chunks. Commands lead and states follow, so neither is at zero.</p>"
    )
    yield '<div class="charts three" id="horizon"></div>'


def _rejected(document: dict[str, Any]) -> Iterable[str]:
    rejected = [chunk for chunk in document["chunks"] if chunk["verdict"] != "accepted"]
    yield "<h2>Rejected chunks</h2>"
    if not rejected:
        yield '<p class="faint">None.</p>'
        return
    rows = [
        (_link(chunk["stamp_s"], document), chunk["index"], chunk["epoch"], _words(chunk["verdict"]), chunk["reason"])
        for chunk in rejected[:MOST_REJECTED]
    ]
    yield _table(("time", "chunk", "epoch", "verdict", "reason"), rows)
    if len(rejected) > MOST_REJECTED:
        yield f'<p class="faint">… and {len(rejected) - MOST_REJECTED} more, in chunks.parquet.</p>'


def _problems(document: dict[str, Any]) -> Iterable[str]:
    problems, live = document["problems"], document["live"]
    if problems["named"]:
        yield "<h2>What is wrong with the recording</h2>"
        rows = [(_link(p["time_s"], document), p["kind"], p["topic"], p["problem"]) for p in problems["named"]]
        yield _table(("time", "kind", "topic", "problem"), rows)
    if live is not None and live["not_compared_because"]:
        yield "<h2>Not compared with the live run</h2>"
        yield _table(("reason",), [(reason,) for reason in live["not_compared_because"]])
    if live is not None and (first := live["first_difference"]) is not None:
        yield "<h2>The first difference from the live run</h2>"
        yield f'<div class="card"><dl>{_terms({key: str(value) for key, value in first.items()})}</dl></div>'


class _Html(str):
    """Text that is HTML already."""


def _link(stamp_s: float, document: dict[str, Any]) -> _Html:
    at_s = stamp_s - document["begin_s"]
    return _Html(f'<a href="#film" data-at="{at_s:.3f}">{at_s:.2f} s</a>')


def _words(name: str) -> str:
    return name.removeprefix("rejected_").replace("_", " ")


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    for row in rows:
        cells = [cell if isinstance(cell, _Html) else escape(str(cell)) for cell in row]
        lines.append(
            "<tr>" + "".join(f"<td{' class=go' if isinstance(c, _Html) else ''}>{c}</td>" for c in cells) + "</tr>"
        )
    return f'<div class="card rows"><table>{"".join(lines)}</table></div>'


def _terms(entries: dict[str, str]) -> str:
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in entries.items())


def _resource(name: str) -> str:
    return resources.files("dreamzero_policy.replay.report").joinpath(name).read_text(encoding="utf-8")
