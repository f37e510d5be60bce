"""The demo as a newcomer runs it: real processes, real DDS, real MuJoCo; what it leaves behind is consistent."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import psutil
import pytest
from rosbags.highlevel import AnyReader

from dreamzero_policy.ros.recorder import recording_types

pytestmark = pytest.mark.stack
SECONDS = 20
DEMO_DOMAIN, INTERRUPTED_DOMAIN, SERVED_DOMAIN = "61", "62", "69"  # apart from those of other tests
SERVED_SECONDS = 6
KEYS = {
    "seconds",
    "chunks",
    "chunk_rate_hz",
    "capacity_hz",
    "observation_to_command_ms",
    "model_ms",
    "overhead_ms",
    "transport_ms",
    "rejected_chunks",
    "dropped_frames",
    "plan_underruns",
    "max_seam_velocity_jump_rad_s",
    "regime_seconds",
    "peak_rss_mb",
    "versions",
    "contract_hash",
    "seed",
}


def command(*arguments: object, name: str = "demo") -> list[str]:
    return [sys.executable, "-m", "dreamzero_policy.cli.main", name, *map(str, arguments)]


def leftovers(domain: str) -> list[str]:
    """Processes of a run that are still there."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        line = " ".join(process.info["cmdline"] or ())
        mine = (process.info["environ"] or {}).get("ROS_DOMAIN_ID") == domain
        if mine and any(name in line for name in ("twin_node", "policy_node", "worker_process", "main serve")):
            found.append(line)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("demo") / "out"
    environment = dict(os.environ, ROS_DOMAIN_ID=DEMO_DOMAIN)
    done = subprocess.run(
        command("--seconds", SECONDS, "--seed", 7, "--json", "--out", folder),
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert leftovers(DEMO_DOMAIN) == []
    return json.loads(done.stdout), folder


def test_standard_output_is_the_summary_that_was_written(run: tuple[dict, Path]) -> None:
    summary, folder = run
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary.keys() >= KEYS
    assert summary["seed"] == 7 and len(summary["contract_hash"]) == 64


def test_the_robot_moved_by_chunks(run: tuple[dict, Path]) -> None:
    summary, folder = run
    assert summary["seconds"] == pytest.approx(SECONDS, abs=4)
    assert summary["chunks"] >= 0.5 * SECONDS
    topics = messages(folder / "bag")
    names = topics["/joint_states"][0].name
    arms = [i for i, name in enumerate(names) if "_arm_" in name]
    travelled = [
        max(abs(m.position[i] - topics["/joint_states"][0].position[i]) for m in topics["/joint_states"]) for i in arms
    ]
    assert max(travelled) > 0.02


def messages(bag: Path) -> dict[str, list]:
    found: dict[str, list] = {}
    with AnyReader([bag], default_typestore=recording_types()) as reader:
        for connection, _, data in reader.messages():
            found.setdefault(connection.topic, []).append(reader.deserialize(data, connection.msgtype))
    return found


def test_every_frame_a_chunk_names_is_in_the_bag(run: tuple[dict, Path]) -> None:
    summary, folder = run
    topics = messages(folder / "bag")
    chunks = topics["/policy_node/chunk"]
    accepted = [chunk for chunk in chunks if chunk.verdict == 0]
    assert len(accepted) == summary["chunks"]
    assert len(chunks) == summary["chunks"] + sum(summary["rejected_chunks"].values())
    recorded = {
        camera: {stamp(m) for m in topics[f"/{camera}/color/image_raw/compressed"]} for camera in chunks[0].camera_names
    }
    for chunk in chunks:
        for number, frame in enumerate(chunk.frame_stamps):
            camera = chunk.camera_names[number // chunk.frames_per_camera]
            assert (frame.sec, frame.nanosec) in recorded[camera]


def stamp(message) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


def test_the_bag_replayed_gives_the_chunks_that_drove_the_robot_bit_for_bit(run: tuple[dict, Path]) -> None:
    summary, folder = run
    asked = command(folder / "bag", "--mode", "parity", "--contract", folder / "contract.yaml", "--json", name="replay")
    done = subprocess.run(asked, capture_output=True, text=True, timeout=240, check=False)
    document = json.loads(done.stdout)
    assert document["live"]["first_difference"] is None, document["live"]
    assert (done.returncode, document["matches_live"]) == (0, True), document["live"]
    assert len(document["chunks"]) == summary["chunks"] + sum(summary["rejected_chunks"].values())
    assert [c["verdict"] for c in document["chunks"]] == [c["live"]["verdict"] for c in document["chunks"]]


def test_the_same_demo_through_a_served_policy_is_the_model_itself_bit_for_bit(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done = subprocess.run(
        command("--remote", "--seconds", SERVED_SECONDS, "--seed", 7, "--json", "--out", folder),
        env=dict(os.environ, ROS_DOMAIN_ID=SERVED_DOMAIN),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert leftovers(SERVED_DOMAIN) == []
    summary = json.loads(done.stdout)
    assert summary["chunks"] > 0 and {"twin", "server", "policy"} <= summary["peak_rss_mb"].keys()
    assert "policy.model" not in summary["peak_rss_mb"]  # the node has none
    asked = command(folder / "bag", "--mode", "parity", "--contract", folder / "contract.yaml", "--json", name="replay")
    replayed = subprocess.run(asked, capture_output=True, text=True, timeout=240, check=False)
    document = json.loads(replayed.stdout)
    assert (replayed.returncode, document["matches_live"]) == (0, True), document["live"]


def test_every_trajectory_sent_begins_in_the_future_and_ends_at_rest(run: tuple[dict, Path]) -> None:
    _, folder = run
    sent = [
        m for topic, list_ in messages(folder / "bag").items() if topic.endswith("/joint_trajectory") for m in list_
    ]
    assert len(sent) >= 5
    for trajectory in sent:
        first, last = trajectory.points[0].time_from_start, trajectory.points[-1]
        assert 0.045e9 <= first.nanosec <= 0.17e9 and first.sec == 0
        assert not last.velocities.any()
        assert stamp(trajectory) == (0, 0)


def test_the_film_shows_the_whole_run(run: tuple[dict, Path]) -> None:
    summary, folder = run
    with av.open(str(folder / "demo.mp4")) as film:
        stream = film.streams.video[0]
        frames = sum(1 for _ in film.decode(stream))
        assert (stream.width, stream.height) == (1280, 524)
        assert frames / float(stream.average_rate) == pytest.approx(summary["seconds"], abs=2)


@pytest.mark.parametrize("after_s", [2.0, random.uniform(2.0, 12.0)])
def test_ctrl_c_ends_everything_at_any_moment(tmp_path: Path, after_s: float) -> None:
    environment = dict(os.environ, ROS_DOMAIN_ID=INTERRUPTED_DOMAIN)
    process = subprocess.Popen(
        command("--seconds", 60, "--out", tmp_path / "out"),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, f"interrupted after {after_s:.1f} s: {output}"
    assert "Traceback" not in output
    assert leftovers(INTERRUPTED_DOMAIN) == []
