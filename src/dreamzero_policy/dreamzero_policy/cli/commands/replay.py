"""`dreamzero replay`."""

from pathlib import Path
from typing import Annotated

import typer

from dreamzero_policy.cli.console import Json, console_for, one_line, print_json


def replay(
    bag: Annotated[Path, typer.Argument(help="rosbag2: a folder with metadata.yaml, or one .mcap or .db3 file.")],
    mode: Annotated[
        str | None,
        typer.Option(help="open_loop, parity, counterfactual or timing; open_loop, with --from counterfactual."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint folder; the shipped one. With --from: what takes over there.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Instruction instead of the bag's. With --from: what is followed from there.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the noise; that of the bag, or the node's.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=64, help="Denoising steps per chunk; those of the bag, or the node's.")
    ] = None,
    begin: Annotated[
        float | None,
        typer.Option("--from", min=0.0, help="Where another policy takes over [s] behind the bag's begin."),
    ] = None,
    recorded_checkpoint: Annotated[
        Path | None, typer.Option(help="With --from: what acts up to there; the shipped one.")
    ] = None,
    latency: Annotated[
        float | None, typer.Option(min=0.0, max=60.0, help="Of an answer in mode timing [s]; as recorded.")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0.0, help="Times real time, 1 as it happened; 0: as fast as possible.")
    ] = 0.0,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Up to which a position counts as the live one [rad, m]; 0: bit for bit.")
    ] = 0.0,
    contract: Annotated[Path | None, typer.Option(help="Contract file; the shipped one by default.")] = None,
    parameters: Annotated[Path | None, typer.Option(help="Parameter file of the node; the shipped one.")] = None,
    device: Annotated[str, typer.Option(help="Torch device of the model.")] = "cpu",
    dtype: Annotated[
        str | None,
        typer.Option(help="float32 or bfloat16; that of the node in the bag where its first chunk shows it."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads of the model, on a CPU.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.html, its film, tables, a file for Foxglove, replay.json.")
    ] = None,
    report: Annotated[bool, typer.Option(help="With --no-report only replay.json and chunks.jsonl, faster.")] = True,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="With --out: also replay.rrd for Rerun; needs the library rerun-sdk.")
    ] = False,
    json: Json = False,
) -> None:
    """What a policy does with a recording, by the node's own loop, bit for bit repeatable. No ROS."""
    try:
        from dreamzero_policy.cli import replay as room
        from dreamzero_policy.replay import run as modes
    except KeyboardInterrupt:
        raise typer.Exit(130) from None

    mode = mode or (modes.COUNTERFACTUAL if begin is not None else modes.OPEN_LOOP)
    if mode not in modes.MODES:
        raise typer.BadParameter(f"--mode is {mode}; expected one of {', '.join(modes.MODES)}")
    if mode == modes.COUNTERFACTUAL and (begin is None or (prompt is None and checkpoint is None)):
        raise typer.BadParameter("a counterfactual needs --from, and --prompt or --checkpoint")
    if mode != modes.COUNTERFACTUAL and (begin is not None or recorded_checkpoint is not None):
        raise typer.BadParameter(f"--from and --recorded-checkpoint are about mode counterfactual, --mode is {mode}")
    if dtype not in (None, *room.DTYPES):
        raise typer.BadParameter(f"--dtype is {dtype}; expected {' or '.join(room.DTYPES)}")
    if latency is not None and mode != modes.TIMING:
        raise typer.BadParameter(f"--latency is about mode timing, --mode is {mode}")
    if rerun and (out is None or not report):
        raise typer.BadParameter("--rerun is about the report of --out")
    if prompt is not None and not prompt.strip():
        raise typer.BadParameter("--prompt is empty")
    console = console_for(json)
    options = room.Options(
        bag=bag,
        settings=room.ReplaySettings(
            mode=mode,
            prompt=prompt,
            seed=seed,
            steps=steps,
            from_s=begin or 0.0,
            latency_s=latency,
            rate=rate,
            tolerance=tolerance,
        ),
        checkpoint=checkpoint,
        recorded_checkpoint=recorded_checkpoint,
        contract=contract,
        parameters=parameters,
        device=device,
        dtype=dtype,
        threads=threads,
        folder=out,
        report=report,
        rerun=rerun,
    )
    try:
        with one_line(console):
            document = room.run(options)
    except room.ReplayError as error:
        console.print(f"replay failed: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.print("stopped")
        raise typer.Exit(130) from None
    room.report(document, console)
    if json:
        print_json(document)
    if not room.passed(document):
        raise typer.Exit(1)
