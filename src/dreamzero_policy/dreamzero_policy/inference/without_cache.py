"""A denoising call as a model without a KV cache makes it: the whole past goes through all layers once more.

One pass over the clean past and the chunk, under the mask that the cache makes unnecessary. It is what the cache is
measured against, and an independent way to the same numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamzero_policy.model.blocks import Times, present_only
from dreamzero_policy.model.tokens import CLEAN, Tokens, visibility
from dreamzero_policy.model.transformer import Context, WorldActionTransformer


def denoise_without_cache(
    transformer: WorldActionTransformer,
    context: Context,
    clean: Tensor,
    noisy: Tensor,
    condition: Tensor | None,
    action: Tensor,
    state: Tensor,
    *,
    time: float,
    state_attention: str,
) -> tuple[Tensor, Tensor]:
    """Velocities [B, C, f, H, W] and [B, A, action_dim] of the chunk ``noisy`` behind the latent frames ``clean``.

    ``condition`` [B, 4 + C, F + f, H, W] covers both, or is None. Video and action are at one ``time``.
    """
    past, frames = clean.shape[2], noisy.shape[2]
    rows, columns = transformer._grid(*noisy.shape[3:])
    conditions = (None, None) if condition is None else condition.split([past, frames], dim=2)
    times = Times(torch.tensor([[0.0, time]], dtype=torch.float64, device=noisy.device))
    x = torch.cat(
        [
            transformer._video_tokens(clean, conditions[0]),
            transformer._video_tokens(noisy, conditions[1]),
            transformer.action_encoder(action, Times(times.values[:, 1:])),
            transformer.state_encoder(state),
        ],
        dim=1,
    )
    layout, device = transformer.layout, noisy.device
    seen = layout.video(CLEAN, 0, past, rows, columns, device)
    tokens = Tokens.join(seen, layout.chunk(past, frames, rows, columns, device))
    times = Times(times.values, (torch.arange(len(tokens), device=device) >= len(seen)).long())
    mask = visibility(tokens, tokens, state_attention)
    x, embedded_time = transformer._run(x, times, tokens, context, [present_only] * len(transformer.blocks), mask=mask)
    video = slice(len(seen), len(seen) + frames * rows * columns)
    predicted = transformer._to_video(x[:, video], embedded_time[:, video], frames, rows, columns)
    rows_of_action = transformer._to_action(x[:, video.stop : video.stop + action.shape[1]])
    now = torch.tensor(time, device=noisy.device)
    return transformer.velocity(predicted, noisy, now), transformer.velocity(rows_of_action, action, now)
