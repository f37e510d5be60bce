"""A real policy_node process that overlaps inference and motion says how, in its status, chunks and diagnostics."""

from collections.abc import Iterator

import pytest
from diagnostic_msgs.msg import DiagnosticArray

from dreamzero_msgs.msg import ActionChunk
from dreamzero_policy.runtime.latency import STAGES

from .robot import Bench, bench

pytestmark = pytest.mark.stack
LOAD_S, CHUNKS_S = 120, 60
WAYS, CHUNKS = ("look_ahead", "two_sessions"), 6


@pytest.fixture(scope="module", params=WAYS)
def node(ros, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One that has given some chunks, in either way of overlapping."""
    with bench(tmp_path_factory.mktemp("policy"), regime="overlap", overlap=request.param, max_plan_s=2.5) as own:
        own.way, own.diagnostics = request.param, []
        own.robot.create_subscription(DiagnosticArray, "/diagnostics", own.diagnostics.append, 10)
        own.wait(lambda: own.robot.status is not None and "active" in own.robot.status.message, LOAD_S, "active policy")
        own.robot.prompt("touch the red cube with the left hand")
        own.wait(lambda: len(own.robot.chunks) >= CHUNKS, CHUNKS_S, "chunks")
        own.wait(lambda: own.robot.status.chunks > 0 and own.diagnostics, CHUNKS_S, "report")
        yield own


def test_the_status_names_the_regime_and_how_chunks_overlap(node: Bench) -> None:
    status = node.robot.status
    assert (status.regime, status.overlap, status.speed) == ("overlap", node.way, 1.0)


def test_chunks_say_who_predicted_them_and_beyond_what(node: Bench) -> None:
    chunks = node.robot.chunks
    assert {chunk.regime for chunk in chunks} == {"overlap"}
    if node.way == "two_sessions":
        assert {chunk.stream for chunk in chunks} == {0, 1}
        assert not any(chunk.look_ahead for chunk in chunks)
    else:
        assert {chunk.stream for chunk in chunks} == {0}
        ahead = [chunk for chunk in chunks if chunk.look_ahead]
        assert ahead and all(chunk.imagine_s > 0 for chunk in ahead)


def test_the_stages_of_every_executed_chunk_add_up(node: Bench) -> None:
    executed = [chunk for chunk in node.robot.chunks if chunk.verdict == ActionChunk.ACCEPTED]
    assert executed
    for chunk in executed:
        parts = chunk.request_s + chunk.handover_s + chunk.model_s + chunk.command_s
        assert parts == pytest.approx(chunk.observation_to_command_s)
        assert 0 < chunk.denoise_s < chunk.model_s


def test_diagnostics_hold_a_histogram_of_every_stage(node: Bench) -> None:
    policy = [status for array in node.diagnostics for status in array.status if status.name.endswith("policy")]
    values = {pair.key: pair.value for pair in policy[-1].values}
    assert {f"histogram.{stage}_ms" for stage in STAGES} <= values.keys()


def test_what_is_sent_ends_at_rest(node: Bench) -> None:
    assert node.robot.trajectories
    assert all(not any(trajectory.points[-1].velocities) for trajectory in node.robot.trajectories)
