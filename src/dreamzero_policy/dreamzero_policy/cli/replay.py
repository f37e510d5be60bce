"""`dreamzero replay`: a recording through the node's own loop, with models in this process."""

import importlib.metadata
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from dreamzero_policy.cli.share import sampler_steps, shipped_checkpoint, shipped_contract_path, shipped_parameters_path
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.evaluation.closed_loop import NodeParameters, ParametersError
from dreamzero_policy.inference.loading import Policy, load_policy
from dreamzero_policy.inference.sessions import Sessions
from dreamzero_policy.inference.watching import WatchedSessions
from dreamzero_policy.inference.worker_process import checkpoint_hash
from dreamzero_policy.replay.document import Results
from dreamzero_policy.replay.policy import ModelFailed
from dreamzero_policy.replay.recording import require_bag
from dreamzero_policy.replay.report.report import Report
from dreamzero_policy.replay.report.rerun_file import RerunMissing
from dreamzero_policy.replay.run import COUNTERFACTUAL, PARITY, Model, Replay, ReplaySettings
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.runtime.loop_settings import LoopSettings
from dreamzero_policy.runtime.trained import load_statistics

DTYPES = ("float32", "bfloat16")
FIRST_PROBLEMS = 10  # printed; --json has more


class ReplayError(RuntimeError):
    """The replay cannot begin or go on; the message says why and what to do."""


@dataclass(frozen=True)
class Options:
    """The command line's answers."""

    bag: Path
    settings: ReplaySettings
    checkpoint: Path | None
    recorded_checkpoint: Path | None
    contract: Path | None
    parameters: Path | None
    device: str
    dtype: str | None  # None: that of the run in the bag, where it shows, else float32
    threads: int
    folder: Path | None
    report: bool = True  # in that folder
    rerun: bool = False  # with a file for Rerun


def run(options: Options) -> dict[str, Any]:
    """Replay and give the result back.

    Raises:
        ReplayError: the node's parameters or the folder for results cannot be used, or the model failed.
        CheckpointError, ContractError, EpisodeError: checkpoint, contract or bag is refused.
    """
    require_bag(options.bag)
    if options.folder is not None and options.folder.exists() and any(options.folder.iterdir()):
        raise ReplayError(f"{options.folder} exists and is not empty; name another folder with --out")
    contract = load_contract(options.contract or shipped_contract_path())
    try:
        node = NodeParameters.load(options.parameters or shipped_parameters_path()).loop
    except ParametersError as error:
        raise ReplayError(str(error)) from error
    forks = options.settings.mode == COUNTERFACTUAL
    acting = options.recorded_checkpoint if forks else options.checkpoint
    acting = acting or shipped_checkpoint()
    node = replace(node, steps=node.steps or sampler_steps(acting))
    listener = None
    if options.folder is not None and options.report:
        try:
            listener = Report(options.folder, contract.model, options.bag, options.rerun)
        except RerunMissing as error:
            raise ReplayError(str(error)) from error
    if options.dtype is None:
        options = replace(options, dtype=dtype_of_run(acting, contract, node, options))
    watched = listener is not None
    policy, model = load_model(acting, contract, options, watched)
    other = None
    if forks and options.checkpoint is not None:
        _, other = load_model(options.checkpoint, contract, options, watched)
    elif forks:
        other = model_of(policy, model.embodiment, model.checkpoint_hash, watched)
    try:
        with Results(options.folder, listener) as results:
            document = Replay(model, node, options.settings, results, other).play(options.bag)
            document["tolerance"] = tolerance(options)
            results.write(document)
    except ModelFailed as error:
        raise ReplayError(str(error)) from error
    except EpisodeError:
        _empty(options.folder)
        raise
    if listener is not None:
        listener.finish(document)
    return document


def _empty(folder: Path | None) -> None:
    """Take back what was written about a bag that is refused: the right one may be named with the same folder."""
    if folder is not None and folder.exists():
        for file in folder.iterdir():
            file.unlink()


def dtype_of_run(checkpoint: Path, contract: Contract, node: LoopSettings, options: Options) -> str:
    """What the node of the bag computed in: chunks do not say, but the first one shows it."""
    for dtype in DTYPES:
        _, model = load_model(checkpoint, contract, replace(options, dtype=dtype))
        try:
            with Results() as results:
                live = Replay(model, node, ReplaySettings(most=1), results).play(options.bag)["live"]
        except (EpisodeError, ModelFailed):
            break  # what is wrong is told when it is replayed in earnest
        if live is None or live["first_difference"] is None:
            return dtype
        if not live["first_difference"]["field"].startswith("positions"):
            break
    return DTYPES[0]


