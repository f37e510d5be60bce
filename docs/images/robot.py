"""Draws robot.jpg: the twin at work by the shipped model; below what its head camera saw, what the model had predicted
for that very instant, and the prediction for the hand's camera.

The episode is one of `dreamzero eval`: an instruction that training never contained.
Run from the repository root, with the packages on PYTHONPATH: .venv/bin/python docs/images/robot.py
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from agibot_twin.cameras import Image, SceneRenderer, SceneState
from agibot_twin.scene import THIRD_PERSON
from dreamzero_policy.evaluation.closed_loop import Episode, Footage, SuiteWorld
from dreamzero_policy.evaluation.policies import SessionPolicy
from dreamzero_policy.evaluation.stage import Setup, Stage
from dreamzero_policy.runtime.canvas import camera_view, cropped_pixels

SPLIT, SEED, STEPS, LATENCY_NS = "unseen", 20179, 1, 150_000_000
MOMENTS = (0.12, 0.55, 0.80, 0.97)  # of the predicted frames
HAND = "hand_right"
BACK, INK, SOFT = (21, 24, 29), (235, 238, 242), (160, 168, 178)
WIDTH, HEADING_HEIGHT, GAP, SCENE_HEIGHT = 400, 64, 8, 400  # px
RENDERED = (1280, 960)
ROBOT = (slice(30, 960), slice(60, 990))  # of a third person's picture


class RememberingWorld(SuiteWorld):
    """Keeps the scene at every instant."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.scenes: dict[int, SceneState] = {}

    def advance_to(self, instant_ns: int) -> None:
        super().advance_to(instant_ns)
        self.scenes[self.ns] = self.suite.world.scene_state()


def sized(picture: Image, height: int) -> Image:
    smaller = picture.shape[0] > height
    return cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def column(rows: Sequence[Image]) -> Image:
    gap = np.full((GAP, WIDTH, 3), BACK, np.uint8)
    return np.vstack([part for row in rows for part in (row, gap)])


root = Path.cwd()
weights = {"checkpoint": root / "checkpoints" / "agibot_g1_tiny"}
stage = Stage(Setup("agibot_twin", root / "config" / "agibot_g1.yaml", root / "config" / "policy.yaml", weights))
contract, (policy, embodiment) = stage.contract.model, stage.model("checkpoint")
head = contract.cameras[0]
task = stage.suite.reset(SPLIT, SEED)
world = RememberingWorld(stage.suite, stage.contract, Footage(head))
acting = SessionPolicy(policy, world.now_ns, LATENCY_NS)
played = Episode(world, embodiment, acting, stage.parameters, STEPS).play(task)

renderer = SceneRenderer(stage.suite.world.simulation.model, RENDERED)
part = cropped_pixels(RENDERED[::-1], contract.crop(head))
# A view has the proportions of what it shows, not of its cells on the canvas.
head_height, hand_height = (
    round(WIDTH * (rows.stop - rows.start) / (columns.stop - columns.start))
    for rows, columns in (part, cropped_pixels(RENDERED[::-1], contract.crop(HAND)))
)
heights = (SCENE_HEIGHT, head_height, head_height, hand_height)
stamps, dreams = np.array(sorted(world.scenes)), sorted(world.footage.dreamed)
columns = []
for moment in MOMENTS:
    dreamed_ns = dreams[round(moment * (len(dreams) - 1))]
    renderer.set_state(world.scenes[int(stamps[np.abs(stamps - dreamed_ns).argmin()])])
    dream = world.footage.dreamed[dreamed_ns]
    columns.append(
        column(
            [
                sized(picture, height)
                for picture, height in zip(
                    (
                        renderer.render(THIRD_PERSON)[ROBOT],
                        renderer.render(head)[part],
                        camera_view(dream, contract, head),
                        camera_view(dream, contract, HAND),
                    ),
                    heights,
                    strict=True,
                )
            ]
        )
    )
renderer.close()
stage.suite.close()

gap = np.full((len(columns[0]), GAP, 3), BACK, np.uint8)
body = np.hstack([part for one in columns for part in (one, gap)])[:, :-GAP]
sheet = np.vstack([np.full((HEADING_HEIGHT, body.shape[1], 3), BACK, np.uint8), body])
picture = Picture.fromarray(sheet)
draw = ImageDraw.Draw(picture)
draw.text((16, 16), f"“{task.instruction}”", INK, ImageFont.load_default(30))
done = f"done after {played.seconds:.1f} s" if played.outcome.success else "not done"
draw.text((sheet.shape[1] - 16, 22), done, SOFT, ImageFont.load_default(22), anchor="ra")
labels = ("the twin", "head camera, the part the model sees", "the same, predicted", "right hand, predicted")
top = HEADING_HEIGHT
for words, height in zip(labels, heights, strict=True):
    box = draw.textbbox((14, top + 10), words, ImageFont.load_default(18))
    draw.rectangle((box[0] - 6, box[1] - 4, box[2] + 6, box[3] + 4), BACK)
    draw.text((14, top + 10), words, INK, ImageFont.load_default(18))
    top += height + GAP
picture.save(root / "docs" / "images" / "robot.jpg", quality=86, optimize=True)
