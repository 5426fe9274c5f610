"""The way of every request: arrive whole, enter a thread, be authenticated, be handled, be answered."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import anyio
import anyio.to_thread
from starlette.types import Receive, Scope, Send

from hub.errors import Refused, Transient
from hub.gateway.arrival import discard, must_close, read_body
from hub.gateway.asked import Answer, Asked, Signed, Trace
from hub.gateway.codes import refusal
from hub.gateway.desk import Desk, Verifier
from hub.gateway.problems import as_problem, log_unexpected, problem_of, retry_after
from hub.gateway.settings import GatewaySettings

Handle = Callable[[Asked], Answer]
Render = Callable[[Asked, BaseException], Answer]

TRACE = "dukou.trace"
_HOST = re.compile(r"[A-Za-z0-9.\-_]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")


def rest_render(_asked: Asked, error: BaseException) -> Answer:
    """What a REST caller is told about an error."""
    return as_problem(problem_of(error), retry_after(error))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of the table of endpoints: where, what answers, and how it says that it cannot."""

    method: str
    path: str
    handle: Handle
    render: Render = rest_render


class Gate:
    """Bounds how many requests are inside at once, and takes each through its endpoint.

    Args:
        desk: counts refusals.
        verifier: says who signed.
        settings: limits.
    """

    def __init__(self, desk: Desk, verifier: Verifier, settings: GatewaySettings) -> None:
        self._desk = desk
        self._verifier = verifier
        self._settings = settings
        self._threads = anyio.CapacityLimiter(settings.desk_threads)
        self._inside = 0

    def authenticate(self, asked: Asked) -> Signed:
        """Who asks, and for which of its services.

        Raises:
            hub.errors.Refused: 401 with the verifier's code.
        """
        caller, sid = self._verifier.verify(asked.headers, asked.method, asked.target, asked.raw)
        asked.trace.caller = caller.name
        return Signed(asked, caller, caller.services(sid))

    def app(self, methods: Mapping[str, Endpoint]) -> EndpointApp:
        """The endpoints of one path, by method, as an ASGI application."""
        return EndpointApp(self, methods)

    async def pass_through(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one request from its first byte to the last of its answer."""
        asked = opened(scope, endpoint.path, self._settings)
        try:
            raw = await read_body(asked.headers, receive, self._settings)
        except Refused as error:
            await self._turn_away(endpoint, asked, error, receive, send)
            return
        answer = await self._enter(endpoint, replace(asked, raw=raw))
        await _send(send, answer)

    async def _turn_away(self, endpoint: Endpoint, asked: Asked, error: Refused, receive: Receive, send: Send) -> None:
        answer = await self._enter(Endpoint(endpoint.method, endpoint.path, _raising(error), endpoint.render), asked)
        closing = error.code == "body_timeout" or must_close(asked.headers, self._settings)
        headers = {**answer.headers, "connection": "close"} if closing else answer.headers
        # The answer is on the wire before the rest is thrown away: a sender may stop as soon as it has read it.
        await _send(send, Answer(answer.status, answer.body, answer.media, headers), more=True)
        if error.code == "too_large" and "expect" not in asked.headers:
            await discard(receive, self._settings)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _enter(self, endpoint: Endpoint, asked: Asked) -> Answer:
        if self._inside >= self._settings.desk_threads + self._settings.max_waiting:
            asked.trace.code = "busy"
            return endpoint.render(asked, Transient("busy", "too many calls are waiting", "等待的调用过多"))
        self._inside += 1
        try:
            work = functools.partial(self._settle, endpoint, asked)
            return await anyio.to_thread.run_sync(work, limiter=self._threads)
        finally:
            self._inside -= 1

    def _settle(self, endpoint: Endpoint, asked: Asked) -> Answer:
        try:
            return endpoint.handle(asked)
        except Exception as error:  # noqa: BLE001 - the last place before the socket: a caller gets a problem, never a trace
            return self._explain(endpoint, asked, error)

    def _explain(self, endpoint: Endpoint, asked: Asked, error: Exception) -> Answer:
        problem = problem_of(error)
        asked.trace.code = problem.code
        if problem.code == "internal":
            log_unexpected(error, endpoint.path)
        if isinstance(error, Refused) and not asked.trace.handed:
            self._count(problem.code, asked)
        return endpoint.render(asked, error)

    def _count(self, code: str, asked: Asked) -> None:
        try:
            self._desk.refused(code, asked.trace.caller)
        except Exception as error:  # noqa: BLE001 - a count that fails must not change what the caller is told
            log_unexpected(error, asked.trace.route)


class EndpointApp:
    """One path as an ASGI application (a class, so that Starlette hands it the raw request)."""

    def __init__(self, gate: Gate, methods: Mapping[str, Endpoint]) -> None:
        self._gate = gate
        self._methods = {**methods, **({"HEAD": methods["GET"]} if "GET" in methods else {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the router has already refused every other method."""
        await self._gate.pass_through(self._methods[scope["method"]], scope, receive, send)


def opened(scope: Scope, route: str, settings: GatewaySettings) -> Asked:
    """The request as far as its head tells."""
    trace = scope.get(TRACE) or Trace()
    trace.route = route
    headers = _headers(scope)
    query = scope["query_string"].decode("latin-1")
    path = scope.get("raw_path") or scope["path"].encode()
    target = path.decode("latin-1") + (f"?{query}" if query else "")
    return Asked(
        method=scope["method"],
        target=target,
        headers=headers,
        path=scope.get("path_params", {}),
        query=query,
        origin=settings.public_url.rstrip("/") or _origin(scope, headers),
        raw=b"",
        trace=trace,
    )


def require(signed: Signed, *keys: str) -> None:
    """Refuse a sid that covers none of these services.

    Raises:
        hub.errors.Refused: 403 ``service_forbidden``.
    """
    if not set(keys).intersection(signed.services):
        raise refusal("service_forbidden")


def _headers(scope: Scope) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        # A repeated header is one list (RFC 9110 §5.3): a second signature cannot replace the first unseen.
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _origin(scope: Scope, headers: Mapping[str, str]) -> str:
    host = headers.get("host", "")
    if not _HOST.fullmatch(host):
        server = scope.get("server") or ("127.0.0.1", 80)
        host = f"{server[0]}:{server[1]}"
    return f"{scope.get('scheme', 'http')}://{host}"


def _raising(error: Refused) -> Handle:
    def handle(_asked: Asked) -> Answer:
        raise error

    return handle


async def _send(send: Send, answer: Answer, *, more: bool = False) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.lines()})
    await send({"type": "http.response.body", "body": answer.body, "more_body": more})
