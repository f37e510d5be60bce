"""Blocks of the loop's own choice: window after window through a recording, by the node's scheduler.

Messages are fed until a block is covered, then the clock goes to its end. Either a chunk takes over at the very instant
that it observed, as if an answer took no time: then blocks follow each other without a gap, as in training. Or the loop
asks when the recorder had heard the block, answers take what the policy says, and the loop waits and pauses as it does
on a robot.
"""

from collections import deque
from collections.abc import Sequence

from dreamzero_policy.replay.replayer import Replayer
from dreamzero_policy.runtime.observation import NS_PER_S


class OwnBlocks:
    """One way through a recording."""

    def __init__(self, replayer: Replayer, prompts: Sequence[tuple[int, str]], at_once: bool) -> None:
        """`prompts`, each from its instant on (0: from the begin); `at_once`: chunks take over where they observed."""
        self._replayer, self._upcoming, self._at_once = replayer, deque(prompts), at_once
        self._opened = -1  # epoch whose window is open
        self._tried_ns = 0  # the newest instant at which one could not be opened

    def play(self) -> None:
        """Go on until the replayer has what it wants or the bag ends.

        Raises:
            EpisodeError: the bag cannot be read further, or is of another robot.
        """
        replayer, feed = self._replayer, self._replayer.feed
        if not feed.until(lambda: feed.fed_ns >= self._upcoming[0][0]):
            return
        self._follow_next()
        while not replayer.done:
            if feed.restarted_ns is not None:
                self._begin_anew()
            elif replayer.policy.due_ns is not None:
                self._answer()
            elif (end_ns := self._covered()) is not None:
                self._take(end_ns)
            elif feed.ended:
                return

    def _answer(self) -> None:
        replayer = self._replayer
        if (chunk := replayer.conclude(max(replayer.world.ns, replayer.policy.due_ns))) is not None:
            replayer.keep(chunk)

    def _covered(self) -> int | None:
        """Feed until a block is complete: its end. None if there is none yet."""
        loop, feed, buffer = self._replayer.loop, self._replayer.feed, self._replayer.buffer
        if self._opened == loop.epoch:
            instants_ns = loop.scheduler.turn(self._replayer.world.ns).instants_ns
            end_ns = instants_ns[-1] if instants_ns else self._replayer.world.ns
            return end_ns if feed.until(lambda: buffer.covers(end_ns)) else None
        if not feed.one():
            return None
        end_ns = buffer.newest_common_ns()
        return end_ns if end_ns is not None and end_ns > self._tried_ns and buffer.covers(end_ns) else None

    def _take(self, end_ns: int) -> None:
        """Ask for the chunk behind a block, unless another prompt came before."""
        if self._upcoming and self._upcoming[0][0] <= end_ns:
            self._follow_next()
            return
        replayer, loop, world = self._replayer, self._replayer.loop, self._replayer.world
        began, self._tried_ns = self._opened >= 0, end_ns
        if self._at_once:
            now_ns = end_ns - round(loop.settings.lead_s * NS_PER_S)
        else:
            silence_ns = loop.embodiment.contract.site.tolerances.silence_s * NS_PER_S
            heard_ns = replayer.feed.fed_ns
            now_ns = heard_ns if abs(heard_ns - end_ns) < silence_ns else end_ns  # else it is another clock's time
        if replayer.ask(end_ns, max(world.ns, now_ns)):
            self._opened = loop.epoch
        elif began or any(stream.fault for stream in replayer.buffer.cameras.values()):
            replayer.note_broken_block(end_ns)

    def _follow_next(self) -> None:
        instant_ns, prompt = self._upcoming.popleft()
        if instant_ns > self._replayer.world.ns:
            self._replayer.world.set_to(instant_ns)
        self._replayer.loop.run(prompt)
        self._tried_ns = 0

    def _begin_anew(self) -> None:
        """The clock of the recording was set back."""
        self._replayer.world.set_to(self._replayer.feed.restarted_ns)
        self._tried_ns, self._replayer.feed.restarted_ns = 0, None
        self._replayer.loop.forget_plan()
        self._replayer.loop.clock_jumped()
