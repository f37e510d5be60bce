"""Instructions in words: many ways to ask for the same task, some of which training never reads.

A phrasing is a template filled with words for the object, the hand and the direction. Some templates are held back
from training; the words are the same.
"""

from itertools import product

from agibot_twin.tasks import LIFT, PLACE, PUSH, TAP, TOUCH, Task, side

SHAPE_WORDS = {"cube": ("cube", "block", "box"), "cylinder": ("cylinder", "can", "tin"), "ball": ("ball", "sphere")}
HAND_WORDS = ("hand", "arm", "gripper")

TRAINING = {
    TOUCH: (
        "touch the {thing} with the {hand}",
        "touch the {thing} with your {hand}",
        "with the {hand}, touch the {thing}",
        "use the {hand} to touch the {thing}",
        "use your {hand} and touch the {thing}",
        "please touch the {thing} with the {hand}",
        "{hand}: touch the {thing}",
        "reach for the {thing} with the {hand}",
        "reach out and touch the {thing} using your {hand}",
        "bring the {hand} to the {thing}",
        "put your {hand} on the {thing}",
        "place the {hand} on the {thing}",
        "move the {hand} to the {thing} and touch it",
        "can you touch the {thing} with the {hand}?",
    ),
    PUSH: (
        "push the {thing} to the {direction} with the {hand}",
        "push the {thing} {direction} with your {hand}",
        "with the {hand}, push the {thing} to the {direction}",
        "use the {hand} to push the {thing} to the {direction}",
        "please push the {thing} towards the {direction} using the {hand}",
        "{hand}: push the {thing} {direction}",
        "slide the {thing} to the {direction} with the {hand}",
        "slide the {thing} {direction} using your {hand}",
        "shove the {thing} to the {direction} with the {hand}",
        "move the {thing} to the {direction} with the {hand}",
        "use your {hand} and move the {thing} over to the {direction}",
        "can you push the {thing} to the {direction} with the {hand}?",
    ),
    PLACE: (
        "put the {thing} in the bin with the {hand}",
        "put the {thing} into the bin using your {hand}",
        "with the {hand}, put the {thing} in the bin",
        "use the {hand} to put the {thing} into the bin",
        "place the {thing} in the bin with the {hand}",
        "pick up the {thing} with the {hand} and put it in the bin",
        "pick the {thing} and place it into the bin with your {hand}",
        "drop the {thing} into the bin with the {hand}",
        "take the {thing} with the {hand} and drop it in the bin",
        "{hand}: put the {thing} in the bin",
        "please throw the {thing} in the bin with the {hand}",
        "can you put the {thing} in the bin with the {hand}?",
    ),
    LIFT: (
        "lift the tray with both hands",
        "lift the tray using both arms",
        "lift up the tray",
        "raise the tray with both hands",
        "raise the tray",
        "with both hands, lift the tray",
        "pick up the tray with both hands",
        "pick up the tray using two hands",
        "use both hands to lift the tray",
        "take the tray by its handles and lift it",
        "please lift the tray off the table",
        "can you lift the tray with both hands?",
    ),
}
HELD_BACK = {
    TOUCH: (
        "go to the {thing} with the {hand} and touch it",
        "let the {hand} touch the {thing}",
        "i want you to touch the {thing}, use the {hand}",
    ),
    PUSH: (
        "let the {hand} push the {thing} to the {direction}",
        "i want the {thing} pushed to the {direction} by the {hand}",
        "to the {direction}, push the {thing} with the {hand}",
    ),
    PLACE: (
        "let the {hand} put the {thing} in the bin",
        "i want the {thing} in the bin, use the {hand}",
        "the {thing} belongs in the bin, put it there with the {hand}",
    ),
    LIFT: ("both hands: lift the tray", "i want you to lift the tray", "let both arms raise the tray"),
    TAP: (
        "tap the {thing} with the {hand}",
        "with the {hand}, tap the {thing}",
        "tap on the {thing} using your {hand}",
    ),
}
# Without a hand: whoever asks so means the hand on the object's side.
HANDLESS = {
    TOUCH: ("touch the {thing}", "please touch the {thing}", "reach for the {thing}"),
    PUSH: (
        "push the {thing} to the {direction}",
        "slide the {thing} {direction}",
        "move the {thing} to the {direction}",
    ),
    PLACE: ("put the {thing} in the bin", "pick up the {thing} and put it in the bin", "drop the {thing} in the bin"),
}


def plain(task: Task) -> str:
    """The first training phrasing in its plainest words; of a family that training does not know, its first one."""
    templates = TRAINING.get(task.family) or HELD_BACK[task.family]
    return _filled(templates[0], task, f"{task.colour} {task.thing}", "hand")


def training_phrasings(task: Task, near_side: float) -> tuple[str, ...]:
    """All phrasings of training. `near_side`: the object's y, m; its sign says whose side it is on."""
    templates = TRAINING[task.family]
    if task.hand is not None and near_side * side(task.hand) > 0.05:
        templates = templates + HANDLESS[task.family]
    return _all(templates, task)


def held_back_phrasings(task: Task) -> tuple[str, ...]:
    """All phrasings that training never reads."""
    return _all(HELD_BACK[task.family], task)


def _all(templates: tuple[str, ...], task: Task) -> tuple[str, ...]:
    texts = (
        _filled(template, task, thing, hand) for template, thing, hand in product(templates, _things(task), HAND_WORDS)
    )
    return tuple(dict.fromkeys(texts))


def _things(task: Task) -> tuple[str, ...]:
    if task.family == LIFT:
        return ("tray",)
    words = SHAPE_WORDS[task.thing]
    return (*(f"{task.colour} {word}" for word in words), f"{task.colour} one", f"{task.colour} object", *words)


def _filled(template: str, task: Task, thing: str, hand: str) -> str:
    return template.format(thing=thing, hand=f"{task.hand} {hand}", direction=task.direction)
