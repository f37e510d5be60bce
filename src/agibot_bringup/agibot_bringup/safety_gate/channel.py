"""A channel: what one controller is told, and how that may change.

The channel knows its controller's command as the controller interpolates it, cubics from point to point. Something new
takes over from there: from the state commanded now the controller goes to the first point that lies far enough ahead.
That way, the new trajectory behind it, and the control period before are judged together, so that the limits hold
across the seam. Where the way to the nearest point would be too sharp a later one is tried.

After the gate was closed one thing cannot be heard: whether the controller still holds its command, or was activated
anew meanwhile and holds where the joints were measured. The command is followed in both readings then, until they
meet at the first point, and the limits must hold in both.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import ruckig
from numpy.typing import NDArray

from agibot_bringup.safety_gate.engage import Engagement
from agibot_bringup.safety_gate.trajectory import Rejected
from dreamzero_policy.runtime.chunk import Judgement, Verdict
from dreamzero_policy.runtime.contract import Contract, Controller
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.limits import CONTROL_NS, Limits
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import SHORTEST_NS, Plan

SETTLED_NS = NS_PER_S // 2  # behind the end of a motion: what stands elsewhere then was moved by something else
# Further first points while it is not known where the controller begins: a slow joint needs that long for a centimetre.
ENGAGING_NS = (250_000_000, 400_000_000, 600_000_000, 800_000_000, 1_000_000_000)
# A brake that a limit forbids at once is tried a little later.
BRAKE_DELAYS_NS = (0, 20_000_000, 50_000_000, 100_000_000)


@dataclass(frozen=True, eq=False)
class Way:
    """A trajectory that may be taken."""

    command: Plan  # what the controller makes of it, from a control period ago on
    other: Plan | None  # the same from the other place where it may begin
    first_ns: int  # when the first point that is sent is due
    engagement: Engagement | None

    @property
    def sent(self) -> Plan:
        return self.command.after(self.first_ns)


class Channel:
    """One controller of a contract."""

    def __init__(
        self, contract: Contract, controller: Controller, first_points_s: Sequence[float], engage_s: float
    ) -> None:
        self.controller = controller
        self.limits = Limits(controller.joints, contract.site.limits)
        self.command: Plan | None = None  # None before anything is known of the robot
        self._other: Plan | None = None  # the command in the other reading, where there are two
        self._engagement: Engagement | None = None
        self._engage_ns = round(engage_s * NS_PER_S)
        self._first_points_ns = [round(seconds * NS_PER_S) for seconds in sorted(first_points_s)]
        self._tail_step_ns = round(contract.model.step_s * NS_PER_S)
        self._tracking = contract.site.tolerances.tracking
        # Beyond a limit's `step` nothing that begins where the robot stands could be taken.
        self._stands_within = np.minimum(self._tracking, self.limits.step)
        self._grippers = np.array([joint in contract.site.grippers for joint in controller.joints])
        self._settled: Floats | None = None  # where the joints came to stand behind the last motion, once they do
        self._seen = True  # that motion and its end, by joint states without a gap

    # Where the robot is

    def moving(self, now_ns: int) -> bool:
        """Whether what was sent has not ended yet."""
        return self.command is not None and self.command.end_ns > now_ns

    def engaging(self, now_ns: int) -> bool:
        """Whether what is wanted is blended with the pose."""
        return self._engagement is not None and now_ns < self._engagement.end_ns

    def place(self, measured: Floats, now_ns: int) -> None:
        """Begin anew, from rest where the joints are; the next trajectory is engaged.

        Where the controller was sent by this gate, and is, its command is the pose, since from there it goes on, unless
        it was activated anew meanwhile: then from where the joints are.
        """
        pose, other = measured, None
        if self.command is not None:
            last = self.command.positions[-1]
            pose = np.where(self._away(measured, self._stands_within), measured, last)
            held = np.where(self._away(measured, self._tracking), measured, last)
            other = Plan.rest(np.where(pose == measured, held, measured), now_ns)
        self.command, self._other, self._engagement, self._settled = Plan.rest(pose, now_ns), other, None, measured

    def settles(self, now_ns: int) -> bool:
        """Whether the joints stand behind the last motion by now, and where is not known yet."""
        return self.command is not None and self._settled is None and self.command.end_ns + SETTLED_NS <= now_ns

    def settle(self, measured: Floats) -> None:
        """They stand there. Where nobody saw how they came there, they should stand at their command."""
        self._settled = measured if self._seen else self.command.positions[-1]

    def lose_sight(self) -> None:
        """Joint states are missing."""
        self._seen = self._seen and self._settled is not None

    def moved(self, measured: Floats, now_ns: int) -> bool:
        """Whether something else moved the joints, that stand for long enough to tell."""
        if self.command is None or self.command.end_ns + SETTLED_NS > now_ns:
            return False
        return bool(self._away(measured, self._stands_within).any())

    def _away(self, measured: Floats, within: float | Floats) -> NDArray[np.bool_]:
        """Joints that are not where their command brought them, within so much [rad, m].

        A gripper that holds an object stands away from its command by intention, and closes further when it loses it:
        it may be anywhere between its command and where it came to stand.
        """
        last = self.command.positions[-1]
        if self._settled is None:
            return (np.abs(measured - last) > within) & ~self._grippers
        stood = np.where(self._grippers, self._settled, last)
        low, high = np.minimum(stood, last) - within, np.maximum(stood, last) + within
        return (measured < low) | (measured > high)

    def shift(self, jump_ns: int) -> None:
        """The clock was set: the robot is taken to go on from where it was, only the time of day is another.

        A controller that counts by the same clock is that much further on its way, or less far; the way to rest
        begins a first point ahead, and it goes there from where it is.
        """
        if self.command is not None:
            self.command = _shifted(self.command, jump_ns)
        if self._other is not None:
            self._other = _shifted(self._other, jump_ns)

    # What it may be told

    def way_to(self, wanted: Plan, now_ns: int) -> Way:
        """The way into a trajectory, blended with the pose while the channel engages.

        Raises:
            Rejected: nothing of it is left, or it breaks a limit. The text is that of the gentlest way.
        """
        engagement = self._engagement
        if engagement is None:
            (pose,), _ = self.command.sample([now_ns])
            engagement = Engagement(pose, now_ns, self._engage_ns)
        outgoing = engagement.blended(wanted)
        left_s, first_s = ((ns - now_ns) / NS_PER_S for ns in (wanted.end_ns, now_ns + self._first_points_ns[0]))
        judgement = Judgement(
            Verdict.REJECTED_LATE,
            f"the last point is due in {left_s:.3f} s, the first point that is sent lies {first_s:g} s ahead",
        )
        self._meet(now_ns)
        begins = None
        for first_ns in self._engaging_instants(wanted, outgoing, now_ns):
            entered = outgoing.after(first_ns)
            present, _ = self.command.sample([first_ns])
            if self._engagement is not None:
                begins = entered.positions[:1]
            elif begins is None:  # at first what is wanted must begin near the pose, not only the blend of it
                begins = wanted.sample([first_ns])[0]
            judgement = self.limits.judge_rows(begins, present[0])
            if not judgement:
                break
            command, other = _taken_over(self.command, entered, now_ns), None
            judgement = self.limits.judge(command)
            if judgement and self._other is not None:
                other = _taken_over(self._other, entered, now_ns)
                judgement = self.limits.judge(other)
            if judgement:
                return Way(command, other, first_ns, engagement)
        raise Rejected.by(judgement)

    def take(self, way: Way) -> None:
        """From now on the controller goes this way."""
        self.command, self._other, self._engagement = way.command, way.other, way.engagement
        self._settled, self._seen = None, True

    def brake(self, now_ns: int) -> Way | None:
        """The way to rest inside the limits; None if no other is found than the one that is being followed.

        Where the command has two readings it must be inside them in both; until they meet, little more than the
        beginning of the blend is under way.
        """
        self._meet(now_ns)
        for first_ns in self._first_instants(self.command, now_ns):
            followed = self.command.as_sent(now_ns, first_ns, CONTROL_NS)
            for delay_ns in BRAKE_DELAYS_NS:
                if first_ns + delay_ns >= self.command.end_ns - SHORTEST_NS:
                    break
                try:
                    braked = followed.until(first_ns + delay_ns).with_tail(self.limits.by_joint, self._tail_step_ns)
                except (ruckig.RuckigError, ValueError):  # none from this state; a later one may have one
                    continue
                if braked.end_ns < self.command.end_ns and self.limits.keeps(braked):
                    other = self._other and _taken_over(self._other, braked.after(first_ns), now_ns)
                    if other is None or self.limits.keeps(other):
                        return Way(braked, other, first_ns, self._engagement)
        return None

    def _meet(self, now_ns: int) -> None:
        """Behind the first point that was sent there is one reading of the command again."""
        if self._other is not None:
            (here,), _ = self.command.sample([now_ns])
            (there,), _ = self._other.sample([now_ns])
            if np.array_equal(here, there):
                self._other = None

    def _first_instants(self, plan: Plan, now_ns: int) -> Iterator[int]:
        """When the first point may be due, the nearest first. A plan that begins later begins there."""
        instants_ns = {max(now_ns + ahead_ns, int(plan.knots_ns[0])) for ahead_ns in self._first_points_ns}
        yield from (instant_ns for instant_ns in sorted(instants_ns) if instant_ns <= plan.end_ns)

    def _engaging_instants(self, wanted: Plan, outgoing: Plan, now_ns: int) -> Iterator[int]:
        """The same; where the controller may begin in two places also later ones, as long as the blend lasts."""
        instant_ns = now_ns
        for instant_ns in self._first_instants(wanted, now_ns):
            yield instant_ns
        if self._other is not None and instant_ns > now_ns:
            later_ns = (now_ns + ahead_ns for ahead_ns in ENGAGING_NS)
            yield from (later for later in later_ns if instant_ns < later <= outgoing.end_ns)


def _taken_over(present: Plan, entered: Plan, now_ns: int) -> Plan:
    """What a controller makes of a trajectory that it hears of now, with the control period before."""
    since_ns = now_ns - CONTROL_NS
    past = slice(present.first_after(since_ns + SHORTEST_NS), present.first_not_before(now_ns - SHORTEST_NS))
    positions, velocities = present.sample([since_ns, now_ns])
    return Plan(
        np.concatenate([[since_ns], present.knots_ns[past], [now_ns], entered.knots_ns]),
        np.concatenate([positions[:1], present.positions[past], positions[1:], entered.positions]),
        np.concatenate([velocities[:1], present.velocities[past], velocities[1:], entered.velocities]),
    )


def _shifted(plan: Plan, by_ns: int) -> Plan:
    return Plan(plan.knots_ns + by_ns, plan.positions, plan.velocities)
