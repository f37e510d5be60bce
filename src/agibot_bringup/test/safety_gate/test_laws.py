"""Laws of the gate, whatever is sent and whatever happens: closed nothing passes, and nothing leaves the limits.

A short stream here; GATE_EXAMPLES=400 looks longer.
"""

import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from agibot_bringup.safety_gate.channel import Channel
from agibot_bringup.safety_gate.engage import Engagement
from agibot_bringup.safety_gate.trajectory import Point, Reason, Received, Rejected, wanted
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import SHORTEST_NS, Plan

from .scene import BEGIN_NS, DEADMAN_NS, SETTINGS, TICK_NS, Scene, carried_out, require_inside

EXAMPLES = int(os.environ.get("GATE_EXAMPLES", "40"))
NAN, INF = float("nan"), float("inf")

Message = Callable[[Scene], Received]


@st.composite
def waves(draw: st.DrawFn) -> Message:
    """A motion there and back of one or more controllers, of a share of their speed limits: beyond 1 it breaks them."""
    chosen = draw(st.sets(st.integers(0, 4), min_size=1, max_size=3))
    share = draw(st.floats(-1.5, 1.5) | st.floats(-0.5, 0.5))
    seconds = draw(st.floats(0.2, 2.0))
    offset = draw(st.just(0.0) | st.floats(-0.4, 0.4))
    first_s = draw(st.sampled_from([0.0, 0.02, 0.05, 0.2]))

    def wave(scene: Scene) -> Received:
        controllers = [scene.controllers[index] for index in chosen]
        joints = [joint for controller in controllers for joint in controller.joints]
        start = np.concatenate([scene.positions(controller.name) for controller in controllers]) + offset
        speed = np.concatenate([scene.limits[controller.name].velocity for controller in controllers])
        x = np.linspace(0, 1, max(2, round(30 * seconds)) + 1)
        out = (1 - np.cos(2 * np.pi * x)) ** 2 / 4
        rate = np.pi * (1 - np.cos(2 * np.pi * x)) * np.sin(2 * np.pi * x) / seconds
        rate[-1] = 0.0
        amplitude = share * speed * seconds / 4.1
        times = first_s + seconds * x
        return Received(
            joints,
            [
                Point(round(t * NS_PER_S), (start + amplitude * p).tolist(), (amplitude * v).tolist())
                for t, p, v in zip(times, out, rate, strict=True)
            ],
        )

    return wave


@st.composite
def sprints(draw: st.DrawFn) -> Message:
    """One controller to the stops of its joints and back, as fast as a share of its limits allows."""
    index = draw(st.integers(0, 4))
    share = draw(st.floats(0.8, 1.02))
    reach = draw(st.floats(0.5, 1.0)) * draw(st.sampled_from([-1, 1]))
    x = np.linspace(0, 1, 1001)[:, None]
    shape = (1 - np.cos(2 * np.pi * x)) ** 2 / 4
    rates = [shape]
    for _ in range(3):
        rates.append(np.gradient(rates[-1], x[:, 0], axis=0))

    def sprint(scene: Scene) -> Received:
        controller = scene.controllers[index]
        limits, start = scene.limits[controller.name], scene.positions(controller.name)
        amplitude = reach * ((limits.upper - start) if reach > 0 else (start - limits.lower))
        peaks = [np.abs(amplitude) * np.abs(rate).max() for rate in rates[1:]]
        most = (limits.velocity, limits.acceleration, limits.jerk)
        seconds = max(
            0.1,
            *(
                ((peak / (share * limit)).max()) ** (1 / n)
                for n, peak, limit in zip((1, 2, 3), peaks, most, strict=True)
            ),
        )
        rows = np.linspace(0, 1000, max(2, round(50 * seconds)) + 1).round().astype(int)
        velocities = amplitude * rates[1][rows] / seconds
        velocities[-1] = 0.0
        positions = start + amplitude * shape[rows]
        times_ns = (50_000_000 + x[rows, 0] * seconds * NS_PER_S).round().astype(int).tolist()
        points = zip(times_ns, positions.tolist(), velocities.tolist(), strict=True)
        return Received(controller.joints, [Point(*point) for point in points])

    return sprint


