"""What an operator chooses. Times in seconds, sizes in bytes."""

import hmac
import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from dreamzero_policy.inference.parallel.crew import Shape

SHORTEST_TOKEN = 16  # characters


class SettingsError(ValueError):
    """A setting that the server does not start with; the text says what to do instead."""


@dataclass(frozen=True)
class Settings:
    """The command line's options have the same names and describe them."""

    checkpoint: Path
    contract: Path | None = None  # of a checkpoint that carries none
    tag: str = ""
    base: Path | None = None
    tokenizer: Path | None = None
    device: str = "cpu"
    dtype: str = "auto"
    threads: int = 1
    steps: int | None = None  # that a client is expected to ask for: what a chunk's cost is measured with

    host: str = "127.0.0.1"
    port: int = 8000
    tokens: tuple[str, ...] = field(default=(), repr=False)
    certificate: Path | None = None
    key: Path | None = None
    anyone: bool = False  # beyond loopback without tokens

    memories: int = 4  # a session's
    memory_bytes: int | None = None  # of all sessions; None: half of what is free
    most_load: float = 0.85
    idle_s: float = 60.0
    resume_s: float = 30.0
    drain_s: float = 10.0
    opening_s: float = 10.0  # from the connection to its first message
    most_connections: int = 256
    most_waiting: int = 8  # asks of one connection
    most_steps: int = 64
    message_bytes: int = 32 << 20
    messages_hz: float = 200.0  # of one connection
    batch: int = 1  # chunks denoised together
    shape: Shape = field(default_factory=Shape)  # of the processes that hold the model

    def __post_init__(self) -> None:
        """Raises SettingsError for what does not go together."""
        if not is_loopback(self.host) and not self.tokens and not self.anyone:
            raise SettingsError(
                f"{self.host} can be reached from other machines: give --token-file, or --anyone if everybody who "
                "reaches it may use it"
            )
        if (self.certificate is None) != (self.key is None):
            raise SettingsError("--certificate and --key go together")
        if any(len(token) < SHORTEST_TOKEN for token in self.tokens):
            raise SettingsError(f"a token has fewer than {SHORTEST_TOKEN} characters")
        if self.memories < 2:
            raise SettingsError(f"memories is {self.memories}: a session needs one, and one for looking ahead")
        if not 0 < self.most_load <= 1:
            raise SettingsError(f"load is {self.most_load:g}, expected more than 0, up to 1")
        if self.batch > 1 and self.shape.size > 1:
            raise SettingsError(f"--batch {self.batch} is for one process, here {self.shape.size} hold the model")

    @property
    def tls(self) -> ssl.SSLContext | None:
        """Raises SettingsError where the files are no certificate and key."""
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"{self.certificate} and {self.key} are no certificate and key: {error}") from error
        return context

    def admits(self, authorization: str | None) -> bool:
        """Whether a request with this Authorization header may come in."""
        if not self.tokens:
            return True
        scheme, _, token = (authorization or "").partition(" ")
        given = token.strip().encode("utf-8", errors="surrogateescape")
        known = [hmac.compare_digest(given, each.encode()) for each in self.tokens]  # all of them: time tells nothing
        return scheme.lower() in ("bearer", "api-key") and any(known)


def listen_address(text: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port` or `:port` (loopback) → host and port. Raises SettingsError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise SettingsError(f"--listen is {text!r}, expected host:port, for example 127.0.0.1:8000")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def read_tokens(path: Path) -> tuple[str, ...]:
    """One token a line; empty lines and those that begin with # are left out. Raises SettingsError."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"token file {path} cannot be read: {error}") from error
    tokens = tuple(line for line in lines if line and not line.startswith("#"))
    if not tokens:
        raise SettingsError(f"token file {path} has no token")
    return tokens


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
