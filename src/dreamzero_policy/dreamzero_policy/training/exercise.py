"""The exercise of pointing as training does it: questions about pictures, put to the networks of a run.

The stage `grounding` does nothing else; `joint` may go on with it beside its own objective (`looks_every`), since what
no loss asks for is forgotten within a few hundred steps.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dreamzero_policy.data.pictures import Picture
from dreamzero_policy.model.autoencoder import Stream, VideoAutoencoder
from dreamzero_policy.model.conditioning import ImageConditioner, Tokenizer, encode_tokens
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.model.flow import TRAIN_LEVELS, NoiseTable, add_noise
from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.training.pointing import Place, Pointed, Pointer, Targets, pointed, scores_of, spread_of, taken_of
from dreamzero_policy.training.window_pass import Conditioning, folded_text, window_tokens

EXERCISE = "exercise"  # the heads' name among the networks of a run
SHIFT = 5.0  # of the times at which the transformer is asked
KEPT_DTYPE = torch.float16  # of latents


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
        self._latents: dict[int, Tensor] = {}  # of canvases, by the identity of their pictures

    def answers(
        self,
        networks: Mapping[str, nn.Module] | nn.ModuleDict,
        pictures: Sequence[Picture],
        rng: np.random.Generator,
        *,
        bfloat16: bool,
        train_encoders: bool = True,
    ) -> Pointed:
        """All questions about some pictures put to the encoders, one about each of them to the transformer as well.

        Every question is asked in one of its wordings.
        """
        transformer = networks["transformer"]
        device, dtype = transformer.device, transformer.patch_embedding.weight.dtype
        asked = [question for picture in pictures for question in picture.questions]
        prompts = [self.embodiment.prompt(asks.phrasings[rng.integers(len(asks.phrasings))]) for asks in asked]
        counts = np.array([len(picture.questions) for picture in pictures])
        chosen = torch.from_numpy(np.cumsum(counts) - counts + rng.integers(counts)).to(device)
        rows = torch.from_numpy(np.repeat(np.arange(len(pictures)), counts)).to(device)
        canvas = np.stack([picture.canvas for picture in pictures])
        different = list(dict.fromkeys(prompts))  # each is encoded once, without its padding
        ids, mask = self.tokenizer(different)
        longest = int(mask.sum(1).max())
        ids, mask = ids[:, :longest].to(device), mask[:, :longest].to(device)
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)
        with torch.set_grad_enabled(train_encoders and torch.is_grad_enabled()), autocast:
            text = encode_tokens(networks["text_encoder"], ids, mask)
            frames = torch.from_numpy(canvas).permute(0, 3, 1, 2).float() / 127.5 - 1
            image = ImageConditioner(networks["image_encoder"]).encode(frames.to(device))
        text, image = text.float(), image.float()
        which = torch.tensor([different.index(prompt) for prompt in prompts], device=device)
        said = self.heads["pointer"](text[which], mask[which], image, rows)
        folded, bias = folded_text(text, mask, self.config.text_encoder.text_length)
        conditioning = Conditioning(folded.to(dtype), bias[which[chosen]], which[chosen], image.to(dtype))
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
        sizes = self.config.image_encoder
        targets = Targets.of(
            [asks.points for asks in asked], canvas.shape[1:3], sizes.image_size // sizes.patch_size
        ).on(device)
        return pointed(*said, scores_of(looks, actions), place, targets, targets.part(chosen), self.spread.to(device))

    def _first_chunks(
        self, pictures: Sequence[Picture], rng: np.random.Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """What the transformer is given of first chunks: history, video, actions, state and the times of both.

        What happens next is not known. That nothing does is what the noise is added to: the picture stands still, and
        so do the relative actions, which are about 0.
        """
        geometry, count = self.config.geometry, len(pictures)
        clean = torch.stack([self._encoded(picture) for picture in pictures]).float()
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

    @torch.no_grad()
    def _encoded(self, picture: Picture) -> Tensor:
        """Latents [C, 1, h, w] of a canvas; one by one, since rounding must not depend on what else is in a batch."""
        if id(picture) not in self._latents:
            video = torch.from_numpy(picture.canvas).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
            video = video.to(self.autoencoder.device, self.autoencoder.dtype)
            self._latents[id(picture)] = self.autoencoder.encode(video, Stream())[0].to(KEPT_DTYPE).cpu()
        return self._latents[id(picture)]
