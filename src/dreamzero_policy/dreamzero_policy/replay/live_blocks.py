"""Blocks of a run that was recorded: the loop is asked when the node was, and sees what the node says it saw.

Times of request, answer and take-over come from the chunks of the recording, everything else is the loop's own: which
block is due, which frames stand for it, what is predicted, what the limits say. Where the loop would do another thing
than the node did, or a frame is not there, that is told, and the replay goes on where a window is opened next: with the
next epoch, or in an epoch that stops and goes, with the block that finds the window full.
"""

from collections.abc import Iterable
from dataclasses import replace

from dreamzero_policy.replay.comparison import Comparison
from dreamzero_policy.replay.live import LiveChunk
from dreamzero_policy.replay.replayer import Replayer
from dreamzero_policy.replay.schedule import RecordedScheduler
from dreamzero_policy.runtime.loop_settings import SEED_STRIDE
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.policy import Purpose, Request
from dreamzero_policy.runtime.regime import STOP_AND_GO

MOST_OBSERVED = 4  # blocks between two chunks that no chunk tells of


class LiveBlocks:
    """The chunks of one recording, one after the other."""

    def __init__(
        self,
        replayer: Replayer,
        comparison: Comparison,
        seed: int,
        prompt: str | None = None,
        steps: int | None = None,
    ) -> None:
        """`seed` of the recording, without what chunks and rejections added; `prompt` and `steps` if not its own."""
        self._replayer, self._comparison = replayer, comparison
        self._seed, self._prompt, self._steps = seed, prompt, steps
        loop = replayer.loop
        self._scheduler = RecordedScheduler(loop.model, loop.settings.lead_s, loop.settings.regime)
        loop.scheduler = self._scheduler
        replayer.policy.amend = self._amended
        self._last: LiveChunk | None = None
        self._asked: LiveChunk | None = None  # whose request is on its way
        self._following = False  # the loop has seen all that the node had seen
        self._plain = False  # all chunks of this epoch so far were of one session that stopped and went

    def play(self, chunks: Iterable[LiveChunk]) -> None:
        """Raises EpisodeError: the bag cannot be read further, or is of another robot."""
        for live in chunks:
            if self._replayer.done:
                return
            self._play(live)

    def _play(self, live: LiveChunk) -> None:
        last, self._last = self._last, live
        same_run = last is not None and last.run == live.run
        follows = same_run and live.index == last.index + 1
        plain = live.regime == STOP_AND_GO and live.stream == 0 and not live.look_ahead
        self._plain = plain and (live.opens or (same_run and self._plain))
        if live.opens or not (self._following and follows):
            opens = live.opens or (self._plain and live.index % self._replayer.loop.model.chunk.chunks_per_window == 0)
            refusal = self._open(live) if opens else "what was observed before it is not in the bag"
        else:
            refusal = self._go_on(live)
        self._following = not refusal
        if refusal:
            self._comparison.skip(live, refusal)
            return
        self._scheduler.live = live
        chunk = self._replayer.conclude(live.answered_ns)
        self._scheduler.live = None
        behind_fork = self._replayer.fork is not None and self._replayer.fork.sessions.forked
        self._replayer.keep(chunk, live, None if behind_fork else self._comparison)

    def _open(self, live: LiveChunk) -> str:
        """Open a window with the last frames of a chunk's block. Returns why that cannot be."""
        replayer, loop = self._replayer, self._replayer.loop
        if absent := self._absent(live, last_only=True):
            return absent
        loop.forget_plan()
        loop.run(self._prompt or live.prompt)
        self._expect(live)
        replayer.buffer.opening_ns = live.observation_ns
        silence_ns = round(loop.embodiment.contract.site.tolerances.silence_s * NS_PER_S)
        asked = replayer.ask(live.observation_ns, min(live.asked_ns, live.observation_ns + silence_ns))
        replayer.buffer.opening_ns = None
        return "" if asked else self._broken(live)

    def _go_on(self, live: LiveChunk) -> str:
        """Observe the block of a chunk. Returns why that cannot be."""
        replayer = self._replayer
        if refusal := self._observe_between(live):
            return refusal
        turn = self._scheduler.turn(live.asked_ns)
        ours = turn.session, turn.purpose is Purpose.LOOK_AHEAD
        if ours != (live.stream, live.look_ahead):
            names = [
                f"session {stream}, {'looking ahead' if ahead else 'its next chunk'}"
                for stream, ahead in ((live.stream, live.look_ahead), ours)
            ]
            return f"the node asked {names[0]}, this loop would ask {names[1]}; give the node's own --parameters"
        if turn.instants_ns and turn.instants_ns[-1] != live.observation_ns:
            return (
                f"the node observed at {live.observation_ns / NS_PER_S:.6f} s, this loop would at "
                f"{turn.instants_ns[-1] / NS_PER_S:.6f} s; give the node's own --parameters"
            )
        if turn.instants_ns and (absent := self._absent(live, last_only=False)):
            return absent
        self._expect(live)
        return "" if replayer.ask(live.observation_ns, live.asked_ns) else self._broken(live)

    def _observe_between(self, live: LiveChunk) -> str:
        """Blocks that are observed without a chunk, so that no message tells of them."""
        replayer = self._replayer
        for _ in range(MOST_OBSERVED):
            turn = self._scheduler.turn(live.asked_ns)
            if turn.purpose is not Purpose.OBSERVE:
                return ""
            end_ns = turn.instants_ns[-1]
            replayer.feed.until(lambda end_ns=end_ns: replayer.buffer.covers(end_ns))
            if not replayer.ask(end_ns, end_ns):
                return self._broken(live)
            replayer.conclude(end_ns + round(live.answer_s * NS_PER_S))
        return f"this loop would observe more than {MOST_OBSERVED} blocks before it; give the node's own --parameters"

    def _expect(self, live: LiveChunk) -> None:
        self._asked = live
        # without fresh noise this is what the loop adds to the seed
        self._replayer.loop.counters.consecutive_rejections = (live.seed - self._seed) // SEED_STRIDE

    def _amended(self, request: Request) -> Request:
        """As the node asked: with its number of steps, and looking ahead from where it foresaw the robot."""
        live = self._asked
        if live is None or request.purpose is Purpose.OBSERVE:
            return request
        if live.look_ahead and live.anchor is not None:
            request = replace(request, state=self._replayer.loop.embodiment.normalised_state(live.anchor))
        return replace(request, steps=self._steps or live.steps)

    def _absent(self, live: LiveChunk, last_only: bool) -> str:
        """The first frame that a chunk names and the bag lacks; empty if all are there."""
        replayer = self._replayer
        replayer.feed.until(lambda: self._heard(live))
        if replayer.feed.restarted_ns is not None:
            replayer.world.set_to(replayer.feed.restarted_ns)
            replayer.feed.restarted_ns = None
            replayer.loop.clock_jumped()
            return "the clock of the recording was set back"
        for camera, stamps in live.frame_stamps_ns.items():
            stream = replayer.buffer.cameras.get(camera)
            if stream is None:
                return f"the contract has no camera {camera}"
            there = {frame.stamp_ns for frame in stream.items}
            for stamp_ns in stamps[-1:] if last_only else stamps:
                if stamp_ns not in there:
                    text = (
                        f"camera {camera}: frame {stamp_ns / NS_PER_S:.6f} s, named by {live.name}, is not in the bag"
                    )
                    replayer.problems.note("gap", replayer.stream.topics[f"camera {camera}"], stamp_ns, text)
                    return text
        return ""

    def _heard(self, live: LiveChunk) -> bool:
        """Whether every source has said all that it will say about a chunk's block."""
        buffer = self._replayer.buffer
        newest = {camera: stream.items[-1].stamp_ns for camera, stream in buffer.cameras.items() if stream.items}
        named = {camera: stamps[-1] for camera, stamps in live.frame_stamps_ns.items() if camera in buffer.cameras}
        return buffer.covers(live.observation_ns) and all(newest[camera] >= stamp for camera, stamp in named.items())

    def _broken(self, live: LiveChunk) -> str:
        self._replayer.note_broken_block(live.observation_ns)
        return self._replayer.loop.message
