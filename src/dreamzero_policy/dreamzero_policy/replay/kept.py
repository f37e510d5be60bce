"""A chunk whose time is over: what was predicted, what then happened, and the numbers that came of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dreamzero_policy.runtime.chunk import Chunk
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.foresight import Foresight


@dataclass(eq=False)
class Kept:
    """Rows are those of the chunk, J the contract's commanded joints; rad and m."""

    chunk: Chunk
    result: dict[str, Any]  # what docs/reference/replay.md says of a chunk
    instants_ns: list[int]  # [H] when each row is executed, or would be without a pause
    start_ns: int  # when it takes over, 0 if it was not executed; of the live chunk, where there is one
    foresight: Foresight | None  # None where nobody looked
    states: Floats | None = None  # [H, J] where the robot was then; not a number where that is not known
    commands: Floats | None = None  # [H, J] what was in execution then; None where there are none in the recording

    @property
    def positions(self) -> Floats:
        """[H, J]"""
        return self.chunk.positions


Sink = Callable[[Kept], None]  # is given every chunk once it is complete, in order
