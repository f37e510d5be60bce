"""Pictures with questions: scenes of the twin, instructions for them, and where on the canvas what they name is seen.

Rendering alone makes them, without physics: a random layout, and arms as they were somewhere in demonstrations. There
are several questions about a picture, so that it has several answers: whoever is to point at the right one must read.
What is held out of training (`episodes.py`) is asked in none: no combination, position, phrasing or verb of it. Either
hand is told to take what is on either side, so that the hand's name does not give away the place.

A point is the middle of the thing that an instruction is about, for every camera that sees it: the camera's intrinsics
give the pixel, the contract's crop and tiles its place on the canvas.

A seed names a picture for good, as long as the poses are the same. Where pictures go is the caller's matter (`Sink`),
file by file; a file that a sink has already is not made again, so an interrupted collection continues. Found by others
through the entry point group `dreamzero.pictures`.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import mujoco
import numpy as np
from numpy.typing import NDArray

from agibot_twin.cameras import Image, Intrinsics
from agibot_twin.episodes import is_held_out, sample_episode, stands_in_band
from agibot_twin.expert import Expert, command_limits
from agibot_twin.layout import Layout, sample_layout
from agibot_twin.objects import TRAY
from agibot_twin.phrasing import training_phrasings
from agibot_twin.robot_model import DRIVEN_JOINTS, VISUAL_GROUP
from agibot_twin.tasks import HANDS, LIFT, PLACE, PUSH, TOUCH, Task
from agibot_twin.world import TwinWorld
from dreamzero_policy.runtime.canvas import cropped_pixels
from dreamzero_policy.runtime.contract import Contract, ModelSection, load_contract
from dreamzero_policy.runtime.embodiment import without_statistics

Floats = NDArray[np.float64]
PICTURES_STREAM, POSES_STREAM = 77, 78  # of random numbers
FILE_PICTURES = 200  # of one file: what an interruption can cost each process
FAMILY_SHARES = {TOUCH: 0.3, PUSH: 0.3, PLACE: 0.3, LIFT: 0.1}  # of what is tried to ask
TRIES, MOST_QUESTIONS, WORDINGS = 12, 5, 2  # of a picture; of a question
HOME_SHARE = 0.15  # of the pictures show the arms at home
SEEN_GROUPS = (np.arange(mujoco.mjNGROUP) == VISUAL_GROUP).astype(np.uint8)
START_POSES = 200  # of the expert, where there are no demonstrations to take poses from


@dataclass(frozen=True, eq=False)
class Question:
    """An instruction in one or more wordings, and where what it is about is seen."""

    task: Task
    phrasings: tuple[str, ...]
    points: Floats  # [P, 2] x to the right and y down on the canvas, px from its corner; one for each view


class Draft(Protocol):
    """A file of pictures being written; leaving it without `finish` drops it."""

    def __enter__(self) -> "Draft": ...

    def __exit__(self, *_: object) -> None: ...

    def add(self, canvas: Image, state: Floats) -> None:
        """The next picture, a canvas [height, width, 3], and the robot's state [D] in the contract's units."""

    def ask(self, phrasings: Sequence[str], points: Floats) -> None:
        """A question about the picture added last; points [P, 2] as in `Question`."""

    def finish(self) -> None:
        """Keep the file."""


class Sink(Protocol):
    """Where pictures go, one file for a range of seeds. It is copied into every process."""

    def __contains__(self, seeds: range) -> bool: ...

    def draft(self, seeds: range) -> Draft: ...


def on_canvas(pixel: Floats, image_size: tuple[int, int], model: ModelSection, camera: str) -> Floats | None:
    """Where a pixel of a camera's image stands on the canvas: x and y [2], px from its upper left corner.

    Crop and tile are those of `runtime/canvas.py`. A tile of several cells is filled from one edge to the other, by
    repeated pixels as by a wider view, so both kinds map in the same way.

    Args:
        pixel: column and row [2], counted from the first pixel's centre.
        image_size: (width, height) px.

    Returns None for what the crop loses or what is outside of the image.
    """
    tile = model.tile(camera)
    width, height = image_size
    rows, columns = cropped_pixels((height, width), model.crop(camera))
    first, end = np.array([[columns.start, rows.start], [columns.stop, rows.stop]])
    share = (pixel + 0.5 - first) / (end - first)  # of the way over the view
    if not ((share >= 0) & (share < 1)).all():
        return None
    cell = np.array([model.view.width_px, model.view.height_px])
    return cell * ([tile.column, tile.row] + share * [tile.columns, tile.rows])


class Photographer:
    """One twin, making one picture after the other."""

    def __init__(self, contract: Contract, poses: Floats) -> None:
        """`poses` [P, 20]: joints to draw from, in the order of DRIVEN_JOINTS, rad and m."""
        self.embodiment, self.poses = without_statistics(contract), poses
        self.world = TwinWorld()
        self.intrinsics = {
            name: Intrinsics.of(self.world.cameras[name], self.world.image_size) for name in self.model.cameras
        }

    @property
    def model(self) -> ModelSection:
        return self.embodiment.model

    def take(self, seed: int) -> tuple[Image, Floats, list[Question]]:
        """The canvas [height, width, 3] of a seed, the state [D] of the robot, and at least one question about it."""
        rng = np.random.default_rng((PICTURES_STREAM, seed))
        simulation = self.world.simulation
        while True:  # hardly ever twice
            layout = sample_layout(rng)
            at_home = rng.random() < HOME_SHARE
            pose = simulation.home if at_home else self.poses[rng.integers(len(self.poses))]
            simulation.show(layout, pose)
            if questions := list(self._questions(layout, rng)):
                state = self.embodiment.state(dict(zip(DRIVEN_JOINTS, pose, strict=True)))
                return self.embodiment.picture(self.world.render()), state, questions

    def points(self, thing: str) -> Floats:
        """Where each camera that sees the middle of a thing on the table has it now: [P, 2], px on the canvas."""
        middle, found = self.world.simulation.body_position(thing), []
        for camera, intrinsics in self.intrinsics.items():
            frame = self.world.simulation.data.body(self.world.cameras[camera].optical_frame)
            pixel = intrinsics.pixel_of(frame.xmat.reshape(3, 3).T @ (middle - frame.xpos))
            if pixel is None or not self._sees(frame.xpos, thing, middle):
                continue
            point = on_canvas(pixel, self.world.image_size, self.model, camera)
            if point is not None:
                found.append(point)
        return np.array(found).reshape(-1, 2)

    def close(self) -> None:
        """Free the renderer."""
        self.world.close()

    def _questions(self, layout: Layout, rng: np.random.Generator) -> Iterator[Question]:
        asked = 0
        for _ in range(TRIES):
            task = _some_task(layout, rng)
            if task is None or is_held_out(task) or stands_in_band(layout, task):
                continue
            if len(points := self.points(task.thing)):
                known = training_phrasings(task, float(layout.poses[task.thing][1]))
                yield Question(task, wordings(known, task.colour, rng), points)
                asked += 1
            if asked == MOST_QUESTIONS:
                return

    def _sees(self, eye: Floats, thing: str, middle: Floats) -> bool:
        """Whether nothing stands between an eye [3] and the middle of a thing [3]."""
        model, data = self.world.simulation.model, self.world.simulation.data
        first = np.array([-1], np.int32)
        mujoco.mj_ray(model, data, eye, middle - eye, SEEN_GROUPS, True, -1, first)
        return first[0] >= 0 and model.geom_bodyid[first[0]] == model.body(thing).id


def _some_task(layout: Layout, rng: np.random.Generator) -> Task | None:
    """A task about something on the table, with any hand; None for a lift without a tray."""
    family = str(rng.choice(list(FAMILY_SHARES), p=list(FAMILY_SHARES.values())))
    if family == LIFT:
        return Task(LIFT, TRAY) if layout.has_tray else None
    thing = str(rng.choice(layout.objects))
    hand, direction = HANDS[rng.integers(2)], HANDS[rng.integers(2)]
    return Task(family, thing, layout.colours[thing], hand, direction if family == PUSH else None)


def wordings(known: Sequence[str], colour: str | None, rng: np.random.Generator) -> tuple[str, ...]:
    """Some of the phrasings, half of them with the colour and half with the shape alone, where there are both.

    What a colour names is found within minutes of training; ball and cylinder, a few pixels wide, are told apart later.
    """
    coloured = np.array([colour is not None and colour in text for text in known])
    weight = np.where(coloured, 1 / max(1, coloured.sum()), 1 / max(1, (~coloured).sum()))
    chosen = rng.choice(known, min(WORDINGS, len(known)), replace=False, p=weight / weight.sum())
    return tuple(map(str, chosen))


def measured_poses(contract: Contract, states: Floats) -> Floats:
    """States [P, D] in the contract's units as joints [P, 20] in the order of DRIVEN_JOINTS, rad and m."""
    embodiment = without_statistics(contract)
    joints = embodiment.commanded(embodiment.as_actions(states))
    return joints[:, [contract.model.commanded_joints.index(name) for name in DRIVEN_JOINTS]]


