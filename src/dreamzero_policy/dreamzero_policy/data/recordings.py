"""Recordings: one demonstration as a source holds it, on the contract's action grid, with images at raw size.

What every format is read into and written from. Numbers are in the contract's units and order; images are decoded when
they are asked for, one step at a time, so that a recording of any length fits into memory. `episode` makes the compact
form that training reads: canvases through the very transforms of live operation, at the steps where the contract's
frames can stand.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.data.episodes import Episode, EpisodeError
from dreamzero_policy.runtime.contract import JointGroup, ModelSection
from dreamzero_policy.runtime.embodiment import Embodiment, Floats, Image

Images = Mapping[str, Image]  # camera → RGB [height, width, 3]


@dataclass(frozen=True, eq=False)
class Recording:
    """N action steps of one demonstration."""

    name: str
    instructions: tuple[str, ...]  # every phrasing, the instruction first
    state: Floats  # [N, D] measured at each step
    action: Floats  # [N, A] commanded at each step: absolute targets
    images: Callable[[Sequence[int]], Iterator[Images]]  # of the given rising steps, in that order

    @property
    def steps(self) -> int:
        return len(self.state)

    def episode(self, embodiment: Embodiment, pictures: bool = True) -> Episode:
        """The compact form. Without pictures it has canvases of no pixels, which is enough for statistics.

        Raises:
            EpisodeError: an image is missing, cannot be decoded or comes without the cameras of the contract.
        """
        model = embodiment.model
        steps = picture_steps(model, self.steps)
        canvas = np.empty((len(steps), *(model.canvas_size_px if pictures else (0, 0)), 3), np.uint8)
        if pictures:
            for picture, images in zip(canvas, self.images(steps.tolist()), strict=True):
                picture[...] = embodiment.picture(images)
        return Episode(self.instructions[0], self.state, self.action, canvas, steps, self.instructions)


def picture_steps(model: ModelSection, steps: int) -> NDArray[np.int64]:
    """The steps at which a frame of a window can stand, if windows begin at such a step themselves."""
    spacing = math.gcd(*model.chunk.frame_offsets_steps, model.chunk.actions)
    return np.arange(0, steps, spacing)


def action_joints(model: ModelSection) -> tuple[str, ...]:
    """Names of the entries of the action vector."""
    return _joints(model.action)


def units(groups: Sequence[JointGroup]) -> tuple[str, ...]:
    """Unit of every entry of a vector."""
    return tuple(unit for group in groups for unit in group.units)


def _joints(groups: Sequence[JointGroup]) -> tuple[str, ...]:
    return tuple(joint for group in groups for joint in group.joints)


def require_numbers(name: str, state: NDArray, action: NDArray, model: ModelSection) -> None:
    """Raises EpisodeError unless state and action have the contract's widths, one length and finite entries."""
    if len(state) != len(action):
        raise EpisodeError(f"episode {name}: state has {len(state)} steps, action has {len(action)}")
    if not len(state):
        raise EpisodeError(f"episode {name}: state has no steps")
    for field, values, joints in (("state", state, model.state_joints), ("action", action, action_joints(model))):
        if values.shape[1:] != (len(joints),):
            raise EpisodeError(
                f"episode {name}: {field} has rows of {values.shape[1:]}, the contract makes them {(len(joints),)}"
            )
        if (where := np.argwhere(~np.isfinite(values))).size:
            step, column = where[0]
            raise EpisodeError(
                f"episode {name}: {field} of {joints[column]} is {values[step, column]} at step {step}, "
                "a finite number is needed"
            )
