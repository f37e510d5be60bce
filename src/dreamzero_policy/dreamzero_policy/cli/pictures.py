"""`dreamzero collect --form grounding`: pictures of a simulated robot's scenes with questions about them.

Who makes them belongs to the robots' packages and is found by the entry point group `dreamzero.pictures`.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dreamzero_policy.cli.collect import offered
from dreamzero_policy.cli.progress import followed
from dreamzero_policy.data.dataset import open_dataset
from dreamzero_policy.data.pictures import PicturesSink
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.embodiment import Floats

GROUP = "dreamzero.pictures"
POSED_EPISODES, POSES_EACH = 400, 12  # states taken from demonstrations, at most


def some_states(demonstrations: Path, contract: Contract) -> Floats:
    """States [P, D] here and there in demonstrations, the same ones every time.

    Raises:
        EpisodeError: the data set or one of its episodes cannot be used.
    """
    dataset, rng = open_dataset(demonstrations, contract), np.random.default_rng(0)
    names = rng.permutation(dataset.names)[:POSED_EPISODES]
    found = []
    for episode in dataset.episodes([str(name) for name in names], pictures=False):
        found.append(episode.state[rng.integers(0, episode.steps, POSES_EACH)])
    return np.concatenate(found)


def run(
    robot: str,
    contract_path: Path,
    out: Path,
    seeds: range,
    processes: int,
    console: Console,
    poses: Path | None = None,
) -> dict[str, Any]:
    """Make the pictures and give the counts back. An interruption leaves whole files; call again to go on.

    poses: demonstrations whose poses the robot has; without them it has those in which the robot's expert begins.

    Raises:
        CollectError: the robot's package makes no pictures.
        EpisodeError: the demonstrations cannot be used.
    """
    collect, contract, began = offered(GROUP, robot, "makes pictures"), load_contract(contract_path), time.monotonic()
    states = None if poses is None else some_states(poses, contract)
    counts = {"pictures": 0, "there": 0, "questions": 0}
    with followed(console, "pictures", len(seeds)) as note:
        for file in collect(contract_path, PicturesSink(out, contract), seeds, processes, states):
            counts["there" if file.questions is None else "pictures"] += file.pictures
            counts["questions"] += file.questions or 0
            note(file.pictures, f"{counts['there']} there already", str(counts))
    return {**counts, "seconds": round(time.monotonic() - began, 1)}


def report(document: dict[str, Any], out: Path, console: Console) -> None:
    console.print(f"  {document['pictures']} pictures made, with {document['questions']} questions")
    if document["there"]:
        console.print(f"  {document['there']} were there already")
    console.print(f"{out}  {document['seconds']:.0f} s")
