"""`dreamzero eval`."""

from pathlib import Path
from typing import Annotated

import typer

from dreamzero_policy.cli.console import Json, console_for, one_line, print_json

SUITES = ("seen", "unseen", "both")


def evaluate(
    suite: Annotated[str, typer.Option(help="seen, unseen or both.")] = "both",
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each suite.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode; the others follow it.")] = 0,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder; the shipped one by default.")] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="wam-N, flash-N, … with N steps; repeat for several.")
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="All methods that have what they need.")] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, max=64, help="Denoising steps, short for --method wam-N; the checkpoint's own.")
    ] = None,
    flash_checkpoint: Annotated[
        Path | None, typer.Option(help="Flash version of the checkpoint; the shipped one's by default.")
    ] = None,
    vla_checkpoint: Annotated[
        Path | None, typer.Option(help="The twin trained without the video loss; the shipped one's by default.")
    ] = None,
    demonstrations: Annotated[
        Path | None, typer.Option(help="Data set whose mean is replayed; by default the suite's own demonstrations.")
    ] = None,
    recorded: Annotated[Path | None, typer.Option(help="Data set for open-loop errors, video PSNR.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Processes; as many as there are cores.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results, report and films; goes on where it was interrupted.")
    ] = None,
    latency: Annotated[float, typer.Option(min=0.0, max=10.0, help="Simulated time to an answer [s].")] = 0.15,
    films: Annotated[int, typer.Option(min=0, help="Episodes shown in the report.")] = 6,
    world: Annotated[
        str, typer.Option(help="Installed suite, or its place: module:Class, file.py:Class.")
    ] = "agibot_twin",
    contract: Annotated[Path | None, typer.Option(help="Contract file; the shipped one by default.")] = None,
    parameters: Annotated[Path | None, typer.Option(help="Parameter file of the node; the shipped one.")] = None,
    device: Annotated[str, typer.Option(help="Torch device of the model.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, or auto: the faster one on this machine.")] = "float32",
    json: Json = False,
) -> None:
    """Success and progress of a policy over many episodes, by the node's own loop on simulated time. No ROS."""
    try:
        from dreamzero_policy.cli import evaluate as room
    except KeyboardInterrupt:
        raise typer.Exit(130) from None

    if suite not in SUITES:
        raise typer.BadParameter(f"{suite}; expected {', '.join(SUITES)}")
    if steps is not None and (methods or table):
        raise typer.BadParameter("--steps is short for --method wam-N; give one of the two")
    console = console_for(json)
    options = room.Options(
        suite=suite,
        episodes=episodes,
        seed=seed,
        names=tuple(methods or ([f"wam-{steps}"] if steps else ())),
        table=table,
        checkpoint=checkpoint,
        flash=flash_checkpoint,
        vla=vla_checkpoint,
        demonstrations=demonstrations,
        recorded=recorded,
        contract=contract,
        parameters=parameters,
        world=world,
        latency_s=latency,
        device=device,
        dtype=dtype,
        processes=processes or room.cores(),
        films=films,
        folder=out or room.default_folder(),
    )
    try:
        with one_line(console):
            document = room.run(options, console)
    except room.MethodError as error:
        raise typer.BadParameter(str(error)) from error
    except room.EvaluationFailed as error:
        console.print(f"evaluation failed: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.print(f"stopped; go on with --out {options.folder}", soft_wrap=True)
        raise typer.Exit(130) from None
    room.report(document, options.folder, console)
    if json:
        print_json(document)
