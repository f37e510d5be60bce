"""The exercise of pointing as training does it: questions about pictures, put to the networks of a run.

The stage `grounding` does nothing else; `joint` may go on with it beside its own objective (`looks_every`), since what
no loss asks for is forgotten within a few hundred steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from dreamzero_policy.data.pictures import Picture, Question
from dreamzero_policy.model.autoencoder import Stream, VideoAutoencoder
from dreamzero_policy.model.conditioning import ImageConditioner, Tokenizer, encode_tokens
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.model.flow import TRAIN_LEVELS, NoiseTable, add_noise
from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.training.kept import Kept
from dreamzero_policy.training.pointing import (
    Looked,
    Place,
    Pointed,
    Pointer,
    Targets,
    looked,
    pointed,
    scores_of,
    spread_of,
    taken_of,
)
from dreamzero_policy.training.prompts import Prompts
from dreamzero_policy.training.window_pass import Conditioning, folded_text, window_tokens

EXERCISE = "exercise"  # the heads' name among the networks of a run
SHIFT = 5.0  # of the times at which the transformer is asked


@dataclass(frozen=True)
class Answers:
    """Of a batch of pictures."""

    encoders: Pointed | None  # None: they keep still, and were not asked
    transformer: Looked

    @property
    def total(self) -> Tensor:
        """What is to become small."""
        return self.transformer.total if self.encoders is None else self.encoders.total + self.transformer.total

    @property
    def numbers(self) -> dict[str, float]:
        """What is shown of a batch."""
        shown = {"total": self.total} | {name: getattr(self.transformer, name) for name in ("looks", "things", "place")}
        if self.encoders is not None:
            shown |= {"hits": self.encoders.hits, "where": self.encoders.where}
        return {name: number.item() for name, number in shown.items()}


class Exercise:
    """The heads, and how questions are put."""

    def __init__(
        self,
        config: ModelConfig,
        embodiment: Embodiment,
        tokenizer: Tokenizer,
        autoencoder: VideoAutoencoder,
        pictures: Sequence[Picture],
        seed: int,
    ) -> None:
        """`embodiment` makes of instructions and states what the model is told; `seed` draws the heads.

        `pictures` are all of them: how far apart places lie is taken from these.
        """
        self.config, self.embodiment, self.tokenizer = config, embodiment, tokenizer
        self.autoencoder = autoencoder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pointer = Pointer(config.text_encoder.dim, config.image_encoder.dim)
            place = Place(config.transformer.num_attention_heads * config.transformer.attention_head_dim)
        self.heads = nn.ModuleDict({"pointer": pointer, "place": place})
        self.table = NoiseTable.shifted(SHIFT)
        places = [asks.points[0] / item.canvas.shape[1::-1] for item in pictures for asks in item.questions]
        self.spread = spread_of(np.array(places))
        self._latents = Kept()  # [C, 1, h, w] of canvases
        self._features = Kept()  # [1 + G², image_dim] of an image encoder that keeps still

    def answers(
        self,
        networks: Mapping[str, nn.Module] | nn.ModuleDict,
        pictures: Sequence[Picture],
        rng: np.random.Generator,
        *,
        bfloat16: bool,
        train_encoders: bool = True,
    ) -> Answers:
        """One question about each picture put to the transformer, and all of them to encoders that are trained.

        Every question is asked in one of its wordings. What encoders make of a picture that keep still is kept.
        """
        transformer = networks["transformer"]
        device, dtype = transformer.device, transformer.patch_embedding.weight.dtype
        asked, rows, chosen = questions_of(pictures, rng, all_of_them=train_encoders)
        prompts = [self.embodiment.prompt(asks.phrasings[rng.integers(len(asks.phrasings))]) for asks in asked]
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)
        with torch.set_grad_enabled(train_encoders and torch.is_grad_enabled()), autocast:
            read = Prompts.of(prompts, self.tokenizer, device)
            text = encode_tokens(networks["text_encoder"], read.ids, read.mask).float()
            image = self._seen(networks["image_encoder"], pictures, device, keep=not train_encoders)
        targets, rows, chosen = self._targets(pictures, asked, rows).on(device), rows.to(device), chosen.to(device)
        folded, bias = folded_text(text, read.mask, self.config.text_encoder.text_length)
        conditioning = Conditioning(folded.to(dtype), bias[read.which[chosen]], read.which[chosen], image.to(dtype))
        actions = self.config.geometry.actions_per_chunk
        chunks, looks = self._first_chunks(pictures, rng, device, dtype), []
        with autocast:
            tokens, _ = window_tokens(
                transformer,
                *chunks,
                conditioning,
                state_attention=self.config.sampler.state_attention,
                want_video=False,
                looks=looks,
            )
            taken = taken_of(looks, transformer.blocks, actions)
        place = self.heads["place"](taken, tokens.control[:, 0, :actions])
        encoders = None
        if train_encoders:
            encoders = pointed(*self.heads["pointer"](text[read.which], read.mask[read.which], image, rows), targets)
        return Answers(
            encoders,
            looked(scores_of(looks, actions), place, targets.part(chosen), self.spread.to(device)),
        )

    def _seen(self, encoder: nn.Module, pictures: Sequence[Picture], device: torch.device, *, keep: bool) -> Tensor:
        """Features [B, 1 + G², image_dim] of canvases."""
        conditioner = ImageConditioner(encoder)

        def features(*some: Picture) -> Tensor:
            return conditioner.encode(_frames(some, device))

        if not keep:
            return features(*pictures).float()
        return torch.cat([self._features.of(picture, partial(features, picture)) for picture in pictures]).to(device)

    def _targets(self, pictures: Sequence[Picture], asked: Sequence[Question], rows: Tensor) -> Targets:
        """Of the questions that are put; `rows` [Q] are those of the pictures that they are about."""
        sizes = self.config.image_encoder
        every = [np.concatenate([each.points for each in picture.questions]) for picture in pictures]
        return Targets.of(
            [asks.points for asks in asked],
            pictures[0].canvas.shape[:2],
            sizes.image_size // sizes.patch_size,
            [every[row] for row in rows.tolist()],
        )

    def _first_chunks(
        self, pictures: Sequence[Picture], rng: np.random.Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """What the transformer is given of first chunks: history, video, actions, state and the times of both.

        What happens next is not known. That nothing does is what the noise is added to: the picture stands still, and
        so do the relative actions, which are about 0.
        """
        geometry, count = self.config.geometry, len(pictures)
        clean = torch.stack([self._latents.of(picture, partial(self._encoded, picture)) for picture in pictures])
        still = clean.expand(-1, -1, 1 + geometry.frames_per_chunk, -1, -1)
        state = torch.zeros(count, 1, geometry.max_state_dim)
        for row, picture in enumerate(pictures):
            known = torch.from_numpy(self.embodiment.normalised_state(picture.state))
            state[row, 0, : len(known)] = known
        level = torch.from_numpy(rng.integers(TRAIN_LEVELS, size=(count, 1)))
        sigma, time = self.table.sigmas[level], self.table.times[level]
        noise = torch.from_numpy(rng.standard_normal(still.shape, np.float32))
        video = add_noise(still, noise, sigma[:, :, None, None, None])
        actions = (count, geometry.actions_per_chunk, geometry.max_action_dim)
        action = sigma[..., None] * torch.from_numpy(rng.standard_normal(actions, np.float32))
        given = (still, video, action, state)
        times = (time.expand(-1, 1 + geometry.frames_per_chunk), time)
        return (*(tensor.to(device, dtype) for tensor in given), *(tensor.to(device) for tensor in times))

    def _encoded(self, picture: Picture) -> Tensor:
        """Latents [C, 1, h, w] of a canvas."""
        video = _frames([picture], self.autoencoder.device)[:, :, None].to(self.autoencoder.dtype)
        return self.autoencoder.encode(video, Stream())[0]


def questions_of(
    pictures: Sequence[Picture], rng: np.random.Generator, *, all_of_them: bool
) -> tuple[list[Question], Tensor, Tensor]:
    """Questions that are put: all, or one about each picture. With them rows [Q] of the pictures that they are about,
    and rows [B] of the questions, one about each picture, that the transformer is asked."""
    counts = np.array([len(picture.questions) for picture in pictures])
    chosen = rng.integers(counts)
    each = np.arange(len(pictures))
    if all_of_them:
        asked = [question for picture in pictures for question in picture.questions]
        rows, chosen = np.repeat(each, counts), np.cumsum(counts) - counts + chosen
    else:
        asked = [picture.questions[index] for picture, index in zip(pictures, chosen, strict=True)]
        rows = chosen = each
    return asked, torch.from_numpy(rows), torch.from_numpy(chosen)


def _frames(pictures: Sequence[Picture], device: torch.device) -> Tensor:
    """Canvases as an image encoder takes them: [B, 3, height, width], −1 to 1."""
    canvas = torch.from_numpy(np.stack([picture.canvas for picture in pictures]))
    return (canvas.permute(0, 3, 1, 2).float() / 127.5 - 1).to(device)
