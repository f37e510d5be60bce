"""Films and the report: they show what was measured and load nothing."""

import io
import re
from collections.abc import Callable
from html.parser import HTMLParser

import av
import numpy as np
import pytest

from dreamzero_policy.evaluation.closed_loop import Footage
from dreamzero_policy.evaluation.films import Film, encoded, frames, worth_seeing
from dreamzero_policy.evaluation.methods import method
from dreamzero_policy.evaluation.report import page
from dreamzero_policy.evaluation.stage import Result
from dreamzero_policy.evaluation.summary import summarise, versions
from dreamzero_policy.runtime.contract import Contract

SPLITS = ("seen", "unseen")
METHODS = ("wam-4", "vla-4", "no-injection-4", "hold")


@pytest.fixture(scope="module")
def results(result_of: Callable[..., Result]) -> list[Result]:
    rng = np.random.default_rng(0)
    return [
        result_of(name, seed, float(rng.uniform(0, 1 if name == "wam-4" else 0.3)), split)
        for name in METHODS
        for split in SPLITS
        for seed in range(6)
    ]


@pytest.fixture(scope="module")
def document(results: list[Result]) -> dict:
    curve = {"unit": ["rad"], "mean": 0.1, "interval": [0.0, 0.2], "by_step": [0.1] * 24}
    likeness = {mark: {"mean": 20.0, "interval": [19.0, 21.0]} for mark in ("predicted", "autoencoder", "still")}
    return {
        **summarise(results, [method(name) for name in METHODS], SPLITS, 4, "wam-4"),
        "suites": list(SPLITS),
        "seeds": {"first": 0, "last": 5, "episodes_per_suite": 6},
        "checkpoints": {"checkpoint": "abc"},
        "versions": versions(),
        "step_s": 1 / 30,
        "world": "<world>",
        "contract_hash": "c0ffee",
        "latency_s": 0.15,
        "device": "cpu",
        "dtype": "float32",
        "node": {"seed": 1},
        "open_loop": {
            "wam-4": {"episodes": 2, "action_error": {"arm": curve}, "psnr": likeness, "ssim": likeness},
            "vla-4": {"episodes": 2, "action_error": {"arm": curve}, "psnr": {}, "ssim": {}},
        },
    }


def moving(model_camera: str, contract: Contract) -> Footage:
    footage = Footage(model_camera)
    for n in range(9):
        footage.seen[n * 100_000_000] = np.full((240, 320, 3), 20 * n, np.uint8)
        if n:
            footage.dreamed[n * 100_000_000 + 7] = np.full((32, 32, 3), 255 - 20 * n, np.uint8)
    return footage


def test_a_film_shows_what_was_seen_beside_what_was_predicted_for_that_instant(contract: Contract) -> None:
    pictures = frames(moving("head", contract), contract.model)
    assert [int(picture[100, 50, 0]) for picture in pictures] == [20 * n for n in range(9)]
    assert [int(picture[100, -50, 0]) for picture in pictures[1:]] == [255 - 20 * n for n in range(1, 9)]
    assert pictures[0][100, -50, 0] < 50  # nothing predicted yet
    with av.open(io.BytesIO(encoded(pictures))) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == 9
    assert abs(int(decoded[5][100, 50, 0]) - 100) < 8


def test_successes_and_failures_of_every_family_are_worth_seeing(result_of: Callable[..., Result]) -> None:
    results = [result_of("wam-4", seed, 1.0 if seed < 10 else 0.2) for seed in range(20)]
    chosen = worth_seeing(results, 4)
    assert [result.success for result in chosen] == [True, False, True, False]
    assert [result.family for result in chosen] == ["touch", "touch", "push", "push"]
    assert len(worth_seeing(results[:3], 6)) == 3
    assert worth_seeing(results, 0) == []


class Page(HTMLParser):
    """Collects what a browser would go and fetch, and the text of all cells."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.cells: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "poster", "srcset", "data") and value:
                self.fetched.append(value)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def test_the_report_holds_everything_and_loads_nothing(
    document: dict, results: list[Result], contract: Contract
) -> None:
    film = Film(results[0], results[0].progress, encoded(frames(moving("head", contract), contract.model)))
    text = page(document, [film])
    parsed = Page()
    parsed.feed(text)
    assert all(value.startswith(("#", "data:")) for value in parsed.fetched)
    assert not re.search(r"@import|url\((?!#)", text)
    assert not {"script", "link", "iframe", "img"} & set(parsed.tags)
    assert parsed.tags.count("video") == 1
    assert parsed.tags.count("svg") == 8  # families and what is new: success and progress of each
    rates = document["methods"]["wam-4"]["seen"]
    assert any(cell.startswith(f"{100 * rates['progress']:.1f} %") for cell in parsed.cells)
    assert {"holds", "not measured"} <= set(parsed.cells)
    assert "push &lt;it&gt;" in text
    assert "&lt;world&gt;" in text


def test_the_report_is_the_same_for_the_same_numbers(document: dict) -> None:
    assert page(document, []) == page(document, [])


def test_a_report_without_films_and_open_loop_has_no_empty_sections(document: dict) -> None:
    text = page({key: value for key, value in document.items() if key != "open_loop"}, [])
    assert "Open loop" not in text
    assert "Seen and predicted" not in text
