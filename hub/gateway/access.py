"""The outermost layer: one access line and one count per request, and the last catch before the server's own."""

from __future__ import annotations

import logging
import time

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hub.gateway.asked import Answer, Trace
from hub.gateway.gate import TRACE
from hub.gateway.metering import Meter
from hub.gateway.problems import as_problem, coded, log_unexpected

log = logging.getLogger("dukou.gateway.access")

_LEFT = 499
_NOT_ANSWERED = 500


class Access:
    """Logs method, route, status, time, caller and code. Never the path, the query or the body: they may be personal.

    Args:
        app: what is inside.
        meter: where requests are counted.
    """

    def __init__(self, app: ASGIApp, meter: Meter) -> None:
        self._app = app
        self._meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        trace = scope[TRACE] = Trace()
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            try:
                await send(message)
            except (OSError, RuntimeError) as error:
                # The server raises these for a line that broke between two pipelined requests.
                log.warning("answer not sent route=%s error=%s", trace.route, type(error).__qualname__)
                raise ClientDisconnect from None

        try:
            await self._app(scope, receive, noting)
        except ClientDisconnect:
            status = _LEFT
        except Exception as error:  # noqa: BLE001 - further out, the server would log its text, which may be personal
            log_unexpected(error, trace.route)
            trace.code = "internal"
            if not status:
                await _send_internal(noting)
        self._write(scope["method"], trace, status or _NOT_ANSWERED, time.perf_counter() - begun)

    def _write(self, method: str, trace: Trace, status: int, seconds: float) -> None:
        self._meter.note(trace.route, method, status, seconds)
        log.info(
            "method=%s route=%s status=%d ms=%.1f caller=%s code=%s",
            method,
            trace.route,
            status,
            seconds * 1000,
            trace.caller or "-",
            trace.code or "-",
        )


async def _send_internal(send: Send) -> None:
    answer: Answer = as_problem(coded("internal"))
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.lines()})
    await send({"type": "http.response.body", "body": answer.body})
