"""Interlocks: what must be good for the gate to be open. Each has a name that stays and a sentence for a person.

Silence is judged on the monotonic clock, which the caller hands in: simulated time may stand still or jump.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S


@dataclass(frozen=True)
class Interlock:
    """What keeps the gate closed."""

    name: str
    text: str


class Assent:
    """Somebody who must go on agreeing: a person who holds on, a node that looks ahead. No and silence are the same."""

    def __init__(self, name: str, timeout_s: float, source: str, no: str) -> None:
        """`name` of the interlock. For a person, `source` names who is heard, and `no` completes its sentence."""
        self._name, self._source, self._no = name, source, no
        self._timeout_ns, self._timeout_s = round(timeout_s * NS_PER_S), timeout_s
        self._agreed = False
        self._heard_ns: int | None = None

    def hear(self, agreed: bool, monotonic_ns: int) -> None:
        """A message: of a button, whether it is pressed; of a heartbeat, true."""
        self._agreed, self._heard_ns = agreed, monotonic_ns

    def interlock(self, monotonic_ns: int) -> Interlock | None:
        if self._heard_ns is None:
            return self._bad(f"nothing heard yet of {self._source}")
        if (silent_ns := monotonic_ns - self._heard_ns) > self._timeout_ns:
            return self._bad(
                f"{self._source} is silent for {silent_ns / NS_PER_S:.2f} s, allowed are {self._timeout_s:g}"
            )
        return None if self._agreed else self._bad(f"{self._source} {self._no}")

    def _bad(self, text: str) -> Interlock:
        return Interlock(self._name, f"{self._name.replace('_', ' ')}: {text}")


def deadman(timeout_s: float, source: str) -> Assent:
    """A person who holds on: `source` names the button or the topic."""
    return Assent("deadman", timeout_s, source, "is released")


class JointStates:
    """Where the commanded joints are. A message that names only some of them is ignored."""

    def __init__(self, joints: Sequence[str], timeout_s: float) -> None:
        self._joints = tuple(joints)
        self._timeout_ns, self._timeout_s = round(timeout_s * NS_PER_S), timeout_s
        self._heard_ns: int | None = None
        self._bad = ""
        self._positions: Mapping[str, float] = {}

    def hear(self, names: Sequence[str], positions: Sequence[float], monotonic_ns: int) -> None:
        """rad and m."""
        if len(names) != len(positions):
            self._bad = f"{len(positions)} positions for {len(names)} joints"
            return
        measured = dict(zip(names, positions, strict=True))
        if not all(joint in measured for joint in self._joints):
            return
        bad = [joint for joint in self._joints if not np.isfinite(measured[joint])]
        self._bad = f"{bad[0]} is {measured[bad[0]]}" if bad else ""
        if not bad:
            self._positions, self._heard_ns = measured, monotonic_ns

    def of(self, joints: Sequence[str]) -> Floats:
        """The last good positions [J] of some of the commanded joints; they have been heard."""
        return np.array([self._positions[joint] for joint in joints])

    def interlock(self, monotonic_ns: int) -> Interlock | None:
        if self._bad:
            return Interlock("joint_states_invalid", f"joint states: {self._bad}")
        if self._heard_ns is None:
            return Interlock(
                "joint_states_stale", f"joint states: no message yet that names all {len(self._joints)} joints"
            )
        if (silent_ns := monotonic_ns - self._heard_ns) > self._timeout_ns:
            return Interlock(
                "joint_states_stale",
                f"joint states: silent for {silent_ns / NS_PER_S:.2f} s, allowed are {self._timeout_s:g}",
            )
        return None
