"""What is wrong with a recording, by topic and time: noted as it turns up, while whoever reads goes on.

`damage` is what no recorder should write: messages that cannot be read or used, stamps that run backwards, files that
break off. `gap` is what happens to healthy recordings: a frame that was lost on its way. Who cannot go on without what
is missing takes `Refused`, which raises the first problem.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.runtime.observation import NS_PER_S

Kind = Literal["damage", "gap"]
NAMED = 100  # the others are counted


@dataclass
class Problems:
    """Those of one recording."""

    counts: Counter[str] = field(default_factory=Counter)
    named: list[dict[str, Any]] = field(default_factory=list)

    def note(self, kind: Kind, topic: str, instant_ns: int, text: str) -> None:
        self.counts[kind] += 1
        if len(self.named) < NAMED:
            self.named.append({"kind": kind, "topic": topic, "time_s": instant_ns / NS_PER_S, "problem": text})

    @property
    def damaged(self) -> bool:
        return self.counts["damage"] > 0

    def as_dict(self) -> dict[str, Any]:
        return {"damage": self.counts["damage"], "gaps": self.counts["gap"], "named": self.named}


class Refused(Problems):
    """The first problem is an EpisodeError, which says where and when."""

    def note(self, kind: Kind, topic: str, instant_ns: int, text: str) -> None:
        raise EpisodeError(f"{topic} at {instant_ns / NS_PER_S:.3f} s: {text}")
