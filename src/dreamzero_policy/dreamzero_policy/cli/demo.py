"""`dreamzero demo`: twin and policy as separate processes over DDS, watched, recorded and summed up.

With `--remote` the model is served by one more process, `dreamzero serve`, and the node asks it over a websocket.

The order of things: start the processes, wait until the model is loaded and every topic has its other end, record,
send one RunPolicy goal after the other, come to rest, stop the processes, write summary.json, the bag and the film.
"""

import importlib.metadata
import os
import platform
import socket
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from dreamzero_policy.cli.processes import Processes
from dreamzero_policy.cli.share import shipped_contract
from dreamzero_policy.cli.summary import RunRecord, write_summary
from dreamzero_policy.runtime.contract import Contract, save_contract

NODE = "/policy_node"
START_TIMEOUT_S = 180.0
REST_TIMEOUT_S = 4.0
GOAL_GRACE_S = 15.0
JUDGED_S = 1.1  # the twin says once a second how far its task is
DURATION_REACHED, TOO_MANY_REJECTIONS = 1, 204  # of dreamzero_msgs/RunPolicy
CONTRACT = "contract.yaml"
EPISODE_S = 10.0  # enough for every task of the twin
SETTLE_S = 0.3  # after a reset, until what was seen before it is no longer the newest
NICENESS = 5
PATIENT_S = 10.0
PACKAGES = ("torch", "diffusers", "transformers", "mujoco", "numpy", "ros-jazzy-rclpy", "rosbags", "ruckig")


class DemoFailed(RuntimeError):  # noqa: N818 (it tells what happened)
    """The demo cannot go on; the message says why and what to look at."""


class Interrupted(Exception):  # noqa: N818
    """Ctrl-C."""


@dataclass(frozen=True)
class DemoOptions:
    seconds: float
    seed: int
    prompt: str | None  # None: the scene's own task
    folder: Path
    viewer: bool
    steps: int
    image_width: int
    transport: str
    checkpoint: Path | None
    remote: bool = False  # the model is served, in place of beside the node


def default_folder() -> Path:
    return Path("out") / "demo" / datetime.now().strftime("%Y%m%d-%H%M%S")


def run_demo(options: DemoOptions, console: Console, interrupted: threading.Event) -> dict:
    """Run the demo and give the summary back.

    Raises DemoFailed, ProcessDied or, when `interrupted` is set, Interrupted, after a clean stop.
    """
    if options.folder.exists() and any(options.folder.iterdir()):
        raise DemoFailed(f"{options.folder} exists and is not empty; name another folder with --out")
    if interrupted.is_set():
        raise Interrupted
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    console.print(f"ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']}  logs and results in {options.folder}", style="dim")
    environment = dict(os.environ, OMP_WAIT_POLICY="PASSIVE", PYTHONUNBUFFERED="1", OPENBLAS_NUM_THREADS="1")
    contract = contract_for(options)
    save_contract(contract, options.folder / CONTRACT)
    with Processes(options.folder / "log", environment) as processes:
        processes.start("twin", "agibot_twin.twin_node", twin_arguments(options))
        server_url = None
        if options.remote:
            port = free_port()
            processes.start("server", "dreamzero_policy.cli.main", server_arguments(options, port))
            server_url = f"ws://127.0.0.1:{port}"
        processes.start("policy", "dreamzero_policy.ros.policy_node", policy_arguments(options, server_url))
        os.nice(NICENESS)  # looking on must not slow down what is looked at
        record = _conduct(options, contract, processes, console, interrupted)
    summary = record.summary()
    write_summary(summary, options.folder / "summary.json")
    if interrupted.is_set():
        raise Interrupted
    if record.chunks:
        _film(options, contract, console, interrupted)
    return summary


def twin_arguments(options: DemoOptions) -> list[str]:
    return [
        "--ros-args",
        "-p",
        f"seed:={options.seed}",
        "-p",
        f"image_width:={options.image_width}",
        "-p",
        f"viewer:={str(options.viewer).lower()}",
    ]


def server_arguments(options: DemoOptions, port: int) -> list[str]:
    """Of `dreamzero serve`: one robot may have the whole model."""
    arguments = ["serve", "--listen", f"127.0.0.1:{port}", "--load", "1.0"]
    if options.steps:
        arguments += ["--steps", str(options.steps)]
    if options.checkpoint is not None:
        arguments += ["--checkpoint", str(options.checkpoint.resolve())]
    return arguments


