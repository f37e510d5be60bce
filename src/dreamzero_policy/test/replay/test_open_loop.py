"""Any recording through the loop: repeatable, without gaps, beside what the robot did, in constant memory."""

import re
import time
from dataclasses import replace

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from dreamzero_policy.data.bag_files import OpenBag
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.problems import Problems
from dreamzero_policy.inference.sessions import Sessions
from dreamzero_policy.replay.document import Results
from dreamzero_policy.replay.own_blocks import OwnBlocks
from dreamzero_policy.replay.policy import ModelFailed
from dreamzero_policy.replay.recording import BagStream
from dreamzero_policy.replay.replayer import BagWorld, Replayer
from dreamzero_policy.replay.run import Model, Replay, ReplaySettings
from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.runtime.policy import Reply
from dreamzero_policy.runtime.trained import load_statistics

from ..data.conftest import BagMaker
from .conftest import BEGIN_NS, pose, said, write_said

STEP_S = 1 / 30


def test_a_bag_replayed_twice_gives_one_hash_and_another_seed_gives_another(guided, play):
    first, again, other = play(guided), play(guided), play(guided, seed=7)
    assert first["chunk_hash"] == again["chunk_hash"] != other["chunk_hash"]
    assert [chunk["hash"] for chunk in first["chunks"]] == [chunk["hash"] for chunk in again["chunks"]]
    assert (first["matches_live"], first["live"], first["blocks"]) == (None, None, "own")
    assert (first["seed"], other["seed"]) == (1140, 7)  # the node's default


def test_the_form_of_the_bag_does_not_matter(guided, play, contract, tmp_path):
    with BagMaker(tmp_path / "guided", contract, StoragePlugin.SQLITE3) as bag:
        write_said(bag, said(contract, 4.0))
    raw = tmp_path / "raw"
    with BagMaker(raw, contract) as bag:
        for message in sorted(said(contract, 4.0), key=lambda message: message.recorded_ns):
            late_ns = message.recorded_ns - message.stamp_ns
            if message.camera:
                bag.raw_image(message.camera, message.stamp_ns, message.content, late_ns)
            else:
                bag.joints(message.stamp_ns, message.content, late_ns)
    hashes = {play(bag, prompt="touch the cube")["chunk_hash"] for bag in (guided, tmp_path / "guided", raw)}
    assert len(hashes) == 1


def test_blocks_follow_each_other_without_a_gap(guided, play):
    document = play(guided)
    stamps = [chunk["stamp_s"] for chunk in document["chunks"]]
    assert len(stamps) == 5  # 4 s: the frame that opens a window, and every 0.8 s
    np.testing.assert_allclose(np.diff(stamps), 24 * STEP_S, atol=1e-6)
    assert [chunk["start_s"] for chunk in document["chunks"]] == stamps
    assert {chunk["verdict"] for chunk in document["chunks"]} == {"accepted"}


class Still:
    """A model that wants the robot to stay where it is."""

    def reset(self, prompt: str) -> None:
        self.prompt = prompt

    def answer(self, request):
        return Reply(request.epoch, np.zeros((24, 32), np.float32), request.steps, request.steps, request.seed, 1.0)


def test_the_error_is_the_distance_from_where_the_robot_then_was(guided, embodiment, node):
    with Results() as results:
        model = Model(Still(), embodiment, "none")
        document = Replay(model, node, ReplaySettings(), results).play(guided)
    # One arm joint moves by 0.05 rad/s, the other 19 stand; rows 0 … 23 of a chunk that stays behind by that much.
    whole = document["chunks"][0]["error"]["states"]
    assert whole["rows"] == 24
    assert whole["mean"] == pytest.approx(0.05 * 11.5 * STEP_S / 20, rel=0.02)
    assert whole["last"] == pytest.approx(0.05 * 23 * STEP_S / 20, rel=0.02)
    assert whole["groups"]["left_arm_joint_position"] == pytest.approx(0.05 * 11.5 * STEP_S / 7, rel=0.02)
    assert whole["groups"]["right_arm_joint_position"] == pytest.approx(0.0, abs=1e-9)
    assert document["chunks"][0]["error"]["commands"] is None  # no trajectories in this bag
    assert document["error"]["commands"] is None


def test_rows_behind_the_end_of_the_bag_are_not_compared(contract, play, tmp_path):
    with BagMaker(tmp_path / "bag", contract) as bag:
        write_said(bag, said(contract, 2.0))
    errors = [chunk["error"]["states"] for chunk in play(tmp_path / "bag", prompt="touch")["chunks"]]
    assert [error["rows"] for error in errors] == [24, 24, 12]  # the last one begins 0.4 s before the end


