"""What can be wrong with a server, under the names of `runtime/faults.py`."""

from dreamzero_policy.runtime.faults import Fault, Outcome


class ServerTrouble(Exception):  # noqa: N818 (it is a state of affairs as often as a defect)
    """The conversation cannot go on. The text says what was found, what was expected, and what to do."""

    def __init__(self, fault: Fault, text: str, retry_after_s: float | None = None) -> None:
        """`retry_after_s`: when the server wants to be asked again, where it says so."""
        super().__init__(text)
        self.fault, self.retry_after_s = fault, retry_after_s

    @property
    def final(self) -> bool:
        """Whether a person is needed: to connect anew would end the same way."""
        return self.fault.outcome is Outcome.FAULT
