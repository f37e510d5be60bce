"""`dreamzero bench`."""

from pathlib import Path
from typing import Annotated

import typer

from dreamzero_policy.cli.console import Json, console_for, one_line, print_json

bench = typer.Typer(no_args_is_help=True, help="Measure.")


@bench.command("model")
def bench_model(
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder; the shipped one by default.")] = None,
    steps: Annotated[list[int] | None, typer.Option(min=1, max=64, help="Denoising steps; repeat for several.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the model; 1, and with --config as many as there are cores.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    blocks: Annotated[int, typer.Option(min=4, help="Blocks measured for each number of steps.")] = 16,
    config: Annotated[
        Path | None, typer.Option(help="A file of config/models: cost of each verb, with random weights.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="With --config: how often each case is timed.")] = 5,
    compiled: Annotated[bool, typer.Option("--compile", help="With --config: compiled blocks beside.")] = False,
    against: Annotated[
        str | None, typer.Option(help="With --config: file.py:name or module:name of another transformer, beside.")
    ] = None,
    json: Json = False,
) -> None:
    """Time of observe and predict: for a checkpoint in sessions, or with --config verb by verb."""
    from dreamzero_policy.cli import bench as room
    from dreamzero_policy.cli.share import shipped_checkpoint

    console = console_for(json)
    if config is None and (compiled or against is not None):
        raise typer.BadParameter("--compile and --against go with --config")
    if config is not None:
        try:
            document = room.bench_config(config, checkpoint, threads, dtype, rounds, compiled, against, console)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    else:
        document = room.bench_model(
            checkpoint or shipped_checkpoint(), steps or [16, 4, 1], threads or 1, dtype, blocks, console
        )
    if json:
        print_json(document)
    elif config is not None:
        room.report_config(document, console)
    else:
        room.report(document, console)


@bench.command("load")
def bench_load(
    gigabytes: Annotated[float, typer.Option(min=0.01, max=100.0, help="Size of the generated checkpoint [GB].")] = 1.0,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each, in turn; the median counts.")] = 5,
    folder: Annotated[Path | None, typer.Option(help="Where to write it; the system's temporary folder.")] = None,
    json: Json = False,
) -> None:
    """Time and memory of loading a checkpoint, against safetensors' own reader in the same run."""
    from dreamzero_policy.cli import bench_load as room

    console = console_for(json)
    document = room.bench_load(gigabytes, repeats, folder, console)
    if json:
        print_json(document)
    else:
        room.report(document, console)


@bench.command("bags")
def bench_bags(
    minutes: Annotated[
        float, typer.Option(min=0.2, max=600.0, help="Length of the longer bag; the other has a quarter of it.")
    ] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often each way is timed, in turn.")] = 3,
    contract: Annotated[Path | None, typer.Option(help="Contract file; the shipped one by default.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where to write bags; the system's temporary folder.")] = None,
    json: Json = False,
) -> None:
    """Speed and memory of reading bags of three 640 x 480 JPEG cameras, beside rosbags' own iteration."""
    from dreamzero_policy.cli import bench_bags as room
    from dreamzero_policy.cli.data import contract_of

    console = console_for(json)
    with one_line(console):
        document = room.bench_bags(contract_of(contract), minutes, rounds, folder, console)
    if json:
        print_json(document)
    else:
        room.report(document, console)


@bench.command("motion")
def bench_motion(
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder; the shipped one by default.")] = None,
    latency: Annotated[
        list[float] | None, typer.Option(min=0.0, max=30.0, help="Mean time to an answer [s]; repeat for several.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of every executor at every latency.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, max=64, help="Denoising steps per chunk; as many as the checkpoint says.")
    ] = None,
    executor: Annotated[
        list[str] | None,
        typer.Option(
            help="plan, single_point, broker, weighted_average, newest_wins; repeat for several, else all of these. "
            "Also plan_overlap, plan_prefix, plan_soft_prefix: the plan in regime overlap, without and with "
            "prefix conditioning, and with its soft mask."
        ),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Episodes played at a time.")] = 2,
    world: Annotated[str, typer.Option(help="Installed suite, or its place.")] = "agibot_twin",
    out: Annotated[Path, typer.Option(help="Folder of motion.json and motion.svg.")] = Path("out/bench/motion"),
    json: Json = False,
) -> None:
    """Jumps, jerk, idle time and age of commands: the plan beside four ways others use, with injected latency."""
    from dreamzero_policy.cli import bench_motion as room
    from dreamzero_policy.evaluation.rehearsal import NAMES, OVERLAPPING

    console = console_for(json)
    latencies = latency or [0.15, 0.6, 1.1, 3.0]
    if unknown := set(executor or ()) - set(NAMES + OVERLAPPING):
        expected = ", ".join(NAMES + OVERLAPPING)
        raise typer.BadParameter(f"no executor {sorted(unknown)[0]!r}; expected {expected}")
    with one_line(console):
        document = room.bench_motion(
            checkpoint, latencies, episodes, seed, steps, executor or NAMES, processes, world, out, console
        )
    if json:
        print_json(document)
    else:
        room.report(document, out, console)


@bench.command("splice")
def bench_splice(
    rows: Annotated[int, typer.Option(min=8, help="Rows of the chunk.")] = 64,
    joints: Annotated[int, typer.Option(min=1, help="Joints that move.")] = 20,
    repeats: Annotated[int, typer.Option(min=10, help="How often each part is timed.")] = 2000,
    json: Json = False,
) -> None:
    """Time of going over from the plan in execution into a new chunk, judged, and of its parts."""
    from dreamzero_policy.cli import bench_splice as room

    console = console_for(json)
    document = room.bench_splice(rows, joints, repeats)
    if json:
        print_json(document)
    else:
        room.report(document, console)


@bench.command("regimes")
def bench_regimes(
    latencies: Annotated[
        list[float] | None,
        typer.Option("--latency", min=0.0, max=10.0, help="Simulated time to an answer [s]; 0.15, 0.6 and 1.1."),
    ] = None,
    regimes: Annotated[
        list[str] | None,
        typer.Option(
            "--regime",
            help="stop_and_go, two_sessions, two_sessions_prefix, look_ahead or slowed; repeat for several, else all "
            "but two_sessions_prefix.",
        ),
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each case.")] = 8,
    suite: Annotated[str, typer.Option(help="seen or unseen.")] = "seen",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode; the others follow it.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, max=64, help="Denoising steps per chunk; as many as the checkpoint says.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder; the shipped one by default.")] = None,
    contract: Annotated[Path | None, typer.Option(help="Contract file; the shipped one by default.")] = None,
    parameters: Annotated[Path | None, typer.Option(help="Parameter file of the node; the shipped one.")] = None,
    world: Annotated[str, typer.Option(help="Installed suite, or its place.")] = "agibot_twin",
    json: Json = False,
) -> None:
    """Ways to share time between inference and motion, over the same episodes on simulated time."""
    from dreamzero_policy.cli import bench_regimes as room
    from dreamzero_policy.evaluation.regimes import Episodes
    from dreamzero_policy.evaluation.suite import SuiteError

    console = console_for(json)
    try:
        document = room.bench_regimes(
            checkpoint,
            contract,
            parameters,
            latencies or [0.15, 0.6, 1.1],
            regimes or ["stop_and_go", "two_sessions", "look_ahead", "slowed"],
            Episodes(suite, seed, episodes, steps or 0),
            world,
            console,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except SuiteError as error:
        console.print(f"bench failed: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    if json:
        print_json(document)
    else:
        room.report(document, console)


@bench.command("surprise")
def bench_surprise(
    normal: Annotated[int, typer.Option(min=1, help="Undisturbed episodes that say what is normal.")] = 24,
    episodes: Annotated[int, typer.Option(min=1, help="Others, played undisturbed and with every disturbance.")] = 12,
    at: Annotated[
        float,
        typer.Option(
            min=0.1, help="When it happens at the earliest [s] behind an episode's begin; a second later at the latest."
        ),
    ] = 3.0,
    within: Annotated[float, typer.Option(min=0.1, help="In which an alarm counts as its detection [s].")] = 3.0,
    percentile: Annotated[
        list[float] | None, typer.Option(min=50.0, max=100.0, help="Of normal blocks; repeat for several. 95 and 99.")
    ] = None,
    blocks: Annotated[
        list[int] | None, typer.Option(min=1, help="In a row beyond it; repeat for several. 1 and 2.")
    ] = None,
    suite: Annotated[str, typer.Option(help="seen or unseen.")] = "seen",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode; the others follow it.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, max=64, help="Denoising steps per chunk; as many as the checkpoint says.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder; the shipped one by default.")] = None,
    contract: Annotated[Path | None, typer.Option(help="Contract file; the shipped one by default.")] = None,
    parameters: Annotated[Path | None, typer.Option(help="Parameter file of the node; the shipped one.")] = None,
    world: Annotated[str, typer.Option(help="Installed suite, or its place.")] = "agibot_twin",
    json: Json = False,
) -> None:
    """False alarms of surprise, and what is noticed when something happens that no policy could foresee."""
    from dreamzero_policy.cli import bench_surprise as room
    from dreamzero_policy.cli.share import sampler_steps, shipped_checkpoint
    from dreamzero_policy.evaluation.closed_loop import ParametersError
    from dreamzero_policy.evaluation.suite import SuiteError
    from dreamzero_policy.evaluation.surprising import Plan
    from dreamzero_policy.runtime.calibration import CalibrationError

    console = console_for(json)
    limits = tuple(percentile or (95.0, 99.0)), tuple(blocks or (1, 2))
    folder = checkpoint or shipped_checkpoint()
    plan = Plan(suite, seed, normal, episodes, steps or sampler_steps(folder), at, within, *limits)
    try:
        with one_line(console):
            document = room.bench_surprise(folder, contract, parameters, world, plan, console)
    except (SuiteError, ParametersError, CalibrationError) as error:
        console.print(f"bench failed: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    if json:
        print_json(document)
    else:
        room.report(document, console)


@bench.command("serve")
def bench_serve(
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder; the shipped one by default.")] = None,
    sessions: Annotated[
        list[int] | None, typer.Option(min=1, help="Robots at a time; repeat for several. 1, 2, 4, 8, 12, 16 and 24.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=64, help="Denoising steps per chunk; the checkpoint's by default.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the model.")] = 1,
    seconds: Annotated[float, typer.Option(min=2.0, help="For which every number of robots asks.")] = 20.0,
    chunks: Annotated[int, typer.Option(min=10, help="Of one robot, here and there.")] = 100,
    json: Json = False,
) -> None:
    """Sessions held at the contract's rate, the cost of the way over a socket, and memory per session."""
    from dreamzero_policy.cli import bench_serve as room
    from dreamzero_policy.cli.share import shipped_checkpoint
    from dreamzero_policy.inference.server.benchmark import ServerFailed

    console, counts = console_for(json), sessions or [1, 2, 4, 8, 12, 16, 24]
    try:
        document = room.bench_serve(
            checkpoint or shipped_checkpoint(), counts, steps, threads, seconds, chunks, console
        )
    except ServerFailed as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    if json:
        print_json(document)
    else:
        room.report(document, console)
