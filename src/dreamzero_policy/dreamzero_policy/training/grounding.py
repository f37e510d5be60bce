"""Stage 2 of a training, for models that were never trained: to look at what an instruction names.

Video and actions alone teach a small network late to look for what an instruction names; asked where it is
(`pointing.py`) encoders and transformer learn it in minutes. Released models were trained on the web, and need no such
stage. `joint` begins with the networks that this stage leaves in the folder of the run, `grounded/`, and goes on
training them; what is there is taken as done. A run that was interrupted goes on from `grounding.pt`.

What a step sees follows from the seed and its number, so that a continued run ends as one that was not interrupted.
"""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers.utils import logging as transformers_logging

from dreamzero_policy.data.pictures import Picture, load_pictures
from dreamzero_policy.model.autoencoder import VideoAutoencoder
from dreamzero_policy.model.conditioning import ByteTokenizer, Tokenizer
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.runtime.contract import load_contract
from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.training.autoencoder import warm_cosine
from dreamzero_policy.training.exercise import EXERCISE, Answers, Exercise
from dreamzero_policy.training.progress import Reporter
from dreamzero_policy.training.settings import GroundingSettings, Recipe, RecipeError
from dreamzero_policy.training.starting import GROUNDED_FOLDER, HEADS_FILE, TRAINED, starting_networks
from dreamzero_policy.training.state_file import StateError, read_state, write_state
from dreamzero_policy.training.train import STATE_FILES, autoencoder_of, embodiment_of, model_of, tokenizer_of

STATE_FILE = "grounding.pt"
VALIDATED = 200  # pictures at most
GRADIENT_NORM = 1.0


class Grounding:
    """Networks, heads, optimiser and step counter of one run."""

    def __init__(
        self,
        config: ModelConfig,
        settings: GroundingSettings,
        pictures: Sequence[Picture],
        embodiment: Embodiment,
        vae: nn.Module,
        tokenizer: Tokenizer | None = None,
        start: Path | None = None,
    ) -> None:
        """`embodiment` says what the model is told of instructions and states; `start` is a checkpoint."""
        self.settings, self.pictures = settings, pictures
        self.tokenizer = tokenizer or ByteTokenizer(config.text_encoder.text_length)
        networks = starting_networks(config, settings.seed, start)
        self.exercise = Exercise(config, embodiment, self.tokenizer, VideoAutoencoder(vae), pictures, settings.seed)
        self.networks = nn.ModuleDict({**networks, EXERCISE: self.exercise.heads}).train()
        self.optimiser = torch.optim.AdamW(
            self.networks.parameters(),
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.step = 0

    def advance(self) -> Answers:
        """One optimiser step."""
        settings = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = settings.learning_rate * warm_cosine(self.step, settings.warm_up, settings.steps)
        rng = np.random.default_rng((settings.seed, self.step))
        chosen = rng.choice(len(self.pictures), settings.batch, replace=len(self.pictures) < settings.batch)
        found = self.answers([self.pictures[i] for i in chosen], rng)
        self.optimiser.zero_grad(set_to_none=True)
        found.total.backward()
        nn.utils.clip_grad_norm_(self.networks.parameters(), GRADIENT_NORM)
        self.optimiser.step()
        self.step += 1
        return found

    def answers(self, pictures: Sequence[Picture], rng: np.random.Generator) -> Answers:
        """All questions about some pictures, each in one of its wordings."""
        return self.exercise.answers(self.networks, pictures, rng, bfloat16=self.settings.bfloat16)

    @torch.no_grad()
    def test(self, held_out: Sequence[Picture]) -> dict[str, float]:
        """Loss and share of hits on pictures that it does not train on, always in the same wordings."""
        sums: dict[str, float] = {}
        parts = [
            held_out[first : first + self.settings.batch] for first in range(0, len(held_out), self.settings.batch)
        ]
        for number, part in enumerate(parts):
            found, share = self.answers(part, np.random.default_rng(number)), len(part) / len(held_out)
            for key, value in found.numbers.items():
                sums[key] = sums.get(key, 0.0) + share * value
        return sums

    def save_state(self, path: Path) -> None:
        """Raises StateError."""
        write_state(
            {"step": self.step, "networks": self.networks.state_dict(), "optimiser": self.optimiser.state_dict()}, path
        )

    def load_state(self, path: Path) -> None:
        """Raises StateError: the file cannot be read, or is of another model."""
        state = read_state(path)
        try:
            self.networks.load_state_dict(state["networks"])
        except RuntimeError as error:
            raise StateError(f"{path} is of another model: {str(error).splitlines()[-1].strip()}") from error
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]


