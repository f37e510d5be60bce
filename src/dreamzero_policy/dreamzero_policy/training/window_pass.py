"""The training pass over whole windows, arranged so that nothing is computed that no loss needs.

:func:`window_velocities` gives what ``WorldActionTransformer.forward`` gives, and the same gradients; a test holds the
two equal. It is quicker because of the structure that the general pass ignores:

* who sees whom is blocks: a chunk's tokens attend to the clean frames before it and to themselves, so each chunk is one
  small attention without a mask instead of a share of a large one with most pairs masked away;
* the clean frames of the last chunk are seen by nobody and are left out; of the last layer only the keys and values of
  clean frames are needed, and of noisy frames too where no video is asked for;
* the noisy frame 0 of a window is seen by nobody and sees nothing: who wants no loss of it, leaves it out;
* tokens that share a time lie together, so that scales, shifts and gates broadcast instead of being copied to every
  token;
* padding behind a prompt is one and the same key many times over: it is one key whose score is raised by the logarithm
  of how often it stands there.

Tokens come in three groups of equal segments: the clean past [B, 1, P, D], the noisy frames [B, F, T, D] (frame 0
among them or not) and the control tokens [B, n, A + 1, D], where a segment is the actions of a chunk and its state.

Letters: B batch, F latent frames, n chunks, T tokens of a frame, A actions of a chunk, H heads, D width.
"""

from functools import lru_cache, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dreamzero_policy.model.blocks import KeyValue, Times, WorldActionBlock, rms_norm
from dreamzero_policy.model.tokens import CLEAN, NOISY, TokenLayout, rotate
from dreamzero_policy.model.transformer import WorldActionTransformer


class Conditioning(NamedTuple):
    """What every token looks at besides the video: features of text and image.

    ``text_bias`` is added to the scores of the text keys: −∞ for what is not there, the logarithm of a repeated key's
    number for it. ``rows`` says which text each item of the batch has.
    """

    text: Tensor  # [prompts, N, text_dim]
    text_bias: Tensor  # [B, 1, 1, N]
    rows: Tensor  # [B]
    image: Tensor  # [B, M, image_dim]


def folded_text(features: Tensor, mask: Tensor, text_length: int) -> tuple[Tensor, Tensor]:
    """Text features [B, N, dim] that are zero where the mask is, with the padding up to ``text_length`` as one key.

    Returns features [B, 1 + N, dim] and their score bias [B, 1, 1, 1 + N]; the first is the padding.
    """
    present = mask.bool()
    padding = text_length - present.sum(1, keepdim=True)
    bias = torch.cat([padding.float().log(), torch.zeros_like(mask, dtype=torch.float32)], dim=1)
    bias = bias.masked_fill(torch.cat([torch.zeros_like(present[:, :1]), ~present], dim=1), -torch.inf)
    return torch.cat([torch.zeros_like(features[:, :1]), features], dim=1), bias[:, None, None]


class Groups(NamedTuple):
    """One value for each group of tokens."""

    past: Tensor
    video: Tensor
    control: Tensor


class Look(NamedTuple):
    """What the control tokens of a layer looked for in the picture, and what they took from it."""

    query: Tensor  # [B, H, n (A + 1), head_dim]
    key: Tensor  # [B, H, M, head_dim]
    taken: Tensor  # [B, n (A + 1), D] of all heads, before the output projection


class Layer(NamedTuple):
    """What a layer needs besides the tokens and does not change from layer to layer."""

    phases: Groups  # [segments x tokens, head_dim / 2] each
    past_bias: Tensor  # [P, P]
    lead: int  # noisy frames before those of the first chunk: 1 or 0
    chunks: int
    frames_per_chunk: int
    solitary_state: bool


