"""Coming to rest: how long it takes, and how long whatever is sent can last."""

from collections.abc import Sequence

from dreamzero_policy.runtime.contract import Contract, JointLimits, ModelSection
from dreamzero_policy.runtime.plan import JERK_SHARE, SHARE
from dreamzero_policy.runtime.regime import STOP_AND_GO, Mode, RegimeSettings

PLAIN = Mode(STOP_AND_GO)


def stopping_s(speeds: Sequence[float], limits: Sequence[JointLimits]) -> float:
    """The longest a joint needs to stand still from its speed [rad/s, m/s] with the share of the limits that tails use.

    Whatever it accelerates with now, inside the limits: that is wound down first.
    """
    return max(_stopping_s(abs(speed), limit) for speed, limit in zip(speeds, limits, strict=True))


def _stopping_s(speed: float, limit: JointLimits) -> float:
    acceleration, jerk = SHARE * limit.acceleration, JERK_SHARE * limit.jerk
    wind_down_s = limit.acceleration / jerk
    speed = min(speed + 0.5 * limit.acceleration * wind_down_s, max(speed, limit.velocity))
    if speed * jerk >= acceleration**2:
        return wind_down_s + speed / acceleration + acceleration / jerk
    return wind_down_s + 2 * (speed / jerk) ** 0.5


def chunk_s(model: ModelSection, lead_s: float, mode: Mode = PLAIN) -> float:
    """From sending a chunk to the end of its rows: row 0 waits for the grid of steps, and a tail ends on it.

    Looking ahead, the rows in hand come before: all of them, if the answer takes no time.
    """
    return lead_s + (mode.chunks_ahead * model.chunk.actions - 1 + 2) * model.step_s / mode.speed


def longest_plan_s(contract: Contract, lead_s: float, mode: Mode = PLAIN) -> float:
    """The same with the tail of a chunk that ends at the speed limits: how long a robot moves on without a policy."""
    limits = [contract.site.limits[joint] for joint in contract.model.commanded_joints]
    return chunk_s(contract.model, lead_s, mode) + stopping_s([limit.velocity for limit in limits], limits)


def too_long(contract: Contract, lead_s: float, settings: RegimeSettings, max_plan_s: float) -> str:
    """Why `max_plan_s` leaves no room for a chunk in a mode that is allowed, with both times; empty if there is room.

    No mode is left out in silence: one that cannot fit is not to be allowed.
    """
    for mode in settings.modes():
        if (least_s := chunk_s(contract.model, lead_s, mode)) > max_plan_s:
            return (
                f"a plan of this contract takes {least_s:.2f} s in {mode}, with its tail up to "
                f"{longest_plan_s(contract, lead_s, mode):.2f} s; parameter max_plan_s is {max_plan_s:g}: raise it, "
                "if the robot may move on for so long when this node is killed, or choose another regime"
            )
    return ""
