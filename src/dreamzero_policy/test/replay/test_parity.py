"""Replayed and live: the same actions for the same observations, and what differs is named."""

from dataclasses import replace

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from dreamzero_policy.data.bag_files import OpenBag
from dreamzero_policy.data.bag_messages import CHUNK
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.inference.sessions import Sessions
from dreamzero_policy.replay.run import Model
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.regime import LOOK_AHEAD, OVERLAP, TWO_SESSIONS, RegimeSettings

from ..data.conftest import BagMaker
from .conftest import BEGIN_NS, LiveRecording, LiveWorld

pytest.importorskip("rclpy")


@pytest.mark.parametrize("plugin", list(StoragePlugin))
def test_a_replay_of_a_live_run_gives_its_actions_bit_for_bit(recording, play, tmp_path, plugin):
    document = play(recording.write(tmp_path / "live", plugin=plugin))
    chunks = recording.world.chunks
    assert len(chunks) >= 7 and {chunk.epoch for _, chunk in chunks} == {1, 2}
    assert document["live"]["first_difference"] is None
    assert (document["matches_live"], document["blocks"]) == (True, "live")
    assert document["live"]["equal"] == len(document["chunks"]) == len(chunks)
    assert [c["hash"] for c in document["chunks"]] == [c["live"]["hash"] for c in document["chunks"]]
    assert [c["verdict"] for c in document["chunks"]] == [chunk.verdict.name.lower() for _, chunk in chunks]
    assert document["live"]["largest_difference"] == 0.0


@pytest.mark.parametrize("way", [TWO_SESSIONS, LOOK_AHEAD])
def test_overlapping_chunks_are_replayed_as_they_were_asked_for(live, node, play, tmp_path, way):
    overlapping = replace(node, regime=RegimeSettings(OVERLAP, way), max_plan_s=4.0)
    recording = live(6.0, {0.2: "touch the cube"}, overlapping)
    assert {chunk.stream for _, chunk in recording.world.chunks} == ({0, 1} if way == TWO_SESSIONS else {0})
    assert any(chunk.look_ahead for _, chunk in recording.world.chunks) == (way == LOOK_AHEAD)
    document = play(recording.write(tmp_path / "live"), settings_of_node=overlapping)
    assert (document["matches_live"], document["live"]["compared"]) == (True, len(recording.world.chunks))


def test_rejected_chunks_are_replayed_with_the_noise_that_they_had(live, contract, embodiment, play, tmp_path):
    slow = {joint: limit.model_copy(update={"velocity": 0.02}) for joint, limit in contract.site.limits.items()}
    site = contract.site.model_copy(update={"limits": slow})
    robot = type(embodiment)(contract.model_copy(update={"site": site}), embodiment.statistics)
    recording = live(6.0, {0.2: "touch the cube"}, robot=robot)
    seeds = [chunk.reply.seed for _, chunk in recording.world.chunks]
    assert len(set(seeds)) > 1
    document = play(recording.write(tmp_path / "live"))
    assert document["matches_live"] is True
    assert [chunk["seed"] for chunk in document["chunks"]] == seeds
    assert document["seed"] == min(seeds)


def with_frame(recording: LiveRecording, stamp_ns: int, change) -> list:
    """The messages with `change` made of the head's frame of a stamp: another message, or nothing."""
    found = []
    for message in recording.messages:
        if (message.camera, message.stamp_ns) == ("head", stamp_ns):
            message = change(message)
        found += [message] if message is not None else []
    return found


def head_frame(recording: LiveRecording, chunk: int, frame: int) -> int:
    return recording.world.chunks[chunk][1].block.frame_stamps_ns["head"][frame]


