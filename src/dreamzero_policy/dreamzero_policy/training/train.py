"""Stage 3 of a training: the transformer, and the text and image encoders with it.

    python -m dreamzero_policy.training.train --recipe config/training/agibot_g1_tiny.yaml --run run --out checkpoint

`run` is the folder that `prepare` filled. AdamW with warm-up and cosine, clipped gradients, averaged weights (EMA),
which are the ones exported. Networks compute in bfloat16 where the recipe says so; the optimiser keeps float32 masters.

What a step sees follows from the seed and the step number alone, and everything else is in `state.pt`: a run that was
interrupted and resumed gives the same weights as one that was not.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dreamzero_policy.model import checkpoint as checkpoints
from dreamzero_policy.model.checkpoint import Networks
from dreamzero_policy.model.conditioning import ByteTokenizer, ImageConditioner, TextConditioner
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.model.flow import NoiseTable
from dreamzero_policy.model.transformer import Context
from dreamzero_policy.runtime.allocator import keep_freed_memory
from dreamzero_policy.runtime.contract import load_contract, save_contract
from dreamzero_policy.training.autoencoder import warm_cosine
from dreamzero_policy.training.latents import Batch, LatentWindow, collate, load_latents
from dreamzero_policy.training.objective import Losses, corrupt, ignore_padding, losses, velocities
from dreamzero_policy.training.settings import JointSettings, Recipe

TRAINED = ("transformer", "text_encoder", "image_encoder")


class Trainer:
    """Networks, masters, optimiser and step counter of one run."""

    def __init__(
        self, config: ModelConfig, settings: JointSettings, windows: Sequence[LatentWindow], vae: nn.Module
    ) -> None:
        if config.transformer.image_condition:
            raise ValueError(
                "transformer.image_condition is true in the model configuration; training prepares no image condition "
                "yet, set it to false"
            )
        self.config, self.settings, self.windows, self.vae = config, settings, windows, vae
        self.table = NoiseTable.shifted(settings.shift)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            made = checkpoints.builders(config)
            self.networks = {name: made[name]() for name in TRAINED}
            self.networks["transformer"].initialise_weights()
        ignore_padding(self.networks["transformer"], collate(windows[:1], config).action_valid)
        self.masters = {
            f"{name}.{key}": parameter.detach().clone().float()
            for name, network in self.networks.items()
            for key, parameter in network.named_parameters()
        }
        self.average = {key: tensor.clone() for key, tensor in self.masters.items()}
        if settings.bfloat16:
            checkpoints.cast(self.networks["transformer"], torch.bfloat16)
        for network in self.networks.values():
            network.train()
        matrices = [tensor for tensor in self.masters.values() if tensor.ndim > 1]
        vectors = [tensor for tensor in self.masters.values() if tensor.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            betas=(0.9, settings.beta2),
        )
        self.text = TextConditioner(self.networks["text_encoder"], ByteTokenizer(config.text_encoder.text_length))
        self.image = ImageConditioner(self.networks["image_encoder"])
        self.step = 0

    # One step

    def advance(self) -> tuple[Losses, float]:
        """One optimiser step; returns its losses and the norm of the gradient before clipping."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * warm_cosine(
                self.step, self.settings.warm_up, self.settings.steps
            )
        found = self.losses_of(
            self.batch(self.step), torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)
        )
        found.total.backward()
        norm = self._take_gradients()
        self.optimiser.step()
        self._publish()
        self.step += 1
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        for key, tensor in self.masters.items():
            self.average[key].lerp_(tensor, 1 - decay)
        return found, norm

    def batch(self, step: int) -> Batch:
        """The windows of a step: all of one length, about `batch` full windows' worth of chunks."""
        rng = np.random.default_rng((self.settings.seed, step))
        lengths = np.array([item.chunks for item in self.windows])
        length = lengths[rng.choice(len(lengths), p=lengths / lengths.sum())]
        count = max(1, self.settings.batch * self.config.geometry.chunks_per_window // int(length))
        return collate([self.windows[i] for i in rng.choice(np.flatnonzero(lengths == length), count)], self.config)

    def losses_of(self, batch: Batch, generator: torch.Generator) -> Losses:
        noisy = corrupt(batch, self.table, generator)
        transformer = self.networks["transformer"]
        return losses(*velocities(transformer, noisy, self.context(batch), self.config.sampler.state_attention), noisy)

    def context(self, batch: Batch) -> Context:
        """Text and image keys and values with gradients. Each prompt of the batch is encoded once."""
        dtype = self.networks["transformer"].patch_embedding.weight.dtype
        prompts = sorted(set(batch.prompts))
        text = self.text.encode(prompts)[[prompts.index(prompt) for prompt in batch.prompts]]
        return self.networks["transformer"].context(text.to(dtype), self.image.encode(batch.first_frame).to(dtype))

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, network in self.networks.items():
            for key, parameter in network.named_parameters():
                yield f"{name}.{key}", parameter

    def _take_gradients(self) -> float:
        """Move gradients to the masters and clip them together."""
        for key, parameter in self._parameters():
            self.masters[key].grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        return float(torch.nn.utils.clip_grad_norm_(list(self.masters.values()), self.settings.gradient_norm))

    def _publish(self) -> None:
        """Masters to networks."""
        with torch.no_grad():
            for key, parameter in self._parameters():
                parameter.copy_(self.masters[key])

    # On disk

    def save_state(self, path: Path) -> None:
        """Everything that a continued run needs, written whole or not at all."""
        aside = path.with_name(path.name + ".part")
        torch.save(
            {
                "step": self.step,
                "masters": self.masters,
                "average": self.average,
                "optimiser": self.optimiser.state_dict(),
            },
            aside,
        )
        aside.replace(path)

    def load_state(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        for name in ("masters", "average"):
            for key, tensor in getattr(self, name).items():
                tensor.copy_(state[name][key])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self._publish()

    def averaged_networks(self) -> Networks:
        """Copies with the averaged weights, float32, and the autoencoder."""
        made = checkpoints.builders(self.config)
        networks = {}
        for name in TRAINED:
            networks[name] = made[name]()
            own = {key[len(name) + 1 :]: tensor for key, tensor in self.average.items() if key.startswith(f"{name}.")}
            state = networks[name].state_dict()
            networks[name].load_state_dict({**state, **_with_ties(own, state)})
        return Networks(vae=self.vae, **networks)


def _with_ties(own: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """UMT5 holds its embedding under two names; parameters are listed under one."""
    if "shared.weight" in own and "encoder.embed_tokens.weight" in state:
        return {**own, "encoder.embed_tokens.weight": own["shared.weight"]}
    return own


def export(trainer: Trainer, recipe: Recipe, run: Path, out: Path) -> None:
    """Write a whole checkpoint aside, then put it in place of an older one. A model card in the place is kept."""
    aside = out.with_name(out.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoints.save(trainer.averaged_networks(), trainer.config, aside, torch.bfloat16)
    save_contract(load_contract(recipe.contract), aside / "contract.yaml")
    shutil.copy(run / "statistics.json", aside / "statistics.json")
    (aside / "training.json").write_text(
        json.dumps({"step": trainer.step, "seed": trainer.settings.seed, "windows": len(trainer.windows)}, indent=1)
        + "\n"
    )
    if (out / "README.md").exists():
        shutil.copy(out / "README.md", aside / "README.md")
    replaced = out.with_name(out.name + ".old")
    shutil.rmtree(replaced, ignore_errors=True)
    if out.exists():
        out.rename(replaced)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)


@dataclass
class Progress:
    """A line now and then: smoothed losses, rate, time left."""

    steps: int
    every: int = 20
    report: Callable[[str], None] = print
    video: float = 0.0
    action: float = 0.0
    since: float = 0.0
    count: int = 0

    def note(self, step: int, found: Losses, norm: float) -> None:
        now = time.monotonic()
        self.since = self.since or now
        self.video += found.video.item()
        self.action += found.action.item()
        self.count += 1
        if step % self.every == 0:
            each_s = (now - self.since) / max(1, self.count - 1)
            video, action = self.video / self.count, self.action / self.count
            self.report(
                f"step {step}/{self.steps}  video {video:.4f}  action {action:.4f}  gradient {norm:.2f}  "
                f"{each_s:.2f} s/step  {each_s * (self.steps - step) / 60:.1f} min left"
            )
            self.video = self.action = 0.0
            self.count, self.since = 0, now


def train(recipe: Recipe, run: Path, out: Path, report: Callable[[str], None]) -> Trainer:
    """Train to the recipe's number of steps, continuing from `state.pt` if there is one, and export."""
    contract = load_contract(recipe.contract)
    config = ModelConfig.from_file(run / "config.json")
    vae = checkpoints.load_network(run / "vae", checkpoints.builders(config)["vae"])
    trainer = Trainer(config, recipe.joint, load_latents(run / "latents.npz", contract), vae)
    state = run / "state.pt"
    if state.exists():
        trainer.load_state(state)
        report(f"continues at step {trainer.step}")
    progress = Progress(recipe.joint.steps, report=report)
    while trainer.step < recipe.joint.steps:
        found, norm = trainer.advance()
        if not torch.isfinite(found.total):
            raise FloatingPointError(
                f"the loss is {found.total.item()} at step {trainer.step}; lower the learning rate"
            )
        progress.note(trainer.step, found, norm)
        if trainer.step % recipe.joint.save_every == 0:
            trainer.save_state(state)
        if recipe.joint.export_every and trainer.step % recipe.joint.export_every == 0:
            export(trainer, recipe, run, out)
    trainer.save_state(state)
    export(trainer, recipe, run, out)
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="folder of this training, filled by `prepare`")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the checkpoint; replaced when training is done"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    train(Recipe.load(options.recipe), options.run, options.out, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
