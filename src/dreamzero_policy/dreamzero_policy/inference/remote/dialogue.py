"""What the link needs of a protocol: what to send, and what came means. No sockets, no clock but the one it reads."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from dreamzero_policy.inference.mailbox import Ask
from dreamzero_policy.inference.remote.settings import RemoteSettings
from dreamzero_policy.runtime.policy import Answer

Frame = bytes | str


@dataclass(frozen=True)
class ServerReady:
    """What a server says of itself. A protocol that does not say leaves an empty text or None."""

    checkpoint_hash: str
    introduction: str  # one line for a person
    steps: int  # of the solver that the checkpoint wants; 1 where the server does not say, since it decides itself
    statistics: dict[str, Any] | None = None  # document of the checkpoint's statistics.json
    calibration: dict[str, Any] | None = None  # document of its surprise.json


class Dialogue(Protocol):
    """The conversation on one connection; a new connection has a new one. All but `waiting_since_s` may raise
    `ServerTrouble`."""

    settings: RemoteSettings  # with the address of the server that this is with
    path: str | None  # of the handshake, in place of the one in the address
    pings: bool  # whether the server answers pings while it computes

    @property
    def waiting_since_s(self) -> float | None:
        """Since when (monotonic) an answer has been awaited; None while none is."""

    @property
    def takes_more(self) -> bool:
        """Whether something can be said now; if not, it can be once an answer has come."""

    async def greet(
        self, send: Callable[[Frame], Awaitable[None]], receive: Callable[[], Awaitable[Frame]]
    ) -> ServerReady:
        """The first exchange on a connection."""

    def speak(self, ask: Ask) -> list[bytes]:
        """The frames to send."""

    def heard(self, frame: Frame) -> list[Answer]:
        """What a frame means for the loop."""

    def farewell(self) -> list[bytes]:
        """What to send before closing on purpose."""

    def closed(self, code: int | None, reason: str) -> Exception:
        """The trouble that a closed connection is: `ServerTrouble`."""
