"""The control port: steer the stand-ins, see what they received and what took effect, let them act."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from sandbox.control import KNOWN_KEYS, Unacceptable
from sandbox.credentials import CredentialsUnusable
from sandbox.doing import NotDoable, do
from sandbox.gateway import GatewayUnreachable
from sandbox.settings import PARTNERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from sandbox.desk import Desk
    from sandbox.gateway import Gateway


class _Wrong(Exception):
    """A request that cannot be taken, with what is answered."""

    def __init__(self, status: int, code: str, **more: Any) -> None:  # noqa: ANN401 - JSON
        super().__init__(code)
        self.status = status
        self.document = {"code": code, **more}


class Steering:
    """The endpoints of the control port.

    Args:
        desk: the stand-ins' desk.
        gateway: the client with which partners act.
        listen: makes the listeners follow the settings; awaited before a setting is confirmed.
    """

    def __init__(self, desk: Desk, gateway: Gateway, listen: Callable[[], Awaitable[None]]) -> None:
        self._desk = desk
        self._gateway = gateway
        self._listen = listen

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/_control/{partner}", self._control, methods=["GET", "PUT", "DELETE"]),
                Route("/_received/{partner}", self._received, methods=["GET"]),
                Route("/_effects", self._effects, methods=["GET"]),
                Route("/_do/{partner}/{action}", self._do, methods=["POST"]),
                Route("/_health", self._health, methods=["GET"]),
            ],
            exception_handlers={
                _Wrong: _answer_wrong,
                Unacceptable: _answer_unacceptable,
                NotDoable: _answer_not_doable,
                CredentialsUnusable: _answer_not_doable,
                GatewayUnreachable: _answer_unreachable,
            },
        )

    async def _control(self, request: Request) -> Response:
        partner = _partner(request)
        if request.method == "PUT":
            self._desk.control.put(partner, await _json(request))
        elif request.method == "DELETE":
            self._desk.control.reset(partner)
        await self._listen()
        return JSONResponse(self._desk.control.show(partner))

    async def _received(self, request: Request) -> Response:
        partner = _partner(request)
        # `tax/result` and `result` name the same exchange here.
        exchange = request.query_params.get("exchange", "").rpartition("/")[2] or None
        after = request.query_params.get("after", "0") or "0"
        if not (after.isascii() and after.isdigit()):
            raise _Wrong(422, "after_invalid")
        return JSONResponse(self._desk.state.received(partner, exchange, int(after)))

    async def _effects(self, _request: Request) -> Response:
        return JSONResponse(self._desk.state.effects())

    async def _do(self, request: Request) -> Response:
        action = str(request.path_params["action"])
        parameters = await _json(request)
        return JSONResponse(await do(self._desk, self._gateway, _partner(request), action, parameters))

    async def _health(self, _request: Request) -> Response:
        settings = self._desk.settings
        partners = {name: {"port": settings.port_of(name), "down": self._desk.control.dead(name)} for name in PARTNERS}
        return JSONResponse({"ok": True, "partners": partners, "pending_callbacks": self._desk.state.pending_jobs()})


def _partner(request: Request) -> str:
    partner = str(request.path_params["partner"])
    if partner not in PARTNERS:
        raise _Wrong(404, "partner_unknown", known=list(PARTNERS))
    return partner


async def _json(request: Request) -> object:
    raw = await request.body()
    try:
        return json.loads(raw) if raw else {}
    except ValueError as error:
        raise _Wrong(400, "malformed") from error


async def _answer_wrong(_request: Request, error: Exception) -> Response:
    assert isinstance(error, _Wrong)  # noqa: S101 - registered for this kind
    return JSONResponse(error.document, status_code=error.status)


async def _answer_unacceptable(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Unacceptable)  # noqa: S101 - registered for this kind
    return JSONResponse({"code": "setting_invalid", "faults": error.faults, "known": list(KNOWN_KEYS)}, status_code=422)


async def _answer_not_doable(_request: Request, error: Exception) -> Response:
    status = 404 if "known:" in str(error) else 422
    return JSONResponse({"code": "not_doable", "message": str(error)}, status_code=status)


async def _answer_unreachable(_request: Request, error: Exception) -> Response:
    return JSONResponse({"code": "gateway_unreachable", "message": str(error)}, status_code=502)
