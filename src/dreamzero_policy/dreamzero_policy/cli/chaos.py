"""`dreamzero chaos`: twin and policy as processes, faults injected at random, everything that is commanded audited.

Without faults it is a soak: the robot follows one instruction after the other, and memory must not grow.

The robot's messages pass through a relay that damages them; processes are stopped and killed, with `--remote` the
server that the model is on. Simulated time is used, so that the clock can be set as well. Before each fault the robot
is in motion; each must be told by its name in ~/status and bring the robot to rest in time, and the run goes on once it
is over. All faults are dealt like cards: each comes once before any comes again, in an order that the seed decides.
"""

import os
import random
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dreamzero_policy.cli.processes import Processes
from dreamzero_policy.cli.share import shipped_contract
from dreamzero_policy.runtime.contract import save_contract
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.rest import longest_plan_s

MOTION_TIMEOUT_S = 10.0
MOTION_S = 0.4  # at least so much is still to come when a fault begins
INSTRUCTIONS = 6
BRAKE_S = 1.0  # of watching for a brake, until long after it was promised
STILL_S = 1.0  # how long nothing must move once the robot rests
TRANSPORT_S = 0.25  # what a crowded machine may add to a rest
INSTRUCTION_S = 30.0  # of a soak: each is followed so long
GROWTH_PERCENT_PER_HOUR = 1.0  # of a process's memory in a soak, at most
NODE_KILLED = "node_killed"
LEAD_S = 0.06  # the node's default
MARK = "DREAMZERO_RUN"


@dataclass
class Tally:
    """What became of the faults."""

    injected: Counter[str] = field(default_factory=Counter)
    not_noticed: Counter[str] = field(default_factory=Counter)
    rests_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    late_rests: list[str] = field(default_factory=list)
    moves: Counter[str] = field(default_factory=Counter)  # 10 ms samples of motion while stopped, by fault

    def rested(self, name: str, seconds: float, bound_s: float) -> None:
        self.rests_s[name].append(seconds)
        if seconds > bound_s + TRANSPORT_S:
            self.late_rests.append(f"{name}: {seconds:.2f} s, bound {bound_s:.2f} s")


def run_chaos(
    minutes: float,
    seed: int,
    folder: Path,
    console: Console,
    interrupted: threading.Event,
    faults: bool = True,
    remote: bool = False,
) -> dict[str, Any]:
    """The summary of a run. `remote`: the model is on a server, and faults are the server's in place of a model's.

    Raises ChaosFailed, ProcessDied or, when `interrupted` is set, Interrupted; nothing is left running.
    """
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from dreamzero_policy.cli.chaos_audit import left_over
    from dreamzero_policy.cli.chaos_faults import MODEL, SERVER
    from dreamzero_policy.cli.chaos_stand import Stand

    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    marker = uuid.uuid4().hex
    environment = dict(os.environ, OMP_WAIT_POLICY="PASSIVE", PYTHONUNBUFFERED="1", OPENBLAS_NUM_THREADS="1")
    contract = shipped_contract()
    folder.mkdir(parents=True, exist_ok=True)
    save_contract(contract, folder / "contract.yaml")
    console.print(f"ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']}  logs in {folder}", style="dim")
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    tally = Tally()
    with Processes(folder / "log", {**environment, MARK: marker}) as processes:
        stand = Stand(contract, folder / "contract.yaml", processes, seed, interrupted, remote)
        try:
            if faults:
                seconds = _conduct(stand, tally, minutes, random.Random(seed), console, SERVER if remote else MODEL)
            else:
                seconds = _soak(stand, tally, minutes, random.Random(seed), console)
        finally:
            stand.close()
    return _summary(stand, tally, seconds, seed, left_over(marker))


def _conduct(
    stand, tally: Tally, minutes: float, chance: random.Random, console: Console, of_the_model: tuple
) -> float:
    from dreamzero_policy.cli.chaos_faults import ROBOT
    from dreamzero_policy.cli.chaos_stand import START_TIMEOUT_S

    stand.require(lambda: stand.is_up() and stand.audit.watching, START_TIMEOUT_S, "idle policy")
    began = time.monotonic()
    for fault in _deal((*ROBOT, *of_the_model, None), chance):
        if time.monotonic() - began > 60 * minutes:
            return time.monotonic() - began
        _put_in_motion(stand, chance)
        name = fault.name if fault else NODE_KILLED
        tally.injected[name] += 1
        outcome = _inject(stand, tally, fault, chance) if fault else _kill_node(stand, tally)
        console.print(f"{time.monotonic() - began:6.1f} s  {name:20} {outcome}", highlight=False)