def window_velocities(
    transformer: WorldActionTransformer,
    history: Tensor,
    noisy: Tensor,
    action: Tensor,
    state: Tensor,
    video_time: Tensor,
    action_time: Tensor,
    conditioning: Conditioning,
    *,
    state_attention: str,
    want_video: bool = True,
    first_frame: bool = True,
) -> tuple[Tensor | None, Tensor]:
    """Velocities of all chunks of a window, each given the clean past. Layouts without image condition only.

    Args:
        history, noisy: latents [B, C, F, h, w], F = 1 + chunks x frames_per_chunk.
        action: noisy [B, n x A, action_dim]; state: [B, n, state_dim].
        video_time: [B, F]; action_time: [B, n], one for all actions of a chunk and its state. 1000 is noise.
        first_frame: whether frame 0, which is no chunk's, is denoised too.

    Returns:
        Video velocity as ``noisy`` (without its frame 0 where that is not denoised), or None, and action velocity as
        ``action``.
    """
    chunks = state.shape[1]
    rows, columns = transformer._grid(*noisy.shape[3:])
    x, embedded = window_tokens(
        transformer,
        history,
        noisy,
        action,
        state,
        video_time,
        action_time,
        conditioning,
        state_attention=state_attention,
        want_video=want_video,
        first_frame=first_frame,
    )
    per_chunk = action.shape[1] // chunks
    predicted = transformer._to_action(x.control[:, :, :per_chunk].flatten(1, 2))
    velocity = transformer.velocity(predicted, action, action_time.repeat_interleave(per_chunk, 1)[..., None])
    if not want_video:
        return None, velocity
    noisy, video_time = _asked(noisy, video_time, first_frame)
    predicted = _to_video(transformer, x.video, embedded[:, 1 : 1 + noisy.shape[2]], rows, columns)
    return transformer.velocity(predicted, noisy, video_time[:, None, :, None, None]), velocity


def window_tokens(
    transformer: WorldActionTransformer,
    history: Tensor,
    noisy: Tensor,
    action: Tensor,
    state: Tensor,
    video_time: Tensor,
    action_time: Tensor,
    conditioning: Conditioning,
    *,
    state_attention: str,
    want_video: bool = True,
    first_frame: bool = True,
    looks: list[Look] | None = None,
) -> tuple[Groups, Tensor]:
    """The tokens of :func:`window_velocities` after the last layer, and the embedded times [B, U, D].

    ``looks`` is filled with one entry for each layer; not together with gradient checkpointing, which would fill it
    again.
    """
    frames, chunks = noisy.shape[2], state.shape[1]
    per_chunk, frames_per_chunk = action.shape[1] // chunks, (frames - 1) // chunks
    rows, columns = transformer._grid(*noisy.shape[3:])
    clean = history[:, :, : frames - frames_per_chunk]
    noisy, video_time = _asked(noisy, video_time, first_frame and want_video)
    asked = noisy.shape[2]
    actions = transformer.action_encoder(
        action, Times(action_time, torch.arange(chunks, device=action.device).repeat_interleave(per_chunk))
    )
    control = torch.cat([actions.unflatten(1, (chunks, per_chunk)), transformer.state_encoder(state)[:, :, None]], 2)
    x = Groups(
        transformer._video_tokens(clean, None)[:, None].float(),
        transformer._video_tokens(noisy, None).unflatten(1, (asked, rows * columns)).float(),
        control.float(),
    )
    layer = _layer(
        transformer.layout,
        frames - asked == 0,
        chunks,
        frames_per_chunk,
        rows,
        columns,
        state_attention,
        x.video.dtype,
        x.video.device,
    )
    times = torch.cat([torch.zeros_like(video_time[:, :1]), video_time, action_time], dim=1)
    embedded, projected = _embed(transformer, times)
    embedder = transformer.condition_embedder
    text = embedder.text_embedder(conditioning.text).index_select(0, conditioning.rows)
    context = (text, conditioning.text_bias, embedder.image_embedder(conditioning.image))
    sizes = (1, asked, chunks)
    checkpointed = transformer.gradient_checkpointing and torch.is_grad_enabled()
    for number, block in enumerate(transformer.blocks):
        last = number + 1 == len(transformer.blocks)
        wanted = Groups(not last, want_video or not last, True)
        run = getattr(block, "run_layer", None) or partial(run_layer, block)
        x = Groups(
            *run(
                *x,
                projected,
                *context,
                layer=layer,
                sizes=sizes,
                wanted=wanted,
                checkpointed=checkpointed,
                looks=looks,
            )
        )
    return x, embedded


