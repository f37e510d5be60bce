"""A walk through a bag: every step of its episodes in one pass, aligned by the observation buffer of live operation.

Messages go one after the other into an `ObservationBuffer`, and what stands for an instant is taken as soon as the
buffer covers it: same nearest rule, same tolerances, same moment as live. A step is given once everything about it is
known, the commands of its instant included. Nothing else is kept, so a bag may be of any length.

An instant without a frame or state is noted and left out; the step behind it has a number that does not follow.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from dreamzero_policy.data.bag_events import BagEvents, Trajectory, add_trajectory
from dreamzero_policy.data.commands import CommandHistory
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.feed import Feed
from dreamzero_policy.data.problems import Problems
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Embodiment, Floats, without_statistics
from dreamzero_policy.runtime.observation import NS_PER_S, Frame, JointSample, MissingObservation, ObservationBuffer

Actions = Literal["commands", "next_state"]


@dataclass(frozen=True)
class Segment:
    """One episode's share of a bag."""

    bag: Path
    instructions: tuple[str, ...]
    begin_ns: int | None  # None: where every source has begun
    end_ns: int | None


@dataclass(frozen=True, eq=False)
class Step:
    """One instant of a segment's action grid."""

    segment: int
    number: int  # on the grid
    instant_ns: int
    state: Floats  # [D]
    action: Floats  # [A]
    frames: Mapping[str, Frame]  # of every camera, not decoded


@dataclass(eq=False)
class _Grid:
    """How far a segment is."""

    segment: Segment
    begin_ns: int | None = None  # instant of its first step, once that is known
    number: int = 0  # of the next instant
    taken: deque[tuple[int, int, Mapping[str, Frame], JointSample]] = field(default_factory=deque)  # not yet given
    before: Step | None = None  # its action is the next state
    over: bool = False
    missing: bool = False  # the instant before had no frame or state


class _Commands:
    """What every controller was sent."""

    def __init__(self, contract: Contract) -> None:
        self.histories = {controller.name: CommandHistory(controller) for controller in contract.site.controllers}
        self.skew_s = float("inf")  # time of recording minus stamp of the joint states, the smallest so far

    def add_state(self, stamp_ns: int, recorded_ns: int, positions: Mapping[str, float]) -> None:
        self.skew_s = min(self.skew_s, (recorded_ns - stamp_ns) / NS_PER_S, key=abs)

    def add_trajectory(self, event: Trajectory) -> None:
        add_trajectory(self.histories[event.controller.name], event.recorded_ns, event.message, event.topic)

    def first_ns(self) -> int | None:
        """When the last of the controllers got its first command; None before."""
        firsts = [history.first_ns for history in self.histories.values()]
        return None if None in firsts else max(firsts)

    def at(self, embodiment: Embodiment, instant_ns: int) -> Floats:
        """What was in execution [A], in the contract's units."""
        targets: dict[str, float] = {}
        for history in self.histories.values():
            targets |= zip(history.controller.joints, history.at(instant_ns), strict=True)
        joints = embodiment.model.state_joints
        return embodiment.as_actions(embodiment.state({joint: targets.get(joint, np.nan) for joint in joints}))


