"""The released server's protocol from the robot's side, against a server that behaves as the released one does."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from dreamzero_policy.inference.mailbox import WorkerError
from dreamzero_policy.inference.protocol.official import Names
from dreamzero_policy.inference.remote.policy import RemotePolicy
from dreamzero_policy.inference.remote.roboarena import RoboArenaDialogue
from dreamzero_policy.inference.remote.settings import RemoteSettings
from dreamzero_policy.runtime.contract import Contract, RoboArena
from dreamzero_policy.runtime.faults import Fault
from dreamzero_policy.runtime.policy import Failure, Interruption, Reply, Resumption
from dreamzero_policy.runtime.served import ServedEmbodiment

from .conftest import PATIENCE_S, STATE, block, next_answer
from .released_server import CAMERAS, GRIPPER, JOINTS, OmniServer, ReleasedServer, pack, released

PROMPT = "put the marker in the cup"


@pytest.fixture
def server() -> ReleasedServer:
    return ReleasedServer()


@pytest.fixture
def connect(server: ReleasedServer, franka: Contract) -> Iterator[Callable[..., RemotePolicy]]:
    """A policy that is connected to the server, with these settings."""
    policies = []
    with released(server) as address:

        def connect(contract: Contract = franka, **settings: object) -> RemotePolicy:
            chosen = RemoteSettings(address, "official", **settings)
            policies.append(RemotePolicy(chosen, lambda server: RoboArenaDialogue(server, contract)))
            policies[-1].wait_until_ready(PATIENCE_S)
            return policies[-1]

        yield connect
        server.let_go.set()
        for policy in policies:
            policy.close()


def follow(policy: RemotePolicy, blocks: int = 1, epoch: int = 1) -> list[Reply]:
    policy.reset(PROMPT, epoch)
    answers = []
    for number in range(blocks):
        policy.submit(block(epoch, number))
        answers.append(next_answer(policy))
    return answers


def without_names(contract: Contract) -> Contract:
    """As before contracts could say what a server calls things."""
    return contract.model_copy(update={"site": contract.site.model_copy(update={"roboarena": None})})


@pytest.mark.parametrize("named", [True, False])
def test_cameras_state_and_rows_stand_where_the_released_server_has_them(connect, server, franka, named) -> None:
    (reply,) = follow(connect(franka if named else without_names(franka)))
    request = server.requests[-1]
    assert [request[entry][0, 0, 0] for entry in CAMERAS] == [0, 50, 100]
    assert request[CAMERAS[0]].shape == (180, 320, 3) and request[CAMERAS[0]].dtype == np.uint8
    np.testing.assert_allclose(request[JOINTS], STATE[:7])
    np.testing.assert_allclose(request[GRIPPER], STATE[7:])
    assert request["prompt"] == PROMPT  # the server has the template
    np.testing.assert_allclose(reply.actions[0, :7], STATE[:7] + 0.001, atol=1e-6)
    assert reply.epoch == 1 and reply.actions.shape == (24, 8)


def test_a_window_opens_with_one_frame_and_goes_on_with_the_four_that_the_model_was_trained_to_see(
    connect, server
) -> None:
    follow(connect(), blocks=3)
    seen = [[frame[0, 0, 0] for frame in shown[CAMERAS[0]]] for shown in server.seen]
    assert seen == [[0], [10, 12, 14, 17], [20, 22, 24, 27]]  # of -21 … 0: the nearest to -23, -16, -8, 0


def test_a_new_epoch_begins_a_session_in_which_nothing_is_remembered(connect, server) -> None:
    policy = connect()
    follow(policy, blocks=2, epoch=1)
    follow(policy, blocks=1, epoch=2)
    sessions = [request["session_id"] for request in server.requests if request["endpoint"] == "infer"]
    assert sessions[0] == sessions[1] != sessions[2]
    assert len(server.seen[-1][CAMERAS[0]]) == 1 and server.resets == 2


def test_rows_become_targets_in_radians_and_the_instruction_goes_as_it_is(connect, franka) -> None:
    (reply,) = follow(connect())
    embodiment = ServedEmbodiment(franka, Names.of(franka.model, franka.site.roboarena).action)
    targets = embodiment.positions(reply.actions, STATE.astype(float))
    np.testing.assert_allclose(targets[-1, :7], STATE[:7] + 0.024, atol=1e-6)
    np.testing.assert_allclose(targets[:, 7], 0.4 * 0.7929, atol=1e-6)
    assert embodiment.prompt("Lift it") == "Lift it"
    positions = embodiment.joint_positions(STATE.astype(float))
    np.testing.assert_allclose(embodiment.normalised_state(embodiment.state(positions)), STATE, atol=1e-6)


def test_a_contract_may_say_what_another_server_calls_things_and_in_what_order_it_answers(
    connect, server, franka
) -> None:
    names = RoboArena(
        images=dict(zip(franka.model.cameras, reversed(CAMERAS), strict=True)),
        state={"joint_position": JOINTS, "gripper_position": GRIPPER},
        action=("gripper_position", "joint_position"),
    )
    other = franka.model_copy(update={"site": franka.site.model_copy(update={"roboarena": names})})
    rows = np.concatenate([np.full((24, 1), 0.9), STATE[:7] + np.full((24, 7), 0.01)], axis=1)
    server.answer = pack(rows.astype(np.float32))
    (reply,) = follow(connect(other))
    assert [server.requests[-1][entry][0, 0, 0] for entry in CAMERAS] == [100, 50, 0]
    targets = ServedEmbodiment(other, names.action).positions(reply.actions, STATE.astype(float))
    np.testing.assert_allclose(targets[0, :7], STATE[:7] + 0.01, atol=1e-6)
    np.testing.assert_allclose(targets[0, 7], 0.9 * 0.7929, atol=1e-6)


def test_images_of_the_same_shape_are_scaled_to_the_size_that_the_server_wants(connect, server) -> None:
    server.config["image_resolution"] = (90, 160)
    follow(connect())
    assert server.requests[-1][CAMERAS[2]].shape == (90, 160, 3)


@pytest.mark.parametrize(
    ("entry", "value", "text"),
    [
        ("image_resolution", (224, 224), "camera exterior_1 has 320 x 180, which is another shape"),
        ("action_space", "joint_velocity", "action_space = 'joint_velocity'"),
        ("n_external_cameras", 1, "n_external_cameras = 1"),
        ("needs_stereo_camera", True, "needs_stereo_camera = True"),
    ],
)
def test_a_server_that_wants_something_else_is_refused_with_both_sides(connect, server, entry, value, text) -> None:
    server.config[entry] = value
    with pytest.raises(WorkerError, match=f"server_refused: .*{text}"):
        connect()


# The traps


def failure(policy: RemotePolicy) -> Failure:
    policy.reset(PROMPT, 1)
    policy.submit(block(1, 0))
    answer = next_answer(policy)
    assert isinstance(answer, Failure), answer
    assert answer.fault is Fault.SERVER_ANSWER_INVALID
    return answer


def test_a_server_that_takes_zeros_for_a_state_it_did_not_find_is_found_out(connect, server) -> None:
    server.joints_entry = "observation/joints"
    answer = failure(connect())
    assert "its rows begin at zero, so it did not find observation/joint_position" in answer.message


def test_zeros_where_the_server_found_no_joints_are_no_answer(connect, server) -> None:
    server.finds_joints = False
    assert "[1, 8], expected [24, 8]: zeros, it found no joint action" in failure(connect()).message


def test_zeros_where_the_server_found_no_gripper_are_no_answer(connect, server) -> None:
    server.finds_gripper = False
    assert "zeros for gripper_position: it found none" in failure(connect()).message


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (pack(np.full((24, 8), np.nan, np.float32)), "192 of 192 actions are not finite"),
        (pack(np.ones((12, 8), np.float32)), "[12, 8], expected [24, 8]"),
        (pack({"error": "no"}), "expected an array of float32"),
        (b"\xc1", "not one msgpack object"),
    ],
)
def test_an_answer_that_is_none_is_a_fault(connect, server, answer, text) -> None:
    server.answer = answer
    assert text in failure(connect()).message


def test_an_error_in_place_of_an_array_is_told_and_the_server_is_asked_again_in_a_new_epoch(connect, server) -> None:
    server.fails = "CUDA error: out of memory"
    policy = connect()
    policy.reset(PROMPT, 1)
    policy.submit(block(1, 0))
    interruption = next_answer(policy)
    assert isinstance(interruption, Interruption)
    assert interruption.trouble.fault is Fault.SERVER_ERROR
    assert "says: RuntimeError: CUDA error: out of memory; attempt 1 to connect" in interruption.trouble.text
    server.fails = ""
    assert isinstance(next_answer(policy), Resumption)
    (reply,) = follow(policy, epoch=2)
    assert isinstance(reply, Reply) and len(server.seen[-1][CAMERAS[0]]) == 1


def test_an_error_text_of_a_reset_is_no_reset(connect, server) -> None:
    policy = connect()
    server._reset = lambda: "Policy not ready"
    policy.reset(PROMPT, 1)
    trouble = next_answer(policy, Interruption).trouble
    assert trouble.fault is Fault.SERVER_ERROR and "says: Policy not ready" in trouble.text


@pytest.mark.parametrize("answer", [pack({"status": "busy"}), pack(np.zeros((24, 8), np.float32))])
def test_an_answer_to_a_reset_that_does_not_say_so_is_no_reset(connect, server, answer) -> None:
    policy = connect()
    server._reset = lambda: answer
    policy.reset(PROMPT, 1)
    trouble = next_answer(policy, Interruption).trouble
    assert trouble.fault is Fault.SERVER_ERROR and f"did not reset: {len(answer)} bytes" in trouble.text


# vLLM-Omni


@pytest.mark.parametrize("server", [OmniServer()])
def test_a_server_that_says_more_of_itself_and_resets_with_a_map_is_followed(connect, server) -> None:
    replies = follow(connect(), blocks=3)
    assert [reply.epoch for reply in replies] == [1, 1, 1] and server.resets == 1
    np.testing.assert_allclose(replies[-1].actions[0, :7], STATE[:7] + 0.001, atol=1e-6)


@pytest.mark.parametrize("server", [OmniServer()])
@pytest.mark.parametrize(("entry", "value"), [("action_horizon", 16), ("action_dim", 14)])
def test_a_server_whose_chunks_are_of_another_shape_is_refused_before_it_is_asked(
    connect, server, monkeypatch, entry, value
) -> None:
    monkeypatch.setitem(server.config, entry, value)
    expected = {"action_horizon": 24, "action_dim": 8}[entry]
    with pytest.raises(WorkerError, match=f"server_refused: .*{entry} = {value}, this contract gives {expected}"):
        connect()


@pytest.mark.parametrize("server", [OmniServer()])
def test_an_error_in_a_map_is_told_as_the_servers_and_a_new_connection_follows(connect, server) -> None:
    server.fails = "out of memory"
    policy = connect()
    policy.reset(PROMPT, 1)
    policy.submit(block(1, 0))
    trouble = next_answer(policy).trouble
    assert trouble.fault is Fault.SERVER_ERROR and "says: Internal inference error" in trouble.text
    server.fails = ""
    assert isinstance(next_answer(policy), Resumption)
    assert isinstance(follow(policy, epoch=2)[0], Reply)


# Timing


def test_an_answer_to_an_older_epoch_says_so_and_the_new_one_is_asked_behind_it(connect, server) -> None:
    policy = connect()
    server.let_go.clear()
    policy.reset(PROMPT, 1)
    policy.submit(block(1, 0))
    assert server.computing.wait(PATIENCE_S)
    policy.reset("lift it", 2)
    policy.submit(block(2, 0))
    time.sleep(0.3)
    assert len(server.requests) == 2  # it reads nothing while it computes, so nothing more is sent
    server.let_go.set()
    assert [next_answer(policy).epoch for _ in range(2)] == [1, 2]  # the loop takes those of its own epoch only
    assert server.requests[-1]["prompt"] == "lift it"


def test_a_server_that_does_not_answer_in_time_is_connected_to_anew(connect, server) -> None:
    policy = connect(inference_timeout_s=0.4)
    server.let_go.clear()
    policy.reset(PROMPT, 1)
    policy.submit(block(1, 0))
    interruption = next_answer(policy)
    assert interruption.trouble.fault is Fault.SERVER_SILENT
    assert "has not answered for 0.4 s" in interruption.trouble.text
    server.let_go.set()
    assert isinstance(next_answer(policy, Resumption), Resumption)
    assert isinstance(follow(policy, epoch=2)[0], Reply)


def test_what_the_protocol_has_no_words_for_is_not_asked(connect) -> None:
    policy = connect()
    policy.reset(PROMPT, 1)
    policy.submit(replace(block(1, 0), session=1))
    answer = next_answer(policy)
    assert isinstance(answer, Failure) and "cannot be asked for in this protocol" in answer.message


def test_a_large_request_behind_one_that_is_computed_for_long_is_no_cut_network(connect, server) -> None:
    policy = connect(link_timeout_s=1.0)
    server.let_go.clear()
    follow_later = [(1, 0), (2, 0)]
    for epoch, number in follow_later:
        policy.reset(PROMPT, epoch)
        policy.submit(block(epoch, number, canvas=np.zeros((8, 352, 640, 3), np.uint8)))
        assert server.computing.wait(PATIENCE_S)
    time.sleep(2.0)
    assert policy.poll() is None
    server.let_go.set()
    assert [next_answer(policy).epoch for _ in range(2)] == [1, 2]
