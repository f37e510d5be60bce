"""The scheduler: when the model observes and when its chunk begins, on the action grid of the observation.

Regime `stop_and_go`: the robot comes to rest at the end of a chunk, the model thinks, the next chunk is executed from
its first row. A session observes whole blocks only, so the next observation instant is one chunk after the first row
began: the block's frames then show exactly the steps that were executed, spaced as in training. Row 0 begins on the
grid of observation instants, so that frames of a camera in step with the grid stand exactly at the instants.
"""

from dataclasses import dataclass

from dreamzero_policy.runtime.contract import ModelSection
from dreamzero_policy.runtime.observation import NS_PER_S

REGIME = "stop_and_go"


@dataclass(frozen=True)
class StopAndGo:
    """Stateless: everything follows from stamps."""

    model: ModelSection
    lead_s: float  # from deciding to the first commanded point: publishing, transport, one control period

    @property
    def step_ns(self) -> int:
        return round(NS_PER_S / self.model.action_hz)

    def start_ns(self, observation_ns: int, now_ns: int) -> int:
        """When row 0 is executed: the first grid instant with enough lead."""
        earliest_ns = now_ns + round(self.lead_s * NS_PER_S)
        behind = max(0, -(-(earliest_ns - observation_ns) // self.step_ns))
        return observation_ns + behind * self.step_ns

    def observation_after_chunk_ns(self, start_ns: int) -> int:
        """The next observation instant once a chunk begins at `start_ns`."""
        return start_ns + (self.model.chunk.actions - self.model.chunk.first_action_step) * self.step_ns

    def observation_after_rejection_ns(self, observation_ns: int) -> int:
        """The next observation instant when nothing was executed: one block of standing still later."""
        return observation_ns + self.model.chunk.actions * self.step_ns
