"""One episode on simulated time: what the model is given, what the robot is told, and that nothing else matters."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from dreamzero_policy.evaluation.closed_loop import Episode, Footage, NodeParameters, ParametersError, SuiteWorld
from dreamzero_policy.evaluation.stage import Job, Stage
from dreamzero_policy.evaluation.suite import Suite, SuiteError
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.runtime.limits import Limits
from dreamzero_policy.runtime.loop import Loop
from dreamzero_policy.runtime.observation import NS_PER_S, ObservationBuffer
from dreamzero_policy.runtime.policy import Reply, Request

LATENCY_NS = 150_000_000
STEP_NS = NS_PER_S / 30


class Scripted:
    """Moves the arms by `reach` (normalised) within a chunk, after the latency; says nothing of dreams."""

    def __init__(self, now_ns: Callable[[], int], reach: float = 1.0, think_s: float = 0.0) -> None:
        self.now_ns, self.reach, self.think_s = now_ns, reach, think_s
        self.requests: list[Request] = []
        self.asked_ns: list[int] = []
        self.model_s: list[float] = []
        self.answers: list[tuple[int, Reply]] = []

    @property
    def due_ns(self) -> int | None:
        return self.answers[0][0] if self.answers else None

    def reset(self, prompt: str, epoch: int) -> None:
        self.prompt = prompt

    def submit(self, request: Request) -> None:
        time.sleep(self.think_s)
        rows = np.zeros((24, 32), np.float32)
        rows[:, :14] = self.reach * np.linspace(0, 1, 24)[:, None] ** 2
        self.requests.append(request)
        self.asked_ns.append(self.now_ns())
        self.model_s.append(0.0)
        reply = Reply(request.epoch, rows, request.steps, request.steps, request.seed, 1.0, {"model": 0.0})
        self.answers.append((self.now_ns() + LATENCY_NS, reply))

    def poll(self) -> Reply | None:
        return self.answers.pop(0)[1] if self.answers and self.answers[0][0] <= self.now_ns() else None


def play(suite: Suite, embodiment: Embodiment, parameters: NodeParameters, seed: int = 0, **script: float):
    task = suite.reset("seen", seed)
    world = SuiteWorld(suite, embodiment.contract)
    policy = Scripted(world.now_ns, **script)
    return Episode(world, embodiment, policy, parameters, steps=4).play(task), policy


def test_pictures_are_taken_at_the_instants_of_the_model_and_nowhere_else(
    suite: Suite, embodiment: Embodiment, parameters: NodeParameters
) -> None:
    played, policy = play(suite, embodiment, parameters)
    offsets = [round(steps * NS_PER_S / 30) for steps in range(-21, 1, 3)]
    wanted = {0} | {asked + offset for asked in policy.asked_ns[1:] for offset in offsets}
    if_rejected = {asked + 24 * STEP_NS + offsets[0] for asked in policy.asked_ns}  # before that is known
    taken = [stamp for stamp in suite.pictured_ns if stamp <= policy.asked_ns[-1]]
    in_steps = {(instant + 1_000) // 2_000_000 * 2_000_000 for instant in wanted | if_rejected}
    assert set(taken) == {instant for instant in in_steps if instant <= policy.asked_ns[-1]}
    assert len(taken) == len(set(taken))
    assert [len(request.canvas) for request in policy.requests] == [1, *[8] * (played.chunks - 1)]


def test_the_model_is_given_what_a_node_with_30_frames_a_second_gives_it(
    suite: Suite, embodiment: Embodiment, parameters: NodeParameters
) -> None:
    _, sparse = play(suite, embodiment, parameters)
    task = suite.reset("seen", 0)
    world = SuiteWorld(suite, embodiment.contract)
    policy, buffer = Scripted(world.now_ns), ObservationBuffer(embodiment)
    loop = Loop(embodiment, buffer, policy, world, replace(parameters.loop, steps=4), session="dense")
    loop.run(task.instruction)
    frame = 0
    while frame <= 150:
        frame_ns = round(frame * NS_PER_S / 30)
        world.advance_to(min(frame_ns, policy.due_ns or frame_ns))
        if world.ns == frame_ns:
            seen = suite.observe(images=True)
            for camera, image in seen.images.items():
                buffer.add_image(camera, seen.stamp_ns, world.ns, lambda image=image: image)
            buffer.add_joint_state(seen.stamp_ns, world.ns, suite.joint_names, seen.joints.positions)
            frame += 1
        loop.advance()
    assert len(policy.requests) >= len(sparse.requests) - 1 >= 3
    for ours, theirs in zip(sparse.requests, policy.requests, strict=False):
        np.testing.assert_array_equal(ours.canvas, theirs.canvas)
        np.testing.assert_array_equal(ours.state, theirs.state)


def test_the_answer_comes_after_the_latency_however_long_the_model_took(
    suite: Suite, embodiment: Embodiment, parameters: NodeParameters
) -> None:
    slow, policy = play(suite, embodiment, parameters, think_s=0.01)
    fast, _ = play(suite, embodiment, parameters)
    assert (slow.outcome, slow.seconds, slow.chunks) == (fast.outcome, fast.seconds, fast.chunks)
    cycle_ns = np.diff(policy.asked_ns)
    lead_ns = LATENCY_NS + round(parameters.loop.lead_s * NS_PER_S)
    assert set(cycle_ns) == {round((24 + -(-lead_ns // STEP_NS)) * STEP_NS)}


def test_every_point_that_the_robot_is_told_lies_inside_the_limits(
    suite: Suite, embodiment: Embodiment, parameters: NodeParameters
) -> None:
    play(suite, embodiment, parameters)
    limits = Limits(suite.joint_names, embodiment.contract.site.limits)
    assert suite.followed
    for plan in suite.followed:
        assert limits.judge(plan)
        np.testing.assert_array_equal(plan.velocities[-1], 0)


def test_an_episode_ends_with_success(suite: Suite, embodiment: Embodiment, parameters: NodeParameters) -> None:
    played, _ = play(suite, embodiment, parameters, reach=6.0)
    assert played.outcome.success
    assert played.end == "success"
    assert played.seconds < played.task.duration_s


def test_an_episode_ends_when_its_time_is_over(
    suite: Suite, embodiment: Embodiment, parameters: NodeParameters
) -> None:
    played, _ = play(suite, embodiment, parameters, reach=0.0)
    assert (played.end, played.seconds, played.outcome.progress) == ("time", 5.0, 0.0)


def test_rejected_chunks_move_nothing_and_too_many_in_a_row_end_the_episode(
    suite: Suite, embodiment: Embodiment, parameters: NodeParameters
) -> None:
    played, policy = play(suite, embodiment, replace(parameters, max_consecutive_rejections=3), reach=500.0)
    assert (played.end, dict(played.rejected)) == ("rejections", {"position": 3})
    assert suite.followed == []
    np.testing.assert_array_equal(np.diff(policy.asked_ns), 24 * STEP_NS)


def test_the_same_episode_is_the_same_to_the_last_bit(stage: Stage) -> None:
    runs = []
    for _ in range(2):
        played = stage.play(Job("wam-2", "unseen", 1))
        runs.append((played.outcome, played.seconds, [plan.positions.tobytes() for plan in stage.suite.followed]))
    assert runs[0] == runs[1]
    assert runs[0][2]


def test_filming_changes_nothing_and_holds_a_prediction_for_every_frame_after_the_first(stage: Stage) -> None:
    plain = stage.play(Job("wam-1", "seen", 0))
    footage = Footage("head")
    filmed = stage.play(Job("wam-1", "seen", 0), footage)
    assert (plain.outcome, plain.chunks) == (filmed.outcome, filmed.chunks)
    assert len(footage.dreamed) >= 8 * (filmed.chunks - 1)
    stamps = np.array(sorted(footage.dreamed))
    of_blocks = [s for s in footage.seen if s and np.abs(stamps - s).min() < 1_000_000]
    assert len(of_blocks) >= 8 * (filmed.chunks - 1)


def test_a_suite_whose_stamps_are_not_those_asked_for_is_refused_with_both(
    suite: Suite, embodiment: Embodiment, parameters: NodeParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe = suite.observe

    def late(images: bool):
        seen = observe(images)
        return replace(seen, stamp_ns=seen.stamp_ns - 40_000_000 * (seen.stamp_ns > NS_PER_S // 2))

    monkeypatch.setattr(suite, "observe", late)
    with pytest.raises(SuiteError, match=r"asked for an observation at .* s, the suite stamped it"):
        play(suite, embodiment, parameters)


def test_a_suite_without_a_camera_of_the_contract_is_refused_by_name(
    suite: Suite, embodiment: Embodiment, parameters: NodeParameters
) -> None:
    suite.cameras = ("head", "hand_left")
    with pytest.raises(SuiteError, match="no camera 'hand_right'"):
        play(suite, embodiment, parameters)


def test_a_split_that_the_suite_does_not_have_is_refused_with_those_it_has(stage: Stage) -> None:
    with pytest.raises(SuiteError, match=r"\['seen', 'unseen'\], not 'training'"):
        stage.play(Job("hold", "training", 0))


def test_a_parameter_file_that_is_none_is_named(tmp_path, contract: Contract) -> None:
    (tmp_path / "wrong.yaml").write_text("policy: 1\n")
    with pytest.raises(ParametersError, match=r"wrong\.yaml"):
        NodeParameters.load(tmp_path / "wrong.yaml")
