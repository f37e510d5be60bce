"""The loop with a server: chunk for chunk, bit for bit what it is with the model beside it."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from dreamzero_policy.inference.remote.policy import RemotePolicy
from dreamzero_policy.inference.remote.sessions import Seat, SessionDialogue
from dreamzero_policy.inference.remote.settings import RemoteSettings
from dreamzero_policy.runtime.embodiment import Embodiment, Statistics
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.policy import Answer, Failure, Interruption, Request, Surprise
from dreamzero_policy.runtime.regime import LOOK_AHEAD, OVERLAP, TWO_SESSIONS, RegimeSettings

from ..inference.remote.serving import Served, served
from .conftest import VaryingPolicy

pytest.importorskip("rclpy")
PATIENCE_S = 120.0


class ServedPolicy(VaryingPolicy):
    """A server's answers on simulated time: fetched at once, given as late as the model's own would be."""

    def __init__(self, remote: RemotePolicy, now_ns: Callable[[], int]) -> None:
        self._remote, self._now_ns = remote, now_ns
        self._answers, self.model_s = deque(), []

    def reset(self, prompt: str, epoch: int) -> None:
        self._remote.reset(prompt, epoch)
        self._answers.clear()

    def submit(self, request: Request) -> None:
        self._remote.submit(request)
        answer = self._fetched()
        self.model_s.append(0.0)
        self._answers.append((self._now_ns() + self.next_latency_ns(), answer))

    def _fetched(self) -> Answer:
        deadline = time.monotonic() + PATIENCE_S
        while (answer := self._remote.poll()) is None or isinstance(answer, Surprise):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert not isinstance(answer, Failure | Interruption), answer
        return answer


@pytest.fixture(scope="module")
def server(checkpoint) -> Iterator[Served]:
    with served(checkpoint) as running:
        yield running


@pytest.fixture
def with_server(live, server: Served, contract) -> Iterator[Callable]:
    """Runs the loop of `live` with the server; `encoding` of its pictures."""
    policies = []

    def run(*arguments, encoding: str = "raw", **options):
        settings, seat = RemoteSettings(server.address, encoding=encoding), Seat()
        remote = RemotePolicy(settings, lambda server: SessionDialogue(server, contract, seat))
        policies.append(remote)
        ready = remote.wait_until_ready(PATIENCE_S)
        robot = Embodiment(contract, Statistics.checked(ready.statistics, contract, "the server's"))
        return live(*arguments, robot=robot, policy_of=lambda now_ns: ServedPolicy(remote, now_ns), **options)

    yield run
    for policy in policies:
        policy.close()


def same(theirs, ours) -> None:
    """Two recordings have the same chunks and the same commands."""
    assert len(theirs.world.chunks) == len(ours.world.chunks) > 5
    for (theirs_ns, there), (ours_ns, here) in zip(theirs.world.chunks, ours.world.chunks, strict=True):
        assert (theirs_ns, there.epoch, there.index, there.stream) == (ours_ns, here.epoch, here.index, here.stream)
        np.testing.assert_array_equal(there.reply.actions, here.reply.actions)
        np.testing.assert_array_equal(there.positions, here.positions)
        assert (there.reply.seed, there.reply.steps) == (here.reply.seed, here.reply.steps)
        assert (there.reply.held_rows, there.verdict) == (here.reply.held_rows, here.verdict)
    assert len(theirs.world.plans) == len(ours.world.plans)
    for (_, there), (_, here) in zip(theirs.world.plans, ours.world.plans, strict=True):
        np.testing.assert_array_equal(there.knots_ns, here.knots_ns)
        np.testing.assert_array_equal(there.positions, here.positions)
        np.testing.assert_array_equal(there.velocities, here.velocities)


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_lossless_pictures_give_the_chunks_that_the_model_beside_the_loop_gives(with_server, recording, encoding):
    same(with_server(8.0, {0.2: "touch the cube", 5.5: "lift the bowl"}, encoding=encoding), recording)


@pytest.mark.parametrize("way", [TWO_SESSIONS, LOOK_AHEAD])
def test_overlapping_chunks_are_the_same_too(with_server, live, node, way):
    overlapping = replace(node, regime=RegimeSettings(OVERLAP, way), max_plan_s=4.0)
    ours = live(5.0, {0.2: "touch the cube"}, overlapping)
    assert any(chunk.look_ahead for _, chunk in ours.world.chunks) == (way == LOOK_AHEAD)
    same(with_server(5.0, {0.2: "touch the cube"}, overlapping), ours)


def test_a_prefix_goes_with_the_question(with_server, live, node):
    settings = replace(node, regime=RegimeSettings(OVERLAP, TWO_SESSIONS), max_plan_s=4.0, prefix_conditioning=True)
    ours = live(5.0, {0.2: "touch the cube"}, settings)
    assert any(chunk.reply.held_rows for _, chunk in ours.world.chunks)
    same(with_server(5.0, {0.2: "touch the cube"}, settings), ours)


def test_jpeg_pictures_change_the_chunks_a_little_and_the_frames_stay_those_that_were_seen(with_server, recording):
    theirs = with_server(8.0, {0.2: "touch the cube", 5.5: "lift the bowl"}, encoding="jpeg")
    (_, there), (_, here) = theirs.world.chunks[1], recording.world.chunks[1]
    assert there.block.frame_stamps_ns == here.block.frame_stamps_ns
    assert there.block.observation_ns / NS_PER_S == here.block.observation_ns / NS_PER_S
    difference = np.abs(there.reply.actions - here.reply.actions).max()
    assert 0 < difference < np.abs(here.reply.actions).max()
