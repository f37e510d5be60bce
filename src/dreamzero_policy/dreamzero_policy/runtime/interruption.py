"""What ends a process: it is asked to, and ends by itself, so that the robot is braked and nothing is left running."""

import signal
import threading


def interruption() -> threading.Event:
    """The event is set by SIGINT, SIGTERM and, when the terminal is gone, SIGHUP (unless ignored, as under `nohup`)."""
    interrupted = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN or number is not signal.SIGHUP:
            signal.signal(number, lambda *_: interrupted.set())
    return interrupted
