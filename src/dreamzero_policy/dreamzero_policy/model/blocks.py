"""One layer of the world-action transformer: a stock Wan block, cut where the cache comes in.

A layer is three pieces. :meth:`WorldActionBlock.project` makes this pass's own queries, keys and values;
:func:`attend` lets the queries look at whatever the *reach* of the keys is (the present alone, or the cached past and
the present); :meth:`WorldActionBlock.finish` does the rest. Decisions:

* only the middle piece sees the cache and its length. The two others always have the shapes of the pass, so that they
  can be compiled once and serve every length of the past (``inference/compilation.py``);
* the residual stream is float32 whatever the dtype of the weights; time, scales, shifts and gates are float32 too.

Letters: B batch, L tokens of the pass, N context tokens, U distinct times, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention, WanTransformerBlock
from torch import Tensor, nn

from dreamzero_policy.model.tokens import rotate


class KeyValue(NamedTuple):
    """Keys and values [B, heads, N, head_dim] of one attention."""

    key: Tensor
    value: Tensor


@dataclass(frozen=True)
class Times:
    """The flow time of every token: ``values`` [B or 1, U] distinct times, ``index`` [L] picks one for each token.

    ``index`` None means that all tokens share the only time. U is 1 or 2 at inference, so that the time embedding and
    its six-way projection cost next to nothing.
    """

    values: Tensor
    index: Tensor | None = None

    def spread(self, embedding: Tensor) -> Tensor:
        """[B, U, …] to something that broadcasts against [B, L, …]."""
        return embedding if self.index is None else embedding[:, self.index]


class Modulation(NamedTuple):
    """Shift, factor (1 + scale) and gate of the two sublayers of a block, [B or 1, L or 1, D] float32 each."""

    shift_attention: Tensor
    factor_attention: Tensor
    gate_attention: Tensor
    shift_feed_forward: Tensor
    factor_feed_forward: Tensor
    gate_feed_forward: Tensor


# Takes a layer's present keys and values, returns all that its queries may look at.
Reach = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def present_only(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The reach of a pass without a cache."""
    return key, value


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention over [B, heads, L, head_dim], gathered to [B, L, D].

    CPU kernels for bfloat16 convert to float32 and back inside the fused attention; two matrix products and a softmax
    are about twice as fast there at the lengths of this model. On other devices diffusers chooses the kernel.
    """
    if query.device.type != "cpu":
        heads_last = (x.transpose(1, 2) for x in (query, key, value))
        return dispatch_attention_fn(*heads_last, attn_mask=mask).flatten(2)
    if query.dtype == torch.bfloat16:
        scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return torch.matmul(scores.softmax(-1), value).transpose(1, 2).flatten(2)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


def rms_norm(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    """``norm(x)``; torch's own with float32 weights on a CPU in three passes over x where torch makes six."""
    if type(norm) is not nn.RMSNorm or x.device.type != "cpu" or norm.weight.dtype != torch.float32:
        return norm(x)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return (x * norm.weight * torch.rsqrt(length.square() / x.shape[-1] + norm.eps)).type_as(x)


