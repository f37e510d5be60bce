"""The last stages of a training, joint and flash: the transformer, and the text and image encoders with it.

    python -m dreamzero_policy.training.train --recipe config/training/agibot_g1_tiny.yaml --run run --out checkpoint

`run` is the folder that `prepare` filled; the state of the run, its curves (`tensorboard/`) and its dreams go there
too. A run that finds its state file goes on from it; what a killed process loses are the steps since it was last
written. Under ``torchrun`` all processes train one model together (write `--folder` for `--run` there).

`joint` goes to the checkpoint folder that was asked for, `flash` to one beside it whose name ends in `_flash`.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from dreamzero_policy.data.pictures import load_pictures
from dreamzero_policy.model import checkpoint as checkpoints
from dreamzero_policy.model.conditioning import FileTokenizer, Tokenizer
from dreamzero_policy.model.config import ConfigError, ModelConfig
from dreamzero_policy.runtime.allocator import keep_freed_memory
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.embodiment import Embodiment, Statistics
from dreamzero_policy.runtime.orphans import die_with_parent
from dreamzero_policy.training import ranks as processes
from dreamzero_policy.training.dreams import dream, write_film
from dreamzero_policy.training.errors import TRAINING_ERRORS
from dreamzero_policy.training.export import TOKENIZER, export
from dreamzero_policy.training.latents import LatentWindow, collate, load_side
from dreamzero_policy.training.objective import Losses
from dreamzero_policy.training.progress import Reporter
from dreamzero_policy.training.ranks import Ranks
from dreamzero_policy.training.settings import JointSettings, Recipe, RecipeError
from dreamzero_policy.training.starting import GROUNDED_FOLDER, HEADS_FILE
from dreamzero_policy.training.state_file import StateError
from dreamzero_policy.training.trainer import Trainer

STATE_FILES = {"joint": "state.pt", "flash": "flash.pt"}
VALIDATED = 64  # windows at most
VALIDATED_BY = {
    "noise": "coupled",
    "video_weighting": "sample",
    "action_weighting": "sample",
    "action_loss": "valid",
    "first_frame": False,
    "noisy_history": 0.0,
}
VALIDATED_AT = {"": 0.0, "_first": 1.0}  # what is put behind a loss's name: share of the chunks at the first step
DREAM_STEPS = 4


@dataclass(frozen=True)
class Place:
    """Where a stage reads and writes."""

    stage: str
    run: Path
    out: Path

    @property
    def state(self) -> Path:
        return self.run / STATE_FILES[self.stage]


def checkpoint_of(stage: str, out: Path) -> Path:
    """The checkpoint folder of a stage."""
    return out if stage == "joint" else out.with_name(f"{out.name}_{stage}")


def train(
    recipe: Recipe,
    stage: str,
    run: Path,
    out: Path,
    reporter: Reporter,
    ranks: Ranks | None = None,
    pictures: Path | None = None,
) -> Trainer:
    """Train to the stage's number of steps, going on from its state file if there is one, and export.

    Raises:
        PictureError: the pictures cannot be used.
        RecipeError: the recipe has no such stage.
        StateError: a file of the run is missing, cannot be read, or cannot be written.
        FloatingPointError: the loss is not finite.
    """
    ranks = ranks or Ranks()
    settings = settings_of(recipe, stage)
    place = Place(stage, run, checkpoint_of(stage, out))
    for name in ("config.json", "latents", "statistics.json", "vae"):
        if not (run / name).exists():
            raise StateError(f"{run} has no {name}; the stages before were not finished there")
    contract, config = load_contract(recipe.contract), model_of(recipe, run)
    windows = load_side(run / "latents", contract)
    if not windows:
        raise StateError(f"{run / 'latents'} has no windows")
    if settings.looks_every and pictures is None:
        raise StateError(f"{stage}.looks_every is {settings.looks_every}; give the pictures to look at")
    trainer = Trainer(
        config,
        settings,
        windows,
        autoencoder_of(config, run),
        ranks,
        tokenizer_of(config, run),
        grounded_of(recipe, place),
        load_pictures(pictures, contract) if settings.looks_every else (),
        embodiment_of(contract, run) if settings.looks_every else None,
        heads_of(run),
    )
    if place.state.exists():
        trainer.load_state(place.state)
        reporter.say(f"{stage} goes on at step {trainer.step}")
    elif stage == "flash" and settings.start is None:
        trainer.start_from(run / STATE_FILES["joint"])
    held_out = load_side(run / "validation", contract)
    Course(trainer, recipe, place, contract, held_out, reporter).run()
    return trainer


def grounded_of(recipe: Recipe, place: Place) -> Path | None:
    """The folder of the networks that a stage begins with, if it begins with those that `grounding` left.

    Raises:
        StateError: `grounding` is asked for and was not finished.
    """
    folder = place.run / GROUNDED_FOLDER
    if place.stage != "joint" or recipe.grounding is None:
        return None
    if place.state.exists() and recipe.joint.tuning == "full":  # a state of adapters lacks what they adapt
        return None
    if not folder.is_dir():
        raise StateError(f"{place.run} has no {GROUNDED_FOLDER}; the stage grounding was not finished there")
    return folder


def heads_of(run: Path) -> Path | None:
    """The heads of the exercise as `grounding` left them in the run, also where `joint` begins with a checkpoint."""
    file = run / GROUNDED_FOLDER / HEADS_FILE
    return file if file.exists() else None


def model_of(recipe: Recipe, run: Path) -> ModelConfig:
    """The recipe's model with the autoencoder and latent normalisation of the run.

    Transformer, encoders and sampler may be changed without preparing again; what the latents were made with may not.

    Raises:
        ConfigError: a field that the latents depend on is another one than when they were made.
    """
    asked, made = ModelConfig.from_file(recipe.model), ModelConfig.from_file(run / "config.json")
    measured = {name: getattr(made.autoencoder, name) for name in ("latents_mean", "latents_std")}
    config = replace(asked, autoencoder=replace(asked.autoencoder, **measured))
    depends = {"geometry": None, "autoencoder": None, "text_encoder": ("tokenizer", "vocab_size")}
    for section, names in depends.items():
        ours, theirs = getattr(config, section), getattr(made, section)
        for name in names or vars(ours):
            if getattr(ours, name) != getattr(theirs, name):
                raise ConfigError(
                    f"{recipe.model}: {section}.{name} is {getattr(ours, name)!r}, the latents in {run} were made with "
                    f"{getattr(theirs, name)!r}; prepare again in another folder"
                )
    return config


def settings_of(recipe: Recipe, stage: str) -> JointSettings:
    settings = recipe.joint if stage == "joint" else recipe.flash
    if settings is None:
        raise RecipeError(f"{recipe.path or 'the recipe'} has no section {stage}")
    return settings


def autoencoder_of(config: ModelConfig, run: Path) -> nn.Module:
    """The autoencoder of the run."""
    return checkpoints.load_network(run / "vae", checkpoints.builders(config)["vae"])


def embodiment_of(contract: Contract, run: Path) -> Embodiment:
    """What the model of the run is told of instructions and states. Raises ContractError: damaged statistics."""
    return Embodiment(contract, Statistics.load(run / "statistics.json", contract))


def tokenizer_of(config: ModelConfig, run: Path) -> Tokenizer | None:
    """The vocabulary of the run, where the model has one."""
    text = config.text_encoder
    return FileTokenizer(run / TOKENIZER, text.text_length, text.vocab_size) if text.tokenizer == "files" else None


@dataclass(eq=False)
class Course:
    """The loop of one stage, and what it does now and then."""

    trainer: Trainer
    recipe: Recipe
    place: Place
    contract: Contract
    held_out: Sequence[LatentWindow]
    reporter: Reporter

    def run(self) -> None:
        trainer, settings, saved = self.trainer, self.trainer.settings, self.trainer.step
        occasions: tuple[tuple[int, Callable[[], None]], ...] = (
            (settings.validate_every, self.validate),
            (settings.dream_every, self.dream),
            (settings.export_every, self.export),
        )
        with self.reporter.stage(self.place.stage, settings.steps, trainer.step) as progress:
            try:
                while trainer.step < settings.steps:
                    try:
                        found, norm = trainer.advance()
                    except FloatingPointError as error:
                        raise FloatingPointError(
                            f"{error} at step {trainer.step + 1} of {self.place.stage}; lower "
                            f"{self.place.stage}.learning_rate"
                        ) from error
                    looks = {} if trainer.looks is None else {"looks": trainer.looks}
                    progress.note(trainer.step, numbers_of(found) | {"gradient": norm} | looks)
                    if trainer.step % settings.save_every == 0 or trainer.step == settings.steps:
                        trainer.save_state(self.place.state)
                        saved = trainer.step
                    for every, act in occasions:
                        if every and trainer.step % every == 0 and trainer.step < settings.steps:
                            act()
            except KeyboardInterrupt:
                if trainer.ranks.size == 1 and trainer.step > saved:
                    trainer.save_state(self.place.state)
                raise
        if not settings.steps or not self.place.state.exists():
            trainer.save_state(self.place.state)
        for every, act in occasions[:2]:
            if every:
                act()
        self.export()

    def validate(self) -> None:
        """Losses of held-out windows by the averaged weights, always with the same noise, whatever the run trains with.

        They are errors of the clean sample: at all levels alike, and at the first step of sampling.
        """
        trainer = self.trainer
        spread = self.held_out[:: max(1, len(self.held_out) // VALIDATED)][:VALIDATED]
        chosen = sorted(spread, key=lambda item: item.chunks)
        size = trainer.settings.batch
        sums: dict[str, float] = {}
        with trainer.averaged(), torch.no_grad():
            for first in range(0, len(chosen), size):
                part = chosen[first : first + size]
                batch = collate(part, trainer.config).on(trainer.ranks.device)
                for suffix, share in VALIDATED_AT.items():
                    settings = replace(trainer.settings, **VALIDATED_BY, from_noise=share)
                    found = trainer.losses_of(batch, torch.Generator().manual_seed(first), settings)
                    for key, number in numbers_of(found).items():
                        sums[key + suffix] = sums.get(key + suffix, 0.0) + number * len(part) / len(chosen)
        if sums:
            self.reporter.curves(f"{self.place.stage}/validation", trainer.step, sums)
            words = "  ".join(f"{key} {number:.4f}" for key, number in sums.items())
            self.reporter.say(f"{self.place.stage} {trainer.step}  validation  {words}")

    def dream(self) -> None:
        """A film of the longest held-out window (or training window), as the averaged weights dream it."""
        networks = self.trainer.averaged_networks()
        if not self.trainer.ranks.first:
            return
        window = max(self.held_out or self.trainer.windows, key=lambda item: item.chunks)
        dreamt, _ = dream(networks, self.trainer.tokenizer, self.trainer.config, window, DREAM_STEPS)
        model = self.contract.model
        spacing = model.chunk.frame_offsets_steps[-1] - model.chunk.frame_offsets_steps[-2]
        film = self.place.run / "dreams" / f"{self.place.stage}_{self.trainer.step:07d}.mp4"
        write_film(film, networks, window.latents[None].float(), dreamt, round(model.action_hz / spacing))

    def export(self) -> None:
        networks = self.trainer.averaged_networks()
        if self.trainer.ranks.first:
            export(self.trainer, networks, self.recipe, self.place.stage, self.place.run, self.place.out)
        self.trainer.ranks.wait()


def numbers_of(found: Losses) -> dict[str, float]:
    numbers = {} if found.video is None else {"video": found.video.item()}
    return numbers | {"action": found.action.item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True)
    # torchrun takes --run for an option of its own, so there is another word for it
    parser.add_argument(
        "--run", "--folder", type=Path, required=True, help="folder of this training, filled by `prepare`"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint; replaced as training goes")
    parser.add_argument("--pictures", type=Path, help="those of looks_every")
    parser.add_argument("--stage", choices=tuple(STATE_FILES), default="joint")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    options = parser.parse_args()
    if "WORLD_SIZE" in os.environ:  # the launcher may be killed without a word to those that it started
        die_with_parent()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    ranks = processes.join()
    reporter = Reporter(Console(), options.run) if ranks.first else Reporter()
    try:
        train(Recipe.load(options.recipe), options.stage, options.run, options.out, reporter, ranks, options.pictures)
    except TRAINING_ERRORS as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(1)
    finally:
        reporter.close()
        processes.leave()


if __name__ == "__main__":
    main()
