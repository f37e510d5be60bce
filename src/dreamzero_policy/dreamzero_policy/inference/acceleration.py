"""What makes a transformer faster without changing what it computes, behind one switch each.

Every option replaces methods or weights of one transformer in place and leaves its verbs as they are, so that sessions,
checkpoints and tests do not know. Without any option the transformer is the reference that each is tested against.
Order matters and is fixed here: weights first, then compiled pieces, then graphs of whole calls.
"""

from __future__ import annotations

from dataclasses import dataclass

from dreamzero_policy.inference.compilation import compile_blocks
from dreamzero_policy.inference.cuda_graphs import CudaGraphs, graph_denoising
from dreamzero_policy.inference.quantisation import quantise
from dreamzero_policy.model.transformer import WorldActionTransformer


@dataclass(frozen=True, kw_only=True)
class Acceleration:
    """Which fast paths to take. The default is none of them.

    ``compile``: blocks through torch.compile; the first passes take seconds to minutes.
    ``quantisation``: a name in :data:`~.quantisation.KINDS`, through torchao.
    ``cuda_graphs``: replay a denoising call as one graph; needs a CUDA device.
    """

    compile: bool = False
    quantisation: str | None = None
    cuda_graphs: bool = False

    def apply(self, transformer: WorldActionTransformer) -> None:
        """Change the transformer in place.

        Raises ValueError for graphs on another device than CUDA, or as :func:`~.quantisation.quantise` does.
        """
        if self.cuda_graphs and transformer.device.type != "cuda":
            raise ValueError(f"CUDA graphs need a CUDA device, the transformer is on {transformer.device}")
        if self.quantisation is not None:
            quantise(transformer, self.quantisation)
        if self.compile:
            compile_blocks(transformer)
        if self.cuda_graphs:
            graph_denoising(transformer, CudaGraphs())
