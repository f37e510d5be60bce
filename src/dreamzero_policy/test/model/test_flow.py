"""Noise, steps and guidance."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamzero_policy.model.flow import (
    KnownActions,
    Schedule,
    SkipWhileSteady,
    Solver,
    Trajectory,
    cosine_similarity,
    evaluated_steps,
    guide,
    noise,
    sample_chunk,
    sampling_schedule,
)


@given(steps=st.integers(1, 40), final=st.sampled_from([0.0, 0.3, 0.8]))
@settings(deadline=None)
def test_every_schedule_falls_from_noise_to_its_final_level(steps, final):
    schedule = sampling_schedule(steps, 5.0, final)
    assert (len(schedule.sigmas), schedule.steps) == (steps + 1, steps)
    assert all(a > b for a, b in zip(schedule.sigmas, schedule.sigmas[1:], strict=False))
    assert schedule.sigmas[0] == pytest.approx(0.9998, abs=1e-4)
    assert schedule.sigmas[-1] == pytest.approx(final, abs=1e-6)
    assert schedule.times[0] == 999


@given(steps=st.integers(1, 40), final=st.sampled_from([0.0, 0.5, 0.8]), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=30)
def test_mixing_beforehand_gives_the_solvers_samples_at_every_step(steps, final, seed):
    torch.manual_seed(seed)
    schedule, start = sampling_schedule(steps, 5.0, final), torch.randn(2, 3, 4)
    solver, path, sample = Solver(schedule), Trajectory(schedule, start), start.double()
    for index in range(steps):
        velocity = torch.randn_like(start)
        sample = solver.step(sample, velocity.double(), index)
        torch.testing.assert_close(path.step(velocity, index).double(), sample, atol=2e-5, rtol=0)


@given(steps=st.integers(1, 20), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=20)
def test_a_perfect_velocity_reaches_the_data_in_any_number_of_steps(steps, seed):
    """The velocity of a single data point x0 is (x − x0) / σ."""
    torch.manual_seed(seed)
    video0, action0 = torch.randn(1, 2, 2, 3, 3), torch.randn(1, 4, 5)
    schedule = sampling_schedule(steps, 5.0)
    sigma = dict(zip(schedule.times, schedule.sigmas, strict=False))
    video, action, *_ = sample_chunk(
        lambda v, a, tv, ta: ((v - video0) / sigma[tv], (a - action0) / sigma[ta]),
        torch.randn_like(video0),
        torch.randn_like(action0),
        video_schedule=schedule,
        action_schedule=schedule,
        evaluated=frozenset(range(steps)),
    )
    torch.testing.assert_close(video, video0, rtol=0, atol=1e-3)
    torch.testing.assert_close(action, action0, rtol=0, atol=1e-3)


@given(steps=st.integers(1, 20), rows=st.integers(0, 4), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=20)
def test_known_actions_are_seen_at_the_noise_level_of_every_step_and_come_out_as_given(steps, rows, seed):
    torch.manual_seed(seed)
    columns = torch.tensor([4, 0, 2])
    known, start, seen = KnownActions(torch.randn(rows, 3), columns, torch.empty(0)), torch.randn(2, 4, 5), []
    schedule = sampling_schedule(steps, 5.0)

    def velocity(video, action, *times):
        seen.append(action)
        return video, torch.randn_like(action)

    torch.manual_seed(seed)
    _, action, evaluations, _ = sample_chunk(
        velocity,
        torch.randn(2, 2, 2, 3, 3),
        start,
        video_schedule=schedule,
        action_schedule=schedule,
        evaluated=frozenset(range(steps)),
        known=known,
    )
    assert evaluations == len(seen) == steps
    for sigma, shown in zip(schedule.sigmas, seen, strict=False):
        expected = (1 - sigma) * known.rows + sigma * start[:, :rows][:, :, columns]
        torch.testing.assert_close(shown[:, :rows][:, :, columns], expected, rtol=0, atol=1e-6)
    assert torch.equal(action[:, :rows][:, :, columns], known.rows.expand(2, -1, -1))


@given(steps=st.integers(1, 20), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=20)
def test_what_is_not_known_goes_the_way_that_its_velocities_lead(steps, seed):
    """Velocities that do not look at what is known give all other entries the same, bit for bit."""
    schedule = sampling_schedule(steps, 5.0)

    def sampled(known):
        torch.manual_seed(seed)
        return sample_chunk(
            lambda video, action, *times: (torch.randn_like(video), torch.randn_like(action)),
            torch.randn(1, 2, 2, 3, 3),
            torch.randn(1, 4, 5),
            video_schedule=schedule,
            action_schedule=schedule,
            evaluated=frozenset(range(steps)),
            known=known,
        )

    known = KnownActions(torch.full((2, 2), 7.0), torch.tensor([1, 3]), torch.tensor([0.5]))
    free, held = sampled(None), sampled(known)
    assert torch.equal(free.video, held.video)
    assert torch.equal(free.action[:, 2:], held.action[:, 2:])
    assert torch.equal(free.action[..., [0, 2, 4]], held.action[..., [0, 2, 4]])
    assert (held.action[:, 0, [1, 3]] == 7.0).all()
    assert not torch.equal(held.action[:, 1, [1, 3]], free.action[:, 1, [1, 3]])


@given(
    steps=st.integers(1, 20),
    every=st.integers(1, 3),
    weights=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    seed=st.integers(0, 5),
)
@settings(deadline=None, max_examples=20)
def test_a_row_that_is_drawn_comes_to_lie_between_what_the_model_wants_and_what_is_known(steps, every, weights, seed):
    """The velocity of a single data point x0 is (x − x0) / σ; a weight of 1 leads to what is known.

    So it does where a velocity is used again.
    """
    torch.manual_seed(seed)
    wanted, weight = torch.randn(1, 4, 5), torch.tensor(weights)[:, None]
    known = KnownActions(torch.randn(len(weights), 5), torch.arange(5), weight[:, 0])
    schedule = sampling_schedule(steps, 5.0)
    sigma = dict(zip(schedule.times, schedule.sigmas, strict=False))
    _, action, *_ = sample_chunk(
        lambda video, action, video_time, action_time: (video, (action - wanted) / sigma[action_time]),
        torch.randn(1, 2, 2, 3, 3),
        torch.randn(1, 4, 5),
        video_schedule=schedule,
        action_schedule=schedule,
        evaluated=frozenset(range(0, steps, every)),
        known=known,
    )
    expected = wanted.clone()
    expected[:, : len(weights)] = weight * known.rows + (1 - weight) * wanted[:, : len(weights)]
    torch.testing.assert_close(action, expected, rtol=0, atol=2e-3)


def test_sixteen_steps_are_evaluated_eight_times_and_others_always():
    assert sorted(evaluated_steps(16, 8)) == [0, 1, 2, 6, 10, 13, 14, 15]
    assert sorted(evaluated_steps(4, 8)) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="16 steps can be evaluated \\[5, 6, 7, 8, 16\\] times, not 9"):
        evaluated_steps(16, 9)


def test_a_skipped_step_reuses_the_last_velocity():
    schedule, calls = sampling_schedule(16, 5.0), []

    def velocity(video, action, video_time, action_time):
        calls.append(video_time)
        return video, action

    sample_chunk(
        velocity,
        torch.ones(1, 1, 1, 1, 1),
        torch.ones(1, 1, 1),
        video_schedule=schedule,
        action_schedule=schedule,
        evaluated=evaluated_steps(16, 8),
    )
    assert calls == [schedule.times[i] for i in (0, 1, 2, 6, 10, 13, 14, 15)]


@given(steps=st.sampled_from([1, 4, 16]), final=st.sampled_from([0.5, 0.8]))
@settings(deadline=None, max_examples=10)
def test_a_video_may_stop_at_noise_while_the_action_arrives(steps, final):
    """With a perfect velocity the video keeps the share ``final`` of its start, whatever the number of steps."""
    torch.manual_seed(steps)
    video0, action0, video_noise = torch.randn(1, 2, 2, 3, 3), torch.randn(1, 4, 5), torch.randn(1, 2, 2, 3, 3)
    schedules = sampling_schedule(steps, 5.0, final), sampling_schedule(steps, 5.0)
    video_sigma, action_sigma = (dict(zip(s.times, s.sigmas, strict=False)) for s in schedules)
    first = schedules[0].sigmas[0]
    video, action, evaluations, _ = sample_chunk(
        lambda v, a, tv, ta: ((v - video0) / video_sigma[tv], (a - action0) / action_sigma[ta]),
        (1 - first) * video0 + first * video_noise,
        torch.randn_like(action0),
        video_schedule=schedules[0],
        action_schedule=schedules[1],
        evaluated=frozenset(range(steps)),
    )
    torch.testing.assert_close(video, (1 - final) * video0 + final * video_noise, rtol=0, atol=1e-3)
    torch.testing.assert_close(action, action0, rtol=0, atol=1e-3)
    assert evaluations == steps


def evaluated_with(similarities: list[float], steps: int = 16) -> list[int]:
    """The steps a dynamic schedule evaluates when the looks find these similarities (the last one for ever)."""
    rule, found, evaluated, last_two = SkipWhileSteady(steps), iter(similarities), [], []
    angle = 0.0
    for step in range(steps):
        if rule(step, last_two):
            evaluated.append(step)
            angle += math.acos(next(found, similarities[-1])) if last_two else 0.0
            last_two = [*last_two[-1:], torch.tensor([[math.cos(angle), math.sin(angle)]])]
    return evaluated


@pytest.mark.parametrize(
    ("similarities", "evaluated"),
    [
        ([0.5], list(range(16))),  # always moving: no skip
        ([0.99], [0, 1, 6, 11]),  # above 0.95: four skips after each look, then one step without a look
        ([0.94], [0, 1, 4, 7, 10, 13]),  # above 0.93: two skips
        ([0.5, 0.99], [0, 1, 2, 7, 12]),
        ([0.99, 0.5], [0, 1, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
    ],
)
def test_the_dynamic_schedule_skips_while_the_velocity_is_steady(similarities, evaluated):
    assert evaluated_with(similarities) == evaluated


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_the_dynamic_schedule_skips_nothing_of_a_short_one(steps):
    assert evaluated_with([0.99], steps) == list(range(steps))


def test_similarity_is_that_of_the_rows_averaged():
    a, b = torch.tensor([[[1.0], [0.0]], [[1.0], [1.0]]]), torch.tensor([[[2.0], [0.0]], [[1.0], [-1.0]]])
    assert cosine_similarity(a, b) == pytest.approx(0.5)  # 1 and 0


def test_the_dynamic_schedule_looks_at_the_guided_video_of_the_last_two_evaluations():
    """The velocity of the video turns once, after the third evaluation; the action's would forbid every skip."""
    calls, directions = [], [(1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 0.0)]

    def velocity(video, action, video_time, action_time):
        calls.append(video_time)
        direction = directions[min(len(calls) - 1, 3)]
        return torch.tensor(direction).view(1, 2, 1, 1, 1), action * (-1) ** len(calls)

    schedule = sampling_schedule(16, 5.0)
    sample = sample_chunk(
        velocity,
        torch.ones(1, 2, 1, 1, 1),
        torch.ones(1, 1, 1),
        video_schedule=schedule,
        action_schedule=schedule,
        evaluated=SkipWhileSteady(16),
    )
    assert calls == [schedule.times[i] for i in (0, 1, 2, 3, 8, 13)]
    assert sample.evaluations == 6


