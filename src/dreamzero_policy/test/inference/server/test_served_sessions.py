"""A chunk that comes over the wire is the chunk of the robot's own process, bit for bit; and what goes with that."""

import time

import numpy as np
import pytest

from dreamzero_policy.inference.loading import Policy
from dreamzero_policy.inference.protocol import messages
from dreamzero_policy.inference.sessions import Sessions
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.policy import ActionPrefix, Purpose, Request

from .robots import robot

STATE = np.linspace(-1, 1, 8, dtype=np.float32)
BLOCKS = np.random.default_rng(1).integers(0, 256, (12, 8, 32, 32, 3), np.uint8)


def local(policy: Policy, prompt: str = "wave") -> Sessions:
    sessions = Sessions(policy)
    sessions.reset(prompt)
    return sessions


def request(canvas: np.ndarray | None, seed: int = 5, **fields: object) -> Request:
    return Request(1, canvas, STATE, 2, seed, time.monotonic_ns(), **fields)


def block(number: int) -> np.ndarray:
    return BLOCKS[0, :1] if number == 0 else BLOCKS[number]


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_lossless_frames_give_the_chunks_of_the_same_model_here(
    server, arm_contract: Contract, arm_policy: Policy, encoding: str
) -> None:
    here = local(arm_policy)
    with robot(server.address) as there:
        there.open(arm_contract.hash)
        for number in range(7):  # over the end of a window
            there.observe(number, block(number), encoding, compare=True)
            theirs = there.predict(number, STATE, seed=number)
            ours = here.answer(request(block(number), number, followed=True))
            np.testing.assert_array_equal(theirs.actions, ours.actions)
            assert theirs.actions.dtype == np.float32
            assert (theirs.seed, theirs.steps, theirs.evaluations) == (ours.seed, ours.steps, ours.evaluations)
            assert theirs.observation_ns == len(block(number)) - 1
            cells = here.surprise()
            if cells is not None:
                there.ask(messages.Dream)  # behind which it has come
                np.testing.assert_array_equal(there.unasked[-1].cells, cells)
        assert len(there.unasked) == 6


def test_looking_ahead_and_prefixes_are_those_of_the_same_model_here(
    server, arm_contract: Contract, arm_policy: Policy
) -> None:
    here = local(arm_policy)
    rows, columns = np.array([[0.3, -2.5], [0.2, -2.0]], np.float32), np.array([1, 4])
    with robot(server.address) as there:
        there.open(arm_contract.hash)
        for number in range(3):
            there.observe(number, block(number))
            prefix = messages.Prefix(rows=rows, columns=columns, soft_rows=1) if number == 2 else None
            theirs = there.predict(number, STATE, prefix=prefix)
            held = ActionPrefix(rows, columns, 1) if number == 2 else None
            ours = here.answer(request(block(number), prefix=held))
            np.testing.assert_array_equal(theirs.actions, ours.actions)
            assert theirs.held_rows == ours.held_rows
            ahead = there.predict(number, STATE, look_ahead=True)
            np.testing.assert_array_equal(ahead.actions, here.answer(request(None, purpose=Purpose.LOOK_AHEAD)).actions)
        dreamt = there.ask(messages.Dream)
        assert b"".join(dreamt.frames.images) == here.dream().tobytes()


def test_frames_of_a_stated_jpeg_quality_are_taken(server, arm_contract: Contract) -> None:
    with robot(server.address) as there:
        there.open(arm_contract.hash)
        assert isinstance(there.observe(0, block(0), "jpeg"), messages.Observed)
        assert isinstance(there.predict(0, STATE), messages.Chunk)


def test_asks_sent_at_once_are_answered_in_their_order(server, arm_contract: Contract) -> None:
    with robot(server.address) as there:
        there.open(arm_contract.hash)
        asked = []
        for number in range(3):
            frames = messages.Frames(encoding="raw", height=32, width=32, images=[f.tobytes() for f in block(number)])
            stamps = list(range(len(frames.images)))
            asked.append(there.send(messages.Observe, block=number, stamps_ns=stamps, frames=frames))
            asked.append(there.send(messages.Predict, block=number, state=STATE, steps=1, seed=0))
        heard = [there.hear() for _ in asked]
        assert [told.id for told in heard] == asked
        assert [type(told) for told in heard] == [messages.Observed, messages.Chunk] * 3


def test_every_stage_is_timed(server, arm_contract: Contract) -> None:
    with robot(server.address) as there:
        there.open(arm_contract.hash)
        there.observe(0, block(0))
        timings_s = there.predict(0, STATE).timings_s
        assert set(timings_s) == {"decode", "queue", "encode", "observe", "denoise", "model", "server"}
        assert timings_s["model"] >= timings_s["encode"] + timings_s["observe"] + timings_s["denoise"] > 0
        again_s = there.predict(0, STATE).timings_s
        assert set(again_s) == {"queue", "denoise", "model", "server"}


