"""Why a client does not get what it asked for."""

from dreamzero_policy.inference.protocol.messages import ErrorCode


class Refusal(Exception):  # noqa: N818 (it is an answer, not a defect)
    """An answer of the server: one of the protocol's codes, the reason, and whether the connection ends with it."""

    def __init__(self, code: ErrorCode, message: str, closing: bool = False) -> None:
        super().__init__(message)
        self.code, self.message, self.closing = code, message, closing
