"""A campaign: an evaluation from what is asked for to numbers, films and a report on disk.

Every method plays the same episodes. They are played seed by seed, all methods of a seed before the next, so that an
interrupted campaign has whole rows of the table.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dreamzero_policy.evaluation import open_loop
from dreamzero_policy.evaluation.blind import mean_demonstration, recorded_demonstrations
from dreamzero_policy.evaluation.closed_loop import NodeParameters
from dreamzero_policy.evaluation.crew import Crew
from dreamzero_policy.evaluation.films import Film, shoot, worth_seeing
from dreamzero_policy.evaluation.journal import Journal
from dreamzero_policy.evaluation.methods import REFERENCE, Method, headline
from dreamzero_policy.evaluation.recorded import RecordedEpisodes
from dreamzero_policy.evaluation.stage import Job, Result, Setup, Stage
from dreamzero_policy.evaluation.suite import SuiteError, find_suite
from dreamzero_policy.evaluation.summary import summarise, versions
from dreamzero_policy.inference.worker_process import checkpoint_hash
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.trained import load_statistics

SUMMARY, REPORT, FILMS = "evaluation.json", "report.html", "films"
SHOWN_SEEDS = range(1_000_000, 1_000_100)  # of the demonstrations whose mean is replayed, if no data set is given
Notice = Callable[[str, int, int], None]  # what is being done, how many are done, of how many


@dataclass(frozen=True, eq=False)
class Campaign:
    """What is asked for."""

    setup: Setup
    methods: Sequence[Method]
    splits: Sequence[str]
    first_seed: int
    episodes: int  # of every split
    folder: Path
    processes: int = 1
    demonstrations: Path | None = None  # a data set whose mean is replayed; the suite's own demonstrations without it
    recorded: Path | None = None  # a data set for the open loop
    recorded_episodes: int = 20
    films: int = 6
    served: str = REFERENCE  # the method that is the checkpoint as it is served

    def jobs(self) -> list[Job]:
        return [
            Job(how.name, split, seed)
            for seed in range(self.first_seed, self.first_seed + self.episodes)
            for split in self.splits
            for how in self.methods
        ]


def run(campaign: Campaign, notice: Notice) -> dict[str, Any]:
    """Play what is not played yet, sum up, film, report. Gives the summary back.

    Raises:
        SuiteError, JournalError, MotionError, CheckpointError, ContractError, EpisodeError: see there.
        BrokenProcessPool: a process died.
    """
    find_suite(campaign.setup.world)  # what is not there or does not fit is refused before any process starts
    contract = load_contract(campaign.setup.contract)
    for folder in campaign.setup.weights.values():
        load_statistics(folder, contract)
    campaign = _with_replay(campaign, contract, notice)
    recorded = _recorded(campaign, contract)
    weights = {name: checkpoint_hash(folder) for name, folder in campaign.setup.weights.items()}
    hashes = {how.name: _hash_of(how, weights, campaign.setup) for how in campaign.methods}
    jobs = campaign.jobs()
    with Journal(campaign.folder, _conditions(campaign, contract)) as journal:
        todo = journal.missing(jobs, hashes)
        with Crew(campaign.setup, campaign.processes) as crew:
            playing = crew.each(Stage.result_of, [(job, hashes[job.method]) for job in todo])
            for _, result in _counted(playing, "episodes", len(jobs), notice, done=len(jobs) - len(todo)):
                journal.add(result)
            results = [journal.results[job] for job in jobs]
            top = headline([how.name for how in campaign.methods], campaign.served)
            window_chunks = contract.model.chunk.chunks_per_window
            document = summarise(results, campaign.methods, campaign.splits, window_chunks, top)
            document |= _made_with(campaign, contract, weights)
            if recorded:
                document["open_loop"] = _open_loop(campaign, recorded, crew, contract, notice)
            films = _films(campaign, crew, results, top, notice)
    document["films"] = [_film(film) for film in films]
    _write(campaign.folder, document, films)
    return document


def _with_replay(campaign: Campaign, contract: Contract, notice: Notice) -> Campaign:
    if not any(how.name == "mean-demonstration" for how in campaign.methods):
        return campaign
    if campaign.demonstrations is not None:
        demonstrations = recorded_demonstrations(campaign.demonstrations, contract)
    else:
        demonstrations = _shown(campaign, notice)
    return replace(campaign, setup=replace(campaign.setup, replay=mean_demonstration(demonstrations)))


def _shown(campaign: Campaign, notice: Notice) -> list[Floats]:
    """Demonstrations of the suite itself, in the order of their seeds. Raises SuiteError if it knows how to do none."""
    with Crew(campaign.setup, campaign.processes) as crew:
        showing = crew.each(Stage.demonstration, SHOWN_SEEDS)
        shown = dict(_counted(showing, "demonstrations", len(SHOWN_SEEDS), notice))
    if not (rows := [shown[seed] for seed in SHOWN_SEEDS if shown[seed] is not None]):
        raise SuiteError(f"{campaign.setup.world} demonstrates none of {len(SHOWN_SEEDS)} tasks; give --demonstrations")
    return rows


def _hash_of(how: Method, weights: Mapping[str, str], setup: Setup) -> str:
    if how.weights is not None:
        return weights[how.weights]
    if how.name == "mean-demonstration":
        return hashlib.sha256(setup.replay.tobytes()).hexdigest()
    return ""


def _conditions(campaign: Campaign, contract: Contract) -> dict[str, Any]:
    """What the episodes of one folder share."""
    setup = campaign.setup
    return {
        "world": setup.world,
        "contract_hash": contract.hash,
        "latency_s": setup.latency_s,
        "device": setup.device,
        "dtype": setup.dtype,
        "node": NodeParameters.load(setup.parameters).as_dict(),
    }


def _made_with(campaign: Campaign, contract: Contract, weights: Mapping[str, str]) -> dict[str, Any]:
    last = campaign.first_seed + campaign.episodes - 1
    return {
        "suites": list(campaign.splits),
        "seeds": {"first": campaign.first_seed, "last": last, "episodes_per_suite": campaign.episodes},
        "checkpoint_hash": weights.get("checkpoint"),
        "checkpoints": dict(weights),
        "versions": versions(),
        "step_s": contract.model.step_s,
        **_conditions(campaign, contract),
    }


def _recorded(campaign: Campaign, contract: Contract) -> tuple[str, ...]:
    """Names of the episodes of the open loop. The first is read, which tells whether the data set fits."""
    if campaign.recorded is None:
        return ()
    episodes = RecordedEpisodes(campaign.recorded, contract)
    names = episodes.names[: campaign.recorded_episodes]
    episodes.episode(names[0], pictures=False)
    return names


def _open_loop(
    campaign: Campaign, names: Sequence[str], crew: Crew, contract: Contract, notice: Notice
) -> dict[str, Any]:
    items = [
        open_loop.Recorded(how.name, campaign.recorded, name)
        for name in names
        for how in campaign.methods
        if how.weights is not None
    ]
    errors: dict[str, dict[str, open_loop.Errors]] = {}
    for item, error in _counted(crew.each(open_loop.measure, items), "recorded episodes", len(items), notice):
        errors.setdefault(item.method, {})[item.episode] = error
    return {
        how.name: open_loop.summed_up(contract.model, [errors[how.name][name] for name in names])
        for how in campaign.methods
        if how.name in errors
    }


def _films(campaign: Campaign, crew: Crew, results: Sequence[Result], top: str, notice: Notice) -> list[Film]:
    on_top = [result for result in results if result.method == top and result.chunks]
    chosen = worth_seeing(on_top, campaign.films)
    return [film for _, film in _counted(crew.each(shoot, chosen), "films", len(chosen), notice)]


def _counted(
    pairs: Iterator[tuple[Any, Any]], what: str, total: int, notice: Notice, done: int = 0
) -> Iterator[tuple[Any, Any]]:
    """The pairs, each told of once it was dealt with."""
    if total:
        notice(what, done, total)
    for number, pair in enumerate(pairs, done + 1):
        yield pair
        notice(what, number, total)


def film_name(film: Film) -> str:
    result = film.result
    return f"{result.method}_{result.split}_{result.seed}.mp4"


def _film(film: Film) -> dict[str, Any]:
    result = film.result
    return {
        "file": f"{FILMS}/{film_name(film)}",
        "split": result.split,
        "seed": result.seed,
        "success": result.success,
        "progress": result.progress,
        "progress_when_filmed": film.progress,
    }


def _write(folder: Path, document: Mapping[str, Any], films: Sequence[Film]) -> None:
    from dreamzero_policy.evaluation.report import page  # matplotlib takes a second to come

    (folder / FILMS).mkdir(exist_ok=True)
    for film in films:
        (folder / FILMS / film_name(film)).write_bytes(film.mp4)
    (folder / SUMMARY).write_text(json.dumps(document, indent=1) + "\n")
    (folder / REPORT).write_text(page(document, films), encoding="utf-8")