def test_forks_go_their_own_ways_and_a_rollback_comes_back(server, arm_contract: Contract) -> None:
    with robot(server.address) as there:
        there.open(arm_contract.hash)
        there.observe(0, block(0))
        kept = there.ask(messages.Snapshot)
        there.observe(1, block(1))
        first = there.predict(1, STATE).actions
        assert there.ask(messages.Fork, branch=0, into=1).block == 1
        there.observe(2, block(2))
        there.observe(2, block(3), branch=1)
        assert not np.array_equal(there.predict(2, STATE).actions, there.predict(2, STATE, branch=1).actions)
        assert there.ask(messages.Rollback, snapshot=kept.snapshot, new_epoch=2).block == 0
        assert there.predict(0, STATE).code == "epoch"
        there.epoch = 2
        there.observe(1, block(1))
        np.testing.assert_array_equal(there.predict(1, STATE).actions, first)


def test_a_reset_forgets_and_may_change_the_prompt(server, arm_contract: Contract, arm_policy: Policy) -> None:
    with robot(server.address) as there:
        there.open(arm_contract.hash)
        there.observe(0, block(0))
        waving = there.predict(0, STATE).actions
        assert there.ask(messages.Reset, epoch=1).code == "epoch"
        there.epoch = 2
        assert there.ask(messages.Reset, prompt="push").timings_s["prompt"] > 0
        assert there.predict(0, STATE).code == "branch"
        there.observe(0, block(0))
        pushing = there.predict(0, STATE).actions
        assert not np.array_equal(pushing, waving)
        np.testing.assert_array_equal(pushing, local(arm_policy, "push").answer(request(block(0))).actions)


@pytest.mark.parametrize(
    ("kind", "fields", "code"),
    [
        (messages.Predict, {"block": 1, "state": STATE, "steps": 1, "seed": 0}, "block"),
        (messages.Predict, {"block": 0, "state": STATE[:7], "steps": 1, "seed": 0}, "refused"),
        (messages.Predict, {"block": 0, "state": STATE, "steps": 65, "seed": 0}, "refused"),
        (messages.Predict, {"block": 0, "state": STATE, "steps": 1, "seed": 0, "branch": 3}, "branch"),
        (messages.Predict, {"block": 0, "state": STATE, "steps": 1, "seed": 0, "deadline_s": 0.0}, "deadline"),
        (messages.Predict, {"block": 0, "state": STATE, "steps": 1, "seed": 0, "epoch": 4}, "epoch"),
        (messages.Predict, {"block": 0, "state": STATE, "steps": 1, "seed": 0, "look_ahead": True}, "refused"),
        (messages.Fork, {"branch": 0, "into": 0}, "branch"),
        (messages.Rollback, {"snapshot": 0, "new_epoch": 2}, "branch"),
        (messages.Open, {"contract": "0" * 64, "prompt": ""}, "order"),
        (messages.Resume, {"token": "x"}, "order"),
    ],
)
def test_what_may_not_be_is_refused_by_its_name_and_changes_nothing(
    server, arm_contract: Contract, arm_policy: Policy, kind: type, fields: dict, code: str
) -> None:
    with robot(server.address) as there:
        there.open(arm_contract.hash)
        there.observe(0, block(0))
        refused = there.ask(kind, **fields)
        assert (type(refused), refused.code, refused.closing) == (messages.Error, code, False)
        here = local(arm_policy).answer(request(block(0)))
        np.testing.assert_array_equal(there.predict(0, STATE).actions, here.actions)


@pytest.mark.parametrize(
    ("canvas", "number", "code"),
    [
        (BLOCKS[1], 0, "refused"),  # a block before the first frame
        (BLOCKS[1], 2, "block"),
        (BLOCKS[1, :4], 1, "refused"),
        (BLOCKS[1, :, :16], 1, "refused"),
    ],
)
def test_a_block_that_is_not_the_next_whole_one_is_refused(
    server, arm_contract: Contract, canvas: np.ndarray, number: int, code: str
) -> None:
    with robot(server.address) as there:
        there.open(arm_contract.hash)
        if number > 0:
            there.observe(0, block(0))
        assert there.observe(number, canvas).code == code


def test_another_contract_is_refused_and_both_are_named(server, arm_contract: Contract) -> None:
    with robot(server.address) as there:
        refused = there.open("0" * 64)
        assert (refused.code, refused.closing) == ("contract", True)
        assert "0" * 12 in refused.message
        assert arm_contract.hash[:12] in refused.message


def test_nothing_is_done_before_a_session_is_open(server) -> None:
    with robot(server.address) as there:
        assert there.predict(0, STATE).code == "order"


def test_a_session_takes_no_more_memory_than_its_budget(server, arm_contract: Contract) -> None:
    with robot(server.address) as there:
        there.open(arm_contract.hash)
        for branch in range(3):
            assert isinstance(there.observe(0, block(0), branch=branch), messages.Observed)
        for refused in (there.observe(0, block(0), branch=3), there.ask(messages.Snapshot)):
            assert refused.code == "memory"
