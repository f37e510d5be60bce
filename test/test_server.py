"""A policy on a server, over DDS and a real socket: what the robot does when the server is killed, stopped, and back.

The server is `dreamzero serve` in a process of its own with the shipped checkpoint; the node has no model.
"""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from rclpy.action import ActionClient

from dreamzero_msgs.action import RunPolicy
from dreamzero_msgs.msg import PolicyStatus

from .robot import Bench, bench

pytestmark = pytest.mark.stack
LOAD_S, CHUNK_S = 240, 60
PROMPT = "touch the red cube with the left hand"
MAX_PLAN_S, BUSY_S = 1.5, 0.4
SILENCE_S, SERVER_TIMEOUT_S = 4.0, 2.0


class Server:
    """`dreamzero serve`, which can be killed and started again on the same port."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "dreamzero_policy.cli.main", "serve", "--listen", f"127.0.0.1:{self.port}"]
        with self.log.open("a") as stream:
            self.process = subprocess.Popen([*command, "--load", "1.0", "--log", "json"], stderr=stream)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def events(self, name: str) -> list[dict]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]


@pytest.fixture(scope="class")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server") / "log.jsonl")
    server.start()
    yield server
    server.kill()


@contextmanager
def robot_of(server: Server, folder: Path, **parameters: object) -> Iterator[Bench]:
    remote = {"backend": "remote", "server_url": f"ws://127.0.0.1:{server.port}", "server_period_s": 60.0}
    patience = {"inference_timeout_s": SILENCE_S, "server_timeout_s": SERVER_TIMEOUT_S}
    with bench(folder, **remote, **patience, **parameters) as own:
        own.robot.obeys = True
        yield own


@pytest.fixture(scope="class")
def node(ros, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with robot_of(server, tmp_path_factory.mktemp("policy")) as own:
        own.goals = ActionClient(own.robot, RunPolicy, "/policy_node/run_policy")
        own.wait(lambda: state(own) == PolicyStatus.IDLE, LOAD_S, "idle policy")
        yield own
        own.goals.destroy()


def state(own: Bench) -> int | None:
    return own.robot.status.state if own.robot.status else None


def count(own: Bench, label: str) -> int:
    status = own.robot.status
    return dict(zip(status.fault_names, status.fault_counts, strict=True)).get(label, 0)


def in_motion(own: Bench) -> None:
    """At the beginning of an executed chunk."""
    own.begin_again(PROMPT)
    own.wait_for_motion(CHUNK_S)


def finishes_what_it_was_told(own: Bench, label: str, within_s: float) -> None:
    """The fault is told by its name; the plan is finished, not braked, and nothing follows it."""
    rest_ns, sent = own.robot.rest_ns(), len(own.robot.trajectories)
    own.wait(lambda: label in own.robot.status.faults, within_s, f"status that says {label}")
    assert any("attempt" in line for line in own.robot.status.waiting_for)
    own.wait(lambda: not own.robot.moving(), MAX_PLAN_S + BUSY_S, "rest")
    # An answer that was on its way may still have been executed; a brake would have ended earlier.
    assert own.robot.rest_ns() >= rest_ns
    sent = len(own.robot.trajectories)
    own.spin(0.5)
    assert len(own.robot.trajectories) == sent
    assert not any(own.robot.trajectories[-1].points[-1].velocities)


def goes_on(own: Bench, epoch: int) -> None:
    """By itself, with a chunk of a new epoch, and moves."""
    chunks = len(own.robot.chunks)
    own.wait(lambda: own.robot.status.faults == [], LOAD_S, "status without faults")
    own.wait(lambda: len(own.robot.chunks) > chunks, CHUNK_S, "chunk")
    assert own.robot.chunks[-1].epoch > epoch
    own.wait_for_motion(CHUNK_S)


class TestOneNode:
    """One process of policy_node lives through all of these."""

    def test_the_robot_moves_by_chunks_of_the_server_and_the_node_has_no_model(self, node: Bench) -> None:
        in_motion(node)
        assert psutil.Process(node.process.pid).children(recursive=True) == []
        node.wait(lambda: node.robot.chunks, CHUNK_S, "chunk")
        chunk = node.robot.chunks[-1]
        assert len(chunk.checkpoint_hash) == 64 and chunk.denoise_steps == chunk.full_denoise_steps >= 1

    def test_a_server_that_is_killed_is_named_and_the_robot_goes_on_when_it_is_back(
        self, node: Bench, server: Server
    ) -> None:
        in_motion(node)
        epoch, before = node.robot.status.epoch, count(node, "server_unreachable")
        server.kill()
        finishes_what_it_was_told(node, "server_unreachable", 5.0)
        assert count(node, "server_unreachable") == before + 1
        assert state(node) == PolicyStatus.WAITING and node.robot.status.prompt == PROMPT
        server.start()
        goes_on(node, epoch)

    def test_a_server_that_hangs_is_named_and_connected_to_anew(self, node: Bench, server: Server) -> None:
        in_motion(node)
        epoch = node.robot.status.epoch
        server.process.send_signal(signal.SIGSTOP)
        # No ping is answered: that is known before the answer is late.
        finishes_what_it_was_told(node, "server_unreachable", SILENCE_S + 5.0)
        server.process.send_signal(signal.SIGCONT)
        goes_on(node, epoch)

    def test_a_goal_is_aborted_when_the_server_is_away_for_too_long(self, node: Bench, server: Server) -> None:
        in_motion(node)
        goal = node.goals.send_goal_async(RunPolicy.Goal(prompt=PROMPT))
        node.wait(goal.done, 10, "goal")
        node.wait_for_motion(CHUNK_S)
        server.kill()
        result = goal.result().get_result_async()
        node.wait(result.done, SERVER_TIMEOUT_S + 20, "result")
        assert result.result().result.error_code == RunPolicy.Result.SERVER_LOST
        assert "attempt" in result.result().result.error_message
        node.wait(lambda: not node.robot.moving(), MAX_PLAN_S + BUSY_S, "rest")
        server.start()
        node.wait(lambda: node.robot.status.faults == [], LOAD_S, "status without faults")
        node.spin(0.5)
        assert not node.robot.moving()  # the goal is over: nothing is followed

    def test_a_server_that_ends_orderly_says_so(self, node: Bench, server: Server) -> None:
        in_motion(node)
        epoch = node.robot.status.epoch
        server.process.terminate()
        node.wait(lambda: "server_busy" in node.robot.status.faults, 20, "status that says server_busy")
        server.process.wait(30)
        server.start()
        goes_on(node, epoch)

    def test_a_node_that_ends_gives_its_place_back(self, node: Bench, server: Server) -> None:
        before = len(server.events("closed"))
        node.process.terminate()
        node.process.wait(30)
        deadline = time.monotonic() + 10
        while len(server.events("closed")) == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"server_url": "tcp://127.0.0.1:8000"}, "expected ws://HOST:PORT or wss://HOST:PORT"),
        ({"server_token_file": "/no/such/file"}, "the token file /no/such/file cannot be read"),
        ({"server_protocol": "official", "regime": "overlap"}, "max_plan_s|only 'stop_and_go' is possible"),
        ({"server_protocol": "official", "surprise_action": "warn"}, "only 'none' is possible"),
    ],
)
def test_settings_that_cannot_be_used_make_configure_fail_and_are_named(
    ros, tmp_path: Path, parameters: dict, text: str
) -> None:
    remote = {"backend": "remote", "server_url": "ws://127.0.0.1:1"} | parameters
    with bench(tmp_path, **remote) as own:
        own.wait(lambda: state(own) == PolicyStatus.FAULT, LOAD_S, "fault")
        assert re.search(text, own.robot.status.message), own.robot.status.message


def test_a_server_is_waited_for_at_configure_and_the_node_says_so(ros, tmp_path: Path) -> None:
    server = Server(tmp_path / "log.jsonl")
    with robot_of(server, tmp_path) as own:
        own.wait(
            lambda: state(own) == PolicyStatus.LOADING and "server_unreachable" in own.robot.status.message,
            LOAD_S,
            "status that says why",
        )
    assert own.process.poll() is not None  # it can be ended meanwhile
