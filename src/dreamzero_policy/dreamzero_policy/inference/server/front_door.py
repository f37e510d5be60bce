"""HTTP in front of the websockets: health, measures, what is served; and who may come in."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

if TYPE_CHECKING:
    from dreamzero_policy.inference.server.service import Service

TEXT, JSON, METRICS = "text/plain; charset=utf-8", "application/json", "text/plain; version=0.0.4; charset=utf-8"


class FrontDoor:
    """Answers what is no websocket, and lets in what is one and may."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def answer(self, _: ServerConnection, request: Request) -> Response | None:
        """None lets the websocket begin."""
        service, path = self._service, urlsplit(request.path).path
        if path == "/healthz":
            ready = service.state == "ready"
            status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
            return _response(status, "OK\n" if ready else f"{service.state}\n")
        if not service.settings.admits(request.headers.get("Authorization")):
            refused = _response(HTTPStatus.UNAUTHORIZED, "a token is needed: Authorization: Bearer TOKEN\n")
            refused.headers["WWW-Authenticate"] = "Bearer"
            return refused
        if path == "/metrics":
            service.refresh_measures()
            return _response(HTTPStatus.OK, service.measures.text(), METRICS)
        if service.state != "ready":
            return _response(HTTPStatus.SERVICE_UNAVAILABLE, f"{service.state}\n")
        if path == "/v1/contract":
            return _response(HTTPStatus.OK, json.dumps(served(service), indent=1) + "\n", JSON)
        if service.connections >= service.settings.most_connections:
            return _response(HTTPStatus.SERVICE_UNAVAILABLE, f"full: {service.connections} connections are open\n")
        return None


def served(service: Service) -> dict[str, Any]:
    """What a client needs to know, and what room there is."""
    model, names, capacity = service.transforms.model, service.names, service.capacity
    return {
        "contract": service.contract_hash,
        "checkpoint": service.checkpoint_hash,
        "embodiment": model.embodiment,
        "canvas": list(model.canvas_size_px),
        "cameras": {
            camera: {"view": list(model.view_size_px(camera)), "entry": entry}
            for camera, entry in names.cameras.items()
        },
        "state": {
            group.key: {"entry": names.state[group.key][0], "joints": list(group.joints), "units": list(group.units)}
            for group in model.state
        },
        "action": {
            "shape": list(names.action_shape),
            "groups": {group.key: list(group.joints) for group in model.action},
        },
        "frames": model.chunk.frames,
        "period_s": service.chunk_s,
        "load": {
            "promised": round(capacity.load, 4),
            "most": capacity.most_load,
            "chunk_s": round(capacity.chunk_s, 6),
            "chunks_left_hz": round(capacity.chunks_left_hz, 3),
        },
        "session_bytes": capacity.session_bytes,
    }


def _response(status: HTTPStatus, body: str | bytes, kind: str = TEXT) -> Response:
    data = body.encode() if isinstance(body, str) else body
    headers = Headers({"Content-Type": kind, "Content-Length": str(len(data)), "Connection": "close"})
    return Response(status.value, status.phrase, headers, data)