def test_a_recorder_on_another_clock_than_the_stamps_changes_nothing_but_leaves_commands_aside(
    guided, contract, play, tmp_path
):
    def hold(bag: BagMaker, late_ns: int) -> None:
        for controller in contract.site.controllers:
            points = [(0.1, [pose(contract, 0)[joint] for joint in controller.joints], [])]
            bag.trajectory(controller.name, BEGIN_NS + late_ns, controller.joints, points)

    documents = []
    for late_ns in (0, 1_000_000_000_000):
        with BagMaker(tmp_path / f"{late_ns}", contract) as bag:
            hold(bag, late_ns)
            write_said(bag, [replace(m, recorded_ns=m.recorded_ns + late_ns) for m in said(contract, 4.0)])
        documents.append(play(tmp_path / f"{late_ns}", prompt="touch the cube"))
    same, other = documents
    assert same["chunk_hash"] == other["chunk_hash"] == play(guided)["chunk_hash"]
    # Commands hold the pose of the begin: the chunks want to be within their reach of it.
    assert same["error"]["commands"]["chunks"] == 5 and same["error"]["commands"]["mean"] < 0.1
    assert other["error"]["commands"] is None
    assert same["error"]["states"] == other["error"]["states"]


def test_what_is_kept_does_not_grow_with_the_bag(contract, policy, embodiment, node, tmp_path):
    kept = []
    for seconds in (5.0, 15.0):
        folder = tmp_path / f"{seconds:.0f}"
        with BagMaker(folder, contract) as bag:
            write_said(bag, said(contract, seconds))
            for i in range(int(seconds * 10)):
                for controller in contract.site.controllers:
                    points = [(0.1, [pose(contract, 0)[joint] for joint in controller.joints], [])]
                    bag.trajectory(controller.name, BEGIN_NS + i * 100_000_000, controller.joints, points)
        most = 0
        with OpenBag(folder) as reader:
            stream = BagStream(reader, contract)
            replayer = Replayer(stream, embodiment, Sessions(policy), node, Problems(), lambda *_: None)
            feed, one = replayer.feed, replayer.feed.one

            def counted(one=one, replayer=replayer) -> bool:
                nonlocal most
                motion = replayer.motion
                histories = sum(len(history.commands) for history in motion._histories.values())
                frames = sum(len(camera.items) for camera in replayer.buffer.cameras.values())
                most = max(most, frames + len(replayer.buffer.joints.items) + len(motion._states) + histories)
                return one()

            feed.one = counted
            OwnBlocks(replayer, [(0, "touch")], at_once=True).play()
        kept.append(most)
    assert kept[1] <= kept[0] + 40  # a period of each source, at the most unlucky moment


def test_a_bag_that_does_not_say_what_was_done_asks_for_a_prompt(contract, play, tmp_path):
    with BagMaker(tmp_path / "mute", contract) as bag:
        write_said(bag, said(contract, 1.5))
    with pytest.raises(EpisodeError, match=r"mute does not say what was done.*instructions.txt.*give --prompt"):
        play(tmp_path / "mute")
    assert play(tmp_path / "mute", prompt="touch")["chunks"][0]["prompt"] == "touch"


def test_a_lost_frame_begins_another_window_and_is_named(contract, play, tmp_path):
    with BagMaker(tmp_path / "lost", contract) as bag:
        hole_ns = BEGIN_NS + 1_000_000_000
        lost = [m for m in said(contract, 4.0) if not (m.camera == "head" and abs(m.stamp_ns - hole_ns) < 60_000_000)]
        write_said(bag, lost)
    document = play(tmp_path / "lost", prompt="touch")
    gap = document["problems"]["named"][0]
    assert (document["problems"]["gaps"], document["problems"]["damage"]) == (1, 0)
    assert (gap["kind"], gap["topic"]) == ("gap", "/head/color/image_raw/compressed")
    assert re.match(r"camera head: no frame at 10[01]\.[90]\d+ s, the nearest is", gap["problem"])
    epochs = [chunk["epoch"] for chunk in document["chunks"]]
    assert len(set(epochs)) == 2


# Another policy from an instant on


