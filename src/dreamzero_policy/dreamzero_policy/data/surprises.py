"""What bags say of surprise: the differences that a node published while it worked, and which policy that was.

The node measures as it works, in its regime and at its latency, so its own numbers are read and no model is run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamzero_policy.data.bag_files import OpenBag
from dreamzero_policy.data.bag_messages import CHUNK, decoded
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.runtime.calibration import Calibration, Cells
from dreamzero_policy.runtime.canvas import cameras_of_cells
from dreamzero_policy.runtime.contract import Contract

CELLS, TOPIC = "std_msgs/msg/Float32MultiArray", "/surprise_cells"


@dataclass(frozen=True)
class SurpriseRun:
    """A bag of a node at work."""

    bag: Path
    cells: tuple[Cells, ...]  # [f, h, w] of every block, in the order of recording
    contract_hash: str
    checkpoint_hash: str
    denoise_steps: int
    regimes: frozenset[str]

    @property
    def origin(self) -> tuple[str, str, int]:
        """Contract, checkpoint and steps."""
        return self.contract_hash, self.checkpoint_hash, self.denoise_steps

    @classmethod
    def read(cls, bag: Path) -> "SurpriseRun":
        """Raises EpisodeError for a bag without chunks or differences, or of several policies."""
        with OpenBag(bag) as reader:
            told = [c for c in reader.connections if c.msgtype == CELLS and c.topic.endswith(TOPIC)]
            chunks = [c for c in reader.connections if c.msgtype == CHUNK]
            if not told or not chunks:
                missing = "~/surprise_cells" if chunks else "~/chunk"
                raise EpisodeError(f"bag {bag} has no {missing} of policy_node; record both while it works")
            cells, origins, regimes = [], set(), set()
            for connection, _, data in reader.messages({c.topic for c in (*told, *chunks)}):
                message = decoded(data, connection.msgtype, reader.typestore)
                if connection.msgtype == CELLS:
                    cells.append(message.data.reshape([axis.size for axis in message.layout.dim]))
                else:
                    origins.add((message.contract_hash, message.checkpoint_hash, message.full_denoise_steps))
                    regimes.add(message.regime)
        if len(origins) > 1:
            raise EpisodeError(f"bag {bag} is of several policies (contract, checkpoint, steps): {_short(origins)}")
        if not cells:
            raise EpisodeError(f"bag {bag}: nothing was published on ~/surprise_cells; no block was compared")
        return cls(bag, tuple(cells), *origins.pop(), frozenset(regimes))


def calibration_of(runs: Sequence[SurpriseRun], contract: Contract) -> Calibration:
    """What is normal, by runs of one policy. Raises EpisodeError for runs of several, CalibrationError for none."""
    first = runs[0]
    for run in runs[1:]:
        if run.origin != first.origin:
            raise EpisodeError(
                f"{first.bag} and {run.bag} are of two policies (contract, checkpoint, steps): "
                f"{_short([first.origin, run.origin])}; calibrate with runs of one"
            )
    return Calibration.of(
        [run.cells for run in runs],
        cameras_of_cells(contract.model, runs[0].cells[0].shape[1:]),
        contract_hash=first.contract_hash,
        checkpoint_hash=first.checkpoint_hash,
        denoise_steps=first.denoise_steps,
        regimes=tuple(sorted(frozenset().union(*(run.regimes for run in runs)))),
    )


def _short(origins: Iterable[tuple]) -> str:
    return " and ".join(
        str(tuple(part[:12] if isinstance(part, str) else part for part in origin)) for origin in origins
    )
