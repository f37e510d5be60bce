"""`dreamzero eval`: a policy, or a whole table of methods, over many episodes of a suite, on simulated time."""

import os
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dreamzero_policy.cli.share import sampler_steps, shipped_checkpoint, shipped_rivals
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.evaluation import campaign as room
from dreamzero_policy.evaluation.blind import MotionError
from dreamzero_policy.evaluation.closed_loop import ParametersError
from dreamzero_policy.evaluation.journal import JournalError
from dreamzero_policy.evaluation.methods import REFERENCE, TABLE, Method, MethodError, lack, method
from dreamzero_policy.evaluation.report import points, rate
from dreamzero_policy.evaluation.stage import Setup
from dreamzero_policy.evaluation.suite import SuiteError, demonstrates, find_suite

LINE_S = 10.0  # between two lines of progress where there is no terminal
SPLITS = {"seen": ("seen",), "unseen": ("unseen",), "both": ("seen", "unseen")}


class EvaluationFailed(RuntimeError):  # noqa: N818 (it tells what happened)
    """The evaluation cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Options:
    """The command line's answers."""

    suite: str
    episodes: int
    seed: int
    names: tuple[str, ...]  # none without a table: the checkpoint as it says it is best served
    table: bool
    checkpoint: Path | None
    flash: Path | None
    vla: Path | None
    demonstrations: Path | None
    recorded: Path | None
    contract: Path | None
    parameters: Path | None
    world: str
    latency_s: float
    device: str
    dtype: str
    processes: int
    films: int
    folder: Path


def default_folder() -> Path:
    return Path("out") / "eval" / datetime.now().strftime("%Y%m%d-%H%M%S")


def run(options: Options, console: Console) -> dict[str, Any]:
    """Evaluate and give the summary back.

    Raises:
        MethodError: an unknown method, or one that lacks its checkpoint.
        EvaluationFailed: anything else that stops it.
        CheckpointError, ContractError: a checkpoint or contract is refused.
    """
    try:
        campaign = campaign_of(options, console)
        console.print(f"results in {options.folder}; the same command with --out continues there", style="dim")
        with _Display(console) as display:
            return room.run(campaign, display.notice)
    except (SuiteError, JournalError, MotionError, EpisodeError, ParametersError) as error:
        raise EvaluationFailed(str(error)) from error
    except BrokenProcessPool as error:
        raise EvaluationFailed(
            f"a process of the evaluation died ({error}); was it out of memory? Go on with --out {options.folder} and "
            "fewer --processes"
        ) from error
    except OSError as error:
        raise EvaluationFailed(f"{error}; what was played is kept, go on with --out {options.folder}") from error


def campaign_of(options: Options, console: Console) -> room.Campaign:
    """What is to be done, with defaults from the installed stack. Raises MethodError, SuiteError."""
    share = Path(get_package_share_directory("dreamzero"))
    given = {"checkpoint": options.checkpoint, "flash": options.flash, "vla": options.vla}
    weights = {name: folder for name, folder in given.items() if folder is not None}
    if "checkpoint" not in weights:
        weights = {"checkpoint": shipped_checkpoint()} | shipped_rivals() | weights
    methods = _methods(options, weights, console)
    used = {how.weights for how in methods}
    setup = Setup(
        world=options.world,
        contract=options.contract or share / "config" / "agibot_g1.yaml",
        parameters=options.parameters or share / "config" / "policy.yaml",
        weights={name: folder for name, folder in weights.items() if name in used},
        latency_s=options.latency_s,
        device=options.device,
        dtype=options.dtype,
    )
    return room.Campaign(
        setup=setup,
        methods=methods,
        splits=SPLITS[options.suite],
        first_seed=options.seed,
        episodes=options.episodes,
        folder=options.folder,
        processes=options.processes,
        demonstrations=options.demonstrations,
        recorded=options.recorded,
        films=options.films,
        served=f"wam-{sampler_steps(weights['checkpoint'])}" if "checkpoint" in used else REFERENCE,
    )


def _methods(options: Options, weights: dict[str, Path], console: Console) -> list[Method]:
    """The methods asked for; a table leaves out those that lack something, a name that does is an error."""
    able = demonstrates(find_suite(options.world))
    names = options.names or (() if options.table else (f"wam-{sampler_steps(options.checkpoint)}",))
    named = [method(name) for name in dict.fromkeys(names)]
    for how in named:
        if missing := lack(how, weights, options.demonstrations, able):
            raise MethodError(f"{how.name} needs {missing}")
    if options.table:
        for how in map(method, TABLE):
            if missing := lack(how, weights, options.demonstrations, able):
                console.print(f"not measured: {how.name} needs {missing}", style="yellow")
            elif how not in named:
                named.append(how)
    return named


def report(document: dict[str, Any], folder: Path, console: Console) -> None:
    """The result for a person."""
    table = Table(title="evaluation", title_justify="left")
    table.add_column("method")
    quantities = [(suite, quantity) for suite in document["suites"] for quantity in ("success", "progress")]
    for suite, quantity in quantities:
        table.add_column(f"{suite}: {quantity}", justify="right")
    for entry in document["methods"].values():
        cells = [rate(entry[suite][quantity], entry[suite][f"{quantity}_interval"]) for suite, quantity in quantities]
        table.add_row(entry["title"], *cells)
    console.print(table)
    for claim in document["claims"]:
        if claim["verdict"] != "not measured":
            console.print(
                f"{claim['claim']}: {points(claim['difference'], claim['interval'])} points, {claim['verdict']}",
                highlight=False,
            )
    for name in (room.REPORT, room.SUMMARY):
        console.print(f"  {folder / name}")


def cores() -> int:
    return len(os.sched_getaffinity(0))


class _Display:
    """A progress bar with rate and time left; lines now and then where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, speed_estimate_period=300)
        self._tasks: dict[str, Any] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._shown = 0.0

    def __enter__(self) -> "_Display":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def notice(self, what: str, done: int, total: int) -> None:
        if self._console.is_terminal:
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(what, total=total, completed=done)
            self._bar.update(self._tasks[what], completed=done)
            return
        now = time.monotonic()
        began, already = self._began.setdefault(what, (now, done))
        if done == total or now - self._shown >= LINE_S:
            self._shown = now
            rate_hz = (done - already) / max(now - began, 1e-9)
            left = f", {rate_hz:.2f}/s, {(total - done) / rate_hz:.0f} s left" if done > already else ""
            self._console.print(f"{what}: {done} of {total}{left}")


class _Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.2f}/s", style="dim")
