"""`dreamzero train`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from dreamzero_policy.cli.console import console_for, one_line


def train(
    config: Annotated[Path, typer.Option(help="Training recipe, a file of config/training.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; a flash stage goes to <out>_flash.")],
    data: Annotated[
        Path | None, typer.Option(help="Demonstrations: views, LeRobot data set or bags. Needed until prepared.")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="What `collect --form grounding` made. Needed until grounded, if the recipe has grounding, and where "
            "it has looks_every."
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run: states, curves, dreams; <out>.run.")] = None,
    stage: Annotated[str, typer.Option(help="all, prepare, grounding, joint or flash.")] = "all",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each process; the cores shared by the processes.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that train together; on a CPU one per core is fastest.")
    ] = 1,
) -> None:
    """Train a policy from demonstrations. An interrupted run is continued by the same command."""
    try:
        from dreamzero_policy.cli import train as room
        from dreamzero_policy.training.errors import TRAINING_ERRORS
        from dreamzero_policy.training.settings import Recipe
    except KeyboardInterrupt:
        raise typer.Exit(130) from None

    if stage not in ("all", *room.STAGES):
        raise typer.BadParameter(f"--stage is {stage}; expected all, {', '.join(room.STAGES)}")
    if data is None and stage in ("all", "prepare"):
        raise typer.BadParameter("--data is missing; the stage prepare needs it")
    console = console_for(False)
    try:
        with one_line(console):
            recipe, run = Recipe.load(config), run or room.default_run(out)
            stages = room.stages_of(recipe, stage)
            if pictures is None and (looking := room.stages_with_pictures(recipe, stages, run)):
                raise typer.BadParameter(
                    f"--pictures is missing; the stage {looking[0]} needs what "
                    "`dreamzero collect --form grounding` makes"
                )
            options = room.TrainOptions(
                recipe=config,
                data=data,
                pictures=pictures,
                out=out,
                run=run,
                stages=stages,
                threads=threads or max(1, len(os.sched_getaffinity(0)) // processes),
                processes=processes,
            )
            for written in room.run_training(options, console):
                console.print(f"wrote {written}", markup=False, highlight=False, soft_wrap=True)
    except (*TRAINING_ERRORS, room.TrainingFailed) as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on where this one was", soft_wrap=True)
        raise typer.Exit(130) from None
