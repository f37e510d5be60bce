"""A policy on a server, as a `runtime.policy.Policy`: never blocks its caller, and says when the server is away.

While it is away the loop gets an `Interruption` for every attempt that failed, then a `Resumption`. What was asked
before an interruption is not answered and not asked again: the loop begins a new epoch.
"""

from collections.abc import Callable

from dreamzero_policy.inference.mailbox import Mailbox, WorkerError
from dreamzero_policy.inference.remote.dialogue import Dialogue, ServerReady
from dreamzero_policy.inference.remote.link import Link
from dreamzero_policy.inference.remote.settings import RemoteSettings
from dreamzero_policy.inference.remote.trouble import ServerTrouble
from dreamzero_policy.runtime.faults import Fault, Trouble
from dreamzero_policy.runtime.policy import Answer, Failure, Interruption, Resumption

SOURCE = "server"


class RemotePolicy(Mailbox):
    """A policy behind a link."""

    def __init__(self, settings: RemoteSettings, dialogue: Callable[[RemoteSettings], Dialogue]) -> None:
        """Begin to connect. Fetch the outcome with `wait_until_ready`. `dialogue` makes one for each connection, from
        the settings with the server's address."""
        super().__init__(lambda ask: self._link.say(ask))
        self.settings = settings
        self._ready: ServerReady | None = None
        self._link = Link(settings, dialogue, self)

    def wait_until_ready(
        self,
        timeout_s: float,
        interrupted: Callable[[], bool] = lambda: False,
        progress: Callable[[str], None] = lambda text: None,
    ) -> ServerReady:
        """Block until the server is ready. `progress` is told why it is not yet.

        Raises:
            WorkerError: it refuses, is not reached within `timeout_s`, or `interrupted()` became true.
        """
        why = f"connecting to {self.settings.place}"
        for message in self._heard(timeout_s, interrupted, f"{self.settings.place} was being connected to"):
            if isinstance(message, ServerReady):
                return message
            if isinstance(message, Failure):
                raise WorkerError(f"{message.fault.label}: {message.message}")
            if isinstance(message, Interruption):
                why = f"{message.trouble.fault.label}: {message.trouble.text}"
                progress(why)
        raise WorkerError(f"no server after {timeout_s:.0f} s. {why}")

    def close(self) -> None:
        """End the connection; the server frees the session."""
        self._notify = lambda: None
        self._link.close()

    # What the link tells, in its thread

    def ready(self, ready: ServerReady) -> None:
        if self._ready is None:
            self._ready = ready
            self._tell(ready)
            return
        before, now = self._ready, ready
        if (before.checkpoint_hash, before.statistics) != (now.checkpoint_hash, now.statistics):
            raise ServerTrouble(
                Fault.SERVER_REFUSED,
                f"{self.settings.place} came back with checkpoint {now.checkpoint_hash[:12]}, this node was configured "
                f"with {before.checkpoint_hash[:12]}: clean up and configure to go on with the new one",
            )
        self._tell(Resumption(f"{self.settings.place} is there again: new epoch"))

    def heard(self, answer: Answer) -> None:
        self._tell(answer)

    def lost(self, trouble: ServerTrouble, pause_s: float, attempts: int) -> None:
        text = f"{trouble}; attempt {attempts} to connect in {pause_s:.1f} s"
        self._tell(Interruption(Trouble(trouble.fault, SOURCE, text)))

    def failed(self, trouble: ServerTrouble) -> None:
        self._tell(Failure(str(trouble), trouble.fault))
