"""Blocks of the loop's own choice: window after window through a recording, by the node's scheduler.

Messages are fed until a block is covered, then the clock goes to its end. With `early_ns` of the node's lead, every
chunk takes over at the very instant that it observed, as if an answer took no time: blocks follow each other without a
gap, as in training. With 0, answers take what the policy says, and the loop waits and pauses as it does on a robot.
"""

from collections import deque
from collections.abc import Sequence

from dreamzero_policy.replay.replayer import Replayer


def play_own_blocks(replayer: Replayer, prompts: Sequence[tuple[int, str]], early_ns: int) -> None:
    """Follow each prompt from its instant on, the first from the begin, until the replayer is done or the bag ends.

    Raises:
        EpisodeError: the bag cannot be read further, or is of another robot.
    """
    loop, world, feed, buffer = replayer.loop, replayer.world, replayer.feed, replayer.buffer
    upcoming = deque(prompts)
    opened, tried_ns = -1, 0  # epoch whose window is open; newest instant at which one could not be opened
    loop.run(upcoming.popleft()[1])
    while not replayer.done:
        if feed.restarted_ns is not None:
            world.set_to(feed.restarted_ns)
            tried_ns, feed.restarted_ns = 0, None
            loop.forget_plan()
            loop.clock_jumped()
        if (due_ns := replayer.policy.due_ns) is not None:
            if (chunk := replayer.conclude(max(world.ns, due_ns))) is not None:
                replayer.keep(chunk)
            continue
        if opened == loop.epoch:
            turn = loop.scheduler.turn(world.ns)
            end_ns = turn.instants_ns[-1] if turn.instants_ns else world.ns + early_ns
            if not feed.until(lambda end_ns=end_ns: buffer.covers(end_ns)):
                if feed.restarted_ns is None:
                    return
                continue
        else:
            if not feed.one():
                return
            end_ns = buffer.newest_common_ns()
            if end_ns is None or end_ns <= tried_ns or not buffer.covers(end_ns):
                continue
            tried_ns = end_ns
        if upcoming and upcoming[0][0] <= end_ns:
            world.set_to(max(world.ns, upcoming[0][0]))
            loop.run(upcoming.popleft()[1])
            tried_ns = 0
            continue
        began = opened >= 0
        if replayer.ask(end_ns, max(world.ns, end_ns - early_ns)):
            opened = loop.epoch
        elif began or any(stream.fault for stream in buffer.cameras.values()):
            replayer.note_broken_block(end_ns)
