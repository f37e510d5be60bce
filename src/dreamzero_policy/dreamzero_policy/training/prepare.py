"""Stages 1 and 2 of a training: statistics and the autoencoder, then latents of many windows.

    python -m dreamzero_policy.training.prepare --recipe config/training/agibot_g1_tiny.yaml --episodes demos --out run

Writes `statistics.json`, `config.json` (the model with its measured latent normalisation), `vae/` and `latents.npz`
into the output folder. What exists there is taken as done, so an interrupted preparation continues with the next stage.
"""

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import torch

from dreamzero_policy.data.episodes import episode_paths, load_episode, load_episodes
from dreamzero_policy.data.windows import quantiles
from dreamzero_policy.model.autoencoder import VideoAutoencoder, build_autoencoder, speed_up_on_cpu
from dreamzero_policy.model.checkpoint import load_network, read_tensors
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.runtime.allocator import keep_freed_memory
from dreamzero_policy.runtime.contract import load_contract
from dreamzero_policy.runtime.embodiment import Embodiment, Statistics, save_statistics
from dreamzero_policy.training.autoencoder import measure_latents, train_autoencoder, with_normalisation
from dreamzero_policy.training.latents import LatentWindow, encode_windows, save_latents
from dreamzero_policy.training.settings import Recipe

LATENT_CLIPS = 100  # clips whose latents are measured


def prepare(recipe: Recipe, episodes: Path, out: Path, start: Path | None = None, processes: int = 1) -> None:
    """Run the stages that are not done yet. `start`: folder of a trained autoencoder to go on from."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "config.json").exists():
        fit_autoencoder(recipe, episodes, out, start)
    if not (out / "latents.npz").exists():
        shares = [(recipe, episodes, out, index, processes) for index in range(processes)]
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            windows = [item for share in pool.starmap(encode_share, shares, chunksize=1) for item in share]
        save_latents(out / "latents.npz", load_contract(recipe.contract), windows)
        print(f"{len(windows)} windows with {sum(item.chunks for item in windows)} chunks", flush=True)


def fit_autoencoder(recipe: Recipe, folder: Path, out: Path, start: Path | None) -> None:
    """Stage 1: statistics, autoencoder, latent normalisation."""
    contract, settings = load_contract(recipe.contract), recipe.autoencoder
    episodes = list(load_episodes(folder, contract))
    minutes = sum(episode.steps for episode in episodes) / contract.model.action_hz / 60
    print(f"{len(episodes)} episodes, {minutes:.1f} minutes", flush=True)
    save_statistics(out / "statistics.json", contract, *quantiles(contract, episodes))
    embodiment = Embodiment(contract, Statistics.load(out / "statistics.json", contract))
    config = ModelConfig.from_file(recipe.model)
    torch.manual_seed(settings.seed)
    network = build_autoencoder(config.autoencoder)
    if start is not None:
        network.load_state_dict(read_tensors(start))
    train_autoencoder(network, embodiment, episodes, settings, lambda line: print(line, flush=True))
    autoencoder = VideoAutoencoder(network)
    mean, std = measure_latents(autoencoder, embodiment, episodes, LATENT_CLIPS, settings.clip_frames, settings.seed)
    config = with_normalisation(config, network, mean, std)
    network.save_pretrained(out / "vae")
    (out / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")


def encode_share(recipe: Recipe, folder: Path, out: Path, index: int, of: int) -> list[LatentWindow]:
    """Stage 2 for every `of`-th episode, beginning with number `index`."""
    torch.set_num_threads(1)
    contract = load_contract(recipe.contract)
    embodiment = Embodiment(contract, Statistics.load(out / "statistics.json", contract))
    config = ModelConfig.from_file(out / "config.json")
    network = load_network(out / "vae", lambda: build_autoencoder(config.autoencoder)).requires_grad_(False)
    speed_up_on_cpu(network)
    numbers = range(index, len(episode_paths(folder)), of)
    episodes = ((number, load_episode(episode_paths(folder)[number], contract)) for number in numbers)
    begin, windows = time.monotonic(), []
    settings = recipe.latents
    for item in encode_windows(
        VideoAutoencoder(network), embodiment, episodes, settings.windows_per_episode, settings.seed
    ):
        windows.append(item)
        if len(windows) % 200 == 0:
            each_s = (time.monotonic() - begin) / len(windows)
            print(f"process {index + 1} of {of}: {len(windows)} windows, {each_s:.2f} s each", flush=True)
    return windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="model configuration; default: the one that the recipe names")
    parser.add_argument("--start", type=Path, help="folder of a trained autoencoder to go on from; default: untrained")
    parser.add_argument("--episodes", type=Path, required=True, help="folder of episodes")
    parser.add_argument("--out", type=Path, required=True, help="folder of this training")
    parser.add_argument("--threads", type=int, default=1, help="of the autoencoder's training")
    parser.add_argument("--processes", type=int, default=1, help="that encode windows")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    prepare(Recipe.load(options.recipe, options.model), options.episodes, options.out, options.start, options.processes)


if __name__ == "__main__":
    main()
