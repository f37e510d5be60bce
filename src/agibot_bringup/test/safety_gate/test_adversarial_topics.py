"""Over real DDS: whatever is sent to the stopped gate's process, nothing comes out of it."""

import os
from collections.abc import Callable

import numpy as np
import pytest
from std_msgs.msg import Bool

from dreamzero_policy.runtime.contract import Contract, Controller

from .adversary import Adversary
from .stand import Stand, as_message

MESSAGES = int(os.environ.get("GATE_MESSAGES", "2000")) // 20 + 500
# A message takes some milliseconds here and there, and a machine may be busy.
pytestmark = [pytest.mark.stack, pytest.mark.timeout(300 + MESSAGES // 10)]

AT_ONCE = 10  # as many as wait in its queue
NO_MESSAGES = (b"", b"\x00", b"\x00\x01\x00\x00", b"\x00\x01\x00\x00" + b"\xff" * 40, bytes(range(200)))


def in_motion(stand: Stand) -> int:
    """Opened, and fast; how much had been sent before. On a busy machine joint states may be silent for long enough to
    close the gate: then again.
    """
    while True:
        stand.spin_until(lambda: stand.left_s() == 0.0 and stand.ask("open").success)
        count = len(stand.sent)
        stand.want(0.4)
        for _ in range(50):
            stand.spin(0.05)
            if stand.speed() > 0.5:
                return count


def test_of_all_real_messages_none_passes_while_the_gate_is_stopped(
    start: Callable[..., Stand], contract: Contract
) -> None:
    stand = start("engage_s:=0.3", "deadman_timeout_s:=5.0")
    stand.connect()
    adversary = Adversary(contract, np.random.default_rng(71))

    def pose(controller: Controller) -> np.ndarray:
        return stand.commands[controller.name].plan.sample([stand.now_ns()])[0][0]

    for cause in ("never opened", "estop", "deadman"):
        if cause != "never opened":
            stand.estop.publish(Bool(data=False))
            stand.spin_until(lambda: stand.ask("reset_estop").success)
            count = in_motion(stand)
            stand.held = cause != "deadman"
            stand.estop.publish(Bool(data=cause == "estop"))
            # The motion and the way to rest, nothing else.
            stand.spin_until(lambda count=count: len(stand.sent) == count + 2 and stand.left_s() == 0.0)
        count = len(stand.sent)
        for batch in range(MESSAGES // 3 // AT_ONCE):
            for _ in range(AT_ONCE):
                stand.source.publish(as_message(adversary.message(pose, stand.now_ns())))
            stand.source.publish(NO_MESSAGES[batch % len(NO_MESSAGES)])
            # An answer says that the gate has come so far.
            assert stand.ask("close").success if cause == "never opened" else not stand.ask("open").success
        stand.spin(0.3)
        assert len(stand.sent) == count, cause
    assert int(stand.told("rejected.closed")) > 0.9 * MESSAGES, "what was sent was heard"
