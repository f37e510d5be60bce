"""Episodes: which scene and task belong to a seed, for training, the seen split and the unseen split.

Training and the seen split draw from the same distribution with different random numbers. Held out of both by
construction:

* combinations of verb x colour x shape x hand: a quarter of all, by `is_held_out`; every pair of two of the four is
  in training;
* positions: the band |y| in HELD_OUT_BAND_M for the object that a task is about;
* phrasings: the templates that `phrasing.py` holds back;
* a verb: tap.

The unseen split has one of these in every episode (`novelty`), everything else being as in training.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from agibot_twin.layout import Layout, sample_layout
from agibot_twin.objects import COLOURS, OBJECTS, TRAY
from agibot_twin.phrasing import held_back_phrasings, plain, training_phrasings
from agibot_twin.tasks import HANDS, LIFT, PLACE, PUSH, SEEN_FAMILIES, TAP, TOUCH, Hand, Task, side

Split = Literal["training", "seen", "unseen"]
SPLITS: tuple[Split, ...] = ("training", "seen", "unseen")
SEEN, COMBINATION, POSITION, PHRASING, VERB = "seen", "combination", "position", "phrasing", "verb"
NOVELTIES = (COMBINATION, POSITION, PHRASING, VERB)
NOVELTY_SHARES = (0.5, 0.2, 0.15, 0.15)

HELD_OUT_BAND_M = (0.16, 0.20)
VERBS = ((TOUCH, None), (PUSH, "left"), (PUSH, "right"), (PLACE, None))
FAMILY_SHARES = {TOUCH: 0.25, PUSH: 0.3, PLACE: 0.3, LIFT: 0.15}
ALLOWED_S = {TOUCH: 8.0, PUSH: 10.0, PLACE: 15.0, LIFT: 12.0, TAP: 8.0}

# Where a hand is sent, as the object's y counted towards the hand's own side, m: farther in the elbow is stretched out.
REACH_M = {TOUCH: (-0.03, 0.34), PLACE: (0.0, 0.32)}
REACH_PUSHING_OUT_M, REACH_PUSHING_IN_M = (0.07, 0.26), (0.08, 0.30)
PUSH_START_M = 0.085  # from the object's centre to the hand's, before a push
PUSH_END_M = 0.095  # from the object's place to the hand's, at the end of a demonstrated push
PATH_HALF_WIDTH_M = 0.07  # other objects stay out of a push's way


@dataclass(frozen=True, eq=False)
class Episode:
    """Everything that a seed decides: the scene, the task and the words."""

    layout: Layout
    task: Task
    novelty: str
    instruction: str
    paraphrases: tuple[str, ...]  # further phrasings of training; empty for the unseen split

    @property
    def allowed_s(self) -> float:
        return ALLOWED_S[self.task.family]


def sample_episode(split: Split, seed: int) -> Episode:
    """The episode of a seed. Raises ValueError for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {SPLITS}")
    rng = np.random.default_rng((SPLITS.index(split), seed))
    novelty = str(rng.choice(NOVELTIES, p=NOVELTY_SHARES)) if split == "unseen" else SEEN
    family = _family(rng, novelty)
    while True:  # some ten draws: the layout must offer the task and the novelty
        layout = sample_layout(rng, tray=True if family == LIFT else None)
        task = _task(rng, family, layout)
        if task is not None and novelty_of(task, layout, novelty):
            break
    near_y = float(layout.poses[task.thing][1])
    known = training_phrasings(task, near_y) if task.family != TAP else ()
    if novelty in (PHRASING, VERB):
        held_back = held_back_phrasings(task)
        return Episode(layout, task, novelty, str(rng.choice(held_back)), ())
    instruction = plain(task) if rng.random() < 0.3 else str(rng.choice(known))
    return Episode(layout, task, novelty, instruction, known if split == "training" else ())


def is_held_out(task: Task) -> bool:
    """Whether training never shows this combination of verb, colour, shape and hand."""
    if task.hand is None:
        return False
    verb = VERBS.index((TOUCH if task.family == TAP else task.family, task.direction))
    colour = list(COLOURS).index(task.colour)
    shape = [thing.name for thing in OBJECTS].index(task.thing)
    return (verb + colour + shape + 2 * HANDS.index(task.hand)) % 4 == 0


def stands_in_band(layout: Layout, task: Task) -> bool:
    """Whether the object that the task is about stands where training never has one."""
    low, high = HELD_OUT_BAND_M
    return task.thing != TRAY and low <= abs(layout.poses[task.thing][1]) <= high


def novelty_of(task: Task, layout: Layout, wanted: str) -> bool:
    """Whether exactly the wanted thing is new about an episode."""
    return is_held_out(task) == (wanted == COMBINATION) and stands_in_band(layout, task) == (wanted == POSITION)


def _family(rng: np.random.Generator, novelty: str) -> str:
    if novelty == VERB:
        return TAP
    # Neither a combination nor a position can be held out for the tray.
    shares = np.array([FAMILY_SHARES[family] for family in SEEN_FAMILIES])
    if novelty in (COMBINATION, POSITION):
        shares[SEEN_FAMILIES.index(LIFT)] = 0.0
    return str(rng.choice(SEEN_FAMILIES, p=shares / shares.sum()))


def _task(rng: np.random.Generator, family: str, layout: Layout) -> Task | None:
    """A task that the layout offers, or None."""
    if family == LIFT:
        return Task(LIFT, TRAY)
    thing = str(rng.choice(layout.objects))
    hand: Hand = HANDS[rng.integers(2)]
    direction = ("left", "right")[rng.integers(2)] if family == PUSH else None
    task = Task(family, thing, layout.colours[thing], hand, direction)
    low, high = _reach(task)
    if not low <= side(hand) * layout.poses[thing][1] <= high:
        return None
    if family == PUSH and not _way_is_free(task, layout):
        return None
    return task


def _reach(task: Task) -> tuple[float, float]:
    if task.family == PUSH:
        return REACH_PUSHING_OUT_M if task.direction == task.hand else REACH_PUSHING_IN_M
    return REACH_M[TOUCH if task.family == TAP else task.family]


def _way_is_free(task: Task, layout: Layout) -> bool:
    x, y = layout.poses[task.thing][:2]
    towards = side(task.direction)
    ends = np.sort([y - towards * (PUSH_START_M + 0.05), y + towards * (PUSH_END_M + 0.09)])
    for other, pose in layout.poses.items():
        clear = PATH_HALF_WIDTH_M if other != TRAY else 0.2
        inside = ends[0] - 0.02 <= pose[1] <= ends[1] + 0.02 if other != TRAY else ends[0] < 0.2 and ends[1] > -0.2
        if other != task.thing and inside and abs(pose[0] - x) < clear:
            return False
    return True