class WorldActionBlock(WanTransformerBlock):
    """A stock Wan block whose forward takes the reach of its keys, a mask and ready context keys and values."""

    def forward(
        self,
        x: Tensor,
        modulation: Modulation,
        phase: Tensor,
        text: KeyValue,
        image: KeyValue | None,
        reach: Reach,
        mask: Tensor | None = None,
        solitary: int = 0,
    ) -> Tensor:
        """x [B, L, D] in and out, float32.

        ``phase`` turns this pass's own queries and keys. ``mask`` is [L, keys]. The last ``solitary`` tokens see
        themselves only, which needs no attention.
        """
        query, key, own_value = self.project(x, modulation, phase)
        key, value = reach(key, own_value)
        if solitary:
            alone = own_value[:, :, -solitary:].transpose(1, 2).flatten(2)
            seen = torch.cat([attend(query[:, :, :-solitary], key, value, mask), alone], dim=1)
        else:
            seen = attend(query, key, value, mask)
        return self.finish(x, seen, modulation, text, image)

    def remember(self, x: Tensor, modulation: Modulation, phase: Tensor, reach: Reach) -> None:
        """The part of :meth:`forward` that changes the past: keys and values into the reach, and nothing after them."""
        reach(*self.project_past(x, modulation, phase))

    def project(self, x: Tensor, modulation: Modulation, phase: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, heads, L, head_dim]; queries and keys after norm and rotation."""
        a, h = self.attn1, self._enter_attention(x, modulation)
        query, key = (self._rotated(n, to(h), phase) for n, to in ((a.norm_q, a.to_q), (a.norm_k, a.to_k)))
        return query, key, _heads(a, a.to_v(h))

    def project_past(self, x: Tensor, modulation: Modulation, phase: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of :meth:`project`, as the cache keeps them."""
        a, h = self.attn1, self._enter_attention(x, modulation)
        return self._rotated(a.norm_k, a.to_k(h), phase), _heads(a, a.to_v(h))

    def finish(self, x: Tensor, seen: Tensor, modulation: Modulation, text: KeyValue, image: KeyValue | None) -> Tensor:
        """From what self-attention saw [B, L, D] to the output: its projection, cross-attention, feed-forward."""
        m, dtype = modulation, seen.dtype
        x = self.after_attention(x, seen, m)
        x = x + self.cross_attention(self.norm2(x).to(dtype), text, image)
        return self.feed_forward(x, m, dtype)

    def after_attention(self, x: Tensor, seen: Tensor, modulation: Modulation) -> Tensor:
        """The residual stream with what self-attention saw [B, L, D]."""
        return torch.addcmul(x, self.attn1.to_out[0](seen), modulation.gate_attention)

    def feed_forward(self, x: Tensor, modulation: Modulation, dtype: torch.dtype) -> Tensor:
        """The last sublayer."""
        m = modulation
        h = torch.addcmul(m.shift_feed_forward, self.norm3(x), m.factor_feed_forward).to(dtype)
        enter, _, leave = self.ffn.net  # between them a dropout of probability 0
        return torch.addcmul(x, leave(enter(h)), m.gate_feed_forward)

    def cross_attention(self, h: Tensor, text: KeyValue, image: KeyValue | None) -> Tensor:
        """Two attentions with the same queries, added before the output projection; padding text is visible."""
        query = self.context_query(h)
        out = attend(*_same_rows(query, text))
        if image is not None:
            out = out + attend(*_same_rows(query, image))
        return self.attn2.to_out[0](out)

    def context_query(self, h: Tensor) -> Tensor:
        """What h [B, L, D] asks text and image: [B, heads, L, head_dim]."""
        return _heads(self.attn2, rms_norm(self.attn2.norm_q, self.attn2.to_q(h)))

    def modulate(self, projected_time: Tensor, times: Times) -> Modulation:
        """The block's own six vectors plus the projected time [B or 1, U, 6, D] float32.

        The projected time comes with the 1 of the two factors added (:func:`with_unit_factors`).
        """
        return Modulation(*times.spread(self.scale_shift_table[:, None].float() + projected_time).unbind(2))

    def text_key_value(self, text: Tensor) -> KeyValue:
        """Keys and values of embedded text [B, N, D]."""
        a = self.attn2
        return KeyValue(_heads(a, rms_norm(a.norm_k, a.to_k(text))), _heads(a, a.to_v(text)))

    def image_key_value(self, image: Tensor) -> KeyValue:
        """Keys and values of embedded image tokens [B, N, D]."""
        a = self.attn2
        return KeyValue(_heads(a, rms_norm(a.norm_added_k, a.add_k_proj(image))), _heads(a, a.add_v_proj(image)))

    def _enter_attention(self, x: Tensor, m: Modulation) -> Tensor:
        return torch.addcmul(m.shift_attention, self.norm1(x), m.factor_attention).to(self.attn1.to_q.weight.dtype)

    def _rotated(self, norm: nn.RMSNorm, x: Tensor, phase: Tensor) -> Tensor:
        turn = rotate_pairs if torch.compiler.is_compiling() else rotate
        return turn(_heads(self.attn1, rms_norm(norm, x)), phase)


def rotate_pairs(x: Tensor, phase: Tensor) -> Tensor:
    """:func:`~.tokens.rotate` in real arithmetic, out of which a compiler makes one loop; it has none for complex."""
    cosine, sine = torch.view_as_real(phase).unbind(-1)
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cosine - b * sine, a * sine + b * cosine], dim=-1).flatten(-2).type_as(x)


def with_unit_factors(projected_time: Tensor) -> Tensor:
    """Projected time [B or 1, U, 6, D] float32 with 1 added where :class:`Modulation` has a factor."""
    projected_time = projected_time.clone()
    projected_time[:, :, 1::3] += 1
    return projected_time


def _heads(attention: WanAttention, x: Tensor) -> Tensor:
    """[B, L, D] to [B, heads, L, head_dim]."""
    return x.unflatten(2, (attention.heads, -1)).transpose(1, 2)


def _same_rows(query: Tensor, kv: KeyValue) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value with one number of rows: a single row serves all, without a copy."""
    rows = max(query.shape[0], kv.key.shape[0])
    return tuple(x if x.shape[0] == rows else x.expand(rows, -1, -1, -1) for x in (query, *kv))
