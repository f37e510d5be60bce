"""Runs the policy server until it is told to stop, or follows the process that does."""

import asyncio
import logging
import os
import signal
import sys

from dreamzero_policy.inference.parallel.crew import Crew, join
from dreamzero_policy.inference.parallel.loading import load_following
from dreamzero_policy.inference.parallel.lockstep import follow
from dreamzero_policy.inference.server.logs import event, set_up
from dreamzero_policy.inference.server.service import Service
from dreamzero_policy.inference.server.settings import Settings


def serve(settings: Settings, log: str) -> None:
    """Until SIGTERM or SIGINT; the second one does not wait for anybody. Raises as `Service.run`.

    Where several processes hold the model, rank 0 serves and the others follow it to the end. Raises StartError if they
    were not started so.
    """
    set_up("json" if log == "json" or (log == "auto" and not sys.stderr.isatty()) else "text")
    settings.shape.require_started()
    crew = None if settings.shape.size == 1 else join(settings.shape, settings.device, lost=_lost)
    if crew is not None and not crew.leads:
        _follow(settings, crew)
    elif asyncio.run(_serve(settings, crew)):
        os._exit(0)  # torch does not survive an interpreter that ends around it
    if crew is not None:
        crew.leave()


async def _serve(settings: Settings, crew: Crew | None) -> bool:
    """Whether the model is still at work."""
    loop, stop, service = asyncio.get_running_loop(), asyncio.Event(), Service(settings, crew)

    def told(number: signal.Signals) -> None:
        event("signal", name=number.name)
        if stop.is_set():
            service.hurry()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told, number)
    await service.run(stop)
    return service.computing


def _follow(settings: Settings, crew: Crew) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):  # they go to all; the end is when rank 0 has drained
        signal.signal(number, signal.SIG_IGN)
    options = {"dtype": settings.dtype, "threads": settings.threads, "base": settings.base}
    transformer = load_following(crew, settings.checkpoint, **options)
    event("following", rank=crew.rank, device=str(crew.device))
    follow(transformer, crew)


def _lost(reason: str) -> None:
    """Robots see a server that is gone, and come back by themselves."""
    event("rank_lost", level=logging.CRITICAL, reason=reason)
    logging.shutdown()
    os._exit(1)