@st.composite
def continuations(draw: st.DrawFn) -> Message:
    """What the arms are told already, a little early or late, somewhere else, or with noise."""
    late_ns = draw(st.integers(-20_000_000, 20_000_000))
    noise = draw(st.sampled_from([0.0, 1e-4, 1e-2]))
    away = draw(st.just(0.0) | st.floats(-0.3, 0.3))

    def rest(scene: Scene) -> Received:
        plan = scene.commands[scene.arms.name][-1].after(scene.ns + 60_000_000)
        positions = plan.positions + away + noise * np.random.default_rng(late_ns + 2**30).normal(size=(1, 14))
        after_ns = (plan.knots_ns - scene.ns + late_ns).tolist()
        points = zip(after_ns, positions.tolist(), plan.velocities.tolist(), strict=True)
        return Received(scene.arms.joints, [Point(*point) for point in points])

    return rest


def changed(change: Callable[[Received, int, float], Received]) -> st.SearchStrategy[Message]:
    """A wave with a defect, at a place and with a number that are drawn."""
    numbers = st.sampled_from([NAN, INF, -INF, 1e300, -1e18, 50.0]) | st.floats(allow_nan=True)
    return st.builds(
        lambda wave, place, number: lambda scene: change(wave(scene), place, number),
        waves(),
        st.integers(0, 10_000),
        numbers,
    )


def with_number(field: str) -> Callable[[Received, int, float], Received]:
    def change(received: Received, place: int, number: float) -> Received:
        points = list(received.points)
        index = place % len(points)
        values = list(getattr(points[index], field)) or [0.0] * len(received.joints)
        values[place % len(values)] = number
        points[index] = replace(points[index], **{field: values})
        return replace(received, points=points)

    return change


def with_length(field: str) -> Callable[[Received, int, float], Received]:
    def change(received: Received, place: int, number: float) -> Received:
        points = list(received.points)
        index = place % len(points)
        points[index] = replace(points[index], **{field: [0.0] * (place % 25)})
        return replace(received, points=points)

    return change


