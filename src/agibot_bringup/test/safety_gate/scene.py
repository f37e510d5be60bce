"""A gate between a source and a robot, without ROS: time is moved by hand, the robot does what it is told."""

from collections.abc import Sequence

import numpy as np

from agibot_bringup.safety_gate.gate import Gate, Settings
from agibot_bringup.safety_gate.interlocks import Assent, deadman
from agibot_bringup.safety_gate.trajectory import Bounds, Point, Received, Rejected
from dreamzero_policy.runtime.contract import Contract, Controller
from dreamzero_policy.runtime.geometry import Check
from dreamzero_policy.runtime.limits import Limits
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan

BEGIN_NS = 1_000 * NS_PER_S
TICK_NS = 10_000_000
DEADMAN_NS = 200_000_000  # of silence, and the gate closes
LOOKOUT_NS = 500_000_000  # the same
SETTINGS = Settings(
    engage_s=1.0,
    first_points_s=(0.05, 0.1, 0.17),
    bounds=Bounds(max_stamp_age_s=0.2, max_stamp_ahead_s=0.5, max_trajectory_s=10.0),
    source_timeout_s=1.0,
)
ARMS, LEFT, RIGHT, HEAD, WAIST = range(5)  # the contract's controllers


class Scene:
    """Everything that was sent lies in `sent`; `commands` are what the controllers make of it, one after the other."""

    def __init__(self, contract: Contract, checks: Sequence[Check] = ()) -> None:
        self.contract = contract
        self.ns = BEGIN_NS
        self.controllers = contract.site.controllers
        self.limits = {c.name: Limits(c.joints, contract.site.limits) for c in self.controllers}
        middle = {name: (limits.lower + limits.upper) / 2 for name, limits in self.limits.items()}
        self.commands = {name: [Plan.rest(positions, self.ns)] for name, positions in middle.items()}
        self.sent: list[tuple[int, str, Plan]] = []
        holder = deadman(DEADMAN_NS / NS_PER_S, "the button")
        lookout = Assent("state_validity", LOOKOUT_NS / NS_PER_S, "the lookout", "says no")
        self.gate = Gate(contract, SETTINGS, holder, self._send, checks, lookout)
        self.held = self.looking = True
        self.feels: dict[str, float] = {}  # joints that something keeps where they are not told to be
        self._felt: list[float] = []  # positions that were heard last
        self._moved_ns = self.ns
        self.pass_time(0.4)  # it has stood for long enough to be opened

    def _send(self, controller: Controller, plan: Plan, now_ns: int) -> None:
        assert now_ns == self.ns
        self.sent.append((now_ns, controller.name, plan))
        self.commands[controller.name].append(carried_out(self.commands[controller.name][-1], plan, now_ns))

    def move(self, name: str, positions: np.ndarray) -> None:
        """Something else brings a controller's joints there at once."""
        self.commands[name].append(Plan.rest(positions, self.ns))

    def positions(self, name: str, at_ns: int | None = None) -> np.ndarray:
        return self.commands[name][-1].sample([self.ns if at_ns is None else at_ns])[0][0]

    def speeds(self, name: str) -> np.ndarray:
        return self.commands[name][-1].sample([self.ns])[1][0]

    @property
    def arms(self) -> Controller:
        return self.controllers[ARMS]

    def tick(self, held: bool | None = None) -> None:
        """10 ms pass; joint states, the button and the lookout are heard."""
        self.ns += TICK_NS
        names = [joint for controller in self.controllers for joint in controller.joints]
        values = [value for controller in self.controllers for value in self.positions(controller.name).tolist()]
        values = [self.feels.get(name, value) for name, value in zip(names, values, strict=True)]
        self.gate.hear_joint_states(names, values, self.ns, self.ns)
        if values != self._felt:
            self._felt, self._moved_ns = values, self.ns
        if held is not None:
            self.held = held
        self.gate.hear_deadman(self.held, self.ns, self.ns)
        if self.looking:
            self.gate.hear_validity(True, self.ns, self.ns)
        self.heard_ns = self.ns

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * NS_PER_S / TICK_NS)):
            self.tick()

    def open(self) -> str:
        return self.gate.open(self.ns, self.ns)

    def take(self, received: Received) -> Rejected | None:
        return self.gate.take(received, self.ns, self.ns)

    def wave(self, amplitude: float, seconds: float = 2.0, offset: float = 0.0) -> Received:
        """The arms there and back, smoothly, from where they are."""
        return wave(self.arms.joints, self.positions(self.arms.name) + offset, amplitude, seconds)

    @property
    def stands(self) -> bool:
        """For long enough to be opened."""
        return self.ns - self._moved_ns > 350_000_000

    def moving(self) -> bool:
        return any(commands[-1].end_ns > self.ns for commands in self.commands.values())


def wave(joints: Sequence[str], start: np.ndarray, amplitude: float, seconds: float) -> Received:
    """Every joint out by an amplitude and back, a point each 1/30 s, the first one 50 ms ahead."""
    x = np.linspace(0, 1, round(30 * seconds) + 1)
    out = amplitude * (1 - np.cos(2 * np.pi * x)) ** 2 / 4
    rate = amplitude * np.pi * (1 - np.cos(2 * np.pi * x)) * np.sin(2 * np.pi * x) / seconds
    rate[-1] = 0.0
    return Received(
        joints,
        [
            Point(50_000_000 + round(t * seconds * NS_PER_S), (start + p).tolist(), [v] * len(joints))
            for t, p, v in zip(x, out.tolist(), rate.tolist(), strict=True)
        ],
    )


def carried_out(before: Plan, plan: Plan, now_ns: int) -> Plan:
    """The command from now on: as a joint trajectory controller goes from its last command to the first point."""
    position, velocity = before.sample([now_ns])
    return Plan(
        np.append(now_ns, plan.knots_ns),
        np.concatenate([position, plan.positions]),
        np.concatenate([velocity, plan.velocities]),
    )


def require_inside(limits: Limits, commands: Sequence[Plan]) -> None:
    """Every command ends at rest; sampled at 1 kHz their sequence keeps the limits, its jerk at 100 Hz in any phase."""
    end_ns = max(plan.end_ns for plan in commands) + NS_PER_S // 10
    samples = []
    for command, following in zip(commands, [*commands[1:], None], strict=True):
        assert (command.velocities[-1] == 0).all(), "ends at rest"
        until_ns = end_ns if following is None else following.knots_ns[0]
        begin_ns = -(-command.knots_ns[0] // 1_000_000) * 1_000_000
        samples.append(command.sample(np.arange(begin_ns, until_ns, 1_000_000))[0])
    positions = np.concatenate(samples)
    beyond = np.maximum(limits.lower - positions, positions - limits.upper).max()
    assert beyond <= 1e-9, f"{beyond:.3e} beyond the range"
    velocities = np.diff(positions, axis=0) * 1e3
    shares = {
        "speed": np.abs(velocities) / limits.velocity,
        "acceleration": np.abs(np.diff(velocities, axis=0)) * 1e3 / limits.acceleration,
        "jerk": np.concatenate([np.abs(np.diff(positions[i::10], 3, axis=0)) for i in range(10)]) * 1e6 / limits.jerk,
    }
    for what, share in shares.items():
        at, joint = np.unravel_index(np.argmax(share), share.shape)
        assert share[at, joint] <= 1 + 1e-4, f"{what} of {limits.joints[joint]}: {share[at, joint]:.4f} of its limit"
