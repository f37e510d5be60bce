"""Attempts with advice: what was seen while somebody was at work, and what an expert would have done at each chunk.

Such an attempt is one `.npz` episode of n chunks. A window of it is what the node's loop makes of a policy: blocks of
what really came of chunks that may have missed, at rest in between; but the next chunk is the expert's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dreamzero_policy.data.episodes import Episode
from dreamzero_policy.data.recordings import picture_steps
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Floats, Image


@dataclass
class AdviceDraft:
    """An attempt under construction, in memory."""

    path: Path
    contract: Contract
    _seen: list[Image] = field(default_factory=list)
    _state: list[Floats] = field(default_factory=list)
    _action: list[Floats] = field(default_factory=list)
    _advised: list[Image] = field(default_factory=list)

    def add(self, seen: Image, state: Floats, action: Floats, advised: Image) -> None:
        """The next chunk, of H actions.

        Args:
            seen: pictures since the chunk before [frames of a chunk, height, width, 3], the first time one alone. The
                newest is of the instant of the advice.
            state: measured at each step of the advice, and at the one behind it [H + 1, D].
            action: advised [H, A], absolute targets.
            advised: pictures of what that leads to [frames of a chunk, height, width, 3].

        Raises:
            ValueError: another number of pictures has been seen.
        """
        wanted = self.contract.model.chunk.frames if self._seen else 1
        if len(seen) != wanted:
            raise ValueError(f"{len(seen)} pictures were seen before chunk {len(self._seen)}, expected {wanted}")
        self._seen.append(seen)
        self._state.append(state)
        self._action.append(action)
        self._advised.append(advised)

    def finish(self, instructions: Sequence[str]) -> None:
        """Write the file whole or not at all.

        Nobody waits for what comes of the last chunk, and no chunk follows on it: its advice stands there too.
        """
        state = np.concatenate([rows[:-1] for rows in self._state] + [self._state[-1][-1:]])
        action = np.concatenate([*self._action, self._action[-1][-1:]])
        canvas = np.concatenate([*self._seen, self._advised[-1]])
        steps, words = picture_steps(self.contract.model, len(state)), tuple(instructions)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        Episode(words[0], state, action, canvas, steps, words, np.array(self._advised)).save(self.path, self.contract)
