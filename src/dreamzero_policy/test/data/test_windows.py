"""What a window promises: training sees frame by frame and row by row what the live loop sees and commands."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dreamzero_policy.data.episodes import Episode, EpisodeError, load_episode
from dreamzero_policy.data.windows import anchors, chunks_after, frame_steps, quantiles, window
from dreamzero_policy.runtime.canvas import camera_view, canvas_of
from dreamzero_policy.runtime.contract import load_contract
from dreamzero_policy.runtime.embodiment import Embodiment, Quantiles, Statistics, save_statistics
from dreamzero_policy.runtime.observation import NS_PER_S, ObservationBuffer

CONTRACT = load_contract(Path(__file__).resolve().parents[4] / "config" / "agibot_g1.yaml")
MODEL = CONTRACT.model
STEPS = 120


def embodiment() -> Embodiment:
    """Quantiles of ±4: nothing is clamped."""
    wide = lambda width: Quantiles(np.full(width, -4.0), np.full(width, 4.0))  # noqa: E731
    return Embodiment(CONTRACT, Statistics(wide(len(MODEL.state_joints)), wide(MODEL.action_width), ""))


def picture(step: int) -> np.ndarray:
    """A canvas on which the one colour of each view tells camera and step."""
    views = {
        camera: np.full((1, *MODEL.view_size_px(camera), 3), (40 * number, step, 200), np.uint8)
        for number, camera in enumerate(MODEL.cameras)
    }
    return canvas_of(views, MODEL)[0]


def episode() -> Episode:
    """State and command of a step tell the step: state n / 100, command n / 100 + 0.005 (base velocity 0)."""
    state = np.repeat(np.arange(STEPS)[:, None] / 100, len(MODEL.state_joints), 1)
    action = np.concatenate([state + 0.005, np.zeros((STEPS, 2))], axis=1)
    steps = np.arange(0, STEPS, 3)
    canvas = np.array([picture(step) for step in steps])
    return Episode("touch the Red cube", state, action, canvas, steps)


def test_a_window_takes_frames_states_and_commands_of_the_steps_the_reference_names():
    got = window(embodiment(), episode(), anchor=6, chunks=2)
    head = camera_view(got.canvas, MODEL, "head")
    assert head[:, 0, 0, 1].tolist() == [6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42, 45, 48, 51, 54]
    np.testing.assert_allclose(got.state[:, 0] * 4, [0.06, 0.30], atol=1e-6)
    # relative to the state at the chunk's first step, command by command
    np.testing.assert_allclose(got.action[1, :3, 0] * 4, [0.005, 0.015, 0.025], atol=1e-6)
    assert got.prompt == "touch the red cube"


def test_training_and_live_blocks_are_equal_frame_by_frame():
    made, robot, step_ns, begin_ns = episode(), embodiment(), NS_PER_S / MODEL.action_hz, 50 * NS_PER_S
    buffer = ObservationBuffer(robot)
    sites = [CONTRACT.site.cameras[camera] for camera in MODEL.cameras]
    for step in range(60):
        stamp_ns = begin_ns + round(step * step_ns)
        for number, (camera, site) in enumerate(zip(MODEL.cameras, sites, strict=True)):
            image = np.full((site.height_px, site.width_px, 3), (40 * number, step, 200), np.uint8)
            buffer.add_image(camera, stamp_ns, stamp_ns, lambda image=image: image)
        radians = dict(zip(MODEL.state_joints, made.state[step], strict=True))
        for joint, gripper in CONTRACT.site.grippers.items():
            radians[joint] = gripper.open_rad + radians[joint] * (gripper.closed_rad - gripper.open_rad)
        buffer.add_joint_state(stamp_ns, stamp_ns, list(radians), list(radians.values()))
    trained = window(robot, made, anchor=3, chunks=2)
    opening = buffer.block(begin_ns + round(3 * step_ns), (0,))
    second = buffer.block(begin_ns + round(27 * step_ns), MODEL.chunk.frame_offsets_steps)
    np.testing.assert_allclose(trained.canvas[:1].astype(int), opening.canvas, atol=1)  # resizing truncates
    np.testing.assert_allclose(trained.canvas[1:9].astype(int), second.canvas, atol=1)
    np.testing.assert_allclose(trained.state[1], robot.normalised_state(second.state), atol=1e-6)
    # Row i, taken through the live way out, is the command that the episode gave i steps after the observation.
    rows = robot.positions(np.asarray(trained.action[1]), second.state)
    joint = MODEL.commanded_joints.index("idx21_arm_l_joint1")
    np.testing.assert_allclose(rows[:, joint], made.action[27:51, 0], atol=1e-6)


def test_windows_end_with_the_episode_and_never_hold_more_than_the_memory():
    made = episode()
    assert [chunks_after(MODEL, made, step) for step in (0, 21, 24, 93, 96)] == [4, 4, 3, 1, 0]
    assert anchors(MODEL, made).tolist() == list(range(0, 94, 3))
    assert len(frame_steps(MODEL, 0, 4)) == 33
    with pytest.raises(ValueError, match="at most 3 fit"):
        window(embodiment(), made, anchor=24, chunks=4)


def test_a_picture_that_was_not_taken_is_named():
    with pytest.raises(EpisodeError, match="step 1"):
        window(embodiment(), episode(), anchor=1, chunks=1)


def test_a_joint_that_keeps_still_is_told_to_stay_exactly_where_it_is(tmp_path):
    made = episode()
    made.state[:, 4:] = 0.3 + 1e-5 * np.random.default_rng(0).standard_normal(made.state[:, 4:].shape)
    made.action[:, 4:] = 0.0
    made.action[:, 4:20] = 0.3
    save_statistics(tmp_path / "statistics.json", CONTRACT, *quantiles(CONTRACT, [made]))
    robot = Embodiment(CONTRACT, Statistics.load(tmp_path / "statistics.json", CONTRACT))
    rows = np.random.default_rng(1).standard_normal((24, 32))  # whatever a network says
    anchor = made.state[50]
    positions = robot.positions(rows, anchor)
    right = MODEL.commanded_joints.index("idx61_arm_r_joint1")
    assert (positions[:, right] == anchor[7]).all()
    moving = robot.positions(np.asarray(window(robot, made, 48, 1).action[0]), made.state[48])[:, 0]
    # Up to the quantiles' own clamp at both ends, what goes in comes out.
    np.testing.assert_allclose(moving[1:-1], made.action[49:71, 0], atol=2e-3)


def test_an_episode_comes_back_as_it_was_and_one_of_another_contract_is_refused(tmp_path):
    made = episode()
    made.save(tmp_path / "a.npz", CONTRACT)
    again = load_episode(tmp_path / "a.npz", CONTRACT)
    assert again.instruction == made.instruction
    np.testing.assert_array_equal(again.canvas, made.canvas)
    assert again.canvas.shape == (40, 128, 128, 3)
    np.testing.assert_array_equal(again.action, made.action)
    other = CONTRACT.model_copy(update={"model": MODEL.model_copy(update={"action_hz": 15.0})})
    with pytest.raises(EpisodeError, match="was recorded for contract"):
        load_episode(tmp_path / "a.npz", other)
    broken = episode()
    broken.state[7, 3] = np.nan
    broken.save(tmp_path / "b.npz", CONTRACT)
    with pytest.raises(EpisodeError, match="state is not finite at step 7"):
        load_episode(tmp_path / "b.npz", CONTRACT)


def attempt() -> Episode:
    """Four chunks with advice; what the k-th leads to is of colour 100 + k."""
    made, end = episode(), 4 * MODEL.chunk.actions + 1
    kept = made.view_steps < end
    advised = np.array([[picture(100 + k)] * MODEL.chunk.frames for k in range(4)])
    return Episode(
        made.instruction,
        made.state[:end],
        made.action[:end],
        made.canvas[kept],
        made.view_steps[kept],
        advised=advised,
    )


def test_a_window_of_an_attempt_begins_with_a_chunk_and_has_what_was_seen_beside_what_was_advised():
    assert anchors(MODEL, attempt()).tolist() == [0, 24, 48, 72]
    got = window(embodiment(), attempt(), anchor=24, chunks=2)
    assert camera_view(got.canvas, MODEL, "head")[[0, 8, 16], 0, 0, 1].tolist() == [24, 48, 72]
    assert [camera_view(block, MODEL, "head")[0, 0, 0, 1] for block in got.advised] == [101, 102]
    np.testing.assert_allclose(got.state[:, 0] * 4, [0.24, 0.48], atol=1e-6)


def test_statistics_of_an_attempt_are_of_its_chunks_and_not_of_rows_that_lie_across_two():
    apart = attempt()
    apart.action[24:48, 0] += 1.0  # of the second chunk
    apart.state[24:48, 0] += 1.0
    _, action = quantiles(CONTRACT, [apart])
    assert action.q99[0] == pytest.approx(0.235, abs=0.01)  # the last row of a chunk from its first state


def test_an_attempt_comes_back_from_its_file_and_one_that_lacks_a_chunk_is_refused(tmp_path):
    path = tmp_path / "attempt.npz"
    attempt().save(path, CONTRACT)
    np.testing.assert_array_equal(load_episode(path, CONTRACT).advised, attempt().advised)
    replace(attempt(), advised=attempt().advised[:3]).save(path, CONTRACT)
    with pytest.raises(EpisodeError, match=r"advised has shape \(3, 8, .* makes it \(4, 8"):
        load_episode(path, CONTRACT)
