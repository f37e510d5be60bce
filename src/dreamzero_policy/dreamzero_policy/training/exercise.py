"""The exercise of pointing as training does it: questions about pictures, put to the networks of a run.

The stage `grounding` does nothing else; `joint` may go on with it beside its own objective (`looks_every`), since what
no loss asks for is forgotten within a few hundred steps.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from dreamzero_policy.data.pictures import Picture
from dreamzero_policy.model.conditioning import ImageConditioner, Tokenizer, encode_tokens
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.model.flow import TRAIN_LEVELS, NoiseTable
from dreamzero_policy.training.pointing import GLANCING, Place, Pointed, Pointer, Targets, glance, pointed
from dreamzero_policy.training.window_pass import Conditioning, folded_text

EXERCISE = "exercise"  # the heads' name among the networks of a run
SHIFT = 5.0  # of the times at which the transformer is asked


class Exercise:
    """The heads, and how questions are put."""

    def __init__(self, config: ModelConfig, prompt: Callable[[str], str], tokenizer: Tokenizer, seed: int) -> None:
        """`prompt` makes of an instruction what the model is told; `seed` draws the heads."""
        self.config, self.prompt, self.tokenizer = config, prompt, tokenizer
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pointer = Pointer(config.text_encoder.dim, config.image_encoder.dim)
            place = Place(config.transformer.num_attention_heads * config.transformer.attention_head_dim)
        self.heads = nn.ModuleDict({"pointer": pointer, "place": place})
        self.table = NoiseTable.shifted(SHIFT)

    def answers(
        self,
        networks: Mapping[str, nn.Module] | nn.ModuleDict,
        pictures: Sequence[Picture],
        rng: np.random.Generator,
        *,
        bfloat16: bool,
        train_encoders: bool = True,
    ) -> Pointed:
        """All questions about some pictures, each in one of its wordings."""
        transformer = networks["transformer"]
        device, dtype = transformer.device, transformer.patch_embedding.weight.dtype
        asked = [question for picture in pictures for question in picture.questions]
        prompts = [self.prompt(asks.phrasings[rng.integers(len(asks.phrasings))]) for asks in asked]
        rows = torch.tensor([row for row, picture in enumerate(pictures) for _ in picture.questions], device=device)
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
        time = self.table.times[torch.from_numpy(rng.integers(TRAIN_LEVELS, size=(len(asked), 1)))].to(device)
        noise = rng.standard_normal((len(asked), GLANCING, self.config.geometry.max_action_dim), np.float32)
        with autocast:
            scores, taken, tokens = glance(
                transformer,
                torch.from_numpy(noise).to(device, dtype),
                time,
                Conditioning(folded.to(dtype), bias[which], which, image.to(dtype)),
                rows,
            )
        sizes = self.config.image_encoder
        targets = Targets.of(
            [asks.points for asks in asked], canvas.shape[1:3], sizes.image_size // sizes.patch_size
        ).on(device)
        return pointed(*said, scores, self.heads["place"](taken, tokens), targets)
