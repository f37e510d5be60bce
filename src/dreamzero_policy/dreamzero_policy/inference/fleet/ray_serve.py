"""A fleet on Ray Serve: `serve deploy config/fleet.yaml`. Needs the extra `fleet` (ray[serve]).

Two deployments. Every replica of `PolicyReplica` is a policy server with a port of its own on its node's address; Ray
starts as many as the file says, puts each on a free GPU, and starts another where one is not healthy. `Desk` answers
`GET /assign` with the address of the server that has the most room. A robot connects there, stays, and asks again only
once that server is gone (`inference/remote/desk.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request
from pathlib import Path
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dreamzero_policy.inference.fleet.roster import NoRoom, Roster
from dreamzero_policy.inference.server.settings import Settings, read_tokens

ROSTER = "dreamzero_roster"
TELL_S = 1.0
READY_S = 1800.0
FILES = {"contract", "base", "tokenizer", "certificate", "key"}  # of the settings


@ray.remote(num_cpus=0)
class SharedRoster(Roster):
    """The one roster of a cluster."""

    def next_or_why(self, wanted_hz: float | None) -> tuple[str | None, str]:
        """An address, or why there is none."""
        try:
            return self.next(wanted_hz), ""
        except NoRoom as error:
            return None, str(error)


def shared_roster() -> Any:
    return SharedRoster.options(name=ROSTER, get_if_exists=True, lifetime="detached", namespace="dreamzero").remote()


@serve.deployment
class PolicyReplica:
    """One policy server."""

    def __init__(self, checkpoint: str, token_file: str | None = None, **settings: Any) -> None:
        """`settings`: those of `inference/server/settings.py`; files as texts."""
        from dreamzero_policy.inference.server.threaded import ThreadedService  # torch: where it computes, only

        tokens = () if token_file is None else read_tokens(Path(token_file))
        settings |= {name: Path(settings[name]) for name in FILES & settings.keys()}
        host = ray.util.get_node_ip_address()
        self._server = ThreadedService(Settings(Path(checkpoint), host=host, port=0, tokens=tokens, **settings))
        self._server.wait_until_ready(READY_S)
        self._tokens, self._roster = tokens, shared_roster()
        self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        """Say again and again what room there is."""
        while True:
            if self._server.ready:
                left_hz = await asyncio.to_thread(self._server.room_hz)
                await self._roster.hear.remote(self._server.address, left_hz, 1 / self._server.service.chunk_s)
            await asyncio.sleep(TELL_S)

    def check_health(self) -> None:
        """Asked by Ray; raising has this replica replaced."""
        if not self._server.ready:
            raise RuntimeError(f"the policy server at {self._server.address} is not ready")

    async def __call__(self) -> dict[str, Any]:
        """What this server serves, for the desk."""
        headers = {"Authorization": f"Bearer {self._tokens[0]}"} if self._tokens else {}
        request = urllib.request.Request(
            f"{self._server.address.replace('ws', 'http', 1)}/v1/contract", headers=headers
        )
        return await asyncio.to_thread(lambda: json.load(urllib.request.urlopen(request, timeout=10)))

    async def __del__(self) -> None:
        """A replica that Ray takes away drains first."""
        with contextlib.suppress(Exception):
            self._telling.cancel()
            await self._roster.forget.remote(self._server.address)
            await asyncio.to_thread(self._server.end)


@serve.deployment
class Desk:
    """Where a robot asks for a server."""

    def __init__(self, replicas: Any, token_file: str | None = None) -> None:
        self._replicas = replicas
        tokens = () if token_file is None else read_tokens(Path(token_file))
        self._settings = Settings(Path(), tokens=tokens)  # who may ask
        self._roster = shared_roster()

    async def __call__(self, request: Request) -> Response:
        if not self._settings.admits(request.headers.get("Authorization")):
            return JSONResponse({"error": "a token is needed"}, 401, {"WWW-Authenticate": "Bearer"})
        if request.url.path == "/contract":
            return JSONResponse(await self._replicas.remote())
        if request.url.path != "/assign":
            return JSONResponse({"error": "ask /assign or /contract"}, 404)
        period = request.query_params.get("period_s")
        if period is not None and (period_s := _seconds(period)) is None:
            return JSONResponse({"error": f"period_s is {period[:40]!r}, expected a number of seconds"}, 400)
        address, why = await self._roster.next_or_why.remote(None if period is None else 1 / period_s)
        return JSONResponse({"address": address}) if address else JSONResponse({"error": why}, 503)


def _seconds(text: str) -> float | None:
    """None for what is no time between two chunks."""
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < float("inf"):
            return seconds
    return None


def application(arguments: dict[str, Any]) -> serve.Application:
    """Built by Ray Serve from the `args` of config/fleet.yaml."""
    token_file = arguments.get("token_file")
    return Desk.bind(PolicyReplica.bind(**arguments), token_file)
