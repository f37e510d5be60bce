"""The faults that a chaos run injects: how each begins, how it ends, and how the policy must show that it noticed.

Those of the robot come always, besides them those of the model beside the node, or those of the server it is on.
"""

import random
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from psutil import Process

from dreamzero_msgs.msg import PolicyStatus
from dreamzero_policy.cli.chaos_stand import (
    ESTOP_TIMEOUT_S,
    INFERENCE_TIMEOUT_S,
    LINK_TIMEOUT_S,
    PROMPTS,
    SERVER_GONE_S,
    Stand,
)
from dreamzero_policy.ros.fault_relay import truncated, without_numbers
from dreamzero_policy.runtime.observation import NS_PER_S

KNOWN_S = 0.1  # a tick of the node, and the lead of a trajectory's first point
JUMP_S = 40.0
SLOW_S = 2.2  # of the robot's time: the rest of a chunk, and longer than one more


def nothing(_: Stand) -> None:
    pass


@dataclass(frozen=True)
class Injection:
    """One kind of fault."""

    name: str
    begin: Callable[[Stand, random.Random], None]
    labels: tuple[str, ...] = ()  # of ~/status; one of them must be told
    counted: str = ""  # or a count of ~/status that must rise
    end: Callable[[Stand], None] = nothing
    known_s: float | None = None  # after which it must be known; the robot rests a stopping time later
    brakes: bool = True  # nothing may move until it is over
    finishes: bool = False  # rests where the plan in execution ends, and begins a new epoch once it is over
    patience_s: float = 10.0  # until it must be told

    def noticed(self, before: PolicyStatus, now: PolicyStatus) -> bool:
        """Whether the status tells of it."""
        if self.counted:
            return _total(getattr(now, self.counted)) > _total(getattr(before, self.counted))
        counts, earlier = fault_counts(now), fault_counts(before)
        return any(counts.get(label, 0) > earlier.get(label, 0) for label in self.labels)


def fault_counts(status: PolicyStatus) -> Mapping[str, int]:
    return dict(zip(status.fault_names, status.fault_counts, strict=True))


def _total(value) -> int:
    return value if isinstance(value, int) else sum(value)


def _camera(stand: Stand, chance: random.Random):
    return stand.relay.cameras[chance.choice(sorted(stand.relay.cameras))]


def _freeze(stand: Stand, chance: random.Random) -> None:
    _camera(stand, chance).freeze()


def _set(**values: object) -> Callable[[Stand, random.Random], None]:
    """Of one camera."""

    def begin(stand: Stand, chance: random.Random) -> None:
        passage = _camera(stand, chance)
        for name, value in values.items():
            setattr(passage, name, value)

    return begin


def _set_joints(**values: object) -> Callable[[Stand, random.Random], None]:
    def begin(stand: Stand, _: random.Random) -> None:
        for name, value in values.items():
            setattr(stand.relay.joints, name, value)

    return begin


def _jump(sign: int) -> Callable[[Stand, random.Random], None]:
    def begin(stand: Stand, _: random.Random) -> None:
        stand.relay.offset_ns += sign * round(JUMP_S * NS_PER_S)

    return begin


def _lose_controller(stand: Stand, chance: random.Random) -> None:
    stand.relay.lose_controller(chance.choice(stand.contract.site.controllers).name)


def _press(stand: Stand, _: random.Random) -> None:
    stand.press(True)


def _fall_silent(stand: Stand, _: random.Random) -> None:
    stand.estop_is_heard = False


def _release(stand: Stand) -> None:
    stand.estop_is_heard = True
    stand.press(False)
    stand.reset_estop()


def _signal_model(number: signal.Signals) -> Callable[[Stand, random.Random], None]:
    return lambda stand, _: stand.model().send_signal(number)


def _slow_model(stand: Stand, _: random.Random) -> None:
    _stop_for_a_while(stand, stand.model(), INFERENCE_TIMEOUT_S)


