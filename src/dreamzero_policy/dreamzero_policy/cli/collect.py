"""`dreamzero collect`: demonstrations of a simulated robot's scripted expert, as a data set.

Who demonstrates belongs to the robots' packages and is found by the entry point group `dreamzero.demonstrations`. After
a policy's attempt, the expert shows how to go on from where the policy got to.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rich.console import Console

from dreamzero_policy.cli.progress import followed
from dreamzero_policy.cli.share import sampler_steps, shipped_parameters_path
from dreamzero_policy.data.lerobot.writer import LeRobotWriter
from dreamzero_policy.data.sinks import LeRobotSink, ViewsSink
from dreamzero_policy.runtime.contract import load_contract

GROUP = "dreamzero.demonstrations"


class CollectError(RuntimeError):
    """Nobody is there to demonstrate or to make pictures; the message says what was looked for."""


@dataclass
class Collected:
    """How the seeds ended, by outcome and by family."""

    outcomes: Counter[str] = field(default_factory=Counter)
    by_family: dict[str, Counter[str]] = field(default_factory=dict)  # those that were tried
    episodes: int = 0  # kept; an attempt with advice may leave several
    seconds: float = 0.0

    def add(self, made: Any) -> None:
        self.outcomes[made.how] += 1
        self.episodes += made.episodes if made.how == "kept" else 0
        if made.how != "there":
            self.by_family.setdefault(made.family, Counter())[made.how] += 1

    def document(self) -> dict[str, Any]:
        families = {
            family: {"kept": 0, "tried": outcomes.total(), **outcomes}
            for family, outcomes in sorted(self.by_family.items())
        }
        return {
            "outcomes": dict(self.outcomes),
            "episodes": self.episodes,
            "families": families,
            "seconds": round(self.seconds, 1),
        }


def demonstrator(name: str) -> Callable[..., Iterable[Any]]:
    """The robot's own `collect`. Raises CollectError."""
    return offered(GROUP, name, "demonstrates")


def offered(group: str, name: str, does: str) -> Callable[..., Iterable[Any]]:
    """What a robot's package offers under a group of entry points. Raises CollectError."""
    found = {entry.name: entry for entry in entry_points(group=group)}
    if name not in found:
        raise CollectError(f"nobody {does} for {name!r}; installed are: {', '.join(sorted(found)) or 'none'}")
    return found[name].load()


def after_policy(checkpoint: Path, contract_path: Path, steps: int | None) -> Callable[..., None]:
    """A policy at work, with the node's parameters, as `run`'s prelude. `steps` None: as many as the checkpoint says.

    Raises:
        CheckpointError, ContractError: it does not fit the contract.
    """
    from dreamzero_policy.evaluation.stage import Setup  # torch takes seconds to come
    from dreamzero_policy.evaluation.takeover import CHECKPOINT, PolicyPrelude

    setup = Setup("", contract_path, shipped_parameters_path(), {CHECKPOINT: checkpoint.resolve()})
    prelude = PolicyPrelude(setup, steps or sampler_steps(checkpoint))
    prelude.require_fit()
    return prelude


def run(
    robot: str,
    contract_path: Path,
    out: Path,
    form: str,
    seeds: range,
    processes: int,
    console: Console,
    prelude: Callable[..., None] | None = None,
    mistakes: bool = False,
    advised: bool = False,
) -> dict[str, Any]:
    """Collect and give the counts back. An interruption leaves whole episodes; call again to go on.

    prelude: who is at work before the expert takes over, see the robot's package; or mistakes of the robot's own.
    advised: the expert does not take over, it shows at every chunk what it would do. In the form `views` only.
    """
    contract, collect = load_contract(contract_path), demonstrator(robot)
    if prelude is not None:
        collect = partial(collect, prelude=prelude)
    if mistakes:
        collect = partial(collect, mistakes=True)
    if advised:
        collect = partial(collect, advised=True)
    collected, began = Collected(), time.monotonic()
    if form == "views":
        _watch(collect(contract_path, ViewsSink(out, contract), seeds, processes), seeds, collected, console)
    else:
        with LeRobotWriter(out, contract) as writer:  # packs what was staged when it is left, interrupted or not
            _watch(collect(contract_path, LeRobotSink.of(writer), seeds, processes), seeds, collected, console)
    collected.seconds = time.monotonic() - began
    return collected.document()


def _watch(made: Iterable[Any], seeds: range, collected: Collected, console: Console) -> None:
    with followed(console, "demonstrations", len(seeds)) as note:
        for one in made:
            collected.add(one)
            if one.message:
                console.print(f"seed {one.seed}: {one.message}", style="dim", markup=False, highlight=False)
            note(1, f"{collected.episodes} kept", str(dict(collected.outcomes)))


def report(document: dict[str, Any], out: Path, console: Console) -> None:
    for family, counts in document["families"].items():
        others = "".join(f", {n} {how}" for how, n in sorted(counts.items()) if how not in ("kept", "tried"))
        console.print(f"  {family}: {counts['kept']} of {counts['tried']} demonstrations kept{others}")
    console.print(f"{out}  {document['seconds']:.0f} s")