def test_a_frame_that_was_changed_changes_the_actions_from_its_block_on(recording, play, tmp_path):
    stamp_ns = head_frame(recording, 2, 3)
    changed = with_frame(recording, stamp_ns, lambda m: replace(m, content=255 - m.content))
    document = play(recording.write(tmp_path / "changed", changed))
    assert document["matches_live"] is False
    first = document["live"]["first_difference"]
    assert (first["index"], first["epoch"]) == (2, 1)
    assert first["field"].startswith("positions: row 0 of idx21_arm_l_joint1")
    assert first["live"] != first["here"]
    equal = [chunk["live"]["equal"] for chunk in document["chunks"]]
    assert equal[:4] == [True, True, False, False]
    assert all(equal[4:])  # the window was full: chunk 4 opened another one


def test_a_frame_that_a_chunk_names_and_the_bag_lacks_is_named_and_nothing_is_guessed(recording, play, tmp_path):
    stamp_ns = head_frame(recording, 1, 3)
    document = play(recording.write(tmp_path / "lost", with_frame(recording, stamp_ns, lambda _: None)))
    named = f"camera head: frame {stamp_ns / NS_PER_S:.6f} s, named by chunk 1 of epoch 1, is not in the bag"
    assert document["matches_live"] is None
    assert document["problems"]["gaps"] == 1 and document["problems"]["damage"] == 0
    gap = document["problems"]["named"][0]
    assert (gap["kind"], gap["topic"], gap["problem"]) == ("gap", "/head/color/image_raw/compressed", named)
    assert document["live"]["not_compared_because"] == [
        f"chunk 1 of epoch 1: {named}",
        "chunk 2 of epoch 1: what was observed before it is not in the bag",
        "chunk 3 of epoch 1: what was observed before it is not in the bag",
    ]
    replayed = [(chunk["epoch"], chunk["live"]["index"]) for chunk in document["chunks"]]
    assert replayed[:2] == [(1, 0), (1, 4)]  # where the window was full, the next one knows its first frame alone
    assert all(chunk["live"]["equal"] for chunk in document["chunks"])


def test_a_recording_that_begins_in_the_middle_of_an_epoch_is_compared_from_the_next_one_on(recording, play, tmp_path):
    late_ns = recording.world.chunks[1][1].block.observation_ns
    world = recording.world
    messages = [m for m in recording.messages if m.stamp_ns > late_ns]
    late = replace(recording, messages=messages, world=LiveWorld(recording.contract))
    late.world.plans = [entry for entry in world.plans if entry[0] > late_ns]
    late.world.chunks = [entry for entry in world.chunks if entry[1].block.observation_ns > late_ns]
    document = play(late.write(tmp_path / "late"))
    assert document["matches_live"] is None
    assert {chunk["epoch"] for chunk in document["chunks"]} == {2}
    assert document["live"]["equal"] == len(document["chunks"])
    assert document["live"]["not_compared"] == sum(chunk.epoch == 1 for _, chunk in late.world.chunks)


def test_a_chunk_message_that_is_broken_is_told_and_what_follows_it_waits_for_a_window(recording, play, tmp_path):
    bag = recording.write(tmp_path / "whole")
    with OpenBag(bag) as reader, BagMaker(tmp_path / "broken", recording.contract) as maker:
        chunks = 0
        for connection, recorded_ns, data in reader.messages():
            chunks += connection.msgtype == CHUNK
            broken = connection.msgtype == CHUNK and chunks == 2
            maker.serialised(connection.topic, connection.msgtype, recorded_ns, data[:40] if broken else data)
    document = play(tmp_path / "broken")
    problem = document["problems"]["named"][0]
    assert (problem["kind"], problem["topic"]) == ("damage", "/policy_node/chunk")
    assert problem["problem"].startswith("cannot be read: ")
    assert [chunk["live"]["index"] for chunk in document["chunks"]][:2] == [0, 4]
    assert all(chunk["live"]["equal"] for chunk in document["chunks"])
    # It is not counted among the live chunks: nobody knows what it was. Two behind it could not be compared.
    assert (document["matches_live"], document["live"]["not_compared"]) == (None, 2)


