"""Pictures with questions: points lie on what is named, and nothing is asked that training must not know."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agibot_twin.cameras import Intrinsics
from agibot_twin.episodes import is_held_out
from agibot_twin.objects import BY_NAME, COLOURS, TRAY
from agibot_twin.phrasing import HELD_BACK, held_back_phrasings, training_phrasings
from agibot_twin.pictures import FILE_PICTURES, Photographer, files_of, measured_poses, on_canvas, start_poses, wordings
from agibot_twin.robot_model import DRIVEN_JOINTS
from agibot_twin.tasks import LIFT, SEEN_FAMILIES, TOUCH, Task
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.embodiment import without_statistics

CONTRACT = load_contract(Path(__file__).resolve().parents[3] / "config" / "agibot_g1.yaml")
SIZE = (320, 240)


@pytest.fixture(scope="module")
def photographer() -> Iterator[Photographer]:
    made = Photographer(CONTRACT, start_poses(CONTRACT, 12))
    yield made
    made.close()


def camera_at(point: np.ndarray, contract: Contract) -> str:
    """Whose tile a point of the canvas is on."""
    view = contract.model.view
    row, column = int(point[1] // view.height_px), int(point[0] // view.width_px)
    return next(tile.camera for tile in contract.model.canvas.tiles if (row, column) in tile.cells)


def is_light(pixel: np.ndarray) -> bool:
    """Whether a lid has its part in a pixel: no colour of an object has so much of its least channel."""
    return bool(pixel.min() > 110)


def colour_of(pixel: np.ndarray) -> str:
    """The colour that a pixel has in whatever light; grey for none."""
    if np.ptp(pixel.astype(int)) < 60:
        return "grey"
    bright = pixel / pixel.max()
    return min(COLOURS, key=lambda name: np.linalg.norm(bright - np.array(COLOURS[name]) / max(COLOURS[name])))


def test_points_lie_on_pixels_of_the_named_colour_for_every_camera(photographer: Photographer) -> None:
    seen, lids = dict.fromkeys(CONTRACT.model.cameras, 0), 0
    for seed in range(20):
        canvas, _, questions = photographer.take(seed)
        assert canvas.shape == (*CONTRACT.model.canvas_size_px, 3)
        for question in questions:
            if question.task.thing == TRAY:
                continue
            for point in question.points:
                x, y = point.astype(int)
                if BY_NAME[question.task.thing].lid_radius_m and is_light(canvas[y, x]):
                    lids += 1
                else:
                    assert colour_of(canvas[y, x]) == question.task.colour, (seed, question.task, point)
                seen[camera_at(point, CONTRACT)] += 1
    assert seen["head"] > 20 and seen["hand_left"] > 2 and seen["hand_right"] > 2
    assert 5 < lids < sum(seen.values()) / 2


@pytest.mark.parametrize("fill", ["resized", "repeated"])
@pytest.mark.parametrize("crop", [0.95, 0.7, None])
def test_a_bright_spot_of_an_image_is_found_where_its_point_lies_on_the_canvas(fill: str, crop: float | None) -> None:
    """Around the centre, or where there is no crop, in the parts of the shipped contract."""
    model = CONTRACT.model
    rows = {"resized": 3, "repeated": 1}[fill]  # of a tile of two columns
    tiles = tuple(
        tile.model_copy(
            update=({"fill": fill, "rows": rows} if tile.columns > 1 else {}) | ({"part": None} if crop else {})
        )
        for tile in model.canvas.tiles
    )
    parts = {
        "canvas": model.canvas.model_copy(update={"tiles": tiles}),
        "view": model.view.model_copy(update={"crop": crop or 0.5}),
    }
    contract = CONTRACT.model_copy(update={"model": model.model_copy(update=parts)})
    embodiment = without_statistics(contract)
    for camera in model.cameras:
        for column, row in ((60, 80), (161, 120), (250, 190)):
            images = {name: np.zeros((SIZE[1], SIZE[0], 3), np.uint8) for name in model.cameras}
            images[camera][row - 4 : row + 5, column - 4 : column + 5] = 255
            light = embodiment.picture(images)[..., 0].astype(float)
            rows, columns = np.indices(light.shape) + 0.5
            middle = np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()
            found = on_canvas(np.array([column, row]), SIZE, contract.model, camera)
            np.testing.assert_allclose(found, middle, atol=0.1)
    lost = [2.0, 100.0] if crop else [100.0, 50.0]
    assert on_canvas(np.array(lost), SIZE, contract.model, "head") is None
    assert on_canvas(np.array([100.0, 240.0]), SIZE, contract.model, "head") is None


def test_a_pixel_lies_on_the_ray_to_its_point() -> None:
    intrinsics = Intrinsics(320, 240, 200.0)
    np.testing.assert_allclose(intrinsics.pixel_of(np.array([0.0, 0.0, 2.0])), [159.5, 119.5])
    np.testing.assert_allclose(intrinsics.pixel_of(np.array([0.1, -0.2, 2.0])), [169.5, 99.5])
    assert intrinsics.pixel_of(np.array([0.0, 0.0, -1.0])) is None


def test_what_is_in_the_way_hides_a_thing(photographer: Photographer) -> None:
    photographer.take(0)
    simulation = photographer.world.simulation
    thing = simulation.layout.objects[0]
    middle = simulation.body_position(thing)
    assert photographer._sees(middle + [0.0, 0.0, 0.5], thing, middle)
    assert not photographer._sees(middle - [0.0, 0.0, 0.5], thing, middle)  # from below the table


def test_nothing_that_is_held_out_is_asked(photographer: Photographer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographer.world, "render", dict)  # only the questions matter
    monkeypatch.setattr(photographer.embodiment, "picture", lambda images: None)
    families, different = set(), 0
    for seed in range(1000, 1300):
        _, _, questions = photographer.take(seed)
        layout = photographer.world.simulation.layout
        for question in questions:
            task = question.task
            families.add(task.family)
            y = float(layout.poses[task.thing][1])
            assert not is_held_out(task)
            assert task.thing == TRAY or not 0.16 <= abs(y) <= 0.20
            assert set(question.phrasings) <= set(training_phrasings(task, y)) - set(held_back_phrasings(task))
            assert not any(text.startswith("tap") or " tap " in text for text in question.phrasings)
        different += len({question.task.thing for question in questions}) > 1
    assert families == set(SEEN_FAMILIES) and set(HELD_BACK) - families == {"tap"}
    assert different > 150  # the same picture has several answers


def test_half_of_the_wordings_name_the_shape_alone() -> None:
    task, rng = Task(TOUCH, "ball", "red", "left"), np.random.default_rng(0)
    known = training_phrasings(task, 0.2)
    drawn = [text for _ in range(500) for text in wordings(known, task.colour, rng)]
    assert 0.3 < np.mean(["red" in text for text in known]) / 2 < 0.4  # of all phrasings two of three say the colour
    assert abs(np.mean(["red" in text for text in drawn]) - 0.5) < 0.05 and set(drawn) > set(known[:20])
    assert len(wordings(training_phrasings(Task(LIFT, TRAY), 0.0), None, rng)) == 2


def test_a_seed_names_a_picture(photographer: Photographer) -> None:
    (first, state, asked), _, (again, repeated, same) = (photographer.take(seed) for seed in (5, 6, 5))
    assert np.array_equal(first, again) and np.array_equal(state, repeated)
    assert [question.phrasings for question in asked] == [question.phrasings for question in same]


def test_the_state_is_that_of_the_arms_in_the_picture(photographer: Photographer) -> None:
    states = [photographer.take(seed)[1] for seed in range(8)]
    embodiment, driven = photographer.embodiment, photographer.world.simulation.joints().positions
    np.testing.assert_allclose(states[-1], embodiment.state(dict(zip(DRIVEN_JOINTS, driven, strict=True))))
    assert len({tuple(state) for state in states}) > 4


def test_states_of_demonstrations_become_poses_of_all_joints() -> None:
    embodiment = without_statistics(CONTRACT)
    joints = np.random.default_rng(0).uniform(0.1, 0.5, (3, len(DRIVEN_JOINTS)))
    states = np.array([embodiment.state(dict(zip(DRIVEN_JOINTS, row, strict=True))) for row in joints])
    np.testing.assert_allclose(measured_poses(CONTRACT, states), joints)


def test_every_seed_is_in_one_file() -> None:
    files = files_of(range(7, 7 + 2 * FILE_PICTURES + 3))
    assert [len(file) for file in files] == [FILE_PICTURES, FILE_PICTURES, 3]
    assert [seed for file in files for seed in file] == list(range(7, 7 + 2 * FILE_PICTURES + 3))
