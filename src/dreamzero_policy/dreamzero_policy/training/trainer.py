"""One run of the optimiser: networks, float32 masters, averaged weights, step counter.

AdamW with warm-up and cosine, clipped gradients, averaged weights (EMA), which are the ones exported. Networks compute
in bfloat16 where the recipe says so; the optimiser keeps float32 masters. What a step sees follows from the seed and
the step number alone, and everything else is in the state file: a run that was interrupted and resumed gives the same
weights as one that was not, also with another number of processes, up to rounding.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dreamzero_policy.data.pictures import Picture
from dreamzero_policy.model import checkpoint as checkpoints
from dreamzero_policy.model.autoencoder import VideoAutoencoder
from dreamzero_policy.model.checkpoint import Networks
from dreamzero_policy.model.conditioning import ByteTokenizer, ImageConditioner, Tokenizer, encode_tokens
from dreamzero_policy.model.config import ConfigError, ModelConfig
from dreamzero_policy.model.flow import NoiseTable
from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.runtime.interruption import uninterrupted
from dreamzero_policy.training.autoencoder import warm_cosine
from dreamzero_policy.training.exercise import EXERCISE, Exercise
from dreamzero_policy.training.kept import Kept
from dreamzero_policy.training.latents import Batch, LatentWindow, collate
from dreamzero_policy.training.noise import BLIND_NOISE, NoiseSettings, NoisyBatch, corrupt
from dreamzero_policy.training.objective import Losses, ignore_padding, losses, silence_video
from dreamzero_policy.training.prompts import Prompts
from dreamzero_policy.training.ranks import Ranks, fill, own, whole
from dreamzero_policy.training.settings import JointSettings
from dreamzero_policy.training.sharding import shard
from dreamzero_policy.training.starting import TRAINED, grounded_networks, starting_networks
from dreamzero_policy.training.state_file import StateError, read_state, write_state
from dreamzero_policy.training.tuning import add_adapters, without_adapters
from dreamzero_policy.training.window_pass import Conditioning, folded_text, window_velocities

OUTPUT_HEADS = ("action_decoder", "proj_out", "scale_shift_table")  # of the transformer
LOOKS_STREAM = 7  # of random numbers


class Trainer:
    """Networks, masters, optimiser and step counter of one run."""

    def __init__(
        self,
        config: ModelConfig,
        settings: JointSettings,
        windows: Sequence[LatentWindow],
        vae: nn.Module | None,
        ranks: Ranks | None = None,
        tokenizer: Tokenizer | None = None,
        grounded: Path | None = None,
        pictures: Sequence[Picture] = (),
        embodiment: Embodiment | None = None,
        heads: Path | None = None,
    ) -> None:
        """`grounded` is the folder of the networks to begin with; else they are those of `settings.start`, or drawn.
        `heads` is the file of the exercise's heads; drawn anew they would move the networks before they fit them.

        `pictures` are those of `looks_every`; `embodiment` says what the model is told of their questions.
        """
        if config.transformer.image_condition:
            raise ConfigError(
                "transformer.image_condition is true in the model configuration; training prepares no image condition "
                "yet, set it to false"
            )
        if not settings.video_loss:
            config = replace(config, sampler=replace(config.sampler, video_final_noise=BLIND_NOISE))
        self.config, self.settings, self.windows, self.vae = config, settings, windows, vae
        self.ranks = ranks or Ranks()
        self.lengths = np.array([item.chunks for item in windows])
        self.openings = np.flatnonzero([item.begins_at_rest for item in windows])
        self.table = NoiseTable.shifted(settings.shift)
        self.networks = (
            starting_networks(config, settings.seed, settings.start)
            if grounded is None
            else grounded_networks(config, grounded)
        )
        self.tokenizer = tokenizer or ByteTokenizer(config.text_encoder.text_length)
        self.pictures, self.exercise = pictures, None
        if settings.looks_every:
            self.exercise = Exercise(config, embodiment, self.tokenizer, VideoAutoencoder(vae), pictures, settings.seed)
            if heads is not None:
                self.exercise.heads.load_state_dict(load_file(heads))
            self.networks[EXERCISE] = self.exercise.heads
        self._prepare_networks(collate(windows[:1], config).action_valid)
        self.masters = self._masters()
        self.average = {key: tensor.detach().clone() for key, tensor in self.masters.items()}
        if settings.bfloat16 and not settings.shard:
            checkpoints.cast(self.networks["transformer"], torch.bfloat16)
        self.optimiser = self._optimiser()
        self.image = ImageConditioner(self.entered["image_encoder"])
        self._features = Kept()  # of first frames
        self.step = 0
        self.looks: float | None = None  # share of looks that found what was named, the last time it was asked

    # What is trained

    def _prepare_networks(self, action_valid: Tensor) -> None:
        transformer, settings = self.networks["transformer"], self.settings
        ignore_padding(transformer, action_valid)
        if not settings.video_loss:
            silence_video(transformer)
        transformer.gradient_checkpointing = settings.gradient_checkpointing
        if settings.tuning == "lora":
            add_adapters(self.networks, settings.lora_rank, settings.lora_alpha, settings.seed)
        for network in self.networks.values():
            network.train().to(self.ranks.device)
        self.entered = self.networks  # what is called
        if settings.shard:
            self.entered = shard(self.networks, self.ranks.device, self.ranks.size)

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every trained parameter by the name of its network and its own."""
        for name, network in self.networks.items():
            for key, parameter in network.named_parameters():
                if parameter.requires_grad:
                    yield f"{name}.{key}", parameter

    def _masters(self) -> dict[str, Tensor]:
        """What the optimiser works on: float32 copies, or the sharded parameters, which are float32 themselves."""
        if self.settings.shard:
            return dict(self.parameters())
        return {key: parameter.detach().clone().float() for key, parameter in self.parameters()}

    def _optimiser(self) -> torch.optim.AdamW:
        settings = self.settings
        # vectors do not decay, nor do the biases [1, out] of actions and state
        decays = {key: tensor.ndim > 1 and not key.endswith(".b") for key, tensor in self.masters.items()}
        matrices = [tensor for key, tensor in self.masters.items() if decays[key]]
        vectors = [tensor for key, tensor in self.masters.items() if not decays[key]]
        return torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            fused=not settings.shard,
        )

    # One step

    def advance(self) -> tuple[Losses, float]:
        """One optimiser step; returns the losses of the whole batch and the norm of the gradient before clipping.

        Raises:
            FloatingPointError: the loss or the gradient is not finite; nothing has been changed.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * warm_cosine(
                self.step, self.settings.warm_up, self.settings.steps
            )
        found = self._backward()
        norm = self._take_gradients()
        if not (math.isfinite(norm) and torch.isfinite(found.total)):
            raise FloatingPointError(f"the loss is {found.total.item()}, the norm of its gradient {norm}")
        with uninterrupted():
            self.optimiser.step()
            self._publish()
            self.step += 1
            self._average()
        return found, norm

    def _average(self) -> None:
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                [own(tensor) for tensor in self.average.values()],
                [own(tensor) for tensor in self.masters.values()],
                1 - decay,
            )

    def batch(self, step: int) -> Batch:
        """The windows of a step, about `batch` full windows' worth of chunks, each with one of its prompts.

        `same`: all have one length, drawn by how many chunks have it; nothing is padded. `mixed`: any lengths. At a
        share `beginnings` of the steps it is twice as many windows cut to their first chunk.
        """
        rng = np.random.default_rng((self.settings.seed, step))
        if self.settings.beginnings and rng.random() < self.settings.beginnings:
            return self._beginnings(rng)
        budget = self.settings.batch * self.config.geometry.chunks_per_window
        if self.settings.lengths == "same":
            length = self.lengths[rng.choice(len(self.lengths), p=self.lengths / self.lengths.sum())]
            chosen = rng.choice(np.flatnonzero(self.lengths == length), max(1, budget // int(length)))
        else:
            chosen = rng.choice(len(self.lengths), budget)
            chosen = chosen[: max(1, np.searchsorted(np.cumsum(self.lengths[chosen]), budget, side="right"))]
        return self._collated([self.windows[i] for i in chosen], rng)

    def _beginnings(self, rng: np.random.Generator) -> Batch:
        """First chunks, a share `openings` of them from rest: of whole episodes, or of attempts with advice.

        A past shows what is being done and thereby what to do next, so that a network that sees one nearly always
        learns late to look for what the prompt names. Here the prompt and one picture must do.
        """
        count, frames = 2 * self.settings.batch, self.config.geometry.frames_per_chunk
        openings = round(self.settings.openings * count)
        chosen = [*rng.choice(len(self.windows), count - openings), *rng.choice(self.openings, openings)]
        return self._collated([self.windows[i].beginning(frames) for i in chosen], rng)

    def _collated(self, windows: Sequence[LatentWindow], rng: np.random.Generator) -> Batch:
        """A batch; with features of its first frames if these cannot change any more."""
        batch = collate(windows, self.config, rng)
        if self.settings.train_encoders or self.settings.shard:
            return batch
        sizes = self.config.image_encoder
        image = torch.zeros(len(windows), 1 + (sizes.image_size // sizes.patch_size) ** 2, sizes.dim)
        for row in self.ranks.rows(len(windows))[0]:  # those of other processes stay empty
            frame = batch.first_frame[row : row + 1]
            image[row] = self._features.of(
                windows[row].first_frame, lambda frame=frame: self._seen(frame.to(self.ranks.device))[0]
            )
        return replace(batch, image=image)

    def _seen(self, first_frame: Tensor) -> Tensor:
        """Features [B, M, image_dim] of first frames [B, 3, H, W], with gradients if the encoder is trained."""
        enabled = self.settings.train_encoders and torch.is_grad_enabled()
        autocast = torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.settings.bfloat16)
        with torch.set_grad_enabled(enabled), autocast:
            return self.image.encode(first_frame)

    def losses_of(self, batch: Batch, generator: torch.Generator, settings: JointSettings | None = None) -> Losses:
        """Of a batch that this process alone looks at; by another objective than the run's own, if it is given."""
        settings = settings or self.settings
        return self._losses(self._noisy(batch, generator, settings), settings)

    def velocities(
        self, noisy: NoisyBatch, *, want_video: bool = True, first_frame: bool | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """What the transformer says, float32: the video's velocity if it is wanted, and the actions'.

        `first_frame` as in the settings, whose value is taken where none is given.
        """
        transformer = self.networks["transformer"]
        run = getattr(transformer, "window_velocities", None) or partial(window_velocities, transformer)
        dtype = transformer.patch_embedding.weight.dtype
        autocast = self.settings.bfloat16 and self.settings.shard
        with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=autocast):
            video, action = run(
                noisy.history.to(dtype),
                noisy.video.to(dtype),
                noisy.action.to(dtype),
                noisy.batch.state.to(dtype),
                noisy.video_time,
                noisy.action_time,
                self.conditioning(noisy.batch),
                state_attention=self.config.sampler.state_attention,
                want_video=want_video,
                first_frame=self.settings.first_frame if first_frame is None else first_frame,
            )
        return None if video is None else video.float(), action.float()

    def conditioning(self, batch: Batch) -> Conditioning:
        """Features of text and image, with gradients if their encoders are trained. Each prompt of the batch is encoded
        once, without its padding."""
        dtype, device = self.networks["transformer"].patch_embedding.weight.dtype, self.ranks.device
        read = Prompts.of(batch.prompts, self.tokenizer, device)
        enabled = self.settings.train_encoders and torch.is_grad_enabled()
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=self.settings.bfloat16)
        with torch.set_grad_enabled(enabled), autocast:
            features = encode_tokens(self.entered["text_encoder"], read.ids, read.mask)
        image = self._seen(batch.first_frame) if batch.image is None else batch.image
        features, bias = folded_text(features, read.mask, self.config.text_encoder.text_length)
        return Conditioning(features.to(dtype), bias[read.which], read.which, image.to(dtype))

    def zero_gradients(self) -> None:
        for _, parameter in self.parameters():
            parameter.grad = None

    def _noisy(self, batch: Batch, generator: torch.Generator, noise: NoiseSettings) -> NoisyBatch:
        padding_is_noise = self.config.transformer.predicts == "velocity"
        return corrupt(batch, self.table, generator, noise, padding_is_noise=padding_is_noise)

    def _losses(self, noisy: NoisyBatch, settings: JointSettings) -> Losses:
        said = self.velocities(noisy, want_video=settings.video_loss, first_frame=settings.first_frame)
        return losses(*said, noisy, settings.action_loss)

    def _backward(self) -> Losses:
        """Gradients of this process's share of the batch; losses of all of it."""
        batch = self.batch(self.step).on(self.ranks.device)
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)
        noisy = self._noisy(batch, generator, self.settings)
        rows, share = self.ranks.rows(len(batch.prompts))
        found = self._losses(noisy if self.ranks.size == 1 else noisy.part(rows), self.settings).scaled(share)
        total = found.weighted(self.settings.action_weight)
        # FSDP averages over processes, where a sum is meant
        (total * (self.ranks.size if self.settings.shard else 1)).backward()
        if self.exercise is not None and self.step % self.settings.looks_every == 0:
            self._look()
        if self.step < self.settings.heads_first:
            self._keep_all_but_heads()
        parts = [part.detach() for part in (found.video, found.action) if part is not None]
        self.ranks.add_up(parts)
        return Losses(None if found.video is None else parts[0], parts[-1])

    def _look(self) -> None:
        """Gradients of this process's share of a batch of pictures."""
        rng = np.random.default_rng((self.settings.seed, self.step, LOOKS_STREAM))
        chosen = rng.choice(len(self.pictures), self.settings.looks_batch)
        rows, share = self.ranks.rows(len(chosen))
        found = self.exercise.answers(
            self.networks,
            [self.pictures[chosen[row]] for row in rows],
            rng,
            bfloat16=self.settings.bfloat16,
            train_encoders=self.settings.train_encoders,
        )
        (self.settings.looks_weight * share * found.total).backward()
        self.looks = found.transformer.looks.item()  # of this process's pictures

    def _keep_all_but_heads(self) -> None:
        """Forget gradients of all but the transformer's output heads and the exercise's.

        What a stage before has taught the trunk would be the first thing that the errors of untrained heads change
        (Kumar et al., arXiv 2202.10054).
        """
        for name, network in self.networks.items():
            for key, parameter in network.named_parameters():
                if name != EXERCISE and not (name == "transformer" and key.startswith(OUTPUT_HEADS)):
                    parameter.grad = None

    def _take_gradients(self) -> float:
        """Move gradients to the masters, add up those of all processes, and clip them together."""
        if not self.settings.shard:
            for key, parameter in self.parameters():
                self.masters[key].grad = None if parameter.grad is None else parameter.grad.float()
            self.zero_gradients()
            self.ranks.add_up([tensor.grad for tensor in self.masters.values() if tensor.grad is not None])
        norm = torch.nn.utils.clip_grad_norm_(list(self.masters.values()), self.settings.gradient_norm)
        return float(whole(norm))

    def _publish(self) -> None:
        """Masters to networks."""
        if self.settings.shard:
            self.zero_gradients()
            return
        with torch.no_grad():
            parameters = dict(self.parameters())
            torch._foreach_copy_(list(parameters.values()), [self.masters[key] for key in parameters])

    # On disk

    def save_state(self, path: Path) -> None:
        """Everything that a continued run needs, written whole or not at all. All processes take part, one writes.

        Raises:
            StateError: the file cannot be written; an older one is still as it was.
        """
        optimiser = {
            key: {name: whole(value).cpu() for name, value in self.optimiser.state[tensor].items()}
            for key, tensor in self.masters.items()
            if tensor in self.optimiser.state
        }
        state = {
            "step": self.step,
            "masters": {key: whole(tensor.detach()).cpu() for key, tensor in self.masters.items()},
            "average": {key: whole(tensor).cpu() for key, tensor in self.average.items()},
            "optimiser": optimiser,
        }
        if self.ranks.first:
            write_state(state, path)
        self.ranks.wait()

    def load_state(self, path: Path) -> None:
        """Go on from what `save_state` wrote, with any number of processes.

        Raises:
            StateError: the file cannot be read, or is of another model.
        """
        state = read_state(path)
        for name, tensors in (("masters", self.masters), ("average", self.average)):
            _fill_all(tensors, state[name], f"{path}: {name}")
        for key, entries in state["optimiser"].items():
            master = self.masters[key]
            mine = self.optimiser.state[master] = {}
            for name, value in entries.items():
                if name == "step":
                    mine[name] = value.to(master.device) if self.optimiser.defaults["fused"] else value
                else:
                    mine[name] = torch.zeros_like(master.detach())
                    fill(mine[name], value)
        self.step = state["step"]
        self._publish()

    def start_from(self, path: Path) -> None:
        """Begin at step 0 with the averaged weights of another stage's state file. Raises StateError."""
        average = read_state(path)["average"]
        for tensors in (self.masters, self.average):
            _fill_all(tensors, average, f"{path}: average")
        self._publish()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the networks have the averaged weights meanwhile."""
        before = {key: own(parameter.detach()).clone() for key, parameter in self.parameters()}
        with torch.no_grad():
            for key, parameter in self.parameters():
                own(parameter).copy_(own(self.average[key]))
        try:
            yield
        finally:
            with torch.no_grad():
                for key, parameter in self.parameters():
                    own(parameter).copy_(before[key])

    def averaged_networks(self) -> Networks:
        """Copies with the averaged weights, float32, adapters added in, and the autoencoder."""
        made = checkpoints.builders(self.config)
        networks = {}
        for name in TRAINED:
            state = {key: whole(tensor).cpu() for key, tensor in self.networks[name].state_dict().items()}
            prefix = f"{name}."
            averaged = {
                key.removeprefix(prefix): whole(tensor).cpu()
                for key, tensor in self.average.items()
                if key.startswith(prefix)
            }
            state = without_adapters(_with_ties({**state, **averaged}), self.settings.lora_alpha)
            networks[name] = made[name]()
            networks[name].load_state_dict(state)
        return Networks(vae=self.vae, **networks)


@torch.no_grad()
def _fill_all(tensors: dict[str, Tensor], values: dict[str, Tensor], source: str) -> None:
    for key, tensor in tensors.items():
        if key not in values or values[key].shape != tensor.shape:
            theirs = list(values[key].shape) if key in values else "missing"
            raise StateError(f"{source} {key} is {theirs}, this model has {list(tensor.shape)}")
        fill(tensor, values[key])


def _with_ties(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """UMT5 holds its embedding under two names; parameters are listed under one."""
    if "shared.weight" in state and "encoder.embed_tokens.weight" in state:
        return {**state, "encoder.embed_tokens.weight": state["shared.weight"]}
    return state