def ground(recipe: Recipe, pictures: Path | None, run: Path, reporter: Reporter) -> None:
    """Run the stage, if it is not done yet.

    Raises:
        RecipeError: the recipe has no such stage.
        PictureError: the pictures cannot be used.
        StateError: a file of the run is missing, cannot be read or cannot be written; or it is too late for the stage.
        FloatingPointError: the loss is not finite.
    """
    settings = recipe.grounding
    if settings is None:
        raise RecipeError(f"{recipe.path or 'the recipe'} has no section grounding")
    if is_grounded(run):
        return
    if not (run / "config.json").exists():
        raise StateError(f"{run} has no config.json; the stage before was not finished there")
    if (joint := run / STATE_FILES["joint"]).exists():
        raise StateError(
            f"{run}: joint began without grounding; remove {joint.name} there to begin it again, "
            "or the section grounding from the recipe"
        )
    if pictures is None:
        raise StateError(f"{run} has no {GROUNDED_FOLDER} yet; give the pictures to ground them with")
    contract, config = load_contract(recipe.contract), model_of(recipe, run)
    training, held_out = split(load_pictures(pictures, contract), settings)
    reporter.say(f"grounding: {len(training)} pictures to train on, {len(held_out)} held out")
    embodiment, vae = embodiment_of(contract, run), autoencoder_of(config, run)
    grounding = Grounding(config, settings, training, embodiment, vae, tokenizer_of(config, run), recipe.joint.start)
    if (run / STATE_FILE).exists():
        grounding.load_state(run / STATE_FILE)
        reporter.say(f"grounding goes on at step {grounding.step}")
    course(grounding, held_out, run / STATE_FILE, reporter)
    save_grounded(grounding, run / GROUNDED_FOLDER)
    (run / STATE_FILE).unlink(missing_ok=True)


def is_grounded(run: Path) -> bool:
    """Whether the stage is done."""
    return (run / GROUNDED_FOLDER).is_dir()


def split(pictures: Sequence[Picture], settings: GroundingSettings) -> tuple[list[Picture], list[Picture]]:
    """Pictures to train on, and a share that is kept for validation."""
    order = np.random.default_rng(settings.seed).permutation(len(pictures))
    kept = math.floor(settings.validation * len(pictures))
    return [pictures[i] for i in order[kept:]], [pictures[i] for i in order[:kept]]


def course(grounding: Grounding, held_out: Sequence[Picture], state: Path, reporter: Reporter) -> None:
    """Every step that is left."""
    settings, held_out = grounding.settings, held_out[:VALIDATED]
    with reporter.stage("grounding", settings.steps, grounding.step) as progress:
        while grounding.step < settings.steps:
            found = grounding.advance()
            if not torch.isfinite(found.total):
                raise FloatingPointError(
                    f"the loss is {found.total.item()} at step {grounding.step} of grounding; "
                    "lower grounding.learning_rate"
                )
            last = grounding.step == settings.steps
            progress.note(grounding.step, found.numbers)
            if grounding.step % settings.save_every == 0 and not last:
                grounding.save_state(state)
            due = settings.validate_every and (last or grounding.step % settings.validate_every == 0)
            if due and held_out:
                numbers = grounding.test(held_out)
                reporter.curves("grounding/validation", grounding.step, numbers)
                words = "  ".join(f"{key} {number:.3f}" for key, number in numbers.items())
                reporter.say(f"grounding {grounding.step}  validation  {words}")


def save_grounded(grounding: Grounding, folder: Path) -> None:
    """The networks as a checkpoint has them, whole or not at all. Raises StateError."""
    aside = folder.with_name(folder.name + ".part")
    transformers_logging.disable_progress_bar()
    try:
        shutil.rmtree(aside, ignore_errors=True)
        for name in TRAINED:
            grounding.networks[name].save_pretrained(aside / name)
        save_file(grounding.exercise.heads.state_dict(), aside / HEADS_FILE)
        aside.replace(folder)
    except OSError as error:
        raise StateError(f"{folder} cannot be written: {error}") from error
