"""What an operator may tune in the loop, as the node's parameters say it: for the node and for evaluations alike."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from dreamzero_policy.runtime.regime import RegimeSettings

SEED_STRIDE = 7919  # between the noise of chunks, so that runs with neighbouring seeds share none
SEEDS = 2**31
PARAMETER_OF = {"steps": "denoise_steps", "seed": "noise_seed"}  # of a setting; the others have the same name


@dataclass(frozen=True)
class LoopSettings:
    """The node's parameters describe them."""

    steps: int  # of the solver; 0 in a parameter file: as many as the checkpoint says
    seed: int
    lead_s: float
    first_point_s: float
    inference_timeout_s: float
    smoothing_window: int
    blend_s: tuple[float, ...]  # tried in order until the limits allow one
    max_plan_s: float  # what is sent is over by then, if this process dies
    regime: RegimeSettings = field(default_factory=RegimeSettings)
    deadline_steps: bool = False  # fewer steps for a chunk that would come too late with all of them
    fresh_noise: bool = True  # for every chunk, else the same for all
    prefix_conditioning: bool = False  # the model is told what is executed until its answer is there, and continues it
    prefix_soft_mask: bool = True  # and is drawn towards the rows in hand behind that
    limit_easing_share: float = 0.0  # of a joint's step, by which rows may lead beyond its range and are eased into it
    stopping_rows: int = 0  # of a chunk that ends in a pause: its last ones, in which the robot stops instead

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> "LoopSettings":
        """What the node's parameters say. Raises KeyError if one is missing."""
        names = [setting.name for setting in fields(cls)]
        values = {name: parameters[PARAMETER_OF.get(name, name)] for name in names}
        way = (parameters[name] for name in ("regime", "overlap", "slowest_speed_share"))
        return cls(**values | {"regime": RegimeSettings(*way), "blend_s": tuple(values["blend_s"])})

    def noise_seed(self, number: int) -> int:
        """Of the noise that the chunk of this number in an epoch is denoised from, if every one has its own."""
        return (self.seed + SEED_STRIDE * number) % SEEDS