def test_a_fork_in_a_live_run_leaves_what_is_before_it_equal(live, node, play, policy, model, tmp_path):
    overlapping = replace(node, regime=RegimeSettings(OVERLAP, LOOK_AHEAD), max_plan_s=4.0)
    bag = live(6.0, {0.2: "touch the cube"}, overlapping).write(tmp_path / "live")
    other = Model(Sessions(policy), model.embodiment, model.checkpoint_hash)
    asked = {"mode": "counterfactual", "from_s": 3.0, "prompt": "lift the bowl"}
    document = play(bag, settings_of_node=overlapping, other=other, **asked)
    assert document["matches_live"] is True
    changed = [chunk["counterfactual"] is not None for chunk in document["chunks"]]
    assert any(changed) and not all(changed)
    assert [chunk["live"]["equal"] for chunk, other in zip(document["chunks"], changed, strict=True) if other] == [
        None
    ] * sum(changed)
    assert document["live"]["compared"] >= changed.index(True) - 1


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"prompt": "drop it"}, "prompt"), ({"seed": 7}, "noise_seed"), ({"steps": 1}, "denoise_steps")],
)
def test_another_prompt_seed_or_number_of_steps_is_the_first_difference(live_bag, play, settings, field):
    document = play(live_bag, **settings)
    assert document["matches_live"] is False
    assert document["live"]["first_difference"]["field"] == field
    assert document["live"]["equal"] == 0


def test_other_weights_are_named_before_the_actions_they_give(live_bag, play, model, node):
    from dreamzero_policy.replay.document import Results
    from dreamzero_policy.replay.run import Replay, ReplaySettings

    with Results() as results:
        document = Replay(replace(model, checkpoint_hash="other"), node, ReplaySettings(), results).play(live_bag)
    assert document["live"]["first_difference"]["field"] == "checkpoint_hash"


def test_a_chunk_of_another_contract_does_not_match_and_blocks_are_the_loops_own(recording, play, tmp_path):
    contract = recording.contract.model_copy(
        update={"model": recording.contract.model.model_copy(update={"embodiment": "elsewhere"})}
    )
    document = play(replace(recording, contract=contract).write(tmp_path / "other"))
    assert (document["matches_live"], document["blocks"]) == (False, "own")
    assert document["live"]["first_difference"]["field"] == "contract_hash"


def test_parity_with_nothing_is_refused(guided, play):
    with pytest.raises(EpisodeError, match=r"guided holds no chunks of a policy_node: there is nothing to be equal to"):
        play(guided, mode="parity")


def test_commands_of_the_run_are_what_its_chunks_wanted(live, node, play, tmp_path):
    to_the_end = replace(node, stopping_rows=0)
    bag = live(4.0, {0.2: "touch the cube"}, to_the_end).write(tmp_path / "run")
    document = play(bag, to_the_end)
    assert len(document["chunks"]) > 3
    for chunk in document["chunks"][:-1]:
        # The cross-fade from rest apart, the robot was told what the chunk says.
        assert chunk["error"]["commands"]["rows"] == 24
        assert chunk["error"]["commands"]["last"] < 1e-3
    assert np.isfinite(document["error"]["commands"]["mean"])


def test_with_the_latencies_of_the_run_the_loop_takes_over_when_the_node_did(live_bag, recording, play):
    document = play(live_bag, mode="timing")
    ours = [chunk["start_s"] for chunk in document["chunks"] if chunk["epoch"] == document["chunks"][0]["epoch"]]
    theirs = [chunk.start_ns / NS_PER_S for _, chunk in recording.world.chunks if chunk.epoch == 1]
    assert document["matches_live"] is None
    pauses = np.diff(ours)[: len(theirs) - 1]
    np.testing.assert_allclose(pauses, np.diff(theirs), atol=0.0334)  # a step of the grid: another opening frame
    assert ours[0] > BEGIN_NS / NS_PER_S