def _slow_server(stand: Stand, _: random.Random) -> None:
    _stop_for_a_while(stand, stand.server(), LINK_TIMEOUT_S)


def _stop_for_a_while(stand: Stand, process: Process, timeout_s: float) -> None:
    """For so long that its answer is late, and not so long that it is taken for lost."""
    process.send_signal(signal.SIGSTOP)
    until_ns = stand.now_ns + round(SLOW_S * NS_PER_S)
    stand.wait(lambda: stand.now_ns > until_ns, 0.75 * timeout_s)
    process.send_signal(signal.SIGCONT)


def _kill_server(stand: Stand, _: random.Random) -> None:
    stand.kill_server()


def _stop_server(stand: Stand, _: random.Random) -> None:
    stand.server().send_signal(signal.SIGSTOP)


def _wake_server(stand: Stand) -> None:
    stand.server().send_signal(signal.SIGCONT)


def _restart_server(stand: Stand, _: random.Random) -> None:
    stand.end_server()
    stand.start_server()


def _prompt(stand: Stand, chance: random.Random) -> None:
    stand.prompt(chance.choice([prompt for prompt in PROMPTS if prompt != stand.status.prompt]))


ROBOT = (
    Injection("camera_silent", _set(silent=True), ("camera_stale",), known_s=0.5),
    Injection("camera_frozen", _freeze, ("camera_frozen",), patience_s=30.0),
    Injection("camera_damaged", _set(damage=truncated), ("camera_invalid",)),
    Injection("frames_late", _set(delay_s=1.0), ("camera_stale", "camera_stamps"), known_s=0.5),
    Injection("frames_lost", _set(lost_share=0.4), ("block_broken",), brakes=False, patience_s=30.0),
    Injection("frames_twice", _set(twice=True), counted="duplicate_frames", brakes=False),
    Injection("frames_swapped", _set(swapped=True), counted="out_of_order_frames", brakes=False),
    Injection("joint_states_silent", _set_joints(silent=True), ("joint_states_stale",), known_s=0.5),
    Injection("joint_states_nan", _set_joints(damage=without_numbers), ("joint_states_invalid",), known_s=0.05),
    Injection("clock_back", _jump(-1), ("clock_jumped",), known_s=0.05, brakes=False),
    Injection("clock_forward", _jump(+1), ("clock_jumped",), known_s=0.05, brakes=False),
    # The one that is gone finishes what it was sent last: nobody can tell it anything.
    Injection("controller_gone", _lose_controller, ("controller_gone",)),
    Injection("estop", _press, ("estop",), end=_release, known_s=0.0),
    Injection("estop_silent", _fall_silent, ("estop_silent",), end=_release, known_s=ESTOP_TIMEOUT_S),
    Injection("prompt_change", _prompt, counted="epoch", known_s=0.0, brakes=False),
)
MODEL = (
    Injection("model_slow", _slow_model, counted="plan_underruns", brakes=False),
    Injection(
        "model_hung",
        _signal_model(signal.SIGSTOP),
        ("model_silent",),
        end=Stand.replace_model,
        patience_s=INFERENCE_TIMEOUT_S + 10.0,
    ),
    Injection("model_killed", _signal_model(signal.SIGKILL), ("model_failed",), end=Stand.replace_model, known_s=0.1),
)
SERVER = (
    Injection("server_killed", _kill_server, ("server_unreachable",), end=Stand.start_server, finishes=True),
    Injection(
        "server_hung",
        _stop_server,
        ("server_unreachable",),
        end=_wake_server,
        finishes=True,
        patience_s=1.5 * LINK_TIMEOUT_S + 10.0,
    ),
    # It answers until the robot has heard that it ends, so the rest has no bound; it must be told, and left.
    Injection(
        "server_restarted",
        _restart_server,
        ("server_busy", "server_unreachable"),
        brakes=False,
        finishes=True,
        patience_s=SERVER_GONE_S,
    ),
    Injection("server_slow", _slow_server, counted="plan_underruns", brakes=False),
)
