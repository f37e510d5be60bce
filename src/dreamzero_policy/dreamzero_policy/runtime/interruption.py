"""What ends a process: it is asked to, and ends by itself, so that the robot is braked and nothing is left running."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def interruption() -> threading.Event:
    """The event is set by SIGINT, SIGTERM and, when the terminal is gone, SIGHUP (unless ignored, as under `nohup`)."""
    interrupted = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN or number is not signal.SIGHUP:
            signal.signal(number, lambda *_: interrupted.set())
    return interrupted


@contextmanager
def uninterrupted() -> Iterator[None]:
    """SIGINT is heard when the context ends, so that what changes together has changed together. Main thread only has
    signals; in another one there is nothing to put off."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = []
    handler = signal.signal(signal.SIGINT, lambda *_: heard.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if heard:
            signal.raise_signal(signal.SIGINT)
