"""The twin's controller moves as a real one was measured to, in the ways in which chunks are usually streamed.

Measured: joint_trajectory_controller 4.42.1 under ros2_control_node 4.46.0 (Jazzy), 100 Hz, default parameters,
mock_components/GenericSystem. Chunks of 20 points without velocities, 20 a second, along a ramp of 0.5 rad/s; every
0.25 s a new one, sent 80 ms after its observation. For the peak speeds every second chunk is 0.1 rad aside.

When the control cycle takes a message that was sent is chance: up to a cycle later, and what transport and threads
took. It hardly changes in a run, and differs from run to run. So a figure is reproduced if the twin shows it with some
of these delays; with -s the tests print what docs/reference/benchmarks.md has.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from agibot_twin.trajectory_controller import JointTarget, Trajectory, TrajectoryController, TrajectoryPoint

MS = 1_000_000
CYCLE, STEP, PERIOD, LATENCY = 10 * MS, 50 * MS, 250 * MS, 80 * MS
POINTS, CHUNKS, SPEED, ASIDE = 20, 12, 0.5, 0.1  # rad/s, rad
BEGIN = 1_000_000 * MS
DELAYS = range(0, 13)  # ms from sending to the cycle that takes the message: transport of up to 2 ms, then a cycle
RAD, RAD_PER_S = 2e-3, 0.1  # what a figure may be away: absolute, and as a share

Rows = tuple[np.ndarray, np.ndarray]  # instants [N, ns] and positions [N]
Way = Callable[[Rows, int, int], Trajectory]  # of a chunk, its observation and the instant of sending


def trajectory(instants: Sequence[int], positions: Sequence[float], start: int, stamp: int = 0) -> Trajectory:
    points = [
        TrajectoryPoint(int(at) - start, JointTarget(np.array([p]))) for at, p in zip(instants, positions, strict=True)
    ]
    return Trajectory(["a"], points, stamp)


def zero_whole(rows: Rows, observed: int, sent: int) -> Trajectory:
    return trajectory(*rows, start=observed)


def zero_from_50_ms(rows: Rows, observed: int, sent: int) -> Trajectory:
    """The chunk's course from 50 ms ahead on, a point every step."""
    instants = np.arange(sent + STEP, rows[0][-1], STEP)
    return trajectory(instants, np.interp(instants, *rows), start=sent)


def zero_trimmed(rows: Rows, observed: int, sent: int) -> Trajectory:
    return trajectory(*later(rows, sent), start=sent)


def observation_whole(rows: Rows, observed: int, sent: int) -> Trajectory:
    return trajectory(*rows, start=observed, stamp=observed)


def observation_trimmed(rows: Rows, observed: int, sent: int) -> Trajectory:
    return trajectory(*later(rows, sent), start=observed, stamp=observed)


def next_boundary(rows: Rows, observed: int, sent: int) -> Trajectory:
    """The stamp is that of the first point that lies at least 50 ms ahead."""
    instants, positions = later(rows, sent + STEP)
    return trajectory(instants, positions, start=instants[0], stamp=int(instants[0]))


def later(rows: Rows, instant: int) -> Rows:
    instants, positions = rows
    return instants[instants > instant], positions[instants > instant]


# Way: tracking error [rad], a figure or a range; peak speed [rad/s]. As measured.
MEASURED: dict[Way, tuple[tuple[float, float] | None, float]] = {
    zero_whole: ((0.045, 0.069), 10.5),
    zero_from_50_ms: (None, 2.5),
    zero_trimmed: ((0.003, 0.003), 5.6),
    observation_whole: ((0.0, 0.0001), 10.6),
    observation_trimmed: (None, 8.2),
    next_boundary: ((0.0004, 0.0004), 2.1),
}


def course(at: np.ndarray) -> np.ndarray:
    """The intended positions: from 1 s before the first chunk on a ramp."""
    return SPEED * (at - BEGIN) / 1e9


def command(way: Way, delay_ms: int, aside: float) -> Rows:
    """What the drives are told at the end of every cycle [rad]; messages are taken that long after they are sent."""
    phase = (-LATENCY - delay_ms * MS) % CYCLE  # of observations in the control cycle
    sent, taken = {}, []
    for number in range(CHUNKS):
        observed = BEGIN + number * PERIOD + phase
        instants = observed + STEP * np.arange(POINTS)
        rows = instants, course(instants) + aside * (number % 2)
        sent[observed + LATENCY + delay_ms * MS] = way(rows, observed, observed + LATENCY)
    arm = TrajectoryController("arm", ["a"], course(np.array([min(sent)])))
    cycles = np.arange(min(sent), max(sent) + PERIOD, CYCLE)
    for now in cycles.tolist():
        if now in sent:
            arm.receive(sent.pop(now), now)
        taken.append(arm.update(now, now + CYCLE).positions[0])
    assert not sent
    return cycles + CYCLE, np.array(taken)


def tracking_error(way: Way, delay_ms: int) -> float:
    """The largest one after the first chunks."""
    instants, positions = command(way, delay_ms, aside=0.0)
    settled = instants > instants[0] + 4 * PERIOD
    return float(np.abs(positions - course(instants))[settled].max())


def peak_speed(way: Way, delay_ms: int) -> float:
    _, positions = command(way, delay_ms, aside=ASIDE)
    return float(np.abs(np.diff(positions)).max() / (CYCLE / 1e9))


def test_tracking_errors_are_those_that_were_measured() -> None:
    for way, (measured, _) in MEASURED.items():
        if measured is None:
            continue
        errors = [tracking_error(way, delay_ms) for delay_ms in DELAYS]
        print(f"{way.__name__}: {1e3 * min(errors):.1f} to {1e3 * max(errors):.1f} mrad, measured {measured}")
        low, high = measured
        if high - low <= 1e-4:
            assert any(low - RAD <= error <= high + RAD for error in errors), way.__name__
        else:
            assert any(low <= error <= high for error in errors), way.__name__


def test_peak_speeds_are_those_that_were_measured() -> None:
    for way, (_, measured) in MEASURED.items():
        speeds = [peak_speed(way, delay_ms) for delay_ms in DELAYS]
        print(f"{way.__name__}: {min(speeds):.2f} to {max(speeds):.2f} rad/s, measured {measured}")
        assert any(abs(speed - measured) <= RAD_PER_S * measured for speed in speeds), way.__name__


@pytest.mark.parametrize("delay_ms", DELAYS)
def test_with_any_delay_the_ways_rank_as_measured(delay_ms: int) -> None:
    error = {way: tracking_error(way, delay_ms) for way in MEASURED}
    assert error[zero_whole] > 5 * error[zero_trimmed] >= 0
    assert max(error[observation_whole], error[next_boundary]) < RAD
    speed = {way: peak_speed(way, delay_ms) for way in MEASURED}
    assert speed[zero_whole] == pytest.approx(10.5, rel=RAD_PER_S)
    assert speed[observation_whole] == pytest.approx(10.6, rel=RAD_PER_S)
    assert max(speed[next_boundary], speed[zero_from_50_ms]) < 0.6 * speed[zero_trimmed] < 0.6 * speed[zero_whole]