def start_poses(contract: Contract, count: int) -> Floats:
    """Where demonstrations of the training split start: joints [count, 20] in the order of DRIVEN_JOINTS, rad and m."""
    expert = Expert(command_limits(contract))
    return np.array(
        [
            expert.start_pose(sample_episode("training", seed).task, np.random.default_rng((POSES_STREAM, seed)))
            for seed in range(count)
        ]
    )


# ---------------------------------------------------------------- in parallel


@dataclass(frozen=True)
class Made:
    """One file: of how many pictures, and with how many questions; None if it was there already."""

    pictures: int
    questions: int | None


def files_of(seeds: range) -> list[range]:
    """The seeds of every file."""
    return [seeds[first : first + FILE_PICTURES] for first in range(0, len(seeds), FILE_PICTURES)]


def collect(
    contract_path: Path, sink: Sink, seeds: range, processes: int, states: Floats | None = None
) -> Iterator[Made]:
    """Make the pictures of these seeds, one file after the other; yields as they are done, in no order.

    states: [P, D] in the contract's units, whose poses the robot has; without them it has those in which the expert
    begins.
    """
    contract = load_contract(contract_path)
    files = files_of(seeds)
    missing = [file for file in files if file not in sink]
    yield from (Made(len(file), None) for file in files if file not in missing)
    if not missing:
        return
    poses = start_poses(contract, min(START_POSES, len(seeds))) if states is None else measured_poses(contract, states)
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(processes, len(missing)), _start, (contract_path, sink, poses)) as pool:
        yield from pool.imap_unordered(_make, missing)


_make_one: Callable[[range], Made]


def _start(contract_path: Path, sink: Sink, poses: Floats) -> None:
    global _make_one
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool
    photographer = Photographer(load_contract(contract_path), poses)

    def make(seeds: range) -> Made:
        asked = 0
        with sink.draft(seeds) as draft:
            for seed in seeds:
                canvas, state, questions = photographer.take(seed)
                draft.add(canvas, state)
                for question in questions:
                    draft.ask(question.phrasings, question.points)
                asked += len(questions)
            draft.finish()
        return Made(len(seeds), asked)

    _make_one = make


def _make(seeds: range) -> Made:
    return _make_one(seeds)
