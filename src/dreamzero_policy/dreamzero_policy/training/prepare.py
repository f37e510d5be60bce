"""The first stages of a training: statistics and the autoencoder, then latents of many windows.

    python -m dreamzero_policy.training.prepare --recipe config/training/agibot_g1_tiny.yaml --episodes demos --out run

The episodes are a data set in any of the forms of ``data/dataset.py``; a share of them, chosen by their names, is kept
for validation. Writes into the folder of the run: `statistics.json`, `config.json` (the model with its measured latent
normalisation), `vae/`, `tokenizer/` where the text encoder has a vocabulary, and folders `latents` and `validation`.

What exists there is taken as done, so an interrupted preparation goes on where it was: the autoencoder from its last
saved step, the latents from the last finished part. A data set that has grown since is encoded as far as it is new.
"""

import argparse
import json
import multiprocessing
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from dreamzero_policy.data.dataset import Dataset, IdleRule, open_dataset
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.model.autoencoder import VideoAutoencoder, build_autoencoder, speed_up_on_cpu
from dreamzero_policy.model.checkpoint import load_network, read_tensors
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.runtime.allocator import keep_freed_memory
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.embodiment import Embodiment, Statistics
from dreamzero_policy.runtime.orphans import die_with_parent
from dreamzero_policy.training.autoencoder import measure_latents, train_autoencoder, with_normalisation
from dreamzero_policy.training.errors import TRAINING_ERRORS
from dreamzero_policy.training.latents import LatentWindow, encode_windows, episodes_of, save_latents
from dreamzero_policy.training.progress import Reporter
from dreamzero_policy.training.settings import Recipe
from dreamzero_policy.training.vocabulary import fit_vocabulary

LATENT_CLIPS = 100  # clips whose latents are measured
PART_EPISODES = 50  # encoded together: what an interruption can cost each process
TRAINING, VALIDATION = "latents", "validation"


def prepare(recipe: Recipe, folder: Path, run: Path, reporter: Reporter, processes: int = 1) -> None:
    """Run the stages that are not done yet.

    Raises:
        EpisodeError: the data set or one of its episodes cannot be used.
        ContractError: the statistics that the recipe names are of another contract.
    """
    run.mkdir(parents=True, exist_ok=True)
    dataset = dataset_of(recipe, folder, load_contract(recipe.contract))
    split = dataset.split(recipe.latents.validation)
    if not (run / "config.json").exists():
        fit(recipe, dataset, split.train, run, reporter)
    for side, names in ((TRAINING, split.train), (VALIDATION, split.validation)):
        encode(recipe, folder, names, run / side, reporter, processes)


def dataset_of(recipe: Recipe, folder: Path, contract: Contract) -> Dataset:
    return open_dataset(folder, contract, IdleRule() if recipe.latents.trim_idle else None)


def fit(recipe: Recipe, dataset: Dataset, names: Sequence[str], run: Path, reporter: Reporter) -> None:
    """Stage 1: statistics, vocabulary, autoencoder, latent normalisation. `config.json` comes last: it says "done"."""
    contract, settings = dataset.contract, recipe.autoencoder
    if not names:
        raise EpisodeError("no episode is left to train on; latents.validation takes all of them")
    if (start := recipe.latents.statistics) is not None:
        statistics = Statistics.load(start, contract)
        shutil.copyfile(start, run / "statistics.json")
    else:
        reporter.say(f"statistics of {len(names)} episodes")
        statistics = dataset.statistics(run / "statistics.json", names)
    embodiment = Embodiment(contract, statistics)
    config = ModelConfig.from_file(recipe.model)
    if config.text_encoder.tokenizer == "files":
        make_vocabulary(recipe, dataset, names, embodiment, config, run, reporter)
    torch.manual_seed(settings.seed)
    network = build_autoencoder(config.autoencoder)
    if settings.start is not None:
        network.load_state_dict(read_tensors(settings.start))
    if settings.steps or settings.start is None:
        held = sorted(np.random.default_rng(settings.seed).permutation(len(names))[: settings.episodes])
        episodes = list(dataset.episodes([names[i] for i in held]))
        train_autoencoder(network, contract.model, episodes, settings, reporter, run / "autoencoder.pt")
        mean, std = measure_latents(
            VideoAutoencoder(network), episodes, LATENT_CLIPS, settings.clip_frames, settings.seed
        )
        config = with_normalisation(config, network, mean, std)
    else:
        stored = json.loads((settings.start / "config.json").read_text(encoding="utf-8"))
        mean, std = (np.array(stored[name], dtype=np.float64) for name in ("latents_mean", "latents_std"))
        config = with_normalisation(config, network, mean, std)
    network.save_pretrained(run / "vae")
    aside = run / "config.json.part"
    aside.write_text(json.dumps(config.to_dict(), indent=1) + "\n", encoding="utf-8")
    aside.replace(run / "config.json")
    (run / "autoencoder.pt").unlink(missing_ok=True)


