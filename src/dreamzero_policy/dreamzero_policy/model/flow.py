"""From noise to a chunk: the noise schedule, the solvers and guidance.

Convention of the flow: t = 1000 (σ = 1) is noise, t = 0 is data, x_t = (1 − σ) x0 + σ ε, and the network predicts the
velocity v = ε − x0.

Sampling uses two independent second-order UniPC solvers (diffusers'), one for the video and one for the actions, on a
schedule shifted towards noise. Guidance acts on the video only; actions take the conditional branch. Some steps may be
skipped: a skipped step uses the last velocities again. Which ones are skipped is fixed (:func:`evaluated_steps`) or
follows from how much the velocity still changes (:class:`SkipWhileSteady`).

Where the first actions of a chunk are known already, they stand at every step at its own noise level
(:class:`KnownActions`), so that the network sees them and continues them; they come out as they were given. Further
ones may draw the chunk towards them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

TRAIN_LEVELS = 1000
FIRST_SIGMA = 0.999  # of the unshifted schedule; diffusers' own default would start at 1

# Which of 16 steps are evaluated, by the number of evaluations. Measured by the authors of the released weights.
EVALUATED_OF_16 = {
    5: (0, 1, 2, 7, 12),
    6: (0, 1, 5, 10, 14, 15),
    7: (0, 1, 2, 6, 10, 14, 15),
    8: (0, 1, 2, 6, 10, 13, 14, 15),
    16: tuple(range(16)),
}

# The dynamic schedule: above which similarity of the last two video velocities how many steps are skipped, and up to
# how many steps nothing ever is. Figures of the released code.
SKIPS_ABOVE_SIMILARITY = ((0.95, 4), (0.93, 2))
MOST_STEPS_WITHOUT_SKIPS = 4

# Noisy video and action, their times; returns their velocities, guidance applied.
Velocity = Callable[[Tensor, Tensor, int, int], tuple[Tensor, Tensor]]

# The index of a step and the video velocities evaluated so far (the last two at least); is this step evaluated?
EvaluationRule = Callable[[int, Sequence[Tensor]], bool]


def evaluated_steps(steps: int, evaluations: int) -> frozenset[int]:
    """The steps whose velocity is computed. Only the 16-step schedule has skips."""
    if steps != 16:
        return frozenset(range(steps))
    if evaluations not in EVALUATED_OF_16:
        raise ValueError(f"16 steps can be evaluated {sorted(EVALUATED_OF_16)} times, not {evaluations}")
    return frozenset(EVALUATED_OF_16[evaluations])


class SkipWhileSteady:
    """The release's dynamic schedule, for one chunk: skip some steps whenever two successive velocities nearly agree.

    Similarity is the cosine between the last two guided video velocities, over all entries of a row, averaged over
    rows. After a run of skips one step is always evaluated, and the similarity is looked at again. Each look waits for
    the device, because the decision is the host's.
    """

    def __init__(self, steps: int) -> None:
        self._never_skips = steps <= MOST_STEPS_WITHOUT_SKIPS
        self._steps_to_evaluation = 0

    def __call__(self, step: int, velocities: Sequence[Tensor]) -> bool:
        if self._never_skips or len(velocities) < 2:
            return True
        if self._steps_to_evaluation:
            self._steps_to_evaluation -= 1
            return self._steps_to_evaluation == 0
        similarity = cosine_similarity(velocities[-1], velocities[-2])
        self._steps_to_evaluation = next((skips for above, skips in SKIPS_ABOVE_SIMILARITY if similarity > above), 0)
        return self._steps_to_evaluation == 0


def cosine_similarity(a: Tensor, b: Tensor) -> float:
    """Cosine between the rows of [B, …], averaged over B."""
    return torch.nn.functional.cosine_similarity(a.flatten(1).float(), b.flatten(1).float(), dim=1).mean().item()


@dataclass(frozen=True)
class Schedule:
    """Noise levels of one solver: ``sigmas`` has steps + 1 entries, ``times`` one integer per step."""

    sigmas: tuple[float, ...]
    times: tuple[int, ...]

    @property
    def steps(self) -> int:
        return len(self.times)


@lru_cache(maxsize=64)
def sampling_schedule(steps: int, shift: float, final_noise: float = 0.0) -> Schedule:
    """σ from almost 1 down to ``final_noise``; the times are whole numbers, cut down from 1000 σ.

    With a final noise f every σ is mapped linearly to σ (s − f) / s + f, s being the first σ.
    """
    if steps < 1:
        raise ValueError(f"a prediction needs at least 1 step, got {steps}")
    if not 0.0 <= final_noise < 1.0:
        raise ValueError(f"the final noise level must be in [0, 1), got {final_noise}")
    solver = _new_solver(shift)
    solver.set_timesteps(sigmas=np.linspace(FIRST_SIGMA, 0.0, steps + 1)[:-1])
    sigmas, times = solver.sigmas, solver.timesteps
    if final_noise > 0.0:
        sigmas = sigmas * (sigmas[0] - final_noise) / sigmas[0] + final_noise
        times = (sigmas[:-1] * TRAIN_LEVELS).to(torch.int64)
    return Schedule(tuple(sigmas.tolist()), tuple(times.tolist()))


def _new_solver(shift: float) -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


class Solver:
    """One UniPC trajectory along a schedule, step by step through diffusers: the reference of :class:`Trajectory`."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._solver = _new_solver(shift=1.0)
        self._solver.set_timesteps(schedule.steps)
        self._solver.sigmas = torch.tensor(schedule.sigmas, dtype=torch.float32)
        self._solver.timesteps = torch.tensor(schedule.times, dtype=torch.int64)
        self._solver.set_begin_index(0)

    def step(self, sample: Tensor, velocity: Tensor, index: int) -> Tensor:
        """The sample at the next noise level."""
        return self._solver.step(velocity, self.schedule.times[index], sample, return_dict=False)[0]


