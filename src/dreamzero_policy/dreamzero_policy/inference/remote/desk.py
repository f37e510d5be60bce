"""Which server a robot talks to: the one that it is told, or the one that the desk of a fleet sends it to.

Its session is on one server, so a robot stays with that one for as long as it can be connected to. Only where it cannot
(or takes no robots any more) is the desk asked again, and the robot begins a new session elsewhere.
"""

import asyncio
import http.client
import json
import ssl
from urllib.parse import urlencode, urlsplit

from dreamzero_policy.inference.remote.settings import RemoteSettings
from dreamzero_policy.inference.remote.trouble import ServerTrouble, not_trusted, refusal
from dreamzero_policy.runtime.faults import Fault

ANSWER_S = 5.0
LONGEST_ANSWER = 1 << 16  # bytes
ASSIGN = "/assign"


class Desk:
    """Asked for a server before every connecting."""

    def __init__(self, settings: RemoteSettings) -> None:
        self._settings = settings
        self._assigned: RemoteSettings | None = None

    async def server(self) -> RemoteSettings:
        """The settings with a server's address. Raises ServerTrouble, RemoteSettingsError."""
        if not self._settings.of_a_fleet:
            return self._settings
        if self._assigned is None:
            self._assigned = await asyncio.to_thread(self._ask)
        return self._assigned

    def forget(self) -> None:
        """The server is not there any more: ask for another one next."""
        self._assigned = None

    def _ask(self) -> RemoteSettings:
        settings, parts = self._settings, urlsplit(self._settings.url)
        question = urlencode({} if settings.period_s is None else {"period_s": settings.period_s})
        status, body, retry_after = _get(settings, f"{parts.path.rstrip('/')}{ASSIGN}?{question}")
        if status != 200:
            raise refusal(settings.place, status, body, retry_after)
        try:
            address = str(json.loads(body)["address"])
            server = settings.at(address)
        except (ValueError, TypeError, KeyError) as error:  # a RemoteSettingsError among them
            text = f"{settings.place} sends the robot to {body[:200]!r}, expected the address of a server: {error}"
            raise ServerTrouble(Fault.SERVER_REFUSED, text) from error
        if server.of_a_fleet or (parts.scheme == "https" and urlsplit(address).scheme != "wss"):
            expected = "a server's, wss://HOST:PORT" + (" or ws://HOST:PORT" if parts.scheme == "http" else "")
            raise ServerTrouble(
                Fault.SERVER_REFUSED, f"{settings.place} sends the robot to {address[:200]}, expected {expected}"
            )
        return server


def _get(settings: RemoteSettings, target: str) -> tuple[int, bytes, str | None]:
    """Status, body and Retry-After. No proxy and no redirection: the token goes where the operator said."""
    parts, tls = urlsplit(settings.url), settings.tls()
    if tls is None:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=ANSWER_S)
    else:
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=ANSWER_S, context=tls)
    try:
        connection.request("GET", target, headers=settings.headers())
        response = connection.getresponse()
        return response.status, response.read(LONGEST_ANSWER), response.getheader("Retry-After")
    except ssl.SSLCertVerificationError as error:
        raise not_trusted(settings.place, error) from error
    except (OSError, http.client.HTTPException) as error:
        text = f"the desk {settings.place} is not reached: {str(error) or type(error).__name__}"
        raise ServerTrouble(Fault.SERVER_UNREACHABLE, text) from error
    finally:
        connection.close()