def test_another_prompt_from_an_instant_on_changes_what_is_behind_it_and_nothing_before(guided, model, play, policy):
    before = play(guided)
    other = Model(Sessions(policy), model.embodiment, model.checkpoint_hash)
    document = play(guided, other=other, mode="counterfactual", from_s=1.5, prompt="lift the bowl")
    at = [chunk["counterfactual"] is not None for chunk in document["chunks"]]
    assert at == [False, False, True, True, True]  # observed at 0, 0.8, 1.6, 2.4 and 3.2 s
    hashes = [chunk["hash"] for chunk in document["chunks"]]
    recorded = [chunk["hash"] for chunk in before["chunks"]]
    assert hashes[:2] == recorded[:2]
    assert all(ours != theirs for ours, theirs in zip(hashes[2:], recorded[2:], strict=True))
    assert [chunk["prompt"] for chunk in document["chunks"]] == ["touch the cube"] * 2 + ["lift the bowl"] * 3
    assert document["counterfactual"]["chunks"] == 3
    assert document["counterfactual"]["largest_change"] > 0
    # The fork has seen the same frames: from the begin on with the other prompt, it would have come to the same.
    alone = play(guided, prompt="lift the bowl")
    assert hashes[2:] == [chunk["hash"] for chunk in alone["chunks"]][2:]


def test_a_checkpoint_that_takes_over_acts_with_its_own_statistics(
    guided, play, policy, contract, embodiment, write_robot_checkpoint, tmp_path
):
    folder = write_robot_checkpoint(tmp_path / "other", 0.04)  # the same weights, twice the reach
    other = Model(Sessions(policy), Embodiment(contract, load_statistics(folder, contract)), "other")
    before = play(guided)
    document = play(guided, other=other, mode="counterfactual", from_s=1.5)
    change = document["chunks"][2]["counterfactual"]
    assert change["largest_change"] > 0
    assert document["chunks"][1]["hash"] == before["chunks"][1]["hash"]
    alone = play(guided, other=Model(Sessions(policy), embodiment, ""), mode="counterfactual", from_s=1.5)
    assert alone["chunk_hash"] == before["chunk_hash"]  # the same policy takes over: nothing changes
    assert alone["counterfactual"]["largest_change"] == 0.0


def test_a_fork_behind_the_last_chunk_is_refused(guided, play, policy, model):
    other = Model(Sessions(policy), model.embodiment, "other")
    with pytest.raises(EpisodeError, match=r"no chunk of bag .*guided lies behind --from 9 s"):
        play(guided, other=other, mode="counterfactual", from_s=9.0, prompt="lift the bowl")


class Failing(Still):
    def answer(self, request):
        raise RuntimeError("out of memory")


def test_a_model_that_fails_is_not_taken_for_a_damaged_bag(guided, embodiment, node):
    with Results() as results, pytest.raises(ModelFailed, match="the model failed: RuntimeError: out of memory"):
        Replay(Model(Failing(), embodiment, "none"), node, ReplaySettings(), results).play(guided)


# Answers that take time


def test_answers_that_take_time_leave_pauses_as_on_a_robot(guided, play):
    document = play(guided, mode="timing", latency_s=0.3)
    stamps = [chunk["stamp_s"] for chunk in document["chunks"]]
    # Heard up to 0.04 s after its observation, answered 0.3 s later, led by 0.06 s: the 11th or 12th step of the grid.
    pauses = np.diff(stamps) / STEP_S - 24
    np.testing.assert_allclose(pauses, np.round(pauses), atol=1e-4)
    assert set(np.round(pauses)) <= {11, 12}
    assert document["chunks"][0]["latency_s"] == pytest.approx(0.3)


def test_a_bag_without_chunks_does_not_know_how_long_answers_took(guided, play):
    with pytest.raises(EpisodeError, match=r"no ActionChunk in it; give --latency"):
        play(guided, mode="timing")


def test_a_rate_keeps_the_clock_from_running_faster_and_does_not_change_what_comes_of_it(guided, play):
    document = play(guided, rate=4.0)
    assert document["realtime_factor"] <= 5.0  # 3.2 of 4 s lie between the first and the last block
    assert document["chunk_hash"] == play(guided)["chunk_hash"]


def test_real_time_begins_with_the_first_instant_and_anew_where_the_clock_is_set_back():
    world, began = BagWorld(rate=1.0), time.monotonic()
    for instant_ns in (10**18, 10**18 + 30_000_000, 10**17, 10**17 + 30_000_000):
        world.set_to(instant_ns)
    assert time.monotonic() - began >= 0.06