def run_layer(
    block: WorldActionBlock,
    past: Tensor,
    video: Tensor,
    control: Tensor,
    projected: Tensor,
    text: Tensor,
    text_bias: Tensor,
    image: Tensor,
    *,
    layer: Layer,
    sizes: tuple[int, int, int],
    wanted: Groups,
    checkpointed: bool = False,
    looks: list[Look] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer over the three groups; a group that is not wanted comes back as it was.

    ``projected`` [B, U, 6, D] float32 holds the times of the segments of all groups in turn. With ``checkpointed``
    nothing inside is kept for the backward pass, which runs the layer again.
    """
    if checkpointed:
        run = partial(run_layer, block, layer=layer, sizes=sizes, wanted=wanted)
        return checkpoint(run, past, video, control, projected, text, text_bias, image, use_reentrant=False)
    x = Groups(past, video, control)
    modulation = (block.scale_shift_table[:, None].float() + projected).split(sizes, dim=1)
    queries, keys, values = [], [], []
    for group, m, phase, asks in zip(x, modulation, layer.phases, wanted, strict=True):
        shift, factor = m[:, :, None, 0], m[:, :, None, 1]
        h = torch.addcmul(shift, block.norm1(group), factor).to(block.attn1.to_q.weight.dtype).flatten(1, 2)
        queries.append(_rotated(block, block.attn1.norm_q, block.attn1.to_q(h), phase) if asks else None)
        keys.append(_rotated(block, block.attn1.norm_k, block.attn1.to_k(h), phase))
        values.append(_heads(block, block.attn1.to_v(h)))
    seen = look(Groups(*queries), Groups(*keys), Groups(*values), layer, wanted)
    text_kv, image_kv = block.text_key_value(text), block.image_key_value(image)
    return tuple(
        finish(block, group, s, m, text_kv, text_bias, image_kv, looks if group is control else None) if asks else group
        for group, s, m, asks in zip(x, seen, modulation, wanted, strict=True)
    )


def look(queries: Groups, keys: Groups, values: Groups, layer: Layer, wanted: Groups) -> Groups:
    """Self-attention: [B, H, tokens, head_dim] of each group to what it saw, [B, tokens, D]."""
    past = attend(queries.past, keys.past, values.past, layer.past_bias) if wanted.past else None
    tokens = keys.video.shape[2] // (layer.lead + layer.chunks * layer.frames_per_chunk)  # of a frame
    rows = keys.control.shape[2] // layer.chunks
    first = slice(0, tokens)
    video, control = [], []
    if wanted.video and layer.lead:
        video.append(attend(queries.video[:, :, first], keys.video[:, :, first], values.video[:, :, first]))
    asking = rows - 1 if layer.solitary_state else rows
    for chunk in range(layer.chunks):
        before = tokens * chunk * layer.frames_per_chunk  # without frame 0
        begin, ours = before + tokens * layer.lead, slice(chunk * rows, (chunk + 1) * rows)
        own = slice(begin, begin + tokens * layer.frames_per_chunk)
        query = queries.control[:, :, ours][:, :, :asking]
        if wanted.video:
            query = torch.cat([queries.video[:, :, own], query], dim=2)
        key, value = (
            torch.cat([kv.past[:, :, : before + tokens], kv.video[:, :, own], kv.control[:, :, ours]], dim=2)
            for kv in (keys, values)
        )
        seen = attend(query, key, value)
        if wanted.video:
            video.append(seen[:, : own.stop - own.start])
        control.append(seen[:, -asking:])
        if layer.solitary_state:
            control.append(values.control[:, :, ours.stop - 1 : ours.stop].transpose(1, 2).flatten(2))
    return Groups(past, torch.cat(video, dim=1) if wanted.video else None, torch.cat(control, dim=1))


def finish(
    block: WorldActionBlock,
    x: Tensor,
    seen: Tensor,
    modulation: Tensor,
    text: KeyValue,
    text_bias: Tensor,
    image: KeyValue,
    looks: list[Look] | None = None,
) -> Tensor:
    """``WorldActionBlock.finish`` for segments [B, S, T, D]; ``seen`` is [B, S x T, D]. Adds its look to ``looks``."""
    _, _, gate_attention, shift, factor, gate = modulation[:, :, None].unbind(3)
    segments, dtype = x.shape[1:3], seen.dtype
    x = torch.addcmul(x, block.attn1.to_out[0](seen).unflatten(1, segments), gate_attention)
    a = block.attn2
    query = _heads(block, rms_norm(a.norm_q, a.to_q(block.norm2(x).to(dtype).flatten(1, 2))))
    taken = attend(query, *image)
    if looks is not None:
        looks.append(Look(query, image.key, taken))
    x = x + a.to_out[0](attend(query, *text, text_bias) + taken).unflatten(1, segments)
    enter, _, leave = block.ffn.net
    h = torch.addcmul(shift, block.norm3(x), factor).to(dtype)
    return torch.addcmul(x, leave(enter(h)), gate)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention over [B, H, L, head_dim] with a bias on the scores, gathered to [B, L, D].

    On a CPU two products and a softmax are quicker than the fused kernel at these lengths, with bfloat16.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))
        if bias is not None:
            scores = scores + bias.to(scores.dtype)
        return torch.matmul(scores.softmax(-1), value).transpose(1, 2).flatten(2)
    bias = None if bias is None else bias.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(2)


def _rotated(block: WorldActionBlock, norm: torch.nn.RMSNorm, x: Tensor, phase: Tensor) -> Tensor:
    return rotate(_heads(block, rms_norm(norm, x)), phase)


def _heads(block: WorldActionBlock, x: Tensor) -> Tensor:
    return x.unflatten(2, (block.attn1.heads, -1)).transpose(1, 2)


def _embed(transformer: WorldActionTransformer, times: Tensor) -> tuple[Tensor, Tensor]:
    """Times [B, U] to what the head adds [B, U, D] and the blocks add [B, U, 6, D], float32."""
    time = transformer._embed(Times(times))
    return time.embedded, time.projected


def _to_video(transformer: WorldActionTransformer, x: Tensor, embedded: Tensor, rows: int, columns: int) -> Tensor:
    """Noisy frames [B, F, T, D] with the embedded time of each frame [B, F, D] to their velocity [B, C, F, h, w]."""
    per_token = embedded[:, :, None].expand(-1, -1, x.shape[2], -1).flatten(1, 2)
    return transformer._to_video(x.flatten(1, 2), per_token, x.shape[1], rows, columns)


def _asked(noisy: Tensor, video_time: Tensor, first_frame: bool) -> tuple[Tensor, Tensor]:
    """The noisy frames that are denoised, [B, C, F, h, w] and their times [B, F]."""
    return (noisy, video_time) if first_frame else (noisy[:, :, 1:], video_time[:, 1:])


@lru_cache(maxsize=32)
def _layer(
    layout: TokenLayout,
    first_frame: bool,
    chunks: int,
    frames_per_chunk: int,
    rows: int,
    columns: int,
    state_attention: str,
    dtype: torch.dtype,
    device: torch.device,
) -> Layer:
    frames = 1 + chunks * frames_per_chunk
    past = layout.video(CLEAN, 0, frames - frames_per_chunk, rows, columns, device)
    actions, states = layout.actions(1, chunks, device), layout.states(1, chunks, device)
    control = torch.cat(
        [actions.phase.unflatten(0, (chunks, -1)), states.phase.unflatten(0, (chunks, 1))], dim=1
    ).flatten(0, 1)
    hidden = past.chunk[None, :] > past.chunk[:, None]
    left_out = 0 if first_frame else 1
    return Layer(
        Groups(past.phase, layout.video(NOISY, left_out, frames - left_out, rows, columns, device).phase, control),
        torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill(hidden, -torch.inf),
        1 - left_out,
        chunks,
        frames_per_chunk,
        state_attention == "training",
    )
