"""Idle ends: the still time before a demonstration begins and after it ends, cut off.

The rule: the idle start is everything before the first step at which some entry of the state or of the action has
left its first value by more than `THRESHOLD`; the idle end is everything after the last step at which some entry was
still farther than that from its last value. `MARGIN_S` of each is kept, so that the first windows show a robot about to
move and the last ones a robot that stays. It measures how far something went, not how fast, so noise below the
threshold does not matter, and a pause in the middle stays. The start falls on a step with a picture.
"""

from dataclasses import replace

import numpy as np

from dreamzero_policy.data.episodes import Episode, EpisodeError
from dreamzero_policy.runtime.contract import ModelSection
from dreamzero_policy.runtime.embodiment import Floats

THRESHOLD = 0.01  # rad, m, fraction, m/s: more than a measurement's noise, less than anything meant
MARGIN_S = 0.3


def trimmed(episode: Episode, model: ModelSection, threshold: float = THRESHOLD, margin_s: float = MARGIN_S) -> Episode:
    """The episode without its idle ends; the whole of it where a margin is longer than the idle time.

    Raises:
        EpisodeError: nothing moves.
    """
    margin = round(margin_s * model.action_hz)
    begin, end = moving_span(episode.state, episode.action, threshold)
    begin, end = max(0, begin - margin), min(episode.steps, end + margin)
    pictured = episode.view_steps[episode.view_steps <= begin]
    begin = int(pictured[-1]) if len(pictured) else begin
    kept = (episode.view_steps >= begin) & (episode.view_steps < end)
    return replace(
        episode,
        state=episode.state[begin:end],
        action=episode.action[begin:end],
        canvas=episode.canvas[kept],
        view_steps=episode.view_steps[kept] - begin,
    )


def moving_span(state: Floats, action: Floats, threshold: float = THRESHOLD) -> tuple[int, int]:
    """First step away from the first values, and the step after the last one away from the last values.

    Raises:
        EpisodeError: nothing moves by more than the threshold.
    """
    values = np.concatenate([state, action], axis=1)
    left = np.flatnonzero((np.abs(values - values[0]) > threshold).any(1))
    before = np.flatnonzero((np.abs(values - values[-1]) > threshold).any(1))
    if not len(left) or not len(before):
        furthest = np.abs(values - values[0]).max()
        raise EpisodeError(
            f"nothing moves: the largest change of state or action is {furthest:.4f}, {threshold:g} is "
            "needed; leave the episode out"
        )
    return int(left[0]), max(int(before[-1]), int(left[0])) + 1