class Walk:
    """One pass over some segments of a bag."""

    def __init__(
        self, events: BagEvents, segments: Sequence[Segment], actions: Actions, contract: Contract, problems: Problems
    ) -> None:
        """
        Raises:
            EpisodeError: commands are asked for and a controller has no topic.
        """
        if actions == "commands" and events.without_commands:
            name = events.without_commands[0]
            has = ", ".join(sorted({c.topic for c in events.bag.connections}))
            raise EpisodeError(
                f"controller {name} is missing: no topic {name}/joint_trajectory in {events.bag.path}; or take "
                f"--actions next_state. It has {has}"
            )
        self._events, self._problems, self.contract = events, problems, contract
        self._robot = without_statistics(contract)
        self.buffer = ObservationBuffer(self._robot)
        self._commands = _Commands(contract)
        self._commanded = actions == "commands"
        self._feed = Feed(events.events(), self.buffer, self._commands, problems)
        self._grids = [_Grid(segment) for segment in segments]
        self._step_ns = NS_PER_S / contract.model.action_hz
        self._firsts: dict[str, int] = {}  # stamp of every source's first message
        self._earliest_ns: int | None = None
        self._first = 0  # grid that is not over
        self.taken = 0

    @property
    def heard_ns(self) -> int:
        """When the newest message was recorded."""
        return self._feed.fed_ns

    def steps(self) -> Iterator[Step]:
        """All steps; those of one segment in order, those of overlapping segments in turn.

        Raises:
            EpisodeError: the bag is of another robot, or does not tell when commands began.
        """
        while not self._over and self._feed.one():
            if self._feed.restarted_ns is not None:
                text = "the clock was set back; nothing behind is read"
                self._note("damage", str(self._events.bag.path), self._feed.restarted_ns, text)
                break
            if self._earliest_ns is None:
                self._begin()
            if self._earliest_ns is not None:
                yield from self._advance()
        self._feed.ended = True
        if self._earliest_ns is not None:
            yield from self._advance()

    @property
    def _over(self) -> bool:
        return self._first == len(self._grids)

    def note_early_ends(self) -> None:
        """Note sources that fell silent long before the others: steps end with the first of them."""
        ends = {source: stream.items[-1].stamp_ns for source, stream in self._streams().items() if stream.items}
        last_ns = max(ends.values(), default=0)
        for source, end_ns in ends.items():
            if not self._over and (last_ns - end_ns) / NS_PER_S > self.contract.site.tolerances.silence_s:
                text = (
                    f"{source}: silent from here on; {(last_ns - end_ns) / NS_PER_S:.1f} s of the others are left out"
                )
                self._note("gap", source, end_ns, text)

    def reason(self) -> str:
        """Why a segment has no steps."""
        if silent := sorted(set(self._streams()) - set(self._firsts)):
            return f"{silent[0]}: no message in {self._events.bag.path}"
        if self._commanded:
            for name, history in self._commands.histories.items():
                if history.first_ns is None:
                    return (
                        f"controller {name}: no command was recorded; take --actions next_state, or record one that "
                        "holds it"
                    )
        ends = [stream.items[-1].stamp_ns for stream in self._streams().values() if stream.items]
        return (
            f"cameras, joint states and commands have less than two steps in common, between "
            f"{(self._earliest_ns or 0) / NS_PER_S:.3f} s and {min(ends) / NS_PER_S:.3f} s"
        )

    def _streams(self):
        return {f"camera {camera}": stream for camera, stream in self.buffer.cameras.items()} | {
            "joint states": self.buffer.joints
        }

    def _begin(self) -> None:
        """Find where the grids begin, once everything has."""
        streams = self._streams()
        for source, stream in streams.items():
            if source not in self._firsts and stream.items:
                self._firsts[source] = stream.items[0].stamp_ns
        if len(self._firsts) < len(streams):
            return
        earliest_ns = max(self._firsts.values())
        if self._commanded:
            if abs(self._commands.skew_s) > self.contract.site.tolerances.silence_s:
                raise EpisodeError(
                    f"joint states: recorded {self._commands.skew_s:+.1f} s after their stamps, so the bag does not "
                    "tell when commands began; record on the clock of the stamps (use_sim_time) or take --actions "
                    "next_state"
                )
            first_ns = self._commands.first_ns()
            if first_ns is None:
                return
            earliest_ns = max(earliest_ns, first_ns)
        self._earliest_ns = earliest_ns
        for grid in self._grids:
            grid.begin_ns = earliest_ns if grid.segment.begin_ns is None else grid.segment.begin_ns
            grid.number = max(0, -int((grid.begin_ns - earliest_ns) // self._step_ns))

    def _instant_ns(self, grid: _Grid, number: int) -> int:
        return grid.begin_ns + round(number * self._step_ns)

    def _advance(self) -> Iterator[Step]:
        """Take what is covered now, and give what is settled."""
        newest_ns, waiting = self.buffer.joints.items[-1].stamp_ns if self.buffer.joints.items else 0, []
        for segment, grid in enumerate(self._grids[self._first :], self._first):
            if grid.begin_ns > newest_ns + NS_PER_S:  # and so are those behind it
                break
            while not grid.over:
                instant_ns = self._instant_ns(grid, grid.number)
                if grid.segment.end_ns is not None and instant_ns > grid.segment.end_ns:
                    grid.over = True
                elif self.buffer.covers(instant_ns):
                    self._take(grid, instant_ns)
                else:
                    break
            while grid.taken and self._settled(grid.taken[0][1]):
                yield from self._step(segment, grid, *grid.taken.popleft())
            if grid.taken or not grid.over:
                waiting.append(grid.taken[0][1] if grid.taken else self._instant_ns(grid, grid.number))
            elif segment == self._first:
                self._first += 1
        for history in self._commands.histories.values():
            history.forget_before(min(waiting, default=newest_ns))

    def _settled(self, instant_ns: int) -> bool:
        """Whether the sources have got there, and every command that arrived by then has been read."""
        reached = all(stream.items and stream.items[-1].stamp_ns >= instant_ns for stream in self._streams().values())
        return reached and (not self._commanded or self._feed.ended or self._feed.fed_ns >= instant_ns)

    def _take(self, grid: _Grid, instant_ns: int) -> None:
        """What stands for an instant, or a note of what is missing and where it goes on."""
        try:
            frames, sample = self.buffer.standing_for(instant_ns)
        except MissingObservation as error:
            if not grid.missing:
                source, _, text = str(error).partition(": ")
                self._note("gap", source, instant_ns, f"{source}: {text}")
            grid.missing = True
            grid.number = max(grid.number + 1, self._there_again(grid, instant_ns))
            return
        grid.missing = False
        grid.taken.append((grid.number, instant_ns, frames, sample))
        self.taken += 1
        grid.number += 1

    def _there_again(self, grid: _Grid, instant_ns: int) -> int:
        """Number of the last instant before all sources have something again."""
        following = [
            next((item.stamp_ns for item in stream.items if item.stamp_ns >= instant_ns), instant_ns)
            for stream in self._streams().values()
        ]
        return int((max(following) - grid.begin_ns) / self._step_ns) - 1

    def _step(
        self, segment: int, grid: _Grid, number: int, instant_ns: int, frames: Mapping[str, Frame], sample: JointSample
    ) -> Iterator[Step]:
        state = self._robot.state(sample.positions)
        if self._commanded:
            yield Step(segment, number, instant_ns, state, self._commands.at(self._robot, instant_ns), frames)
            return
        before = grid.before
        if before is not None and before.number + 1 == number:
            action = self._robot.as_actions(state)
            yield Step(segment, before.number, before.instant_ns, before.state, action, before.frames)
        grid.before = Step(segment, number, instant_ns, state, np.empty(0), frames)

    def _note(self, kind: Literal["damage", "gap"], source: str, instant_ns: int, text: str) -> None:
        self._problems.note(kind, self._events.topics.get(source, source), instant_ns, text)
