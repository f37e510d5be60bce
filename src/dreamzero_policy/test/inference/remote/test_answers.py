"""Answers that come late, twice, in another order, for somebody else, or that are none."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from dreamzero_policy.inference.mailbox import Imagine, Reset
from dreamzero_policy.inference.protocol import messages
from dreamzero_policy.inference.protocol.frames import decode_frames
from dreamzero_policy.inference.remote.policy import RemotePolicy
from dreamzero_policy.inference.remote.sessions import Seat, SessionDialogue
from dreamzero_policy.inference.remote.settings import RemoteSettings
from dreamzero_policy.inference.remote.trouble import ServerTrouble
from dreamzero_policy.runtime.faults import Fault
from dreamzero_policy.runtime.policy import (
    ActionPrefix,
    Dream,
    Failure,
    Interruption,
    Observed,
    Purpose,
    Remark,
    Reply,
    Resumption,
    Surprise,
)

from .conftest import PATIENCE_S, ask, next_answer
from .proxies import Post, post_to
from .serving import served

# Over real sockets: between the robot and a real server stands a post that handles messages


@pytest.fixture(scope="module")
def post(arm_checkpoint) -> Iterator[Post]:
    with served(arm_checkpoint) as server, post_to(server.address) as post:
        yield post


@pytest.fixture
def policy(post: Post, arm_contract) -> Iterator[RemotePolicy]:
    post.answers = lambda message: [message]
    settings, seat = RemoteSettings(post.address, inference_timeout_s=5.0, longest_pause_s=0.5), Seat()
    policy = RemotePolicy(settings, lambda server: SessionDialogue(server, arm_contract, seat))
    policy.wait_until_ready(PATIENCE_S)
    policy.reset("touch", 1)
    yield policy
    policy.close()


def is_chunk(message: bytes) -> bool:
    return isinstance(messages.decode_told(message), messages.Chunk)


def test_an_answer_that_comes_twice_is_taken_once_and_counted(post: Post, policy: RemotePolicy) -> None:
    post.answers = lambda message: [message, message] if is_chunk(message) else [message]
    policy.submit(ask(1, 0))
    first = next_answer(policy)
    remark = next_answer(policy)
    assert isinstance(remark, Remark) and remark.trouble.fault is Fault.SERVER_ANSWER_OUTDATED
    policy.submit(ask(1, 1))
    second = next_answer(policy)
    assert np.abs(second.actions - first.actions).max() > 0


def test_answers_in_another_order_are_told_apart_by_their_numbers(post: Post, policy: RemotePolicy) -> None:
    kept: list[bytes] = []

    def swapped(message: bytes) -> list[bytes]:
        """The observation's answer waits for the chunk's."""
        if isinstance(messages.decode_told(message), messages.Observed):
            kept.append(message)
            return []
        return [message, *kept[-1:]]

    post.answers = swapped
    for number in range(3):
        policy.submit(ask(1, number))
        assert isinstance(next_answer(policy), Reply)
    assert len(kept) == 3 and policy.poll() is None


def test_a_late_answer_of_an_older_epoch_is_left_out(post: Post, policy: RemotePolicy) -> None:
    kept: list[bytes] = []

    def late(message: bytes) -> list[bytes]:
        if is_chunk(message) and not kept:
            kept.append(message)
            return []
        return [kept[0], message] if is_chunk(message) else [message]

    post.answers = late
    policy.submit(ask(1, 0))
    deadline = time.monotonic() + PATIENCE_S
    while not kept:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    policy.reset("lift", 2)
    policy.submit(ask(2, 0))
    assert next_answer(policy).epoch == 2
    assert policy.poll() is None


def test_an_answer_that_never_comes_ends_in_a_new_connection(post: Post, policy: RemotePolicy) -> None:
    post.answers = lambda message: [] if is_chunk(message) else [message]
    policy.submit(ask(1, 0))
    interruption = next_answer(policy)
    assert isinstance(interruption, Interruption) and interruption.trouble.fault is Fault.SERVER_SILENT
    post.answers = lambda message: [message]
    assert isinstance(next_answer(policy, Resumption), Resumption)
    policy.reset("touch", 2)
    policy.submit(ask(2, 0))
    assert isinstance(next_answer(policy), Reply)


def test_an_answer_to_nothing_is_a_fault(post: Post, policy: RemotePolicy) -> None:
    post.answers = lambda message: [
        messages.encode(messages.decode_told(message).model_copy(update={"id": 77_777}))
        if is_chunk(message)
        else message
    ]
    policy.submit(ask(1, 0))
    failure = next_answer(policy)
    assert isinstance(failure, Failure) and failure.fault is Fault.SERVER_ANSWER_INVALID
    assert "chunk with id 77777, which was never asked" in failure.message


def test_the_predicted_video_and_surprise_come_as_from_a_model_beside_the_loop(policy: RemotePolicy) -> None:
    for number in range(2):
        policy.submit(ask(1, number, followed=True))
        assert isinstance(next_answer(policy), Reply)
    surprise = next_answer(policy)
    assert isinstance(surprise, Surprise) and surprise.cells.ndim == 3 and (surprise.cells > 0).all()
    policy.dream(1)
    dream = next_answer(policy, Dream)
    assert (dream.epoch, dream.canvas.shape) == (1, (8, 32, 32, 3))


# Without a socket


@pytest.fixture
def dialogue(arm_contract) -> SessionDialogue:
    """One that has been greeted, in epoch 1."""
    dialogue = SessionDialogue(RemoteSettings("ws://robot:1"), arm_contract, Seat())
    greet(dialogue, opened)
    dialogue.speak(Reset("touch", 1))
    dialogue.heard(messages.encode(messages.WasReset(id=1, epoch=1, timings_s={})))
    return dialogue


def opened(question: messages.Ask, contract: str) -> messages.Told:
    return messages.Opened(
        id=question.id,
        token="token-1",
        resumed=isinstance(question, messages.Resume),
        epoch=0,
        branches={},
        contract=contract,
        checkpoint="a" * 64,
        parameters=1000,
        device="cpu",
        dtype="float32",
        threads=1,
        guidance_scale=1.0,
        steps=4,
        canvas=[32, 32],
        frames=8,
        period_s=1.6,
        resume_s=30.0,
        memory_bytes=1,
        message_bytes=1 << 20,
        statistics={},
        calibration=None,
    )


def greet(dialogue: SessionDialogue, *answers: object) -> list[messages.Ask]:
    """What the dialogue sends when the server answers so."""
    sent: list[messages.Ask] = []
    waiting = list(answers)

    async def send(frame: bytes) -> None:
        sent.append(messages.decode_ask(frame))

    async def receive() -> bytes:
        return messages.encode(waiting.pop(0)(sent[-1], dialogue.contract.hash))

    asyncio.run(dialogue.greet(send, receive))
    return sent


def spoken(dialogue: SessionDialogue, request: object) -> list[messages.Ask]:
    return [messages.decode_ask(frame) for frame in dialogue.speak(request)]


def chunk_for(question: messages.Predict, **changes: object) -> bytes:
    values = {
        "id": question.id,
        "epoch": question.epoch,
        "branch": question.branch,
        "block": question.block,
        "observation_ns": 0,
        "actions": np.zeros((24, 10), np.float32),
        "steps": question.steps,
        "evaluations": question.steps,
        "seed": question.seed,
        "guidance_scale": 1.0,
        "held_rows": 0,
        "timings_s": {"model": 0.1},
    }
    return messages.encode(messages.Chunk(**(values | changes)))


def test_a_request_is_an_observation_and_a_question(dialogue: SessionDialogue) -> None:
    prefix = ActionPrefix(np.ones((2, 3), np.float32), np.arange(3), soft_rows=1)
    request = ask(1, 0, session=1, seed=9, followed=True, prefix=prefix)
    observe, predict = spoken(dialogue, request)
    assert (observe.branch, observe.block, observe.compare, observe.stamps_ns) == (1, 0, True, [0])
    np.testing.assert_array_equal(decode_frames(observe.frames), request.canvas)
    assert (predict.branch, predict.block, predict.seed, predict.look_ahead) == (1, 0, 9, False)
    np.testing.assert_array_equal(predict.prefix.rows, prefix.rows)
    assert predict.prefix.soft_rows == 1 and predict.deadline_s == dialogue.settings.inference_timeout_s
    (again,) = spoken(dialogue, replace(request, canvas=None, purpose=Purpose.LOOK_AHEAD))
    assert (again.block, again.look_ahead) == (0, True)
    (only,) = spoken(dialogue, replace(request, purpose=Purpose.OBSERVE))
    assert (only.type, only.block) == ("observe", 1)


def test_blocks_are_counted_for_every_branch_and_anew_in_every_epoch(dialogue: SessionDialogue) -> None:
    blocks = [spoken(dialogue, ask(1, n, session=s))[0].block for n, s in ((0, 0), (1, 0), (0, 1), (2, 0))]
    assert blocks == [0, 1, 0, 2]
    dialogue.speak(Reset("lift", 2))
    assert spoken(dialogue, ask(2, 0))[0].block == 0
    assert spoken(dialogue, ask(1, 0)) == []  # of an epoch that is over


def test_only_an_observation_is_answered_as_one(dialogue: SessionDialogue) -> None:
    (observe,) = spoken(dialogue, ask(1, 0, purpose=Purpose.OBSERVE))
    told = messages.Observed(id=observe.id, epoch=1, branch=0, block=0, window=0, window_opened=True, timings_s={})
    assert dialogue.heard(messages.encode(told)) == [Observed(1)]
    assert dialogue.waiting_since_s is None


def test_it_is_known_since_when_an_answer_is_awaited(dialogue: SessionDialogue) -> None:
    assert dialogue.waiting_since_s is None
    dialogue.speak(Imagine(1))
    assert dialogue.waiting_since_s is None  # nobody waits for a dream
    began = time.monotonic()
    observe, predict = spoken(dialogue, ask(1, 0))
    assert began <= dialogue.waiting_since_s <= time.monotonic()
    observed = messages.Observed(id=observe.id, epoch=1, branch=0, block=0, window=0, window_opened=True, timings_s={})
    assert dialogue.heard(messages.encode(observed)) == []
    assert dialogue.waiting_since_s is not None
    dialogue.heard(chunk_for(predict))
    assert dialogue.waiting_since_s is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"epoch": 7}, "a chunk of epoch 7, branch 0 where epoch 1, branch 0"),
        ({"branch": 1}, "branch 1 where epoch 1, branch 0"),
        ({"actions": np.zeros((12, 10), np.float32)}, r"actions \[12, 10\], the contract has \[24, 8\]"),
        ({"actions": np.zeros((24, 7), np.float32)}, r"actions \[24, 7\]"),
    ],
)
def test_a_chunk_that_was_not_asked_for_is_a_fault(dialogue: SessionDialogue, changes: dict, text: str) -> None:
    _, predict = spoken(dialogue, ask(1, 0))
    with pytest.raises(ServerTrouble, match=text) as caught:
        dialogue.heard(chunk_for(predict, **changes))
    assert caught.value.fault is Fault.SERVER_ANSWER_INVALID and caught.value.final


@pytest.mark.parametrize("frame", ["Traceback (most recent call last)", b"\xc1", messages.encode(messages.Close(id=1))])
def test_what_is_no_message_of_a_server_is_a_fault(dialogue: SessionDialogue, frame: bytes | str) -> None:
    with pytest.raises(ServerTrouble, match="the server's answer is none") as caught:
        dialogue.heard(frame)
    assert caught.value.fault is Fault.SERVER_ANSWER_INVALID


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("full", Fault.SERVER_BUSY),
        ("draining", Fault.SERVER_BUSY),
        ("deadline", Fault.SERVER_SILENT),
        ("internal", Fault.SERVER_ERROR),
        ("block", Fault.SERVER_ERROR),
        ("memory", Fault.SERVER_REFUSED),
        ("refused", Fault.SERVER_REFUSED),
    ],
)
def test_every_refusal_has_one_name(dialogue: SessionDialogue, code: str, fault: Fault) -> None:
    _, predict = spoken(dialogue, ask(1, 0))
    with pytest.raises(ServerTrouble, match=f"says {code}: because") as caught:
        dialogue.heard(messages.encode(messages.Error(id=predict.id, code=code, message="because")))
    assert caught.value.fault is fault


def test_a_refusal_of_what_is_no_longer_asked_changes_nothing(dialogue: SessionDialogue) -> None:
    _, predict = spoken(dialogue, ask(1, 0))
    dialogue.speak(Reset("lift", 2))
    assert dialogue.heard(messages.encode(messages.Error(id=predict.id, code="epoch", message="old"))) == []
    dream = messages.decode_ask(dialogue.speak(Imagine(2))[0])
    assert dialogue.heard(messages.encode(messages.Error(id=dream.id, code="order", message="none yet"))) == []


def test_a_place_on_the_server_is_taken_up_by_its_token_and_else_asked_for_anew(dialogue: SessionDialogue) -> None:
    def unknown(question: messages.Ask, _: str) -> messages.Told:
        return messages.Error(id=question.id, code="token", message="no session has this token")

    def next_connection() -> SessionDialogue:
        return SessionDialogue(dialogue.settings, dialogue.contract, dialogue.seat)

    (resume,) = greet(next_connection(), opened)
    assert (resume.type, resume.token) == ("resume", "token-1")
    resume, anew = greet(next_connection(), unknown, opened)
    assert (resume.type, anew.type, anew.contract) == ("resume", "open", dialogue.contract.hash)
    assert resume.id < anew.id


def test_a_server_that_goes_away_is_not_asked_any_more(dialogue: SessionDialogue) -> None:
    _, predict = spoken(dialogue, ask(1, 0))
    assert dialogue.heard(messages.encode(messages.Draining(within_s=10.0))) == []
    assert isinstance(dialogue.heard(chunk_for(predict))[0], Reply)  # what is under way is still answered
    with pytest.raises(ServerTrouble, match="goes away within 10 s") as caught:
        dialogue.speak(ask(1, 1))
    assert caught.value.fault is Fault.SERVER_BUSY and not caught.value.final
