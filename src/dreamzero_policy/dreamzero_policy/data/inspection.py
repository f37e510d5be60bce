"""What a data set is: form, size, cameras, joints, instructions, fit to a contract, and on request every problem."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreamzero_policy.data.dataset import Source, validates
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.idle import moving_span
from dreamzero_policy.data.lerobot.layout import is_lerobot
from dreamzero_policy.data.lerobot.reader import LeRobotSource
from dreamzero_policy.runtime.contract import Contract

Progress = Callable[[int, int], None]  # episodes done, episodes in all


def describe(source: Source, folder: Path, contract: Contract, check: bool, progress: Progress) -> dict[str, Any]:
    """Everything that `dreamzero data inspect` prints.

    Metadata alone where the form has them; with `check` every number and picture that training would read is read, and
    each episode that cannot be used is told with its reason.
    """
    problems: list[dict[str, str]] = []
    fps = source.fps if isinstance(source, LeRobotSource) else contract.model.action_hz
    steps, phrasings, idle = 0, Counter(), 0
    for number, name in enumerate(source.names):
        progress(number, len(source.names))
        try:
            if isinstance(source, LeRobotSource) and not check:
                steps += source.steps(name)
                phrasings.update(source.rows[name].tasks)
                continue
            episode = source.episode(name, pictures=check)
            steps += source.steps(name) if isinstance(source, LeRobotSource) else episode.steps
            phrasings.update(episode.phrasings)
            first, last = moving_span(episode.state, episode.action)
            idle += first + episode.steps - last
        except EpisodeError as error:
            problems.append({"episode": name, "problem": str(error)})
    progress(len(source.names), len(source.names))
    return {
        "folder": str(folder),
        "format": source.format,
        "episodes": len(source.names),
        "validation_episodes": sum(map(validates, source.names)),
        "steps": steps,
        "fps": fps,
        "hours": steps / fps / 3600,
        "idle_steps": None if is_lerobot(folder) and not check else idle,
        "cameras": {camera: list(size) for camera, size in source.cameras().items()},
        "joints": source.joints(),
        "instructions": dict(phrasings.most_common()),
        "contract": _fit(source, contract),
        "checked": check,
        "problems": problems,
    }


def _fit(source: Source, contract: Contract) -> dict[str, Any]:
    """Whether the data set can be read for the contract, and what stands in the way."""
    document: dict[str, Any] = {"embodiment": contract.model.embodiment, "hash": contract.hash, "fits": True}
    document |= {"differences": [], "reason": ""}
    if isinstance(source, LeRobotSource):
        document["differences"] = source.differences()
        try:
            source.require_fit()
        except EpisodeError as error:
            document |= {"fits": False, "reason": str(error)}
    return document
