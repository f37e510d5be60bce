"""Files of pictures with questions: what goes in comes out, and what cannot be used is named."""

from dataclasses import replace

import numpy as np
import pytest

from dreamzero_policy.data.pictures import (
    Picture,
    PictureError,
    PicturesSink,
    Question,
    load_pictures,
    save_pictures,
)

NAME = "pictures_0000000.npz"


def some_pictures(contract, count: int = 3) -> list[Picture]:
    """The i-th has i + 1 questions, the j-th of them j + 1 points."""
    rng, (height, width) = np.random.default_rng(0), contract.model.canvas_size_px
    pictures = []
    for number in range(count):
        questions = tuple(
            Question(
                (f"touch thing {j}", f"reach for thing {j}")[: 1 + number % 2],
                rng.uniform(0, (width, height), (j + 1, 2)),
            )
            for j in range(number + 1)
        )
        canvas, state = rng.integers(0, 255, (height, width, 3), dtype=np.uint8), rng.standard_normal(20)
        pictures.append(Picture(canvas, state, questions))
    return pictures


def assert_same(found, expected) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.canvas, other.canvas)
        np.testing.assert_array_equal(one.state, other.state)
        assert [q.phrasings for q in one.questions] == [q.phrasings for q in other.questions]
        for mine, theirs in zip(one.questions, other.questions, strict=True):
            np.testing.assert_array_equal(mine.points, theirs.points)


def test_pictures_survive_being_written_and_files_are_read_by_name(contract, tmp_path):
    pictures = some_pictures(contract)
    save_pictures(tmp_path / "pictures_0000200.npz", contract, pictures[2:])
    save_pictures(tmp_path / NAME, contract, pictures[:2])
    assert_same(load_pictures(tmp_path, contract), pictures)
    assert not list(tmp_path.glob("*.part"))


def test_a_sink_writes_what_it_is_given_and_knows_which_seeds_it_has(contract, tmp_path):
    sink, pictures = PicturesSink(tmp_path / "new", contract), some_pictures(contract)
    assert range(3) not in sink
    with sink.draft(range(3)) as draft:
        for picture in pictures:
            draft.add(picture.canvas, picture.state)
            for question in picture.questions:
                draft.ask(question.phrasings, question.points)
        assert range(3) not in sink
        draft.finish()
    assert range(3) in sink and range(2) in sink
    assert range(4) not in sink and range(200, 203) not in sink
    assert_same(load_pictures(tmp_path / "new", contract), pictures)
    (tmp_path / "new" / NAME).write_bytes(b"cut off")
    assert range(3) not in sink


def test_a_folder_without_pictures_is_named(contract, tmp_path):
    with pytest.raises(PictureError, match=r"holds no pictures .* collect --form grounding"):
        load_pictures(tmp_path, contract)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"points": None}, "has no field points"),
        ({"contract_hash": "f" * 64}, "was made for contract ffffffffffff, not"),
        (
            {"canvas": np.zeros((3, 64, 64, 3), np.uint8)},
            r"canvas has shape \(3, 64, 64, 3\), expected \(3, 128, 128, 3\)",
        ),
        ({"canvas": np.zeros((3, 128, 128, 3))}, "canvas has type float64, expected uint8"),
        ({"state": np.zeros((3, 19))}, r"state has shape \(3, 19\), expected \(3, 20\)"),
        ({"state": np.full((3, 20), np.inf)}, "state has values that are not finite"),
        ({"questions": np.array([1, 2])}, r"questions has shape \(2,\), expected \(3,\)"),
        ({"questions": np.array([3, 3, 0])}, r"questions must be whole numbers from 1 on, got \[3, 3, 0\]"),
        ({"questions": np.array([1, 2, 4])}, "phrasings has length 6, expected 7"),
        ({"views": np.array([1, 1, 2, 1, 2, 4])}, r"points has shape \(10, 2\), expected \(11, 2\)"),
        ({"phrasings": '[["touch it"], []]'}, "phrasings must be a list of lists of texts"),
        ({"phrasings": "{"}, "cannot be read"),
        ({"points": np.full((10, 2), 128.0)}, r"points must lie on the canvas of 128 x 128 px, got \[128.0, 128.0\]"),
        ({"points": np.full((10, 2), np.nan)}, r"points must lie on the canvas of 128 x 128 px, got \[nan, nan\]"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_field_and_values(contract, tmp_path, change, expected):
    save_pictures(tmp_path / NAME, contract, some_pictures(contract))
    with np.load(tmp_path / NAME) as file:
        content = {name: file[name] for name in file.files} | change
    np.savez(tmp_path / NAME, **{name: value for name, value in content.items() if value is not None})
    with pytest.raises(PictureError, match=expected) as refused:
        load_pictures(tmp_path, contract)
    assert NAME in str(refused.value)


def test_a_damaged_file_is_named(contract, tmp_path):
    save_pictures(tmp_path / NAME, contract, some_pictures(contract))
    content = (tmp_path / NAME).read_bytes()
    for damaged in (content[: len(content) // 2], b"not pictures"):
        (tmp_path / NAME).write_bytes(damaged)
        with pytest.raises(PictureError, match=f"{NAME} cannot be read"):
            load_pictures(tmp_path, contract)


def test_a_picture_without_questions_is_refused(contract, tmp_path):
    pictures = some_pictures(contract)
    save_pictures(tmp_path / NAME, contract, [replace(pictures[0], questions=()), *pictures[1:]])
    with pytest.raises(PictureError, match="questions must be whole numbers from 1 on"):
        load_pictures(tmp_path, contract)
