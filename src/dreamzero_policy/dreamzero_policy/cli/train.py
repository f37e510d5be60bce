"""`dreamzero train`: every stage of a training, one after the other, each going on from where it was."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from dreamzero_policy.runtime.allocator import keep_freed_memory
from dreamzero_policy.runtime.orphans import die_with_parent
from dreamzero_policy.training.grounding import ground, is_grounded
from dreamzero_policy.training.prepare import prepare
from dreamzero_policy.training.progress import Reporter
from dreamzero_policy.training.settings import Recipe
from dreamzero_policy.training.train import checkpoint_of, train

STAGES = ("prepare", "grounding", "joint", "flash")


class TrainingFailed(RuntimeError):  # noqa: N818 (it tells what happened)
    """A stage in other processes ended badly; they have said why."""


@dataclass(frozen=True)
class TrainOptions:
    """What the command was asked for. ``stages`` in the order of :data:`STAGES`.

    ``data`` None where none prepares, ``pictures`` None where none grounds or looks.
    """

    recipe: Path
    data: Path | None
    pictures: Path | None
    out: Path
    run: Path
    stages: tuple[str, ...]
    threads: int
    processes: int


def default_run(out: Path) -> Path:
    """The folder of a training: beside its checkpoint, so that the same command finds it again."""
    return out.with_name(f"{out.name}.run")


def stages_of(recipe: Recipe, asked: str) -> tuple[str, ...]:
    """All that the recipe has, or the one that was asked for."""
    if asked != "all":
        return (asked,)
    absent = {"grounding": recipe.grounding is None, "flash": recipe.flash is None}
    return tuple(stage for stage in STAGES if not absent.get(stage, False))


def stages_with_pictures(recipe: Recipe, stages: tuple[str, ...], run: Path) -> list[str]:
    """Those of the stages that look at pictures."""
    looking = {"joint": recipe.joint, "flash": recipe.flash}
    looks = {name: settings is not None and settings.looks_every > 0 for name, settings in looking.items()}
    return [stage for stage in stages if looks.get(stage, stage == "grounding" and not is_grounded(run))]


def run_training(options: TrainOptions, console: Console) -> list[Path]:
    """Run the stages; returns the checkpoints that were written. Raises what the stages raise."""
    keep_freed_memory()
    recipe = Recipe.load(options.recipe)
    reporter = Reporter(console, options.run)
    written = []
    try:
        for stage in options.stages:
            if stage == "prepare":
                torch.set_num_threads(options.threads * options.processes)
                prepare(recipe, options.data, options.run, reporter, options.threads * options.processes)
                continue
            if stage == "grounding":
                torch.set_num_threads(options.threads * options.processes)
                ground(recipe, options.pictures, options.run, reporter)
                continue
            torch.set_num_threads(options.threads)
            if options.processes == 1:
                train(recipe, stage, options.run, options.out, reporter, pictures=options.pictures)
            else:
                reporter.close()  # the first of the processes writes the curves
                in_processes(options, stage)
            written.append(checkpoint_of(stage, options.out))
    finally:
        reporter.close()
    return written


def in_processes(options: TrainOptions, stage: str) -> None:
    """One stage in several processes that train together. They end with this one: orphans would write its state."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(options.processes), "-m", "dreamzero_policy.training.train"]
    command += ["--recipe", str(options.recipe), "--folder", str(options.run), "--out", str(options.out)]
    command += ["--stage", stage, "--threads", str(options.threads)]
    if options.pictures is not None:
        command += ["--pictures", str(options.pictures)]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    code = subprocess.run(command, env=environment, check=False, preexec_fn=die_with_parent).returncode
    if code:
        raise TrainingFailed(f"{stage} ended with exit code {code}; the same command goes on from the last saved step")
