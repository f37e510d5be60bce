"""The timeline: which action step is executed when.

Steps are counted from the opening of a window. While rows are executed, a step lasts 1 / action_hz (longer when motion
is slowed); between two rows there may be a pause, in which no step passes. So the frames of a block are found by step,
and show the motion as the model knows it, however long it took.
"""

from dataclasses import dataclass, field

from dreamzero_policy.runtime.observation import NS_PER_S

KEPT = 8  # segments; a block reaches over three at most: two chunks and a rest


@dataclass(frozen=True)
class Segment:
    """From `step`, which is executed at `ns`, on."""

    step: int
    ns: int
    period_s: float  # of a step

    def instant_ns(self, step: int) -> int:
        return self.ns + round((step - self.step) * self.period_s * NS_PER_S)


@dataclass
class Timeline:
    """Instants of the steps up to `end`, the first one that nobody has filled yet."""

    segments: list[Segment] = field(default_factory=list)
    end: int = 0

    @classmethod
    def opened(cls, ns: int, period_s: float, end: int) -> "Timeline":
        """Step 0 is the frame that opens a window; up to `end` nothing is executed."""
        return cls([Segment(0, ns, period_s)], end)

    def instant_ns(self, step: int) -> int:
        """When a step is over and seen. A step at which motion went on after a pause was seen before the pause.

        Raises ValueError for a step behind the end, which has no instant yet.
        """
        if step > self.end:
            raise ValueError(f"step {step} has no instant yet, the timeline ends at {self.end}")
        begun = (segment for segment in reversed(self.segments) if segment.step < step)
        return next(begun, self.segments[0]).instant_ns(step)

    def executed_ns(self, step: int) -> int:
        """When the row of a step is due: behind a pause before it, unlike :meth:`instant_ns`.

        Raises ValueError for a step that nobody has filled.
        """
        if step >= self.end:
            raise ValueError(f"step {step} has no row, the timeline ends at {self.end}")
        begun = (segment for segment in reversed(self.segments) if segment.step <= step)
        return next(begun, self.segments[0]).instant_ns(step)

    def go_on(self, step: int, ns: int, period_s: float, end: int) -> None:
        """From `step`, at `ns`, steps are filled up to `end`; what was to follow `step` is dropped."""
        kept = [segment for segment in self.segments if segment.step < step or segment is self.segments[0]]
        self.segments = [*kept, Segment(step, ns, period_s)][-KEPT:]
        self.end = end

    def stand_still(self, end: int, period_s: float) -> None:
        """Steps up to `end` pass at rest, as far as nothing fills them yet."""
        if end > self.end:
            self.go_on(self.end, self.instant_ns(self.end), period_s, end)

    def copy(self) -> "Timeline":
        return Timeline(list(self.segments), self.end)
