"""The gate: closed, nothing passes; open, what keeps the limits passes.

    source ──► wanted trajectory ──► interlocks ──► engage ──► limits ──► controllers

It is opened by a person's word, only to a robot that stands, and only while every interlock is good: the deadman is
held, no emergency stop is latched, joint states come, every controller listens, and the states ahead are valid, where
somebody looks at them. Any of them going bad closes it, and it stays closed until it is opened again. What is being
executed when it closes is replaced by the way to rest inside the limits; nothing else is ever sent while it is closed.

A source that falls silent needs no reaction: every trajectory that passes ends at rest. The gate tells of it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from agibot_bringup.safety_gate.channel import Channel, Way
from agibot_bringup.safety_gate.interlocks import Assent, Interlock, JointStates
from agibot_bringup.safety_gate.trajectory import Bounds, Reason, Received, ReceivedArrays, Rejected, wanted
from agibot_bringup.standing import Standing
from dreamzero_policy.runtime.contract import Contract, Controller
from dreamzero_policy.runtime.emergency_stop import EmergencyStop
from dreamzero_policy.runtime.geometry import Check
from dreamzero_policy.runtime.limits import LOOK_NS
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan

Send = Callable[[Controller, Plan, int], None]  # a trajectory for a controller, with the instant its times count from


class State(Enum):
    """Values are the first words of `~/status`."""

    STOPPED = "stopped"  # an emergency stop is latched
    BRAKING = "braking"  # closed, and what was sent last has not come to rest yet
    CLOSED = "closed"
    ENGAGING = "engaging"  # open, and what is wanted is blended with the pose
    OPEN = "open"
    SILENT = "silent"  # open, and the robot stands because nothing comes


@dataclass(frozen=True)
class Settings:
    """How the gate behaves; see config/safety_gate.yaml."""

    engage_s: float
    first_points_s: Sequence[float]
    bounds: Bounds
    source_timeout_s: float


class Gate:
    """Every method takes the present: `now_ns` on the clock of trajectories, `monotonic_ns` on that of silence."""

    def __init__(
        self,
        contract: Contract,
        settings: Settings,
        deadman: Assent | None,
        send: Send,
        checks: Sequence[Check] = (),
        validity: Assent | None = None,
    ) -> None:
        """Without a deadman nobody has to hold on, without `validity` nobody looks ahead. `checks` are those of the
        robot's shape, on all commanded joints.
        """
        self.settings, self._deadman, self._validity, self._send = settings, deadman, validity, send
        self.controllers = contract.site.controllers
        self.channels = {
            controller.name: Channel(contract, controller, settings.first_points_s, settings.engage_s)
            for controller in self.controllers
        }
        joints = contract.model.commanded_joints
        self.joint_states = JointStates(joints, contract.site.tolerances.silence_s)
        self._standing = Standing(contract, joints)
        self.estop = EmergencyStop()
        self.absent: Sequence[str] = ()  # controllers that nobody plays, told by whoever knows
        self.opened = False
        self.message = "nobody has opened it yet"  # why it is closed
        self.passed = 0
        self.rejected: Counter[Reason] = Counter()
        self.last_rejection = ""
        self.rejecting = False  # the last trajectory that came to the open gate was rejected
        self._checks = tuple(checks)
        self._joints = joints
        self._followed = False  # anything, since it was opened
        self._unbraked: set[str] = set()  # channels that follow a trajectory of the source, though the gate is closed

    # What is heard

    def hear_joint_states(
        self, names: Sequence[str], positions: Sequence[float], now_ns: int, monotonic_ns: int
    ) -> None:
        """rad and m."""
        self.watch(now_ns, monotonic_ns)
        were_missing = self.joint_states.interlock(monotonic_ns) is not None
        self.joint_states.hear(names, positions, monotonic_ns)
        self.watch(now_ns, monotonic_ns)
        are_missing = self.joint_states.interlock(monotonic_ns) is not None
        if not are_missing:
            self._standing.hear(self.joint_states.of(self._joints), monotonic_ns)
        for channel in self.channels.values():
            if were_missing or are_missing:
                channel.lose_sight()
            elif channel.settles(now_ns):
                channel.settle(self.joint_states.of(channel.controller.joints))

    def hear_deadman(self, held: bool, now_ns: int, monotonic_ns: int) -> None:
        """The button, or a beat."""
        self._hear(self._deadman, held, now_ns, monotonic_ns)

    def hear_validity(self, valid: bool, now_ns: int, monotonic_ns: int) -> None:
        """Whether the states ahead are valid, of who looks ahead."""
        self._hear(self._validity, valid, now_ns, monotonic_ns)

    def _hear(self, assent: Assent | None, agreed: bool, now_ns: int, monotonic_ns: int) -> None:
        """A silence that nobody has noticed yet is noticed before."""
        self.watch(now_ns, monotonic_ns)
        if assent is not None:
            assent.hear(agreed, monotonic_ns)
        self.watch(now_ns, monotonic_ns)

    def hear_estop(self, stop: bool, now_ns: int, monotonic_ns: int) -> None:
        """A message on the emergency stop's topic."""
        self.estop.hear(stop)
        self.watch(now_ns, monotonic_ns)

    def clock_jumped(self, now_ns: int, by_ns: int) -> None:
        """The clock of trajectories was set, to `now_ns`: the times of before mean nothing any more."""
        for channel in self.channels.values():
            channel.shift(by_ns)
        self.close(f"the clock jumped by {by_ns / NS_PER_S:+.2f} s", now_ns)

    # What a person says

    def open(self, now_ns: int, monotonic_ns: int) -> str:
        """Let trajectories pass from now on. Why that is refused; empty if it is done."""
        self.watch(now_ns, monotonic_ns)
        if self.opened:
            return ""
        if interlocks := self.interlocks(monotonic_ns):
            return "; ".join(interlock.text for interlock in interlocks)
        if self._moving(now_ns):
            return "the robot is still coming to rest"
        if unrest := self._standing.unrest(monotonic_ns):
            return f"the robot does not stand: {unrest}"
        for channel in self.channels.values():
            channel.place(self.joint_states.of(channel.controller.joints), now_ns)
        self.opened, self.rejecting, self._followed = True, False, False
        return ""

    @property
    def looks_for_rest(self) -> bool:
        """Whether, closed, it still follows the source somewhere since no way to rest was found."""
        return bool(self._unbraked)

    def close(self, why: str, now_ns: int) -> None:
        """Let nothing pass from now on, and bring the robot to rest."""
        if self.opened:
            self.opened, self.message = False, why
            self._unbraked = set(self.channels)
        self._brake(now_ns)

    # What a source sends

    def take(self, received: Received | ReceivedArrays, now_ns: int, monotonic_ns: int) -> Rejected | None:
        """A trajectory: passes whole, or not at all. Why not; None if it passed."""
        self.watch(now_ns, monotonic_ns)
        try:
            if not self.opened:
                raise Rejected(Reason.CLOSED, "the gate is closed")
            # Numbers of any size may stand in a message; what overflows is not finite, and so breaks a limit.
            with np.errstate(over="ignore", invalid="ignore"):
                ways = self._ways(received, now_ns)
        except Rejected as rejection:
            self.rejected[rejection.reason] += 1
            if rejection.reason is not Reason.CLOSED:
                self.last_rejection, self.rejecting = str(rejection), True
            return rejection
        for channel, way in ways:
            self._follow(channel, way, now_ns)
        self.passed, self.rejecting, self._followed = self.passed + 1, False, True
        return None

    def _ways(self, received: Received | ReceivedArrays, now_ns: int) -> list[tuple[Channel, Way]]:
        ways = []
        for controller, plan in wanted(received, self.controllers, self.settings.bounds, now_ns):
            channel = self.channels[controller.name]
            measured = self.joint_states.of(controller.joints)
            if channel.moved(measured, now_ns):
                channel.place(measured, now_ns)
            ways.append((channel, channel.way_to(plan, now_ns)))
        if self._checks:
            self._look(ways, now_ns)
        return ways

    def _look(self, ways: Sequence[tuple[Channel, Way]], now_ns: int) -> None:
        """Judge the shape of the whole robot, each controller on its way.

        Raises:
            Rejected: it leaves its workspace or comes too close to itself.
        """
        commands = {name: channel.command for name, channel in self.channels.items()}
        commands |= {channel.controller.name: way.command for channel, way in ways}
        instants_ns = np.arange(now_ns, max(command.end_ns for command in commands.values()) + LOOK_NS, LOOK_NS)
        column = {joint: index for index, joint in enumerate(self._joints)}
        positions = np.empty((len(instants_ns), len(self._joints)))
        for controller in self.controllers:
            positions[:, [column[joint] for joint in controller.joints]] = commands[controller.name].sample(
                instants_ns
            )[0]
        for check in self._checks:
            if not (judgement := check(positions)):
                raise Rejected.by(judgement)

    # What goes on

    def watch(self, now_ns: int, monotonic_ns: int) -> None:
        """Close if an interlock asks for it, and go on bringing the robot to rest. To be called again and again."""
        if self.opened and (interlocks := self.interlocks(monotonic_ns)):
            self.close("; ".join(interlock.text for interlock in interlocks), now_ns)
        self._brake(now_ns)

    def interlocks(self, monotonic_ns: int) -> list[Interlock]:
        """All that keeps the gate closed now."""
        stop = self.estop.trouble()
        found = [None if stop is None else Interlock(stop.fault.label, stop.text)]
        found += [one.interlock(monotonic_ns) for one in (self._deadman, self._validity) if one is not None]
        found.append(self.joint_states.interlock(monotonic_ns))
        if self.absent:
            found.append(Interlock("controller_gone", f"controllers: nobody listens as {', '.join(self.absent)}"))
        return [interlock for interlock in found if interlock is not None]

    def state(self, now_ns: int) -> State:
        """What the gate does now."""
        if self.opened:
            if any(channel.engaging(now_ns) for channel in self.channels.values()):
                return State.ENGAGING
            return State.SILENT if self.silent_s(now_ns) > self.settings.source_timeout_s else State.OPEN
        if self._moving(now_ns):
            return State.BRAKING
        return State.CLOSED if self.estop.trouble() is None else State.STOPPED

    def silent_s(self, now_ns: int) -> float:
        """For how long the open gate has had nothing to follow [s]: 0 while something moves."""
        if not self._followed or self._moving(now_ns):
            return 0.0
        return (now_ns - max(channel.command.end_ns for channel in self.channels.values())) / NS_PER_S

    def _moving(self, now_ns: int) -> bool:
        return any(channel.moving(now_ns) for channel in self.channels.values())

    def _brake(self, now_ns: int) -> None:
        """A way to rest that is not found now is looked for again; at worst what is followed ends at rest itself."""
        for name in sorted(self._unbraked):
            channel = self.channels[name]
            if not channel.moving(now_ns):
                self._unbraked.discard(name)
            elif (way := channel.brake(now_ns)) is not None:
                self._unbraked.discard(name)
                self._follow(channel, way, now_ns)

    def _follow(self, channel: Channel, way: Way, now_ns: int) -> None:
        channel.take(way)
        self._send(channel.controller, way.sent, now_ns)