def _soak(stand, tally: Tally, minutes: float, chance: random.Random, console: Console) -> float:
    from dreamzero_policy.cli.chaos_stand import PROMPTS, START_TIMEOUT_S

    stand.require(lambda: stand.is_up() and stand.audit.watching, START_TIMEOUT_S, "idle policy")
    began = time.monotonic()
    while (elapsed_s := time.monotonic() - began) < 60 * minutes:
        stand.prompt(chance.choice(PROMPTS))
        stand.spin(INSTRUCTION_S)
        megabytes = ", ".join(f"{name} {value:.0f} MB" for name, value in stand.memory.newest().items())
        console.print(f"{elapsed_s:6.0f} s of {60 * minutes:.0f} s  {megabytes}", highlight=False)
    return time.monotonic() - began


def _deal(cards: tuple, chance: random.Random) -> Iterator[Any]:
    while True:
        yield from chance.sample(cards, len(cards))


def _put_in_motion(stand, chance: random.Random) -> None:
    from dreamzero_policy.cli.chaos_stand import PROMPTS, START_TIMEOUT_S, ChaosFailed

    def under_way() -> bool:
        return stand.moving() and stand.remaining_s() > MOTION_S

    stand.require(stand.is_up, START_TIMEOUT_S, "active policy")
    for attempt in range(2 * INSTRUCTIONS):  # a robot that has done what it was told stands still
        if stand.status.prompt and stand.wait(under_way, MOTION_TIMEOUT_S):
            return
        if attempt == INSTRUCTIONS:
            stand.begin_anew()
        stand.prompt(chance.choice(PROMPTS))
        stand.wait(lambda: bool(stand.status.prompt), MOTION_TIMEOUT_S)
    raise ChaosFailed(
        f"no motion after {2 * INSTRUCTIONS} instructions, half of them with robot and scene as at first; "
        f"last message: {stand.status.message}"
    )


def _inject(stand, tally: Tally, fault, chance: random.Random) -> str:
    """Begin, see that it is told and that the robot rests, end."""
    from dreamzero_policy.cli.chaos_faults import KNOWN_S

    before, begun_ns, moved = stand.status, stand.now_ns, 0
    known_s = KNOWN_S + (fault.known_s or 0.0)
    bound_s = known_s + stand.audit.stopping_s(begun_ns, known_s)
    if fault.finishes:
        bound_s = longest_plan_s(stand.contract, LEAD_S)
    fault.begin(stand, chance)
    brake = _end_of_motion(stand) if not fault.brakes else None
    noticed, said = stand.wait(lambda: fault.noticed(before, stand.status), fault.patience_s), stand.said()
    if not noticed:
        tally.not_noticed[fault.name] += 1
    rest_s = None
    if fault.brakes:
        stand.wait(lambda: stand.remaining_s() <= 0, MOTION_TIMEOUT_S)
        rest_s = (stand.audit.rest_ns() - begun_ns) / NS_PER_S
        stand.audit.must_rest_within(0.0, stand.now_ns)
        before_still = stand.audit.moves_while_stopped
        stand.spin(STILL_S)
        stand.audit.may_move()
        moved = stand.audit.moves_while_stopped - before_still
        tally.moves[fault.name] += moved
    elif fault.known_s is not None:
        rest_s = (brake - begun_ns) / NS_PER_S
    if rest_s is not None and (fault.finishes or fault.known_s is not None):
        tally.rested(fault.name, rest_s, bound_s)
    stand.relay.heal()
    fault.end(stand)
    if fault.finishes:
        stand.served_again(before.epoch)
    told = "told" if noticed else f"NOT TOLD ({said})"
    if moved:
        told += f", MOVED FOR {moved / 100:.2f} s while stopped"
    return told if rest_s is None else f"{told}, at rest after {rest_s:.2f} s"


