"""Easing: rows that lead a little beyond a joint's range, bent so that they end before it.

A learned policy that works near a joint's stop asks for a little more than there is, again and again. Refused, the
robot stands where it stood, is shown what it was shown, and asks for the same: it hangs there for good. So rows that
lead beyond the range by no more than a share of the joint's `step` are eased into it, where the operator allows it and
only where they were refused, and the chunk says which joints.

The bend is smooth, since a corner at the stop would ask for more acceleration than there is: with softness s and end e
a row x becomes e − s ln(1 + exp((e − x) / s)). That is x far inside, and below e everywhere.
"""

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.limits import Limits

SOFTNESS = 0.125  # s, as a share of a joint's step


def eased(rows: Floats, joints: NDArray[np.bool_], limits: Limits, share: float) -> Floats | None:
    """Rows [H, J] with those joints [J] inside their ranges; None if one is beyond by more than a share of its step."""
    beyond = np.maximum(rows - limits.upper, limits.lower - rows).max(0)
    if not joints.any() or (beyond > share * limits.step)[joints].any():
        return None
    softness = SOFTNESS * limits.step
    below = limits.upper - softness * np.logaddexp(0.0, (limits.upper - rows) / softness)
    inside = limits.lower + softness * np.logaddexp(0.0, (below - limits.lower) / softness)
    return np.where(joints, inside, rows)
