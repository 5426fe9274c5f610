"""The way of every request through a stand-in: misbehave, authenticate, check, record and act in one step, answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox.credentials import CredentialsUnusable
from sandbox.desk import Answer, Desk, Document, Exchange, Partner
from sandbox.state import Receipt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from sandbox.control import Misbehaviour

GARBAGE = b"<<\x00\xff not JSON at all"
_MAX_NAMED_FAULTS = 20


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A request that is readable: what it says and under which delivery id."""

    delivery_id: str
    raw: bytes
    document: Document


def routes(desk: Desk, partner: Partner) -> list[Route]:
    """The routes on which a partner listens."""
    extra = [Route(path, _extra(desk, partner, path), methods=["POST"]) for path in partner.extra_routes]
    return extra + [
        Route(exchange.path, _taking(desk, partner, exchange), methods=[exchange.method])
        for exchange in partner.exchanges
    ]


def _extra(desk: Desk, partner: Partner, path: str) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        raw = await request.body()
        try:
            answer = partner.extra_routes[path](desk, request, raw)
        except CredentialsUnusable as error:
            answer = _without_credentials(partner, error)
        return _rendered(partner, answer, {})

    return endpoint


def _taking(desk: Desk, partner: Partner, exchange: Exchange) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        found = desk.control.for_request(partner.name)
        unwilling = _unwilling(desk, partner, found)
        if unwilling is not None:
            return unwilling
        denied = _denied(desk, partner, request)
        if denied is not None:
            return _rendered(partner, denied, {})
        arrival = await _arrival(exchange, request)
        if isinstance(arrival, Answer):
            return _rendered(partner, Answer(partner.codes.invalid, arrival.message, http=422), {})
        answer = _take(desk, partner, exchange, arrival, found)
        # Recorded and applied by now: whoever kills us here leaves a receipt without an answer.
        await asyncio.sleep(found.latency_s)
        return _answered(partner, found, answer, arrival.document)

    return endpoint


def _unwilling(desk: Desk, partner: Partner, found: Misbehaviour) -> Response | None:
    """What is answered without any work, and is therefore not recorded."""
    if found.status:
        return JSONResponse({"code": str(found.status)}, status_code=found.status)
    if found.office_closed:
        closed = Answer(partner.codes.busy, "下班时间 / the office is closed", http=503)
        response = _rendered(partner, closed, {})
        response.headers["Retry-After"] = str(desk.settings.retry_after_s)
        return response
    return None


def _denied(desk: Desk, partner: Partner, request: Request) -> Answer | None:
    try:
        return partner.authenticate(desk, request)
    except CredentialsUnusable as error:
        return _without_credentials(partner, error)


def _without_credentials(partner: Partner, error: CredentialsUnusable) -> Answer:
    return Answer(partner.codes.busy, str(error), http=503)


async def _arrival(exchange: Exchange, request: Request) -> _Arrival | Answer:
    raw = await request.body()
    delivery_id = request.headers.get("x-delivery-id", "")
    if exchange.method == "GET":
        return _Arrival(delivery_id, raw, dict(request.path_params))
    try:
        document = json.loads(raw)
    except ValueError:
        return Answer("", "报文不是 JSON / the body is no JSON")
    if not isinstance(document, dict):
        return Answer("", "报文不是 JSON 对象 / the body is no JSON object")
    return _Arrival(delivery_id, raw, document)


def _take(desk: Desk, partner: Partner, exchange: Exchange, arrival: _Arrival, found: Misbehaviour) -> Answer:
    """Receipt, effect and everything that follows from it, in one transaction."""
    faults = desk.contracts.faults(exchange.contract, arrival.document) if exchange.contract else []
    with desk.state.transaction():
        applied: bool | None = None
        if faults:
            named = "; ".join(faults[:_MAX_NAMED_FAULTS])
            answer = Answer(partner.codes.invalid, f"报文不合规 / {named}"[:500], http=422)
        elif not exchange.effect:
            answer = exchange.answer(desk, arrival.document)
        else:
            applied, answer = _act(desk, partner, exchange, arrival, found)
        desk.state.record(_receipt(partner, exchange, arrival, applied, answer), desk.clock())
    return answer


def _act(
    desk: Desk, partner: Partner, exchange: Exchange, arrival: _Arrival, found: Misbehaviour
) -> tuple[bool | None, Answer]:
    """Act once per delivery id; another delivery id with the same business in it is a second effect."""
    repeated = desk.state.was_applied(partner.name, arrival.delivery_id, exchange.name)
    if repeated and found.absorbs_repeats:
        return False, exchange.answer(desk, arrival.document)
    refusal = exchange.refuse(desk, arrival.document, found)
    if refusal is not None:
        return None, refusal
    exchange.apply(desk, arrival.document)
    return True, exchange.answer(desk, arrival.document)


def _receipt(
    partner: Partner, exchange: Exchange, arrival: _Arrival, applied: bool | None, answer: Answer  # noqa: FBT001 - three-valued
) -> Receipt:  # fmt: skip
    return Receipt(
        partner=partner.name,
        exchange=exchange.name,
        delivery_id=arrival.delivery_id,
        identity=exchange.identity_of(arrival.document),
        sha256=hashlib.sha256(arrival.raw).hexdigest(),
        applied=applied,
        code=answer.code,
        body=arrival.raw.decode("utf-8", "replace"),
    )


def _answered(partner: Partner, found: Misbehaviour, answer: Answer, document: Document) -> Response:
    if found.garbage:
        return Response(GARBAGE, media_type="application/json")
    wrong = found.wrong_code(partner.codes.unlisted)
    if wrong:
        return _rendered(partner, Answer(wrong, "未列结果码 / a code that no list has"), document)
    return _rendered(partner, answer, document)


def _rendered(partner: Partner, answer: Answer, document: Document) -> Response:
    return JSONResponse(partner.render(answer, document), status_code=answer.http)
