"""The embodiment towards a server that has the model's transforms itself: the contract's units go out and come back."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Embodiment, Floats, Quantiles, Statistics
from dreamzero_policy.runtime.policy import ActionPrefix


class ServedEmbodiment(Embodiment):
    """Nothing is normalised here, rows are absolute, the instruction goes as it is; a canvas is made as ever.

    A row's columns are those that the server answers with; what it does not answer is no number, and no joint that is
    commanded may be among that.
    """

    def __init__(self, contract: Contract, answered: Sequence[str]) -> None:
        """`answered`: action groups of the contract in the order of a row's columns."""
        none = {"state": len(contract.model.state_joints), "action": contract.model.action_width}
        unknown = {name: Quantiles(np.full(width, np.nan), np.full(width, np.nan)) for name, width in none.items()}
        super().__init__(contract, Statistics(unknown["state"], unknown["action"], hash=""))
        ends = np.cumsum([group.width for group in contract.model.action])
        columns = {g.key: np.arange(end - g.width, end) for g, end in zip(contract.model.action, ends, strict=True)}
        self._columns = np.concatenate([columns[key] for key in answered])

    def prompt(self, instruction: str) -> str:
        return instruction

    def normalised_state(self, state: Floats) -> NDArray[np.float32]:
        return state.astype(np.float32)

    def actions(self, rows: NDArray, anchor: Floats) -> Floats:
        actions = np.full((*rows.shape[:-1], self.model.action_width), np.nan)
        actions[..., self._columns] = rows
        return actions

    def normalised_actions(self, actions: Floats, anchor: Floats, *, clamped: bool = True) -> NDArray[np.float32]:
        return actions[..., self._columns].astype(np.float32)

    def prefix(self, targets: Floats, anchor: Floats, soft_rows: int = 0) -> ActionPrefix:
        raise ValueError("a server that has the model's transforms itself takes no prefix")