def with_time(received: Received, place: int, number: float) -> Received:
    points = list(received.points)
    index = place % len(points)
    points[index] = replace(points[index], after_ns=[0, -1, points[0].after_ns, 2**62 // 10**6, 10**15][place % 5])
    return replace(received, points=points)


def with_joints(received: Received, place: int, number: float) -> Received:
    joints = list(received.joints)
    joints[place % len(joints)] = [joints[0], "nobody", "", "base_linear_x"][place % 4]
    return replace(received, joints=joints)


def noise(received: Received, place: int, number: float) -> Received:
    rng = np.random.default_rng(place)
    width = len(received.joints)
    points = [
        replace(p, positions=(np.array(p.positions) + rng.normal(size=width) * 10.0 ** rng.uniform(-4, 0)).tolist())
        for p in received.points
    ]
    return replace(received, points=points)


MESSAGES = st.one_of(
    waves(),
    sprints(),
    sprints(),
    continuations(),
    continuations(),
    changed(with_number("positions")),
    changed(with_number("velocities")),
    changed(with_number("accelerations")),
    changed(with_length("positions")),
    changed(with_length("velocities")),
    changed(with_length("effort")),
    changed(with_time),
    changed(with_joints),
    changed(noise),
    changed(lambda received, place, number: replace(received, points=[])),
    changed(lambda received, place, number: replace(received, joints=[], points=[])),
    changed(lambda received, place, number: replace(received, points=received.points[: place % 4 + 1])),
    changed(lambda received, place, number: replace(received, points=received.points[::-1])),
    changed(lambda received, place, number: replace(received, stamp_ns=BEGIN_NS + place * 1_000_000)),
)


class Witness:
    """Knows by itself whether anything may pass, and looks at all that is sent."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.permitted, self.passed = scene, False, 0

    @property
    def silent(self) -> bool:
        """Whether nobody is heard to hold on."""
        return self.scene.ns - self.scene.heard_ns > DEADMAN_NS

    def take(self, message: Message) -> None:
        scene, count = self.scene, len(self.scene.sent)
        received = message(scene)
        rejection = scene.take(received)
        if not self.permitted:
            assert rejection is not None and rejection.reason is Reason.CLOSED and len(scene.sent) == count
        elif rejection is None:
            self.passed += 1
            told = [joint for _, name, _ in scene.sent[count:] for joint in scene.limits[name].joints]
            assert sorted(told) == sorted(received.joints)
        else:
            assert rejection.reason is not Reason.CLOSED and len(scene.sent) == count

    def stops(self, event: Callable[[], object]) -> None:
        """Something that closes the gate, if it is open: what is sent then ends before what was sent before."""
        self.permitted = False
        self.only_shortens(event)

    def only_shortens(self, event: Callable[[], object]) -> None:
        ends_ns = {name: commands[-1].end_ns for name, commands in self.scene.commands.items()}
        count = len(self.scene.sent)
        event()
        for _, name, plan in self.scene.sent[count:]:
            assert plan.end_ns < ends_ns[name]
            ends_ns[name] = plan.end_ns

    def tick(self, times: int) -> None:
        scene = self.scene
        for _ in range(times):
            count = len(scene.sent)
            self.permitted = self.permitted and scene.ns + TICK_NS - scene.heard_ns <= DEADMAN_NS
            self.only_shortens(scene.tick)
            assert not self.permitted or len(scene.sent) == count

    def hold(self) -> None:
        self.scene.held = True
        self.tick(1)

    def open_somehow(self) -> None:
        """A patient person."""
        scene = self.scene
        scene.gate.hear_estop(False, scene.ns, scene.ns)
        assert scene.gate.estop.reset() == ""
        self.hold()
        while (scene.moving() or not scene.stands) and not self.permitted:
            self.tick(10)
        assert scene.open() == ""
        self.permitted = True

    def try_to_open(self) -> None:
        scene = self.scene
        stopped = scene.gate.estop.trouble() is not None
        refusal = scene.open()
        if not self.permitted:
            cause = stopped or not scene.held or self.silent or scene.moving()
            assert refusal if cause else not refusal or not scene.stands
            self.permitted = not refusal

    def blind(self) -> None:
        """Joint states that are no numbers, then good ones again."""
        scene, joints = self.scene, self.scene.contract.model.commanded_joints
        self.stops(lambda: scene.gate.hear_joint_states(joints, [NAN] * len(joints), scene.ns, scene.ns))
        self.tick(1)

    def sleep(self, seconds: float) -> None:
        """Nothing is heard of anybody; the gate itself is awake."""
        scene = self.scene
        for _ in range(round(seconds * 100)):
            scene.ns += TICK_NS
            self.permitted = self.permitted and not self.silent
            self.only_shortens(lambda: scene.gate.watch(scene.ns, scene.ns))


def let_go(witness: Witness) -> None:
    witness.stops(lambda: witness.scene.tick(held=False))


def press(witness: Witness) -> None:
    scene = witness.scene
    witness.stops(lambda: scene.gate.hear_estop(True, scene.ns, scene.ns))


def release(witness: Witness) -> None:
    scene = witness.scene
    scene.gate.hear_estop(False, scene.ns, scene.ns)
    scene.gate.estop.reset()


EVENTS = st.one_of(
    MESSAGES.map(lambda message: lambda witness: witness.take(message)),
    MESSAGES.map(lambda message: lambda witness: witness.take(message)),
    st.integers(1, 40).map(lambda times: lambda witness: witness.tick(times)),
    st.integers(1, 120).map(lambda times: lambda witness: witness.tick(times)),
    st.just(Witness.open_somehow),
    st.just(Witness.try_to_open),
    st.just(let_go),
    st.just(Witness.hold),
    st.just(press),
    st.just(release),
    st.just(lambda witness: witness.stops(lambda: witness.scene.gate.close("~/close", witness.scene.ns))),
    st.just(Witness.blind),
    st.sampled_from([0.1, 0.3]).map(lambda seconds: lambda witness: witness.sleep(seconds)),
)


@settings(deadline=None, max_examples=EXAMPLES)
@given(events=st.lists(EVENTS, min_size=10, max_size=40))
def test_while_stopped_nothing_passes_and_all_that_is_sent_keeps_the_limits(
    contract: Contract, events: list[Callable[[Witness], None]]
) -> None:
    scene = Scene(contract)
    witness = Witness(scene)
    witness.open_somehow()
    for event in events:
        event(witness)
        assert scene.gate.opened == witness.permitted
    witness.stops(lambda: scene.gate.close("~/close", scene.ns))
    while scene.moving():
        witness.tick(10)
    for name, limits in scene.limits.items():
        require_inside(limits, scene.commands[name])


def sprinting(scene: Scene, sprint: Message) -> Channel:
    """A channel that has just taken a sprint; one that does not pass is left out."""
    received = sprint(scene)
    assume(received.points[-1].after_ns < SETTINGS.bounds.max_trajectory_s * NS_PER_S)
    ((controller, plan),) = wanted(received, scene.controllers, SETTINGS.bounds, scene.ns)
    channel = Channel(scene.contract, controller, SETTINGS.first_points_s, engage_s=0.1)
    channel.place(scene.positions(controller.name), scene.ns)
    try:
        channel.take(channel.way_to(plan, scene.ns))
    except Rejected:
        assume(False)
    return channel


@settings(deadline=None, max_examples=5 * EXAMPLES)
@given(sprint=sprints(), elapsed=st.floats(0.05, 1.0))
def test_a_brake_at_any_moment_keeps_the_limits_and_is_the_sooner_way_to_rest(
    contract: Contract, sprint: Message, elapsed: float
) -> None:
    scene = Scene(contract)
    channel = sprinting(scene, sprint)
    own = channel.command
    now_ns = scene.ns + round(elapsed * (own.end_ns - scene.ns))
    way = channel.brake(now_ns)
    if way is not None:
        assert way.command.end_ns < own.end_ns and way.first_ns >= now_ns + 50_000_000
        require_inside(channel.limits, [own, carried_out(own, way.sent, now_ns)])


@settings(deadline=None, max_examples=10 * EXAMPLES)
@given(
    sprint=sprints(),
    elapsed=st.floats(0.05, 0.9),
    late_ns=st.integers(-30_000_000, 30_000_000),
    away=st.just(0.0) | st.floats(-0.02, 0.02),
)
def test_whatever_takes_over_in_motion_keeps_the_limits_across_the_seam(
    contract: Contract, sprint: Message, elapsed: float, late_ns: int, away: float
) -> None:
    scene = Scene(contract)
    channel = sprinting(scene, sprint)
    own = channel.command
    now_ns = scene.ns + round(elapsed * (own.end_ns - scene.ns))
    rest = own.after(now_ns + 10_000_000)
    try:
        way = channel.way_to(Plan(rest.knots_ns + late_ns, rest.positions + away, rest.velocities), now_ns)
    except Rejected:
        return
    require_inside(channel.limits, [own, carried_out(own, way.sent, now_ns)])


def lacks_behind(engagement: Engagement, wanted: Plan, blended: Plan) -> float:
    """How far a blend may be from what is wanted behind its end.

    Where a wanted knot is too near to the end for another one there, the blend's last knot lies up to SHORTEST_NS
    before it; what it lacks there in position and velocity is made good on the cubic to the next knot.
    """
    at, end_ns = blended.knots_ns, engagement.end_ns
    if at[0] >= end_ns or ((at >= end_ns) & (at < end_ns + SHORTEST_NS)).any():
        return 0.0
    last = at[at < end_ns][-1:]
    assert end_ns - last[0] < SHORTEST_NS
    (ratio, rate), (position, velocity) = engagement.ratio(last), wanted.sample(last)
    away = np.abs(position - engagement.pose)
    slower = rate * away + (1 - ratio) * np.abs(velocity)
    left_s = (at[at > last[0]][0] - last[0]) / NS_PER_S
    return float(((1 - ratio) * away + 4 / 27 * slower * left_s).max())


@settings(deadline=None, max_examples=3 * EXAMPLES)
@given(
    steps_ns=st.lists(st.integers(SHORTEST_NS, 400_000_000), max_size=8),
    first_ns=st.integers(-200_000_000, 600_000_000),
    engage_ns=st.integers(100_000_000, 2 * NS_PER_S),
    seed=st.integers(0, 1000),
)
@example(steps_ns=[1_000_000, 1_000_000, 1_000_000, 15_252_848], first_ns=96_000_001, engage_ns=100_000_000, seed=0)
@example(steps_ns=[*[1_000_000] * 5, 41_349_621], first_ns=94_000_001, engage_ns=100_000_000, seed=0)
def test_the_blend_begins_at_the_pose_at_rest_and_is_what_is_wanted_from_its_end_on(
    steps_ns: list[int], first_ns: int, engage_ns: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pose = rng.normal(size=3)
    knots_ns = BEGIN_NS + first_ns + np.cumsum([0, *steps_ns])
    wanted = Plan(knots_ns, rng.normal(size=(len(knots_ns), 3)), rng.normal(size=(len(knots_ns), 3)))
    wanted.velocities[-1] = 0.0
    engagement = Engagement(pose, BEGIN_NS, engage_ns)
    blended = engagement.blended(wanted)
    assert (np.diff(blended.knots_ns) >= SHORTEST_NS).all() and (blended.velocities[-1] == 0).all()
    assert blended.knots_ns[0] == wanted.knots_ns[0] and blended.end_ns >= max(wanted.end_ns, engagement.end_ns)
    np.testing.assert_allclose(blended.positions[-1], wanted.positions[-1], atol=1e-12)
    at = blended.knots_ns
    ratio, _ = engagement.ratio(at)
    np.testing.assert_allclose(blended.positions, pose + ratio * (wanted.sample(at)[0] - pose), atol=1e-12)
    begun = at <= BEGIN_NS
    np.testing.assert_array_equal(blended.positions[begun], np.tile(pose, (begun.sum(), 1)))
    assert (blended.velocities[begun] == 0).all()
    behind_ns = np.arange(engagement.end_ns + 1_000_000, blended.end_ns, 7_000_000)
    later = behind_ns[behind_ns > wanted.knots_ns[0]]
    lacking = lacks_behind(engagement, wanted, blended)
    np.testing.assert_allclose(blended.sample(later)[0], wanted.sample(later)[0], atol=1e-12 + lacking)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_velocities_of_the_blend_are_those_of_its_positions(ratio: float) -> None:
    wanted = Plan(BEGIN_NS + np.array([0, 2 * NS_PER_S]), np.array([[0.1], [0.5]]), np.zeros((2, 1)))
    blended = Engagement(np.array([0.0]), BEGIN_NS, NS_PER_S).blended(wanted)
    at_ns = BEGIN_NS + round(ratio * NS_PER_S)
    before, after = blended.sample([at_ns - 1_000_000, at_ns + 1_000_000])[0]
    assert blended.sample([at_ns])[1][0] == pytest.approx((after - before) / 2e-3, rel=1e-4)
