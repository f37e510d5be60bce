"""Runs the policy server until it is told to stop."""

import asyncio
import os
import signal
import sys

from dreamzero_policy.inference.server.logs import event, set_up
from dreamzero_policy.inference.server.service import Service
from dreamzero_policy.inference.server.settings import Settings


def serve(settings: Settings, log: str) -> None:
    """Until SIGTERM or SIGINT; the second one does not wait for anybody. Raises as `Service.run`."""
    set_up("json" if log == "json" or (log == "auto" and not sys.stderr.isatty()) else "text")
    if asyncio.run(_serve(settings)):
        os._exit(0)  # torch does not survive an interpreter that ends around it


async def _serve(settings: Settings) -> bool:
    """Whether the model is still at work."""
    loop, stop, service = asyncio.get_running_loop(), asyncio.Event(), Service(settings)

    def told(number: signal.Signals) -> None:
        event("signal", name=number.name)
        if stop.is_set():
            service.hurry()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told, number)
    await service.run(stop)
    return service.computing