def _end_of_motion(stand) -> int:
    """Where a fault that the robot drives on after brakes it first: the earliest rest that is promised soon after."""
    rests_ns = [stand.audit.rest_ns()]

    def watch() -> bool:
        rests_ns.append(stand.audit.rest_ns())
        return False

    stand.wait(watch, BRAKE_S)
    return min(rests_ns)


def _kill_node(stand, tally: Tally) -> str:
    """The robot finishes what it was sent last; a new node goes on."""
    killed_ns = stand.now_ns
    stand.kill_policy()
    stand.wait(lambda: stand.remaining_s() <= 0, MOTION_TIMEOUT_S)
    rest_s = (stand.audit.rest_ns() - killed_ns) / NS_PER_S
    tally.rested(NODE_KILLED, rest_s, longest_plan_s(stand.contract, LEAD_S))
    stand.start_policy()
    return f"at rest after {rest_s:.2f} s"


def _summary(stand, tally: Tally, seconds: float, seed: int, left: list[str]) -> dict[str, Any]:
    audit = stand.audit
    return {
        "seconds": round(seconds, 1),
        "seed": seed,
        "simulated_seconds": round(stand.now_ns / NS_PER_S, 1),
        "faults_injected": sum(tally.injected.values()),
        "injected": dict(sorted(tally.injected.items())),
        "not_noticed": dict(sorted(tally.not_noticed.items())),
        "max_rest_s": {name: round(max(values), 3) for name, values in sorted(tally.rests_s.items())},
        "late_rests": tally.late_rests,
        "trajectories": audit.trajectories,
        "command_samples": audit.samples,
        "commands_outside_limits": audit.outside,
        "worst_command": audit.worst,
        "moves_while_stopped": audit.moves_while_stopped,
        "moves_by_fault": {name: count for name, count in sorted(tally.moves.items()) if count},
        "longest_trajectory_s": round(audit.longest_s, 3),
        "memory": stand.memory.summary(),
        "policy_starts": stand.policy_starts,
        "leaked_processes": stand.leaked_models + len(left),
    }


def passed(summary: dict[str, Any]) -> bool:
    """Nothing that must not happen happened."""
    growing = not summary["faults_injected"] and any(
        (memory["growth_percent_per_hour"] or 0.0) > GROWTH_PERCENT_PER_HOUR for memory in summary["memory"].values()
    )
    return not (
        growing
        or summary["commands_outside_limits"]
        or summary["moves_while_stopped"]
        or summary["leaked_processes"]
        or summary["not_noticed"]
        or summary["late_rests"]
    )


def report(summary: dict[str, Any], console: Console) -> None:
    """The summary for a person."""
    faults = Table(title="faults", title_justify="left")
    for column in ("fault", "injected", "not told", "longest rest"):
        faults.add_column(column, justify="left" if column == "fault" else "right")
    for name, count in summary["injected"].items():
        rest_s = summary["max_rest_s"].get(name)
        faults.add_row(
            name, str(count), str(summary["not_noticed"].get(name, 0)), "" if rest_s is None else f"{rest_s:.2f} s"
        )
    table = Table(show_header=False)
    outside = f"{summary['commands_outside_limits']} of {summary['command_samples']}"
    for row in (
        ("time", f"{summary['seconds']:.0f} s, {summary['simulated_seconds']:.0f} s of them simulated"),
        ("commands outside limits", f"{outside}  {summary['worst_command']}"),
        ("moves while stopped", f"{summary['moves_while_stopped']}  {summary['moves_by_fault'] or ''}"),
        ("rests that came late", "; ".join(summary["late_rests"]) or "0"),
        ("longest trajectory", f"{summary['longest_trajectory_s']:.2f} s"),
        ("processes left over", str(summary["leaked_processes"])),
        *((f"memory of {name}", _memory(values)) for name, values in summary["memory"].items()),
    ):
        table.add_row(*row)
    if summary["faults_injected"]:
        console.print(faults)
    console.print(table)


def _memory(values: dict[str, float | None]) -> str:
    growth = values["growth_percent_per_hour"]
    slope = "too short for a slope" if growth is None else f"{growth:+.1f} % per hour"
    return f"{values['settled_mb']:.0f} → {values['last_mb']:.0f} MB in {values['seconds']:.0f} s, {slope}"