def free_port() -> int:
    """One on which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def policy_arguments(options: DemoOptions, server_url: str | None = None) -> list[str]:
    """Of the node; with a server it has no checkpoint."""
    arguments = [
        "--ros-args",
        "-p",
        "autostart:=true",
        "-p",
        f"denoise_steps:={options.steps}",
        "-p",
        f"image_transport:={options.transport}",
        "-p",
        f"contract:={(options.folder / CONTRACT).resolve()}",
    ]
    if server_url is not None:
        arguments += ["-p", "backend:=remote", "-p", f"server_url:={server_url}"]
        arguments += ["-p", f"server_period_s:={PATIENT_S}"]  # a slow machine is waited for, as without a server
    elif options.checkpoint is not None:
        arguments += ["-p", f"checkpoint:={options.checkpoint.resolve()}"]
    return arguments


def contract_for(options: DemoOptions) -> Contract:
    """The shipped contract with the image size asked for; that is the site's matter, the model stays the same."""
    contract = shipped_contract()
    size = {"width_px": options.image_width, "height_px": options.image_width * 3 // 4}
    cameras = {name: camera.model_copy(update=size) for name, camera in contract.site.cameras.items()}
    return contract.model_copy(update={"site": contract.site.model_copy(update={"cameras": cameras})})


def _conduct(
    options: DemoOptions,
    contract: Contract,
    processes: Processes,
    console: Console,
    interrupted: threading.Event,
) -> RunRecord:
    """Everything that happens over DDS, from this process's node."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from dreamzero_policy.cli.observer import Observer
    from dreamzero_policy.ros.executors import single_threaded_executor

    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    observer = Observer(NODE)
    executor = single_threaded_executor()
    executor.add_node(observer)

    def spin(seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=left)
        if interrupted.is_set():
            raise Interrupted
        processes.check()

    try:
        _await_start(observer, spin, console)
        observer.start_recording(options.folder / "bag", contract)
        _await_recorder(observer, spin)
        _follow_tasks(options, observer, processes, spin, console)
    except Interrupted:
        console.print("stopping …", style="yellow")
    finally:
        if observer.recording:
            observer.stop_policy()
            _come_to_rest(observer, lambda seconds: _spin_quietly(executor, seconds))
        record = observer.finish()
        record.peak_rss_mb = {**processes.peak_rss_mb, "demo": psutil.Process().memory_info().rss / 2**20}
        record.seed, record.versions = options.seed, versions()
        executor.shutdown()
        observer.destroy_node()
        rclpy.try_shutdown()
    return record


def _spin_quietly(executor, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        executor.spin_once(timeout_sec=left)


def _await_start(observer, spin, console: Console) -> None:
    began = time.monotonic()
    with console.status("starting the twin and loading the model …") as status:
        while not observer.ready():
            spin(0.2)
            status.update(f"{escape(observer.starting())}  [dim]{time.monotonic() - began:.0f} s[/dim]")
            if observer.failure():
                raise DemoFailed(observer.failure())
            if time.monotonic() - began > START_TIMEOUT_S:
                raise DemoFailed(f"not ready after {START_TIMEOUT_S:.0f} s: {observer.starting()}")
    console.print(f"ready after {time.monotonic() - began:.1f} s")


def _await_recorder(observer, spin) -> None:
    began = time.monotonic()
    while observer.unheard():
        spin(0.1)
        if time.monotonic() - began > REST_TIMEOUT_S:
            raise DemoFailed(f"the recorder hears nothing on {', '.join(observer.unheard())}")


def _follow_tasks(options: DemoOptions, observer, processes: Processes, spin, console: Console) -> None:
    """One episode after the other: home pose, a scene of its own, one goal."""
    episodes = max(1, round(options.seconds / EPISODE_S))
    share_s = options.seconds / episodes
    shown = 0.0
    with Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else _NoLive() as live:
        for number in range(episodes):
            task = _set_the_scene(observer, spin, options.seed + number)
            prompt = options.prompt or task
            observer.send_goal(prompt, share_s)
            deadline = time.monotonic() + share_s + GOAL_GRACE_S
            while not observer.goal_done():
                if time.monotonic() > deadline:
                    raise DemoFailed(f"task {prompt!r} did not end: no result {GOAL_GRACE_S:.0f} s after its time")
                spin(0.25)
                processes.measure()
                live.update(progress_table(observer, options, prompt))
                if not console.is_terminal and observer.elapsed_s() - shown >= 5:
                    shown = observer.elapsed_s()
                    console.print(progress_line(observer, options, prompt), soft_wrap=True)
            if options.prompt is None:
                spin(JUDGED_S)
                observer.judge(prompt)
            code, message = observer.goal_outcome()
            if code == TOO_MANY_REJECTIONS:
                console.print(f"task ended early: {message}", style="yellow")
            elif code != DURATION_REACHED:
                raise DemoFailed(f"task {prompt!r} was aborted ({code}): {message}")


def _set_the_scene(observer, spin, seed: int) -> str:
    """Lay out the scene of a seed; returns its own task, in words."""
    task, began = observer.reset_twin(seed), time.monotonic()
    while task() is None:
        spin(0.02)
        if time.monotonic() - began > REST_TIMEOUT_S:
            raise DemoFailed("the twin does not answer to its reset")
    spin(SETTLE_S)
    return task()


def _come_to_rest(observer, spin) -> None:
    began = time.monotonic()
    while observer.moving() and time.monotonic() - began < REST_TIMEOUT_S:
        spin(0.1)


def progress_table(observer, options: DemoOptions, prompt: str) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in observer.figures(options.seconds):
        table.add_row(f"[dim]{name}[/dim]", value)
    table.add_row("[dim]task[/dim]", f"[bold]{prompt}[/bold]")
    return table


def progress_line(observer, options: DemoOptions, prompt: str) -> str:
    return "  ".join(f"{name} {value}" for name, value in observer.figures(options.seconds)) + f"  task: {prompt}"


class _NoLive:
    """Where there is no terminal, lines are printed instead."""

    def __enter__(self) -> "_NoLive":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, _: Table) -> None:
        pass


def _film(options: DemoOptions, contract: Contract, console: Console, interrupted: threading.Event) -> None:
    from dreamzero_policy.cli.video import render

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("writing the film", total=1.0)

        def done(share: float) -> None:
            progress.update(task, completed=share)
            if interrupted.is_set():
                raise Interrupted

        render(options.folder / "bag", options.folder / "demo.mp4", contract, NODE, done)


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "ros_distro": os.environ.get("ROS_DISTRO", "jazzy wheels")}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "system"
    return found


def report(summary: dict, folder: Path, console: Console) -> None:
    """The summary for a person."""
    table = Table(title="demo", show_header=False, title_justify="left")
    rejected, underruns = sum(summary["rejected_chunks"].values()), summary["plan_underruns"]
    capacity = f"{summary['capacity_hz'] or 0:.1f} chunks/s at {summary['denoise_steps']} steps"
    lost = ", ".join(f"{camera} {count}" for camera, count in summary["dropped_frames"].items())
    memory = ", ".join(f"{name} {megabytes:.0f} MB" for name, megabytes in summary["peak_rss_mb"].items())
    rows = (
        ("tasks done", f"{summary['tasks_done']} of {len(summary['tasks'])}" if summary["tasks"] else "not judged"),
        ("chunks", f"{summary['chunks']} in {summary['seconds']:.1f} s, {rejected} rejected, {underruns} underruns"),
        ("the model alone could do", capacity),
        ("model", _range(summary["model_ms"])),
        ("everything else", _range(summary["overhead_ms"])),
        ("transport of frames", _range(summary["transport_ms"])),
        ("observation to command", _range(summary["observation_to_command_ms"])),
        ("largest velocity step at a seam", f"{summary['max_seam_velocity_jump_rad_s'] or 0:.4f} rad/s"),
        ("frames lost", lost),
        ("memory", memory),
    )
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for name in ("demo.mp4", "bag", "summary.json", "log"):
        if (folder / name).exists():
            console.print(f"  {folder / name}")


def _range(percentiles: dict) -> str:
    return "  ".join(f"{name} {value:.1f} ms" for name, value in percentiles.items() if value is not None)


def has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