def test_guidance_moves_the_video_and_leaves_the_prompts_action():
    video, action = guide(torch.tensor([[3.0], [1.0]]), torch.tensor([[5.0], [7.0]]), scale=5.0)
    assert video.tolist() == [[11.0]]  # 1 + 5 (3 − 1)
    assert action.tolist() == [[5.0]]


def test_noise_depends_on_the_seed_alone():
    first = noise((2, 3), 7, "cpu", torch.float32)
    torch.randn(10)
    assert torch.equal(first, noise((2, 3), 7, "cpu", torch.float32))
    assert not torch.equal(first, noise((2, 3), 8, "cpu", torch.float32))


@pytest.mark.parametrize(("steps", "final", "message"), [(0, 0.0, "at least 1 step, got 0"), (4, 1.0, "got 1.0")])
def test_impossible_schedules_are_refused(steps, final, message):
    with pytest.raises(ValueError, match=message):
        sampling_schedule(steps, 5.0, final)


def test_video_and_action_go_step_by_step_together():
    with pytest.raises(ValueError, match="video has 1 steps and action 2"):
        sample_chunk(
            None,
            torch.ones(1),
            torch.ones(1),
            video_schedule=Schedule((1.0, 0.0), (999,)),
            action_schedule=sampling_schedule(2, 5.0),
            evaluated=frozenset({0}),
        )
