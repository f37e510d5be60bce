"""`dreamzero inspect`: what a checkpoint is, printed."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

FIRST_KEYS = 8  # how many keys of a list are printed; --json has all

NAMES = {
    "transformer": "transformer (DiT)",
    "vae": "video autoencoder",
    "text_encoder": "text encoder (UMT5)",
    "image_encoder": "image tower (CLIP)",
}


def report(document: dict[str, Any], console: Console) -> None:
    """Print a document of :func:`~dreamzero_policy.inference.inspection.describe`."""
    _heading(document, console)
    console.print(_components(document))
    console.print(_geometry(document["geometry"], document["sampler"]))
    if document["embodiments"]:
        console.print(_embodiments(document["embodiments"]))
    _contract(document["contract"], console)
    _keys("missing", document["missing"], "red", console)
    _keys("unexpected", document["unexpected"], "red", console)
    _keys("do not fit", document["misfits"], "red", console)
    _keys("known and unused", document["known_unused"], "dim", console)
    for note in document["notes"]:
        console.print(f"note: {note}", style="yellow", markup=False)


def _heading(document: dict[str, Any], console: Console) -> None:
    line = Text()
    line.append(document["variant"], style="bold")
    line.append(f"  {document['layout']} layout, {document['parameters'] / 1e9:.3f} B parameters, ")
    line.append(f"{_size(document['bytes'])}  ")
    line.append("complete" if document["complete"] else "incomplete", "green" if document["complete"] else "bold red")
    console.print(line)
    adapters = document["adapters"]
    if adapters["count"]:
        base = f"; its training run calls the base {adapters['trained_on']}" if adapters["trained_on"] else ""
        need = "needs its base to be loaded (--base)" if adapters["needs_base"] else "merged into their base on loading"
        console.print(f"{adapters['count']} adapters, scale {adapters['scale']:g}: {need}{base}", markup=False)
    if not document["tokenizer"]["included"]:
        console.print("the tokenizer is not included: pass its directory as tokenizer_path", style="dim")


def _components(document: dict[str, Any]) -> Table:
    table = Table(title="Components", title_justify="left", title_style="bold")
    table.add_column("")
    for column in ("tensors", "parameters", "size"):
        table.add_column(column, justify="right")
    table.add_column("dtypes")
    for name, component in document["components"].items():
        dtypes = ", ".join(f"{dtype} ({count})" for dtype, count in component["dtypes"].items())
        if len(component["dtypes"]) == 1:
            dtypes = next(iter(component["dtypes"]))
        row = (f"{component['tensors']}", f"{component['parameters']:,}", _size(component["bytes"]), dtypes or "-")
        table.add_row(NAMES[name], *row)
    return table


def _geometry(geometry: dict[str, Any], sampler: dict[str, Any]) -> Table:
    table = Table(title="Chunk and window", title_justify="left", title_style="bold", show_header=False)
    height, width = geometry["canvas_px"]
    channels, rows, columns = geometry["latent"]
    table.add_row("canvas", f"{height} x {width} px, latents {channels} x {rows} x {columns}")
    table.add_row("latent frame", f"{geometry['tokens_per_frame']} video tokens")
    chunk = f"{geometry['frames_per_chunk']} latent frames = {geometry['raw_frames_per_chunk']} camera frames, "
    table.add_row("chunk", chunk + f"{geometry['actions_per_chunk']} actions")
    window = f"{geometry['chunks_per_window']} chunks, {geometry['latent_frames_per_window']} latent frames"
    table.add_row("window", window)
    table.add_row("action / state", f"up to {geometry['max_action_dim']} / {geometry['max_state_dim']} wide")
    table.add_row("image condition", "yes" if geometry["image_condition"] else "no")
    table.add_row("sampler", f"{sampler['steps']} steps, guidance {sampler['cfg_scale']:g}, shift {sampler['shift']:g}")
    return table


def _embodiments(embodiments: dict[str, Any]) -> Table:
    title = "Embodiments (* relative to the state)"
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for tag, entry in embodiments.items():
        rate = f" at {entry['fps']:g} fps" if entry["fps"] else ""
        kinds = sorted({name for kind in entry["statistics"].values() for values in kind.values() for name in values})
        table.add_row(tag, "cameras", ", ".join(entry["cameras"]) + rate)
        table.add_row("", f"state {_width(entry['state'])}", _groups(entry["state"]))
        table.add_row("", f"action {_width(entry['action'])}", _groups(entry["action"]))
        table.add_row("", "statistics", ", ".join(kinds) or "none", end_section=True)
    return table


def _groups(groups: dict[str, Any]) -> str:
    return ", ".join(f"{key} {group['width']}{'*' if group.get('relative') else ''}" for key, group in groups.items())


def _width(groups: dict[str, Any]) -> int:
    return sum(group["width"] for group in groups.values())


def _contract(contract: dict[str, Any], console: Console) -> None:
    if contract["hash"] is not None:
        _fit(f"trained for contract {contract['embodiment']} {contract['hash'][:12]}", contract, console)
    if given := contract.get("given"):
        tag = f" as {given['tag']}" if given["tag"] else ""
        _fit(f"contract {given['embodiment']} {given['hash'][:12]}{tag}", given, console)


def _fit(subject: str, fit: dict[str, Any], console: Console) -> None:
    verdict = "fits" if fit["fits"] else "does not fit"
    console.print(f"{subject}: {verdict}", style="green" if fit["fits"] else "red", markup=False)
    for line in fit["differences"]:
        console.print(f"  {line}", markup=False)


def _keys(title: str, keys: list[str], style: str, console: Console) -> None:
    if not keys:
        return
    console.print(f"{len(keys)} {title}", style=style)
    for key in keys[:FIRST_KEYS]:
        console.print(f"  {key}", style=style, markup=False, highlight=False)
    if len(keys) > FIRST_KEYS:
        console.print(f"  … and {len(keys) - FIRST_KEYS} more", style=style)


def _size(count: int) -> str:
    """Bytes in words."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