class Trajectory:
    """The same trajectory as :class:`Solver`'s, with the solver's arithmetic done beforehand.

    UniPC is linear: every sample is a mixture of the noise and the velocities so far, with weights that depend on the
    schedule alone. One product of a short row with them replaces some fifty small operations of a step.
    """

    def __init__(self, schedule: Schedule, noise: Tensor) -> None:
        self._weights = mixture_weights(schedule, noise.device)
        self._terms = noise.new_empty(schedule.steps + 1, noise.numel())
        self._terms[0] = noise.flatten()
        self._shape = noise.shape

    def step(self, velocity: Tensor, index: int) -> Tensor:
        """The sample at the next noise level. Steps come in order."""
        self._terms[index + 1] = velocity.flatten()
        return (self._weights[index, : index + 2] @ self._terms[: index + 2]).view(self._shape)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def mixture_weights(schedule: Schedule, device: torch.device) -> Tensor:
    """[steps, steps + 1] float32: row i mixes noise and velocities 0 … i into the sample after step i.

    Found by sending unit vectors through the solver.
    """
    units = torch.eye(schedule.steps + 1, dtype=torch.float64)[:, None]  # diffusers wants [B, C, …]
    solver, sample, rows = Solver(schedule), units[0], []
    for index in range(schedule.steps):
        sample = solver.step(sample, units[index + 1], index)
        rows.append(sample)
    return torch.cat(rows).to(device=device, dtype=torch.float32)


class Sample(NamedTuple):
    """What sampling arrived at, and how many velocities it took.

    ``expected`` is the video that the first velocity leads to, x0 = ε − v of noise alone: the mean of all that may
    come, of which ``video`` is one. With one step both are the same.
    """

    video: Tensor
    action: Tensor
    evaluations: int
    expected: Tensor


