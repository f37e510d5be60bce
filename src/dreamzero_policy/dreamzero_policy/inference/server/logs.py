"""Structured logs: one event a line, as JSON or for eyes. Never a token, never an image."""

import json
import logging
import sys
import time
from typing import Any, Literal

LOG = logging.getLogger("dreamzero.serve")


def event(name: str, /, level: int = logging.INFO, **fields: Any) -> None:
    """Say what happened."""
    LOG.log(level, name, extra={"fields": fields})


def defect(name: str, /, **fields: Any) -> None:
    """Say what went wrong in the server itself, with where; call from an except clause."""
    LOG.error(name, extra={"fields": fields}, exc_info=True)


class JsonLines(logging.Formatter):
    """`{"time": …, "level": …, "event": …, …}`."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)


class Lines(logging.Formatter):
    """`12:00:00 event  name=value …`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in getattr(record, "fields", {}).items())
        text = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {record.getMessage()}  {fields}".rstrip()
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def set_up(form: Literal["json", "text"]) -> None:
    """Send all logs of this process to standard error in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else Lines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("websockets").setLevel(logging.ERROR)  # what connections end with is an event of ours
