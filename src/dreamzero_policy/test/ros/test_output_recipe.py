"""What is sent moves every distribution's joint trajectory controller alike.

Two small models of that controller are the reference, written after its source (ros2_controllers, branches humble
2.54.0, jazzy 4.42.1, kilted 5.17.0 and master 6.9.0): `Released` drops the old trajectory for a new one, `Blending`
keeps the old one up to the start of the new and puts a bridge between. Both interpolate cubically where points have
velocities.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from trajectory_msgs.msg import JointTrajectory

from dreamzero_policy.ros.messages import to_ns, to_stamp, trajectory_messages
from dreamzero_policy.runtime.contract import Controller, JointLimits
from dreamzero_policy.runtime.limits import Limits
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan, Rows
from dreamzero_policy.runtime.splice import splice

BEGIN_NS = 1_700_000_000 * NS_PER_S
STEP_NS = NS_PER_S // 30
FIRST_POINT_NS, LEAD_NS = 50_000_000, 60_000_000
CYCLE_NS = 10_000_000
JOINTS = ("a", "b", "c", "d", "e")
CONTROLLERS = (
    Controller(name="arm", joints=("c", "a", "b")),
    Controller(name="hand", joints=("e",)),
    Controller(name="head", joints=("d",)),
)
LIMIT = JointLimits(lower=-2.0, upper=2.0, velocity=3.0, acceleration=10.0, jerk=400.0, step=0.3)
LIMITS = Limits(JOINTS, dict.fromkeys(JOINTS, LIMIT))


@dataclass
class Released:
    """Humble, Jazzy, Kilted: from the state at hand straight to what is due next of the new trajectory.

    `state_ns` and `anchor_ns` are the bookkeeping of one control cycle: the state was commanded so much before the new
    trajectory is taken, and the way from it begins so much before.
    """

    command: Plan
    state_ns: int = 0
    anchor_ns: int = 0

    def take(self, message: JointTrajectory, joints: tuple[str, ...], now_ns: int) -> None:
        start_ns = to_ns(message.header.stamp) or now_ns
        points = arrived(message, joints, start_ns)
        if points.knots_ns[0] > now_ns:  # else it goes on in the segment that contains now, wherever that lies
            state = self.command.sample([now_ns - self.state_ns])
            points = joined(Plan(np.array([now_ns - self.anchor_ns]), *state), points)
        self.command = joined(until(self.command, now_ns), points)

    def sample(self, instants_ns: np.ndarray) -> np.ndarray:
        return self.command.sample(instants_ns)[0]


class Blending(Released):
    """Master (Lyrical), allow_trajectory_replacement: the old trajectory is followed to the start of the new one.

    From there a bridge leads to its first point. A start in the past counts as now.
    """

    def take(self, message: JointTrajectory, joints: tuple[str, ...], now_ns: int) -> None:
        if len(self.command.knots_ns) == 1:  # nothing to blend with
            return super().take(message, joints, now_ns)
        start_ns = max(to_ns(message.header.stamp), now_ns)
        bridge = Plan(np.array([start_ns]), *self.command.sample([start_ns - self.state_ns]))
        self.command = joined(until(self.command, start_ns), joined(bridge, arrived(message, joints, start_ns)))


def arrived(message: JointTrajectory, joints: tuple[str, ...], start_ns: int) -> Plan:
    """A message's points in time, its columns in the controller's order."""
    order = [list(message.joint_names).index(joint) for joint in joints]
    times_ns = [to_ns(point.time_from_start) for point in message.points]
    positions, velocities = (
        np.array([getattr(p, what) for p in message.points]) for what in ("positions", "velocities")
    )
    return Plan(start_ns + np.array(times_ns), positions[:, order], velocities[:, order])


def until(plan: Plan, instant_ns: int) -> Plan:
    """What was followed up to an instant, with the state there."""
    keep = plan.knots_ns < instant_ns
    position, velocity = plan.sample([instant_ns])
    return Plan(
        np.append(plan.knots_ns[keep], instant_ns),
        np.concatenate([plan.positions[keep], position]),
        np.concatenate([plan.velocities[keep], velocity]),
    )


def joined(before: Plan, after: Plan) -> Plan:
    """Knots of one plan, then of another; where the second begins before the first ends, the second counts."""
    keep = before.knots_ns < after.knots_ns[0]
    return Plan(
        np.concatenate([before.knots_ns[keep], after.knots_ns]),
        np.concatenate([before.positions[keep], after.positions]),
        np.concatenate([before.velocities[keep], after.velocities]),
    )


def overlapping_plans(seed: int, count: int = 12) -> list[tuple[int, Plan]]:
    """When each plan is sent, and the plan: chunk spliced upon moving chunk, with pauses in which the robot rests."""
    rng = np.random.default_rng(seed)
    now_ns, plan, sent = BEGIN_NS, Plan.rest(rng.uniform(-1, 1, len(JOINTS)), BEGIN_NS), []
    while len(sent) < count:
        now_ns += round(rng.choice([0.2, 0.4, 1.8]) * rng.uniform(0.5, 1.5) * NS_PER_S)
        start_ns = now_ns + LEAD_NS
        t = np.arange(24)[:, None] / 24
        wave = rng.uniform(-0.4, 0.4, len(JOINTS)) * np.sin(rng.uniform(1, 3, len(JOINTS)) * t)
        rows = Rows(plan.sample([start_ns])[0] + rng.uniform(-0.02, 0.02, len(JOINTS)) + wave, start_ns, STEP_NS)
        spliced = splice(
            plan.as_sent(now_ns, now_ns + FIRST_POINT_NS, CYCLE_NS), rows, start_ns, (0.1, 0.2, 0.35), LIMITS
        )
        if spliced.judgement:
            plan = spliced.plan
            sent.append((now_ns, plan))
    return sent


def moved(
    sent: list[tuple[int, Plan]], controllers: dict[str, Released], delay_ns: int = 0, **header: int
) -> np.ndarray:
    """Commands [T, J] of all controllers together, 1000 a second, up to rest."""
    start = np.concatenate([[BEGIN_NS], [now_ns + delay_ns for now_ns, _ in sent]])
    end = np.append(start[1:], sent[-1][1].end_ns + NS_PER_S)
    commands = []
    for at_ns, until_ns, message_of in zip(start, end, [None, *sent], strict=True):
        if message_of is not None:
            now_ns, plan = message_of
            messages = trajectory_messages(plan.after(now_ns + FIRST_POINT_NS), JOINTS, CONTROLLERS, now_ns)
            for controller, message in zip(CONTROLLERS, messages, strict=True):
                if "stamped_ns" in header:
                    message.header.stamp = to_stamp(now_ns + header["stamped_ns"])
                controllers[controller.name].take(message, controller.joints, int(at_ns))
        instants = np.arange(at_ns, until_ns, 1_000_000)
        columns = np.empty((len(instants), len(JOINTS)))
        for controller in CONTROLLERS:
            where = [JOINTS.index(joint) for joint in controller.joints]
            columns[:, where] = controllers[controller.name].sample(instants)
        commands.append(columns)
    return np.concatenate(commands)


def fresh(kind: type[Released], sent: list[tuple[int, Plan]], **cycle: int) -> dict[str, Released]:
    """A controller of each name, at rest where the first plan begins."""
    start = sent[0][1].positions[0]
    return {
        controller.name: kind(Plan.rest(start[[JOINTS.index(joint) for joint in controller.joints]], BEGIN_NS), **cycle)
        for controller in CONTROLLERS
    }


@pytest.mark.parametrize("seed", range(5))
def test_every_message_is_one_that_all_controllers_take(seed: int) -> None:
    for now_ns, plan in overlapping_plans(seed):
        messages = trajectory_messages(plan.after(now_ns + FIRST_POINT_NS), JOINTS, CONTROLLERS, now_ns)
        assert [tuple(message.joint_names) for message in messages] == [controller.joints for controller in CONTROLLERS]
        for message in messages:
            times_ns = [to_ns(point.time_from_start) for point in message.points]
            assert to_ns(message.header.stamp) == 0
            assert 50_000_000 <= times_ns[0] <= 170_000_000 and (np.diff(times_ns) > 0).all()
            assert all(len(p.positions) == len(p.velocities) == len(message.joint_names) for p in message.points)
            assert list(message.points[-1].velocities) == [0.0] * len(message.joint_names)
            assert now_ns + times_ns[-1] == plan.end_ns, "the whole remaining plan"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("delay_ns", [0, 3_000_000])
def test_both_kinds_of_controller_move_alike(seed: int, delay_ns: int) -> None:
    sent = overlapping_plans(seed)
    released = moved(sent, fresh(Released, sent), delay_ns)
    np.testing.assert_allclose(moved(sent, fresh(Blending, sent), delay_ns), released, atol=1e-6)
    assert np.ptp(released, axis=0).min() > 0.05, "every joint moves"


@pytest.mark.parametrize("kind", [Released, Blending])
def test_without_delay_they_carry_out_the_plan_that_was_judged(kind: type[Released]) -> None:
    sent = overlapping_plans(0)
    command = Plan.rest(sent[0][1].positions[0], BEGIN_NS)
    for now_ns, plan in sent:
        command = joined(until(command, now_ns), plan.as_sent(now_ns, now_ns + FIRST_POINT_NS, CYCLE_NS).after(now_ns))
    starts = [BEGIN_NS, *(now_ns for now_ns, _ in sent), sent[-1][1].end_ns + NS_PER_S]
    instants = np.concatenate([np.arange(a, b, 1_000_000) for a, b in pairwise(starts)])
    np.testing.assert_allclose(moved(sent, fresh(kind, sent)), command.sample(instants)[0], atol=1e-6)


def test_stamps_would_move_them_apart() -> None:
    """The recipe is needed: the same plans stamped with another time are not the same motion everywhere."""
    sent = overlapping_plans(1)
    for stamped_ns in (-100_000_000, 200_000_000):  # observation time; a start in the future
        released, blending = (moved(sent, fresh(kind, sent), stamped_ns=stamped_ns) for kind in (Released, Blending))
        assert np.abs(released - blending).max() > 0.01


def test_the_bookkeeping_of_a_control_cycle_shows_until_the_first_point_and_no_longer() -> None:
    """Taking a trajectory, Humble and master go on from the command of a cycle before, Jazzy and Kilted count from it.

    So these two kinds are apart by the motion of two cycles at most, and not beyond the first point.
    """
    sent = overlapping_plans(2)
    humble = moved(sent, fresh(Released, sent, state_ns=CYCLE_NS))
    jazzy = moved(sent, fresh(Released, sent, anchor_ns=CYCLE_NS))
    master = moved(sent, fresh(Blending, sent, state_ns=CYCLE_NS))
    instants, entering = [], []
    for begin_ns, until_ns in zip(
        [BEGIN_NS, *(now_ns for now_ns, _ in sent)],
        [*(now_ns for now_ns, _ in sent), sent[-1][1].end_ns + NS_PER_S],
        strict=True,
    ):
        instants.append(np.arange(begin_ns, until_ns, 1_000_000))
        entering.append(instants[-1] < (begin_ns if begin_ns == BEGIN_NS else begin_ns + FIRST_POINT_NS))
    entering = np.concatenate(entering)
    fastest = max(np.abs(plan.velocities).max() for _, plan in sent)
    np.testing.assert_allclose(master, humble, atol=1e-6)
    apart = np.abs(jazzy - humble)
    assert apart[~entering].max() < 1e-6
    assert 1e-3 < apart[entering].max() < 2 * fastest * CYCLE_NS / NS_PER_S
