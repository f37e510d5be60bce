"""What can be wrong with a server, under the names of `runtime/faults.py`."""

import contextlib
import ssl

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


def refusal(place: str, status: int, body: bytes, retry_after: str | None) -> ServerTrouble:
    """The trouble that an HTTP status is where something else was asked for."""
    said = body[:200].decode("utf-8", "replace").strip()
    text = f"{place} answers HTTP {status}" + (f": {said}" if said else "")
    if status in (401, 403):
        return ServerTrouble(Fault.SERVER_REFUSED, f"{text}; see server_token_file")
    if status in (429, 503):
        with contextlib.suppress(TypeError, ValueError):
            return ServerTrouble(Fault.SERVER_BUSY, text, float(retry_after))
        return ServerTrouble(Fault.SERVER_BUSY, text)
    if 400 <= status < 500:
        return ServerTrouble(Fault.SERVER_REFUSED, f"{text}; see server_url and server_protocol")
    return ServerTrouble(Fault.SERVER_UNREACHABLE, text)


def not_trusted(place: str, error: ssl.SSLCertVerificationError) -> ServerTrouble:
    text = f"the certificate of {place} is not trusted: {error.verify_message}; see server_ca_file"
    return ServerTrouble(Fault.SERVER_REFUSED, text)
