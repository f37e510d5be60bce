"""What is made of a picture by networks that keep still: made once, one picture at a time, and kept.

One at a time, since rounding must not depend on what else is in a batch: a run that goes on after an interruption would
otherwise end otherwise.
"""

from collections.abc import Callable

import torch
from torch import Tensor

KEPT_DTYPE = torch.float16
KEPT_BYTES = 4 * 2**30


class Kept:
    """Tensors by the objects they were made of, in half precision in main memory.

    Beyond `most_bytes` they are made anew each time.
    """

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._left_bytes = most_bytes
        self._tensors: dict[int, tuple[object, Tensor]] = {}  # by identity, which holds as long as the object is held

    def of(self, thing: object, make: Callable[[], Tensor]) -> Tensor:
        """What `make` gives for a thing, rounded to half precision; float32, on the CPU."""
        if id(thing) in self._tensors:
            return self._tensors[id(thing)][1].float()
        with torch.no_grad():
            made = make().to(KEPT_DTYPE).cpu()
        if made.nbytes <= self._left_bytes:
            self._left_bytes -= made.nbytes
            self._tensors[id(thing)] = thing, made
        return made.float()
