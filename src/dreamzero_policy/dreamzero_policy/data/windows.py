"""Windows: what one training sample of a world-action model sees of an episode, and the statistics it is scaled by.

A window begins at an anchor step a with one frame and holds up to as many chunks as the model's memory. Of chunk k =
1, 2, … that begins at step s = a + 24 (k − 1) it takes

* the frames at s + 3, s + 6, …, s + 24: the block that live operation observes at step s + 24;
* the state measured at s, which is also the anchor of relative actions;
* the commands of the steps s, s + 1, …, s + 23: row i is the command for i steps after the observation.

So the k-th chunk is predicted from the frames up to s and the state at s, exactly as live. The numbers 3 and 24 are the
contract's. Windows near the end of an episode have fewer chunks.

In an attempt with advice a window begins where a chunk does. Its past is what was seen, and the block that a chunk is
to predict is what the advice leads to.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.data.episodes import Episode, EpisodeError
from dreamzero_policy.data.quantiles import StreamingQuantiles
from dreamzero_policy.runtime.contract import Contract, ModelSection
from dreamzero_policy.runtime.embodiment import Embodiment, Floats, Image, Quantiles, Statistics

SPAN = 16.0  # rad, m, m/s: wider than any action; scales by it, and nothing is clamped, while statistics are unknown
STILL = 1e-3  # rad, m or fraction: an entry that moves less than this in all episodes is a constant


@dataclass(frozen=True, eq=False)
class Window:
    """n chunks of an episode, as the model takes them."""

    prompt: str
    canvas: Image  # [1 + 8 n, height, width, 3]
    state: NDArray[np.float32]  # [n, D] normalised
    action: NDArray[np.float32]  # [n, 24, A] normalised, relative where the contract says so
    advised: Image | None = None  # [n, 8, height, width, 3] what the actions lead to, where the canvas shows otherwise

    @property
    def chunks(self) -> int:
        return len(self.state)


def frame_steps(model: ModelSection, anchor: int, chunks: int) -> NDArray[np.int64]:
    """Steps of all frames of a window [1 + 8 n]: the anchor, then every block."""
    block = model.chunk.actions + np.array(model.chunk.frame_offsets_steps)
    starts = anchor + model.chunk.actions * np.arange(chunks)
    return np.concatenate([[anchor], (starts[:, None] + block).ravel()])


def chunks_after(model: ModelSection, episode: Episode, anchor: int) -> int:
    """How many whole chunks a window at this anchor can have, at most the model's memory."""
    room = min(episode.steps - model.chunk.first_action_step, int(episode.view_steps[-1])) - anchor
    return max(0, min(model.chunk.chunks_per_window, room // model.chunk.actions))


def anchors(model: ModelSection, episode: Episode) -> NDArray[np.int64]:
    """Every step at which a window of at least one chunk can begin."""
    places = episode.view_steps if episode.advised is None else np.arange(0, episode.steps, model.chunk.actions)
    return np.array([step for step in places if chunks_after(model, episode, step) > 0], dtype=np.int64)


def window(embodiment: Embodiment, episode: Episode, anchor: int, chunks: int) -> Window:
    """Cut one window out of an episode.

    Raises:
        EpisodeError: a picture that the window needs was not taken.
        ValueError: the episode is too short.
    """
    model = embodiment.contract.model
    possible = chunks_after(model, episode, anchor)
    if not 1 <= chunks <= possible:
        raise ValueError(
            f"a window of {chunks} chunks at step {anchor} of {episode.steps}: at most {possible} fit there"
        )
    canvas = episode.canvas_at(frame_steps(model, anchor, chunks))
    starts = anchor + model.chunk.actions * np.arange(chunks)
    rows = np.arange(model.chunk.actions) + model.chunk.first_action_step
    action = np.stack(
        [embodiment.normalised_actions(episode.action[start + rows], episode.state[start]) for start in starts]
    )
    advised = episode.advised
    return Window(
        embodiment.prompt(episode.instruction),
        canvas,
        embodiment.normalised_state(episode.state[starts]),
        action,
        None if advised is None else advised[starts // model.chunk.actions],
    )


def quantiles(contract: Contract, episodes: Iterable[Episode]) -> tuple[Quantiles, Quantiles]:
    """Of the states, and of the actions as windows give them (relative ones pooled over the rows of a chunk).

    Entries that keep still become constants: 0 for relative actions, so that such a joint is told to stay where it is.
    Episodes are taken one at a time; memory does not grow with their number.

    Raises:
        EpisodeError: no episode is longer than one chunk.
    """
    states = StreamingQuantiles(len(contract.model.state_joints))
    actions = StreamingQuantiles(contract.model.action_width)
    for episode in episodes:
        states.add(episode.state)
        actions.add(relative_actions(contract, episode))
    if not actions.count:
        raise EpisodeError(f"no statistics: no episode has the {contract.model.chunk.actions} steps of one chunk")
    return _quantiles(states), _quantiles(actions)


def relative_actions(contract: Contract, episode: Episode) -> Floats:
    """Actions [N', A] in the contract's units as chunks have them that begin at every step of the episode, or at every
    chunk of an attempt with advice; before normalisation."""
    model, embodiment = contract.model, unclamped(contract)
    rows = np.arange(model.chunk.actions) + model.chunk.first_action_step
    every = 1 if episode.advised is None else model.chunk.actions
    starts = range(0, episode.steps - int(rows[-1]), every)
    scaled = [embodiment.normalised_actions(episode.action[start + rows], episode.state[start]) for start in starts]
    if not scaled:
        return np.empty((0, model.action_width))
    return SPAN * np.concatenate(scaled).astype(np.float64)


def unclamped(contract: Contract) -> Embodiment:
    """An embodiment whose statistics divide by SPAN: every state and action survives the way to a model and back."""

    def wide(width: int) -> Quantiles:
        return Quantiles(np.full(width, -SPAN), np.full(width, SPAN))

    model = contract.model
    return Embodiment(contract, Statistics(wide(len(model.state_joints)), wide(model.action_width), ""))


def _quantiles(values: StreamingQuantiles) -> Quantiles:
    still = values.high - values.low < STILL
    # The middle of an entry that keeps still is its constant; around zero it is zero, not the noise of a measurement.
    middle = values.at(0.5)
    constant = np.where(np.abs(middle) < STILL, 0.0, middle)
    return Quantiles(np.where(still, constant, values.at(0.01)), np.where(still, constant, values.at(0.99)))