def load_model(checkpoint: Path, contract: Contract, options: Options, watched: bool = False) -> tuple[Policy, Model]:
    """Weights, and what a replay makes of them. Raises CheckpointError, ContractError."""
    embodiment = Embodiment(contract, load_statistics(checkpoint, contract))
    policy = load_policy(checkpoint, device=options.device, dtype=options.dtype, threads=options.threads)
    return policy, model_of(policy, embodiment, checkpoint_hash(checkpoint), watched)


def model_of(policy: Policy, embodiment: Embodiment, digest: str, watched: bool) -> Model:
    """With sessions of its own; `watched`: their predicted video is decoded and compared with what came."""
    sessions = Sessions(policy)
    if not watched:
        return Model(sessions, embodiment, digest)
    watch = WatchedSessions(sessions)
    return Model(watch, embodiment, digest, foresight=lambda: watch.newest)


def tolerance(options: Options) -> dict[str, Any]:
    """How far two replays, or a replay and a live run, may be apart, and under which conditions this one ran."""
    return {
        "positions": options.settings.tolerance,
        "same_machine_and_threads": "bit-equal",
        "elsewhere": "rounding of the network's kernels; compare with --tolerance",
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": options.device,
        "dtype": options.dtype,
        "threads": options.threads,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "numpy")},
    }


def passed(document: dict[str, Any]) -> bool:
    """Whether the recording was sound, and in mode parity equal to what was live."""
    equal = document["mode"] != PARITY or document["matches_live"] is True
    return equal and not document["problems"]["damage"]


def report(document: dict[str, Any], console: Console) -> None:
    """The result for a person."""
    table = Table(title=f"replay of {document['bag']}", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    rejected = ", ".join(f"{count} {verdict}" for verdict, count in document["rejected"].items())
    blocks = "of the node that was recorded" if document["blocks"] == "live" else "of the loop's own choice"
    rows = [
        ("mode", f"{document['mode']}, blocks {blocks}"),
        ("chunks", f"{len(document['chunks'])}, {rejected or 'none rejected'}"),
        ("chunk hash", document["chunk_hash"]),
        ("equal to live", _equality(document)),
    ]
    for against, error in document["error"].items():
        if error is not None:
            distance = f"{error['mean']:.4f} rad in the mean, {error['last']:.4f} at the end of a chunk"
            rows.append((f"from {against}", distance))
    if (changed := document["counterfactual"]) is not None:
        distance = f"{changed['mean_change']:.4f} rad in the mean, {changed['largest_change']:.4f} at most"
        rows.append(("counterfactual", f"{changed['chunks']} chunks, other by {distance}"))
    factor = f"{document['realtime_factor']:.2f} x real time"
    rows.append(("speed", f"{document['seconds']:.1f} s of recording in {document['wall_s']:.1f} s, {factor}"))
    for row in rows:
        table.add_row(*row)
    console.print(table, markup=False)
    problems = document["problems"]
    for problem in problems["named"][:FIRST_PROBLEMS]:
        line = f"{problem['kind']}: {problem['topic']} at {problem['time_s']:.6f} s: {problem['problem']}"
        console.print(line, style="red" if problem["kind"] == "damage" else "yellow", markup=False, soft_wrap=True)
    if (more := problems["damage"] + problems["gaps"] - FIRST_PROBLEMS) > 0:
        console.print(f"… and {more} more", style="dim")


def _equality(document: dict[str, Any]) -> str:
    live = document["live"]
    if live is None:
        return "no chunks of a node to compare with"
    counts = f"{live['equal']} of {live['chunks']} chunks"
    if (first := live["first_difference"]) is not None:
        where = f"chunk {first['index']} of epoch {first['epoch']}"
        return f"no, {counts}; first in {where}: {first['field']} is {first['live']} live, {first['here']} here"
    if live["not_compared"]:
        return f"not known: {counts} equal, {live['not_compared']} not compared. {live['not_compared_because'][0]}"
    return f"yes, {counts}"
