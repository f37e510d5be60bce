"""While the gate is stopped no command passes, whatever is sent and whatever else is tried meanwhile.

A person opens the gate, a source moves the robot, something stops it in motion or at rest; from then on an adversary
sends, while interlocks come and go. The very same adversary also sends to the open gate, so that it is known how much
of it would pass. 2 000 messages to the stopped gate here; `make adversarial` sends 100 000 (GATE_MESSAGES), and
prints the count.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from agibot_bringup.safety_gate.gate import Gate
from agibot_bringup.safety_gate.interlocks import deadman
from agibot_bringup.safety_gate.trajectory import Reason
from dreamzero_policy.runtime.contract import Contract, Controller
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan

from .adversary import Adversary
from .scene import BEGIN_NS, DEADMAN_NS, SETTINGS, TICK_NS, carried_out, require_inside

MESSAGES = int(os.environ.get("GATE_MESSAGES", "2000"))  # to the stopped gate
LENGTH = 500  # of a stream
WHILE_STOPPED, WHILE_OPEN = 50, 3  # messages of an episode
NAN = float("nan")
STANDS_NS = 350_000_000  # and the gate may be opened


class Stand:
    """A gate, and what is true around it. Knows by itself whether the gate may be opened, and counts what leaves it."""

    def __init__(self, contract: Contract, rng: np.random.Generator) -> None:
        self.rng, self.adversary = rng, Adversary(contract, rng)
        self.ns, self.steady_ns = BEGIN_NS, 0  # the clock of trajectories, which may be set, and that of silence
        self.controllers, self.limits = contract.site.controllers, self.adversary.limits
        middle = {name: (limits.lower + limits.upper) / 2 for name, limits in self.limits.items()}
        self.commands = {name: [Plan.rest(positions, self.ns)] for name, positions in middle.items()}
        self.sent: list[tuple[str, Plan]] = []
        self.gate = Gate(contract, SETTINGS, deadman(DEADMAN_NS / NS_PER_S, "the button"), self._send)
        self.silence_ns = max(DEADMAN_NS, round(contract.site.tolerances.silence_s * NS_PER_S))
        self.held: bool | None = True  # None: nobody is heard
        self.feeling: bool | None = True  # False: joint states that are no numbers; None: none
        self.released = self.blind = False  # what was heard last
        self.pressed = self.latched = False
        self.heard_ns = self.felt_ns = 0
        self.count: Counter[str] = Counter()

    def _send(self, controller: Controller, plan: Plan, now_ns: int) -> None:
        assert now_ns == self.ns
        self.sent.append((controller.name, plan))
        commands = self.commands[controller.name]
        commands.append(carried_out(commands[-1], plan, now_ns))

    def pose(self, controller: Controller) -> Floats:
        command = self.commands[controller.name][-1]
        return command.positions[-1] if command.end_ns <= self.ns else command.sample([self.ns])[0][0]

    @property
    def clocks(self) -> tuple[int, int]:
        return self.ns, self.steady_ns

    @property
    def left_ns(self) -> dict[str, int]:
        """How long what was commanded still lasts."""
        return {name: commands[-1].end_ns - self.ns for name, commands in self.commands.items()}

    @property
    def moving(self) -> bool:
        return max(self.left_ns.values()) > 0

    @property
    def cause(self) -> bool:
        """Whether anything keeps the gate from being opened."""
        return (
            self.latched
            or self.released
            or self.blind
            or bool(self.gate.absent)
            or self.steady_ns - self.heard_ns > DEADMAN_NS
            or self.steady_ns - self.felt_ns > self.silence_ns
            or self.moving
        )

    # What happens

    def tick(self) -> None:
        """Up to 10 ms pass; whoever is to be heard is heard."""
        passed_ns = int(self.rng.integers(1, TICK_NS + 1))
        self.ns, self.steady_ns = self.ns + passed_ns, self.steady_ns + passed_ns
        if self.feeling is not None:
            names = [joint for controller in self.controllers for joint in controller.joints]
            values = np.concatenate([self.pose(controller) for controller in self.controllers])
            values = values if self.feeling else np.full_like(values, NAN)
            self.gate.hear_joint_states(names, values.tolist(), *self.clocks)
            self.blind = not self.feeling
            self.felt_ns = self.steady_ns if self.feeling else self.felt_ns
        if self.held is not None:
            self.gate.hear_deadman(self.held, *self.clocks)
            self.released, self.heard_ns = not self.held, self.steady_ns
        self.gate.watch(*self.clocks)

    def hear(self, held: bool | None = True, feeling: bool | None = True) -> None:
        """From now on; by default all is well."""
        self.held, self.feeling = held, feeling
        self.tick()

    def fall_silent(self) -> None:
        """Nothing is heard for longer than is allowed, of the button or of the joints."""
        self.hear(*((None, True) if self.rng.uniform() < 0.5 else (True, None)))
        for _ in range(4 * self.silence_ns // TICK_NS):
            self.tick()

    def press(self, stop: bool) -> None:
        self.gate.hear_estop(stop, *self.clocks)
        self.pressed, self.latched = stop, self.latched or stop

    def reset(self) -> None:
        refusal = self.gate.estop.reset()
        assert bool(refusal) == self.pressed
        self.latched = self.latched and self.pressed

    def listen(self, absent: tuple[str, ...] = ()) -> None:
        """Which controllers nobody plays."""
        self.gate.absent = absent
        self.gate.watch(*self.clocks)

    def set_clock(self) -> None:
        """What the robot does goes on, and is told for the new time."""
        jump_ns = int(self.rng.integers(-5, 6)) * NS_PER_S
        self.ns += jump_ns
        for name, commands in self.commands.items():
            self.commands[name] = [Plan(c.knots_ns + jump_ns, c.positions, c.velocities) for c in commands]
        self.gate.clock_jumped(self.ns, jump_ns)

    # What is tried

    def send(self, stopped: bool) -> None:
        before = len(self.sent)
        rejection = self.gate.take(self.adversary.message(self.pose, self.ns), *self.clocks)
        passed = rejection is None or len(self.sent) > before
        if stopped:
            self.count["while stopped"] += 1
            self.count["passed while stopped"] += passed
            assert not passed and rejection.reason is Reason.CLOSED
        else:
            self.count["while open"] += 1
            self.count["passed while open"] += passed
            assert passed == (rejection is None)

    def open(self) -> None:
        """By a patient person, after all causes are gone."""
        self.listen()
        self.press(False)
        self.reset()
        self.hear()
        while self.moving:
            self.tick()
        rest_ns = self.steady_ns
        while self.steady_ns - rest_ns < STANDS_NS:
            self.tick()
        assert not self.cause and self.gate.open(*self.clocks) == ""

    def open_too_early(self) -> None:
        """Refused as long as there is a cause."""
        if self.cause:
            self.count["openings refused"] += 1
            assert self.gate.open(*self.clocks) != "" and not self.gate.opened


STOPS: dict[str, Callable[[Stand], None]] = {
    "estop": lambda stand: stand.press(True),
    "deadman": lambda stand: stand.hear(held=False),
    "blind": lambda stand: stand.hear(feeling=False),
    "silence": Stand.fall_silent,
    "controller": lambda stand: stand.listen(absent=("dual_arm_controller",)),
    "close": lambda stand: stand.gate.close("~/close was called", stand.ns),
    "clock": Stand.set_clock,
}
# What is tried while it is stopped: causes come and go, but nobody opens it.
MEANWHILE: tuple[Callable[[Stand], None], ...] = (
    *[Stand.tick] * 5,
    *[Stand.open_too_early] * 3,
    Stand.hear,
    Stand.reset,
    Stand.listen,
    lambda stand: stand.press(False),
    *STOPS.values(),
)


def episode(stand: Stand) -> None:
    rng, count = stand.rng, stand.count
    stand.open()
    for _ in range(WHILE_OPEN):
        stand.send(stopped=False)
        for _ in range(rng.integers(1, 40)):
            stand.tick()
    cause = str(rng.choice(list(STOPS)))
    count[f"stopped by {cause}"] += 1
    count["stopped in motion"] += stand.moving
    brakes = Counter[str]()
    for attempt in range(WHILE_STOPPED + 1):
        left_ns, steady_ns, sent = stand.left_ns, stand.steady_ns, len(stand.sent)
        (STOPS[cause] if attempt == 0 else MEANWHILE[rng.integers(len(MEANWHILE))])(stand)
        assert not stand.gate.opened
        for name, plan in stand.sent[sent:]:  # the way to rest of what was in motion, and nothing else
            assert plan.end_ns - stand.ns < left_ns[name] - (stand.steady_ns - steady_ns)
            brakes[name] += 1
        if attempt:
            stand.send(stopped=True)
    assert all(number == 1 for number in brakes.values()), brakes
    count["brakes"] += brakes.total()


@pytest.fixture(scope="module")
def total(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Of all streams; told at the end."""
    count = Counter[str]()
    yield count
    told = ", ".join(f"{number} {what}" for what, number in count.items())
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\nsafety gate: {told}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stream", range(-(-MESSAGES // LENGTH)))
def test_no_command_passes_while_the_gate_is_stopped(contract: Contract, stream: int, total: Counter[str]) -> None:
    stand = Stand(contract, np.random.default_rng((stream, 71)))
    while stand.count["while stopped"] < LENGTH:
        episode(stand)
    stand.open()
    total.update(stand.count)
    assert stand.count["passed while stopped"] == 0
    # The adversary is one: the open gate lets a part of it through (of all streams together about half).
    assert stand.count["passed while open"] > 0.1 * stand.count["while open"]
    assert stand.count["stopped in motion"] > 0
    for name, limits in stand.limits.items():
        require_inside(limits, stand.commands[name])
