"""Motions that look at nothing: what a policy must beat. Rows of joint targets on the action grid, inside all limits.

`random` draws a new target for every joint once a chunk and goes there from rest to rest. `mean-demonstration` is the
mean of the commands of many demonstrations at every step; one that is over counts with its last command, at which it
rests. Standing still needs no rows.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dreamzero_policy.evaluation.recorded import RecordedEpisodes
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Floats, without_statistics
from dreamzero_policy.runtime.limits import Limits
from dreamzero_policy.runtime.plan import Plan, Rows, smootherstep
from dreamzero_policy.runtime.splice import way_into

RANDOM_STREAM = 7  # of a seed's random numbers
SHARE = 0.9  # of the speed and acceleration limits that random motion uses
MARGIN = 0.02  # of a joint's range that random motion keeps from its ends: a spline overshoots a little
PEAK_VELOCITY, PEAK_ACCELERATION = 1.875, 10 / 3**0.5  # of `smootherstep`, per distance and per distance / time
ENTRY_S = (1e-3, 0.35, 0.6, 1.0, 2.0)  # cross-fades from standing into the rows, tried in order; the first is none


class MotionError(ValueError):
    """Rows that the limits do not let the robot follow; the message gives the reason."""


def random_rows(contract: Contract, seed: int, start: Floats, duration_s: float) -> Floats:
    """Smooth random targets [N, J] of the commanded joints from `start` [J] on."""
    model = contract.model
    limits = Limits.of(contract)
    steps = model.chunk.actions
    move_s = steps * model.step_s
    reach = SHARE * np.minimum(
        limits.velocity * move_s / PEAK_VELOCITY, limits.acceleration * move_s**2 / PEAK_ACCELERATION
    )
    margin = MARGIN * (limits.upper - limits.lower)
    rng = np.random.default_rng((seed, RANDOM_STREAM))
    shape = smootherstep(np.arange(1, steps + 1) / steps)[:, None]
    rows, position = [start[None]], start
    for _ in range(int(np.ceil(duration_s / move_s))):
        target = np.clip(position + rng.uniform(-reach, reach), limits.lower + margin, limits.upper - margin)
        rows.append(position + shape * (target - position))
        position = target
    return np.concatenate(rows)


def mean_demonstration(demonstrations: Iterable[Floats]) -> Floats:
    """Mean [N, J] of the commands [N_i, J] of at least one demonstration, as long as the longest."""
    demonstrations = list(demonstrations)
    length = max(map(len, demonstrations))
    total = np.zeros((length, demonstrations[0].shape[1]))
    for rows in demonstrations:
        total[: len(rows)] += rows
        total[len(rows) :] += rows[-1]
    return total / len(demonstrations)


def recorded_demonstrations(folder: Path, contract: Contract) -> Iterator[Floats]:
    """Commands [N, J] of the commanded joints, in rad and m, of every episode of a data set.

    Raises:
        EpisodeError: no episodes, or one that does not fit the contract.
    """
    embodiment = without_statistics(contract)
    for episode in RecordedEpisodes(folder, contract).episodes(pictures=False):
        yield embodiment.commanded(episode.action)


def plan_of(contract: Contract, rows: Floats, start: Floats, now_ns: int) -> Plan:
    """Go from standing at `start` [J] into the rows [N, J] and follow them, one every action step, to rest.

    Raises:
        MotionError: no way into the rows keeps the motion inside the contract's limits.
    """
    due = Rows(rows, now_ns, round(1e9 * contract.model.step_s))
    spliced = way_into(Plan.rest(start, now_ns), due, ENTRY_S, Limits.of(contract))
    if not spliced.judgement:
        raise MotionError(f"the motion cannot be followed: {spliced.judgement.reason}")
    return spliced.plan
