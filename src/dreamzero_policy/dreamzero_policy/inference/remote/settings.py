"""Where the server is and how it is spoken to."""

import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from dreamzero_policy.inference.protocol.frames import Encoding

Language = Literal["own", "official"]
LANGUAGES: tuple[Language, ...] = ("own", "official")
ENCODINGS: tuple[Encoding, ...] = ("raw", "png", "jpeg")


class RemoteSettingsError(ValueError):
    """A setting that cannot be used; the message names it."""


@dataclass(frozen=True)
class RemoteSettings:
    """The node's parameters of the same names describe them."""

    url: str  # ws:// or wss:// of a server, http:// or https:// of a fleet's desk; with host and port
    language: Language = "own"
    token_file: Path | None = None  # its first line is the token
    ca_file: Path | None = None  # PEM; None: those that the system trusts
    encoding: Encoding = "raw"  # of frames
    jpeg_quality: int = 95
    inference_timeout_s: float = 10.0  # for an answer
    link_timeout_s: float = 3.0  # a network that carries nothing for so long is cut
    longest_pause_s: float = 5.0  # between two attempts to connect
    period_s: float | None = None  # how often a chunk will be asked for; None: once a chunk's length

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("ws", "wss", "http", "https") or not parts.hostname:
            raise RemoteSettingsError(
                f"the server's address is {self.url!r}, expected ws://HOST:PORT or wss://HOST:PORT, or "
                "http(s)://HOST:PORT of a fleet's desk"
            )
        if self.ca_file is not None and parts.scheme == "ws":
            raise RemoteSettingsError(f"a certificate file goes with wss://, the server's address is {self.url}")

    @property
    def place(self) -> str:
        """Host and port, for people."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def of_a_fleet(self) -> bool:
        """Whether the address is a desk's, which says where the servers are."""
        return urlsplit(self.url).scheme.startswith("http")

    def at(self, url: str) -> "RemoteSettings":
        """The same for another address. Raises RemoteSettingsError."""
        return replace(self, url=url)

    def headers(self) -> dict[str, str]:
        """Of the handshake. The token is read anew every time, so it can be renewed. Raises RemoteSettingsError."""
        if self.token_file is None:
            return {}
        try:
            lines = self.token_file.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise RemoteSettingsError(f"the token file {self.token_file} cannot be read: {error}") from error
        if len(lines) != 1 or not lines[0].isascii():
            raise RemoteSettingsError(f"the token file {self.token_file} has {len(lines)} words, expected one token")
        return {"Authorization": f"Bearer {lines[0]}"}

    def tls(self) -> ssl.SSLContext | None:
        """None without TLS. Raises RemoteSettingsError for a file that holds no certificates."""
        if urlsplit(self.url).scheme not in ("wss", "https"):
            return None
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:  # ssl.SSLError among them
            raise RemoteSettingsError(f"the certificates {self.ca_file} cannot be read: {error}") from error
