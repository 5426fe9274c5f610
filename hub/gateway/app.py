"""Builds the gateway's ASGI application from its parts."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hub.errors import Transient
from hub.gateway.access import Access
from hub.gateway.asked import Answer, Asked, Trace, as_json
from hub.gateway.desk import Desk, Verifier
from hub.gateway.docs_page import docs_page
from hub.gateway.gate import TRACE, Endpoint, Gate
from hub.gateway.metering import Meter, exposition
from hub.gateway.openapi import openapi
from hub.gateway.problems import as_problem, coded
from hub.gateway.rest import Rest
from hub.gateway.settings import GatewaySettings
from hub.gateway.soap import Soap
from hub.gateway.soap_port import SoapPort


def create_app(desk: Desk, verifier: Verifier, soap: Mapping[str, SoapPort], settings: GatewaySettings) -> FastAPI:
    """The gateway.

    Args:
        desk: serves calls and reads; called in at most ``settings.desk_threads`` threads.
        verifier: says who signed a request.
        soap: partner to its SOAP port.
        settings: limits and names.
    """
    # Endpoints are plain routes: bodies are signed as bytes and checked by contracts, so FastAPI's own parsing, its
    # 422 and its documentation pages (which fetch scripts from the Internet) have nothing to add.
    app = FastAPI(title="Dukou 渡口", version=settings.version, openapi_url=None, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    meter = Meter()
    gate = Gate(desk, verifier, settings)
    described = openapi(soap, settings)
    app.openapi = lambda: described  # type: ignore[method-assign]
    endpoints = (
        *Soap(gate, desk, soap).endpoints(),
        *Rest(gate, desk, soap, settings).endpoints(),
        *_own(desk, meter, described),
    )
    for route in _routes(gate, endpoints):
        app.router.routes.append(route)
    app.router.routes.append(Route("/healthz", _healthz, methods=["GET"]))
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_middleware(Access, meter=meter)
    return app


def _own(desk: Desk, meter: Meter, described: dict[str, object]) -> tuple[Endpoint, ...]:
    """What the gateway tells about itself; unsigned, like ``?wsdl``."""
    document = orjson.dumps(described)
    page = docs_page(described)

    def ready(_asked: Asked) -> Answer:
        if not desk.ready():
            raise Transient("busy", "not ready", "尚未就绪")
        return as_json({"status": "ready"})

    def metrics(_asked: Asked) -> Answer:
        return exposition({**desk.metrics(), **meter.samples()})

    return (
        Endpoint("GET", "/openapi.json", lambda _asked: Answer(200, document)),
        Endpoint("GET", "/docs", lambda _asked: Answer(200, page, "text/html; charset=utf-8")),
        Endpoint("GET", "/readyz", ready),
        Endpoint("GET", "/metrics", metrics),
    )


def _routes(gate: Gate, endpoints: tuple[Endpoint, ...]) -> list[Route]:
    """One route per path, so that a wrong method is told every right one."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints:
        by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    return [Route(path, gate.app(methods), methods=list(methods)) for path, methods in by_path.items()]


async def _healthz(request: Request) -> Response:
    """Alive: answered on the event loop, so that full threads do not look like death."""
    _traced(request).route = "/healthz"
    return Response(b'{"status":"alive"}', media_type="application/json")


async def _http_problem(request: Request, error: Exception) -> Response:
    """404 and 405 of the router, as problems."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "internal")
    _traced(request).code = code
    headers = dict(getattr(error, "headers", None) or {})
    answer = as_problem(coded(code), headers)
    return Response(answer.body, answer.status, {name.decode(): value.decode() for name, value in answer.lines()})


def _traced(request: Request) -> Trace:
    trace: Trace = request.scope[TRACE]
    return trace
