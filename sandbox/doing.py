"""What an operator or a test lets a partner do now: ``POST /_do/{partner}/{action}``."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sandbox import soap
from sandbox.calling import clearance_call, registry_call
from sandbox.gateway import JSON_HEADERS, Call, Gateway, json_bytes
from sandbox.partners import registry, tax

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox.desk import Desk, Document

_SHOWN_HEADERS = ("Content-Type", "Idempotent-Replayed", "Location", "Retry-After")
_REVISED = ("wszt", "hszt", "thyy", "htbh", "jyuuid", "fwuuid", "nsrxx")
_REGISTERED = ("bdcdyh", "bdcqzh", "djsj", "qszt", "dbr", "djjg")


class NotDoable(Exception):
    """No such action, or a parameter is missing; the message lists what is there."""


@dataclass(frozen=True, slots=True)
class _Order:
    """One thing to do: the desk to do it from, and the JSON that was posted."""

    desk: Desk
    document: Document

    def text(self, name: str) -> str:
        """A parameter that must be there.

        Raises:
            NotDoable: it is not, or is no text.
        """
        value = self.document.get(name)
        if not isinstance(value, str) or not value:
            message = f"parameter {name} is missing"
            raise NotDoable(message)
        return value

    def chosen(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The parameters among ``names`` that are there."""
        return {name: self.document[name] for name in names if name in self.document}

    def soap_version(self, ywsldh: str) -> str:
        """The version that is asked for, or the case's own.

        Raises:
            NotDoable: another one than 1.1 and 1.2.
        """
        version = str(self.document.get("soap", soap.version_for(ywsldh)))
        if version not in soap.ENVELOPES:
            message = f"parameter soap is one of: {', '.join(soap.ENVELOPES)}"
            raise NotDoable(message)
        return version


def _case_path(order: _Order, rest: str = "") -> str:
    return f"/api/v1/cases/{quote(order.text('case'), safe='')}{rest}"


def _post(order: _Order, target: str, body: object) -> Call:
    key = order.document.get("key")
    headers = {**JSON_HEADERS, **({"Idempotency-Key": str(key)} if key is not None else {})}
    return Call(("cases",), "POST", target, b"" if body is None else json_bytes(body), headers)


def _apply(order: _Order) -> Call:
    return _post(order, "/api/v1/cases", order.document.get("body", {}))


def _correct(order: _Order) -> Call:
    return _post(order, _case_path(order, "/corrections"), order.document.get("body", {}))


def _withdraw(order: _Order) -> Call:
    return _post(order, _case_path(order, "/withdrawal"), order.document.get("body", {}))


def _ask_case(order: _Order) -> Call:
    return Call(("cases",), "GET", _case_path(order), b"", {})


def _ask_timeline(order: _Order) -> Call:
    return Call(("cases",), "GET", _case_path(order, "/timeline"), b"", {})


def _clearance(order: _Order) -> Call:
    ywsldh = order.text("ywsldh")
    version = order.soap_version(ywsldh)
    return clearance_call(tax.revise(order.desk, ywsldh, order.chosen(_REVISED)), version)


def _tax_query(order: _Order) -> Call:
    ywsldh = order.text("ywsldh")
    envelope = soap.query_case(ywsldh, order.soap_version(ywsldh))
    return Call(("queryCase",), "POST", "/soap/tax", envelope.body, envelope.headers)


def _progress(order: _Order) -> Call:
    progress = registry.progress_of(order.text("ywh"), order.text("jdmc"), order.desk.clock())
    return registry_call("progress", {**progress, **order.chosen(("sj",))})


def _result(order: _Order) -> Call:
    return registry_call("result", registry.revise(order.desk, order.text("ywh"), order.chosen(_REGISTERED)))


ACTIONS: Mapping[str, Mapping[str, Callable[[_Order], Call]]] = {
    "platform": {},
    "tax": {"clearance": _clearance, "query": _tax_query},
    "registry": {"progress": _progress, "result": _result},
    "hall": {
        "apply": _apply,
        "correct": _correct,
        "withdraw": _withdraw,
        "case": _ask_case,
        "timeline": _ask_timeline,
    },
}


async def do(desk: Desk, gateway: Gateway, partner: str, action: str, document: object) -> dict[str, Any]:
    """Let a partner call the gateway now.

    Args:
        desk: the stand-ins' desk.
        gateway: the client of the gateway.
        partner: who calls.
        action: what it does; see ``ACTIONS``.
        document: the parameters; ``caller`` picks another caller of the credentials.

    Returns:
        ``{status, headers, body}`` of the gateway's answer; a SOAP answer's leaves are also given as ``values``.

    Raises:
        NotDoable: no such action, or a parameter is missing.
        CredentialsUnusable: no such caller.
        GatewayUnreachable: no answer.
    """
    if action not in ACTIONS[partner]:
        message = f"{partner} has no action {action}; known: {', '.join(sorted(ACTIONS[partner])) or 'none'}"
        raise NotDoable(message)
    if not isinstance(document, dict):
        message = "the parameters are a JSON object"
        raise NotDoable(message)
    call = ACTIONS[partner][action](_Order(desk, document))
    caller = desk.credentials.caller(str(document.get("caller", partner)))
    reply = await asyncio.to_thread(gateway.send, caller, call)
    shown = {name: reply.headers[name] for name in _SHOWN_HEADERS if name in reply.headers}
    answer: dict[str, Any] = {"status": reply.status, "headers": shown, "body": reply.readable()}
    reading = soap.read(reply.body) if call.target == "/soap/tax" else None
    return answer if reading is None else {**answer, "values": dict(reading.leaves), "fault": reading.fault}