@dataclass(frozen=True, eq=False)
class KnownActions:
    """What is known of a chunk's actions: its first k rows, in some of the D columns.

    ``rows`` [k, n] or [B, k, n] float32, ``columns`` [n] int64, both where the actions are. The last of the rows, as
    many as there are ``weights`` [s] between 0 and 1, are not held: the chunk is drawn towards them so strongly.
    """

    rows: Tensor
    columns: Tensor
    weights: Tensor

    @property
    def held(self) -> int:
        """How many rows are."""
        return self.rows.shape[-2] - len(self.weights)

    def put(self, action: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """``action`` [B, A, D] with the held entries at a noise level, made of the chunk's own ``noise`` [B, A, D]."""
        held = slice(self.held)
        action = action.clone()
        action[:, held, self.columns] = add_noise(self.rows[..., held, :], noise[:, held, self.columns], sigma)
        return action

    def draw(self, velocity: Tensor, action: Tensor, sigma: float) -> Tensor:
        """``velocity`` [B, A, D] at ``action`` with what draws the rows that are not held.

        The data that a velocity leads to, x0 = x − σ v, become a mean of themselves and of what is known. A model that
        follows is drawn again from where it has come to, so that more steps may lead nearer than the weight says.
        """
        drawn = slice(self.held, self.rows.shape[-2])
        entries = velocity[:, drawn, self.columns]
        beside = action[:, drawn, self.columns] - sigma * entries - self.rows[..., drawn, :]
        velocity = velocity.clone()
        velocity[:, drawn, self.columns] = entries + self.weights[:, None] * beside / sigma
        return velocity


def sample_chunk(
    velocity: Velocity,
    video: Tensor,
    action: Tensor,
    *,
    video_schedule: Schedule,
    action_schedule: Schedule,
    evaluated: frozenset[int] | EvaluationRule,
    known: KnownActions | None = None,
) -> Sample:
    """Carry noise ``video`` [B, C, f, H, W] and ``action`` [B, A, D] along their schedules.

    ``evaluated`` says which steps ask for the velocity; the others use the last one again. What is ``known`` of the
    actions takes its place before every step and at the end, or draws the velocities of its rows; all other entries go
    along the solver's own trajectory.
    Returns both in the shapes given: latents (at the schedule's final noise) and actions.
    """
    if video_schedule.steps != action_schedule.steps:
        raise ValueError(f"video has {video_schedule.steps} steps and action {action_schedule.steps}; they go together")
    rule = evaluated if callable(evaluated) else lambda step, velocities: step in evaluated
    if not rule(0, ()):
        raise ValueError("the first step has no velocity to reuse, it must be evaluated")
    video_path, action_path = Trajectory(video_schedule, video), Trajectory(action_schedule, action)
    last_two: list[Tensor] = []
    evaluations, start = 0, action
    if known is not None:
        action = known.put(action, start, action_schedule.sigmas[0])
    for i in range(video_schedule.steps):
        if rule(i, last_two):
            video_velocity, action_velocity = velocity(video, action, video_schedule.times[i], action_schedule.times[i])
            if known is not None:
                action_velocity = known.draw(action_velocity, action, action_schedule.sigmas[i])
            if i == 0:
                expected = video - video_schedule.sigmas[0] * video_velocity
            last_two = [*last_two[-1:], video_velocity]
            evaluations += 1
        video = video_path.step(video_velocity, i)
        action = action_path.step(action_velocity, i)
        if known is not None:
            action = known.put(action, start, action_schedule.sigmas[i + 1])
    return Sample(video, action, evaluations, expected)


def guide(video_velocity: Tensor, action_velocity: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Classifier-free guidance of a batch whose first half saw the prompt and whose second half the negative prompt.

    The video moves away from the negative branch; the action is the prompt's own.
    """
    positive, negative = video_velocity.chunk(2)
    return negative + scale * (positive - negative), action_velocity.chunk(2)[0]


def noise(shape: Sequence[int], seed: int, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """Gaussian noise [shape] that depends on the seed alone: drawn on the CPU in float32, then moved."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32).to(device=device, dtype=dtype)


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class NoiseTable:
    """The 1000 training levels: ``sigmas``, ``times`` = 1000 σ and the loss weight of each [1000] float32.

    u = 1 − i / 1000, σ = shift u / (1 + (shift − 1) u). The weight is a bell around t = 500 with mean 1 and 0 at t =
    1000.
    """

    sigmas: Tensor
    times: Tensor
    weights: Tensor

    @classmethod
    def shifted(cls, shift: float) -> NoiseTable:
        u = torch.linspace(1, 0, TRAIN_LEVELS + 1, dtype=torch.float32)[:-1]
        sigmas = shift * u / (1 + (shift - 1) * u)
        times = sigmas * TRAIN_LEVELS
        bell = torch.exp(-2 * ((times - TRAIN_LEVELS / 2) / TRAIN_LEVELS) ** 2)
        bell = bell - bell.min()
        return cls(sigmas, times, bell * (TRAIN_LEVELS / bell.sum()))

    def index_of(self, times: Tensor) -> Tensor:
        """The nearest level of each time."""
        return (self.times - times[..., None]).abs().argmin(-1)


def add_noise(data: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """x_t = (1 − σ) x0 + σ ε; σ broadcasts against the data."""
    return (1 - sigma) * data + sigma * noise


def velocity_target(data: Tensor, noise: Tensor) -> Tensor:
    """v = ε − x0."""
    return noise - data
