"""torch.compile for the blocks of a transformer, a piece at a time.

A block's pieces before and after self-attention see the tokens of the pass only, never the cache (``model/blocks.py``).
They are what is compiled; attention over past and present stays outside. So the length of the past is no shape of any
compiled code and no length asks for another compilation. What does: another number of tokens (first frame, block of
frames, chunk), of rows, or separate times for video and action.

All layers share the code: one is compiled, the others find it.
"""

from __future__ import annotations

import logging
from types import MethodType

import torch

from dreamzero_policy.model.blocks import WorldActionBlock
from dreamzero_policy.model.transformer import WorldActionTransformer

log = logging.getLogger(__name__)

PIECES = ("project", "project_past", "finish")
MOST_SHAPES = 32  # of one piece: passes x rows x kinds of times; torch's own limit of 8 would silently stop compiling


def compile_blocks(transformer: WorldActionTransformer, *, backend: str = "inductor") -> None:
    """Compile the pieces of all blocks, in place; the work itself happens at their first call with each shape.

    ``Policy.warm_up`` makes those calls. Takes back with :func:`restore_blocks`.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_SHAPES)
    compiled = {
        name: torch.compile(getattr(WorldActionBlock, name), backend=backend, dynamic=False, fullgraph=True)
        for name in PIECES
    }
    for block in transformer.blocks:
        for name, function in compiled.items():
            setattr(block, name, MethodType(function, block))
    log.info(
        "the pieces %s of %d blocks will be compiled at their first call with each number of tokens and rows; "
        "that takes seconds to minutes each, once for all layers",
        ", ".join(PIECES),
        len(transformer.blocks),
    )


def restore_blocks(transformer: WorldActionTransformer) -> None:
    """Back to the code that was compiled."""
    for block in transformer.blocks:
        for name in PIECES:
            vars(block).pop(name, None)