def make_vocabulary(
    recipe: Recipe,
    dataset: Dataset,
    names: Sequence[str],
    embodiment: Embodiment,
    config: ModelConfig,
    run: Path,
    reporter: Reporter,
) -> None:
    """The tokenizer of the checkpoint that training goes on from, or one made from the instructions."""
    start = recipe.joint.start
    if start is not None and (start / "tokenizer").is_dir():
        shutil.copytree(start / "tokenizer", run / "tokenizer", dirs_exist_ok=True)
        return
    prompts = {
        embodiment.prompt(phrasing)
        for episode in dataset.episodes(names, pictures=False)
        for phrasing in episode.phrasings
    }
    tokens = fit_vocabulary(sorted(prompts), config.text_encoder.vocab_size, run / "tokenizer")
    reporter.say(f"{tokens} tokens for {len(prompts)} prompts")


def encode(recipe: Recipe, folder: Path, names: Sequence[str], side: Path, reporter: Reporter, processes: int) -> None:
    """Stage 2 for one side of the split: those of the episodes whose windows are not there yet."""
    side.mkdir(exist_ok=True)
    there = episodes_of(side)
    new = [name for name in names if name not in there]
    if not new:
        return
    first = 1 + max((int(file.stem) for file in side.glob("*.npz")), default=-1)
    todo = [
        (tuple(new[begin : begin + PART_EPISODES]), side / f"{number:06d}.npz")
        for number, begin in enumerate(range(0, len(new), PART_EPISODES), first)
    ]
    work = partial(encode_part, recipe, folder, side.parent)
    done, counts = len(names) - len(new), Counter()
    pool = multiprocessing.get_context("spawn").Pool(min(processes, len(todo)), initializer=die_with_parent)
    with pool, reporter.stage(side.name, len(names), done) as stage:
        for encoded in pool.imap_unordered(work, todo):
            counts += encoded
            stage.note(done + counts["episodes"])
    reporter.say(f"{side.name}: {counts['windows']} windows, {counts['chunks']} chunks of {len(new)} episodes")


def encode_part(recipe: Recipe, folder: Path, run: Path, part: tuple[tuple[str, ...], Path]) -> Counter[str]:
    """Encode the windows of some episodes into a file of their own; counts `episodes`, `windows` and `chunks`."""
    names, file = part
    torch.set_num_threads(1)
    keep_freed_memory()
    contract = load_contract(recipe.contract)
    embodiment = Embodiment(contract, Statistics.load(run / "statistics.json", contract))
    config = ModelConfig.from_file(run / "config.json")
    network = load_network(run / "vae", lambda: build_autoencoder(config.autoencoder)).requires_grad_(False)
    speed_up_on_cpu(network)
    dataset, settings = dataset_of(recipe, folder, contract), recipe.latents
    windows: list[LatentWindow] = []
    for name in names:
        episode = dataset.episode(name)
        found = encode_windows(
            VideoAutoencoder(network), embodiment, episode, name, settings.windows_per_episode, settings.seed
        )
        windows.extend(found)
    save_latents(file, contract, windows)
    return Counter(episodes=len(names), windows=len(windows), chunks=sum(item.chunks for item in windows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="model configuration; default: the one that the recipe names")
    parser.add_argument("--start", type=Path, help="folder of a trained autoencoder to go on from; default: untrained")
    parser.add_argument("--episodes", type=Path, required=True, help="data set: views, LeRobot or bags")
    parser.add_argument("--out", type=Path, required=True, help="folder of this training")
    parser.add_argument("--threads", type=int, default=1, help="of the autoencoder's training")
    parser.add_argument("--processes", type=int, default=1, help="that encode windows")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    recipe = Recipe.load(options.recipe, options.model)
    if options.start is not None:
        recipe = replace(recipe, autoencoder=replace(recipe.autoencoder, start=options.start))
    reporter = Reporter(Console(), options.out)
    try:
        prepare(recipe, options.episodes, options.out, reporter, options.processes)
    except TRAINING_ERRORS as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(1)
    finally:
        reporter.close()


if __name__ == "__main__":
    main()
