"""A denoising call replayed as one CUDA graph, so that the device never waits for Python.

A graph repeats kernels on the addresses it was captured with. Decisions:

* what changes from call to call (latents, actions, state, image condition, times) is copied into buffers of its own;
* the context is copied when another one comes: once per prompt and once per window;
* the cache is too large to copy and stays where it is for a session's life, so a graph belongs to the addresses of the
  cache and to the length of the past. A fork that moved to memory of its own gets graphs of its own;
* the least recently used graph goes when there are too many.

What captures is a :class:`GraphBackend`. The buffers' logic is tested on a CPU with a backend that simply calls.
:class:`CudaGraphs`, the real one, has not been run on a GPU yet.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from dreamzero_policy.model.blocks import KeyValue
from dreamzero_policy.model.cache import KVCache
from dreamzero_policy.model.transformer import Context, WorldActionTransformer

Outputs = tuple[Tensor, Tensor]


class GraphBackend(Protocol):
    """Turns a call into its replay. ``run`` takes no arguments and always reads the same memory."""

    def capture(self, run: Callable[[], Outputs]) -> Callable[[], Outputs]: ...


class CudaGraphs:
    """torch's CUDA graphs, all of them in one memory pool."""

    WARM_UPS = 2  # outside the graph: libraries take memory and choose kernels at first calls, which no graph may hold

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, run: Callable[[], Outputs]) -> Callable[[], Outputs]:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(self.WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = run()

        def replay() -> Outputs:
            graph.replay()
            return outputs

        return replay


def graph_denoising(transformer: WorldActionTransformer, backend: GraphBackend) -> None:
    """Replace the transformer's :meth:`denoise` by its replay, in place. For inference only."""
    transformer.denoise = GraphedDenoising(transformer.denoise, backend)


@dataclass(frozen=True)
class _Buffers:
    """The memory that graphs of one set of shapes read."""

    tensors: dict[str, Tensor | None]

    def fill(self, values: dict[str, Tensor | None]) -> None:
        for name, value in values.items():
            if value is not None:
                self.tensors[name].copy_(value)


class GraphedDenoising:
    """Same call as :meth:`WorldActionTransformer.denoise`; results are the caller's own."""

    def __init__(self, denoise: Callable[..., Outputs], backend: GraphBackend, *, most_graphs: int = 32) -> None:
        self._denoise, self._backend, self._most = denoise, backend, most_graphs
        self._inputs: dict[tuple, _Buffers] = {}
        self._context: _HeldContext | None = None
        self._graphs: OrderedDict[tuple, Callable[[], Outputs]] = OrderedDict()

    def __call__(
        self,
        cache: KVCache,
        context: Context,
        latents: Tensor,
        condition: Tensor | None,
        action: Tensor,
        state: Tensor,
        *,
        first_frame: int,
        video_time: float | Tensor,
        action_time: float | Tensor,
        state_attention: str = "release",
    ) -> Outputs:
        one_time = video_time is action_time or (
            not isinstance(video_time, Tensor) and not isinstance(action_time, Tensor) and video_time == action_time
        )
        values = {
            "latents": latents,
            "condition": condition,
            "action": action,
            "state": state,
            "video_time": torch.as_tensor(video_time, dtype=torch.float64).reshape(-1),
            "action_time": torch.as_tensor(action_time, dtype=torch.float64).reshape(-1),
        }
        shapes = tuple(None if value is None else (value.shape, value.dtype) for value in values.values())
        if shapes not in self._inputs:
            self._inputs[shapes] = _Buffers(
                {n: None if v is None else torch.empty_like(v, device=latents.device) for n, v in values.items()}
            )
        inputs = self._inputs[shapes]
        inputs.fill(values)
        if self._context is None or not self._context.fits(context):
            self._context = _HeldContext(context)
            self._graphs.clear()
        self._context.hold(context)

        key = (shapes, cache.keys.data_ptr(), cache.values.data_ptr(), cache.length, first_frame, one_time)
        key += (state_attention,)
        if key not in self._graphs:
            given, held = inputs.tensors, self._context.buffers
            past = replace(cache)  # the same memory; the caller's cache goes on

            def run() -> Outputs:
                return self._denoise(
                    past,
                    held,
                    given["latents"],
                    given["condition"],
                    given["action"],
                    given["state"],
                    first_frame=first_frame,
                    video_time=given["video_time"],
                    action_time=given["video_time"] if one_time else given["action_time"],
                    state_attention=state_attention,
                )

            self._graphs[key] = self._backend.capture(run)
            if len(self._graphs) > self._most:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        video, action = self._graphs[key]()
        return video.clone(), action.clone()


class _HeldContext:
    """Buffers with the contents of the last context. Contexts are never written once made, so identity is equality."""

    def __init__(self, context: Context) -> None:
        self.buffers = Context(_empty_like(context.text), None if context.image is None else _empty_like(context.image))
        self._text: tuple[KeyValue, ...] | None = None
        self._image: tuple[KeyValue, ...] | None = None

    def fits(self, context: Context) -> bool:
        """Whether the buffers have the context's shapes."""
        return _shapes(self.buffers.text) == _shapes(context.text) and _shapes(self.buffers.image) == _shapes(
            context.image
        )

    def hold(self, context: Context) -> None:
        """Copy what is another object than last time; the sources are kept, so that no new one can take their place."""
        if context.text is not self._text:
            _copy(self.buffers.text, context.text)
            self._text = context.text
        if context.image is not None and context.image is not self._image:
            _copy(self.buffers.image, context.image)
            self._image = context.image


def _empty_like(layers: tuple[KeyValue, ...]) -> tuple[KeyValue, ...]:
    return tuple(KeyValue(torch.empty_like(kv.key), torch.empty_like(kv.value)) for kv in layers)


def _shapes(layers: tuple[KeyValue, ...] | None) -> list[tuple] | None:
    return None if layers is None else [(kv.key.shape, kv.value.shape, kv.key.dtype) for kv in layers]


def _copy(buffers: tuple[KeyValue, ...], layers: tuple[KeyValue, ...]) -> None:
    for buffer, layer in zip(buffers, layers, strict=True):
        buffer.key.copy_(layer.key)
        buffer.value.copy_(layer.value)
