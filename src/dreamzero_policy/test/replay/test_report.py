"""The report of a replay: what its page and files say is what was replayed, and the page needs nobody else."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from mcap.reader import make_reader
from PIL import Image
from typer.testing import CliRunner

from dreamzero_policy.cli.main import app
from dreamzero_policy.replay.report.film import GAP_PX, Film, Moment
from dreamzero_policy.replay.report.tables import thinned

from .conftest import CONFIG

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def replayed(bag: Path, checkpoint: Path, *more: object) -> dict:
    fixed = ("--contract", checkpoint / "contract.yaml", "--checkpoint", checkpoint, "--steps", 2, "--json")
    words = [str(word) for word in (bag, *fixed, "--parameters", CONFIG / "policy.yaml", *more)]
    result = CliRunner().invoke(app, ["replay", *words])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def folder(live_bag, checkpoint, tmp_path_factory) -> Path:
    """Of a recording of a node with two instructions."""
    folder = tmp_path_factory.mktemp("report") / "out"
    replayed(live_bag, checkpoint, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def document(folder) -> dict:
    return json.loads((folder / "replay.json").read_text())


@pytest.fixture(scope="module")
def page(folder) -> str:
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def drawn(page) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page).group(1))


def numbers(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def messages(folder: Path) -> dict[str, list[tuple[int, dict]]]:
    found: dict[str, list[tuple[int, dict]]] = {}
    with (folder / "foxglove.mcap").open("rb") as file:
        for _, channel, message in make_reader(file).iter_messages():
            found.setdefault(channel.topic, []).append((message.log_time, json.loads(message.data)))
    return found


def test_the_page_says_what_was_replayed_with_what(page, document, contract):
    assert {chunk["prompt"] for chunk in document["chunks"]} == {"touch the cube", "lift the bowl"}
    said = [document[key] for key in ("chunk_hash", "checkpoint_hash", "contract_hash")]
    said += ["“touch the cube”", "“lift the bowl”", f"torch {document['tolerance']['versions']['torch']}"]
    said += [f"{document['live']['equal']} of {document['live']['chunks']} chunks are equal, bit for bit"]
    for text in said:
        assert text in page, text
    for group in contract.model.action:
        if group.commanded:
            assert f'id="joints-{group.key}"' in page


def test_the_page_asks_nobody_for_anything(page):
    text = re.sub(r'data:video/mp4;base64,[^"]*', "data:video", page)
    places = re.findall(r'(?:src|href|action|poster|srcset)="([^"]*)"', text)
    assert set(places) <= {"data:,", "data:video", "#film"}
    for word in (
        "http:",
        "https:",
        "//cdn",
        "@import",
        "url(",
        "fetch(",
        "XMLHttpRequest",
        "WebSocket",
        "import(",
        '<link rel="stylesheet',
    ):
        assert word not in text, word


def test_curves_are_the_rows_of_the_chunks_with_their_seams(drawn, folder, document, contract):
    lines = [json.loads(line) for line in (folder / "chunks.jsonl").read_text().splitlines()]
    motion = drawn["motion"]
    assert [joint["name"] for joint in motion["joints"]] == list(contract.model.commanded_joints)
    chunk = numbers(motion["chunk"], "<i4")
    assert np.flatnonzero(np.diff(chunk, prepend=-1)).tolist() == [24 * i for i in range(len(document["chunks"]))]
    times = numbers(motion["times"], "<f4")
    expected = np.concatenate([line["times_s"] for line in lines]) - document["begin_s"]
    assert np.allclose(times, expected, atol=1e-4)
    first = motion["joints"][0]
    levels = numbers(first["predicted"], "<u2").astype(float)
    values = first["low"] + (first["high"] - first["low"]) * (levels - 1) / 65534
    assert np.allclose(values, np.concatenate([line["positions"] for line in lines])[:, 0], atol=1e-4)
    known = [chunk["surprise"] for chunk in drawn["chunks"] if chunk["surprise"] is not None]
    assert len(known) >= len(document["chunks"]) - 3  # the last of an epoch is followed by nothing
    assert min(known) > 0


def test_the_error_over_the_horizon_is_the_mean_over_chunks(drawn, folder):
    lines = [json.loads(line) for line in (folder / "chunks.jsonl").read_text().splitlines()]
    apart = []
    for line in lines:
        states = np.array(line["states"], float)
        apart.append(np.abs(np.array(line["positions"]) - states)[:, :7].mean(axis=1))
    expected = np.nanmean(apart, axis=0)
    assert np.allclose(drawn["horizon"]["groups"][0]["states"], expected, rtol=1e-4, atol=1e-6)


def test_the_film_shows_recorded_beside_predicted_canvases(page, folder, contract, drawn):
    data = base64.b64decode(re.search(r'src="data:video/mp4;base64,([^"]*)"', page).group(1))
    assert data == (folder / "film.mp4").read_bytes()
    with av.open(io.BytesIO(data)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == drawn["film"]["pictures"]
    height, width = contract.model.canvas_size_px
    panel = (pictures[0].shape[1] - 2 * GAP_PX) // 3
    assert pictures[0].shape[0] == round(panel * height / width)
    told = messages(folder)
    middle = len(pictures) // 2
    for topic, left in (("/recorded/canvas", 0), ("/predicted/canvas", panel + GAP_PX)):
        at = {stamp: message for stamp, message in told[topic]}
        stamp = told["/recorded/canvas"][middle][0]
        seen = cv2.imdecode(np.frombuffer(base64.b64decode(at[stamp]["data"]), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        shown = cv2.resize(pictures[middle][:, left : left + panel], (width, height), interpolation=cv2.INTER_AREA)
        assert np.corrcoef(seen.mean(-1).ravel(), shown.mean(-1).ravel())[0, 1] > 0.8, topic


def test_a_film_keeps_its_share_of_the_page_however_much_moves(contract, tmp_path):
    """Noise is the worst there is; 20 s of it in a film that is to last 25 minutes get 20 s worth of bytes."""
    film = Film(tmp_path, contract.model, 100_000_000, seconds=1500.0)
    rng, size = np.random.default_rng(0), (*contract.model.canvas_size_px, 3)
    for number in range(200):
        noise = [rng.integers(0, 256, size, dtype=np.uint8) for _ in range(2)]
        film.add(Moment(number * 100_000_000, *noise))
    film.close()
    share = 12_000_000 * 20.0 / 1500.0
    assert film.path.stat().st_size < 2 * share  # the buffer is filled once
    longer = Film(tmp_path, contract.model, 100_000_000, seconds=6000.0)
    assert longer.every == 4
    longer.add(Moment(0, None, None))
    longer.close()


def test_tables_hold_the_numbers_of_the_json(folder, document, contract):
    chunks = pq.read_table(folder / "chunks.parquet").to_pylist()
    assert [chunk["hash"] for chunk in chunks] == [chunk["hash"] for chunk in document["chunks"]]
    assert [chunk["live.equal"] for chunk in chunks] == [True] * len(chunks)
    assert [chunk["error.states.mean"] for chunk in chunks] == [
        c["error"]["states"]["mean"] for c in document["chunks"]
    ]
    steps = pq.read_table(folder / "steps.parquet")
    line = json.loads((folder / "chunks.jsonl").read_text().splitlines()[2])
    rows = [row for row in steps.to_pylist() if row["chunk"] == 2]
    for series, key in (("predicted", "positions"), ("states", "states"), ("commands", "commands")):
        values = [[row[f"{series}/{joint}"] for joint in contract.model.commanded_joints] for row in rows]
        assert values == line[key]


def test_curves_of_a_long_recording_are_thinned_but_keep_the_ends_of_chunks(folder, document):
    every, columns = thinned(folder / "steps.parquet", 100)
    count = len(document["chunks"])
    assert every == -(-24 * count // 100)
    assert len(columns["row"]) <= 100 + count
    assert (columns["row"] == 23).sum() == count == (columns["row"] == 0).sum()


def test_foxglove_finds_pictures_joints_by_name_and_chunks_in_step(folder, document, contract):
    with (folder / "foxglove.mcap").open("rb") as file:
        summary = make_reader(file).get_summary()
    kinds = {channel.topic: summary.schemas[channel.schema_id] for channel in summary.channels.values()}
    assert {schema.encoding for schema in kinds.values()} == {"jsonschema"}
    assert kinds["/recorded/canvas"].name == kinds["/predicted/canvas"].name == "foxglove.CompressedImage"
    told = messages(folder)
    for topic in ("/recorded/canvas", "/predicted/canvas"):
        for stamp, message in told[topic]:
            assert message["timestamp"] == {"sec": stamp // 10**9, "nsec": stamp % 10**9}
            assert set(message) == {"timestamp", "frame_id", "format", "data"}
    picture = np.frombuffer(base64.b64decode(told["/predicted/canvas"][0][1]["data"]), np.uint8)
    assert cv2.imdecode(picture, cv2.IMREAD_COLOR).shape[:2] == contract.model.canvas_size_px
    for name in ("measured", "commanded", "predicted"):
        assert set(told[f"/joints/{name}"][-1][1]) == set(contract.model.commanded_joints)
        stamps = [stamp for stamp, _ in told[f"/joints/{name}"]]
        assert len(set(stamps)) == len(stamps)  # where chunks overlap, one of them is executed
    assert [message["hash"] for _, message in told["/chunks"]] == [chunk["hash"] for chunk in document["chunks"]]
    known = [chunk["surprise"] for chunk in document["chunks"] if chunk["surprise"] is not None]
    assert [message["surprise"] for _, message in told["/surprise"]] == known


def test_looking_does_not_change_what_is_predicted(live_bag, checkpoint, document, tmp_path):
    plain = replayed(live_bag, checkpoint, "--out", tmp_path / "plain", "--no-report")
    assert plain["chunk_hash"] == document["chunk_hash"]
    assert {file.name for file in (tmp_path / "plain").iterdir()} == {"replay.json", "chunks.jsonl"}


def test_a_counterfactual_shows_what_the_other_policy_foresees(guided, checkpoint, tmp_path):
    other = ("--from", 1.5, "--prompt", "lift the bowl")
    document = replayed(guided, checkpoint, *other, "--recorded-checkpoint", checkpoint, "--out", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "“lift the bowl”" in page
    drawn = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))
    assert [chunk["change"] is not None for chunk in drawn["chunks"]] == [
        chunk["counterfactual"] is not None for chunk in document["chunks"]
    ]


def test_a_file_for_rerun_is_written_where_its_library_is(guided, checkpoint, contract, tmp_path):
    pytest.importorskip("rerun")
    replayed(guided, checkpoint, "--out", tmp_path / "out", "--rerun")
    tool = [sys.executable, "-m", "rerun", "rrd"]
    file = tmp_path / "out" / "replay.rrd"
    subprocess.run([*tool, "verify", file], check=True, timeout=120)
    told = subprocess.run([*tool, "stats", file], check=True, timeout=120, capture_output=True, text=True)
    group = contract.model.action[0]
    for entity in ("/canvas/recorded", "/canvas/predicted", f"/joints/{group.key}/{group.joints[0]}/predicted"):
        assert f"{entity}:" in told.stdout


def test_without_its_library_a_file_for_rerun_is_refused_before_anything_is_done(guided, checkpoint, tmp_path):
    try:
        import rerun  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("rerun-sdk is installed")
    words = ["replay", str(guided), "--contract", str(checkpoint / "contract.yaml"), "--checkpoint", str(checkpoint)]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out"), "--rerun"])
    assert result.exit_code == 1
    assert "pip install 'rerun-sdk" in result.output
    assert not (tmp_path / "out").exists()


@pytest.fixture
def browse(tmp_path):
    """Opens a page: the lines of its console, and what it looks like [height, width, 3]."""
    if BROWSER is None:
        pytest.skip("no Chromium is installed")

    def browse(page: Path) -> tuple[list[str], np.ndarray]:
        picture = tmp_path / "page.png"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1300,4000"]
        flags += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000", "--enable-logging=stderr"]
        told = subprocess.run(
            [BROWSER, *flags, f"--screenshot={picture}", f"file://{page}"], capture_output=True, text=True, timeout=280
        ).stderr
        console = [line for line in told.splitlines() if "CONSOLE" in line]
        return console, np.asarray(Image.open(picture).convert("RGB")).astype(int)

    return browse


def test_a_browser_renders_the_page_without_errors_and_without_a_request(browse, folder):
    """The page's own policy turns every request into an error on the console."""
    console, pixels = browse(folder / "report.html")
    assert console == []
    for colour in ((240, 140, 58), (47, 109, 179), (29, 36, 48)):  # predicted, commanded, measured
        assert (np.abs(pixels - colour).max(-1) < 12).sum() > 200, colour


def test_a_request_of_the_page_would_be_seen(browse, page, tmp_path):
    asking = tmp_path / "asking.html"
    asking.write_text(page.replace("<main>", '<main><img src="http://localhost:9/picture.png">', 1))
    console, _ = browse(asking)
    assert any("Content Security Policy" in line for line in console), console


def test_on_a_phone_nothing_of_the_page_is_wider_than_the_screen(browse, page, tmp_path):
    measure = "<script>console.log(`${document.documentElement.scrollWidth} of ${innerWidth} px`)</script></body>"
    (tmp_path / "inside.html").write_text(measure.join(page.rsplit("</body>", 1)))
    (tmp_path / "phone.html").write_text('<iframe src="inside.html" width="390" height="800"></iframe>')
    console, _ = browse(tmp_path / "phone.html")
    assert any("390 of 390 px" in line for line in console), console
