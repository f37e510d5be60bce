"""How many denoising steps there is time for.

A chunk that overlaps with motion is due when the rows in hand end. What an answer takes is estimated from the last
ones: the slowest denoising step and the slowest rest. The largest number of steps that fits is taken, halved from the
full number down to one; without a deadline (a robot at rest waits for a good chunk) it is the full number.
"""

from collections import deque

from dreamzero_policy.runtime.policy import Reply

REMEMBERED = 8  # answers; the slowest counts


class DeadlineSteps:
    """The rule with what it has measured. Until an answer was timed every chunk gets the full number."""

    def __init__(self, full: int) -> None:
        self.full = full
        self._step_s: deque[float] = deque(maxlen=REMEMBERED)
        self._rest_s: deque[float] = deque(maxlen=REMEMBERED)

    def took(self, reply: Reply, answer_s: float) -> None:
        """A reply came `answer_s` after its request. One that does not say what denoising took tells nothing."""
        denoise_s = reply.timings_s.get("denoise")
        if denoise_s is not None and reply.evaluations:
            self._step_s.append(denoise_s / reply.evaluations)
            self._rest_s.append(answer_s - denoise_s)

    def steps(self, time_left_s: float | None) -> int:
        """Steps for a chunk that is due in so many seconds; None: it is not due."""
        count = self.full
        if time_left_s is not None and self._step_s:
            while count > 1 and max(self._rest_s) + count * max(self._step_s) > time_left_s:
                count //= 2
        return count
