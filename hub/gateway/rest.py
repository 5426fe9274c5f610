"""The REST endpoints: each a function from a whole request to its answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from hub.errors import Refused
from hub.gateway.asked import Answer, Asked, Signed, as_json
from hub.gateway.codes import refusal
from hub.gateway.desk import Desk
from hub.gateway.gate import Endpoint, Gate, require
from hub.gateway.settings import GatewaySettings
from hub.gateway.soap_port import SoapPort
from hub.model.call import Call, Receipt
from hub.validation.documents import parse_json, parse_xml

_KEY = re.compile(r"[\x21-\x7e]{1,128}")
_LONGEST_NAME = 64
_BOM = b"\xef\xbb\xbf"


class Rest:
    """What REST callers may ask.

    Args:
        gate: authenticates.
        desk: serves and reads.
        soap: ports by partner; they also read XML that comes to an exchange over REST.
        settings: names and limits.
    """

    def __init__(self, gate: Gate, desk: Desk, soap: Mapping[str, SoapPort], settings: GatewaySettings) -> None:
        self._gate = gate
        self._desk = desk
        self._soap = soap
        self._settings = settings

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The table."""
        return (
            Endpoint("POST", "/api/v1/cases", self.apply),
            Endpoint("POST", "/api/v1/cases/{no}/corrections", self.correct),
            Endpoint("POST", "/api/v1/cases/{no}/withdrawal", self.withdraw),
            Endpoint("GET", "/api/v1/cases/{no}", self.case),
            Endpoint("GET", "/api/v1/cases/{no}/timeline", self.timeline),
            Endpoint("POST", "/api/v1/exchanges/{partner}/{exchange}", self.exchange),
            Endpoint("POST", "/api/v1/messages/search", self.search),
            Endpoint("GET", "/api/v1/messages/{id}", self.message),
        )

    def apply(self, asked: Asked) -> Answer:
        """``POST /api/v1/cases``."""
        signed = self._signed(asked, "cases")
        return self._accepted(signed, "application", _json_body(asked))

    def correct(self, asked: Asked) -> Answer:
        """``POST /api/v1/cases/{no}/corrections``."""
        signed = self._signed(asked, "cases")
        return self._accepted(signed, "correction", _json_body(asked), _name(asked, "no", "case_unknown"))

    def withdraw(self, asked: Asked) -> Answer:
        """``POST /api/v1/cases/{no}/withdrawal``; no body is the same as ``{}``."""
        signed = self._signed(asked, "cases")
        raw = _json_body(asked) or b"{}"
        return self._accepted(signed, "withdrawal", raw, _name(asked, "no", "case_unknown"))

    def case(self, asked: Asked) -> Answer:
        """``GET /api/v1/cases/{no}``."""
        signed = self._signed(asked, "cases")
        no = _name(asked, "no", "case_unknown")
        return as_json(self._desk.case(signed.caller, no))

    def timeline(self, asked: Asked) -> Answer:
        """``GET /api/v1/cases/{no}/timeline``."""
        signed = self._signed(asked, "cases")
        no = _name(asked, "no", "case_unknown")
        return as_json(list(self._desk.timeline(signed.caller, no)))

    def message(self, asked: Asked) -> Answer:
        """``GET /api/v1/messages/{id}``."""
        signed = self._signed(asked, "messages")
        name = _name(asked, "id", "message_unknown")
        return as_json(self._desk.message(signed.caller, name))

    def search(self, asked: Asked) -> Answer:
        """``POST /api/v1/messages/search``."""
        signed = self._signed(asked, "messages")
        criteria = parse_json(_json_body(asked))
        if not isinstance(criteria, dict):
            raise refusal("malformed", en=" It must be a JSON object.", zh="，应为 JSON 对象")
        return as_json({"messages": list(self._desk.search(signed.caller, criteria))})

    def exchange(self, asked: Asked) -> Answer:
        """``POST /api/v1/exchanges/{partner}/{exchange}``, in JSON or, where the contract is an XSD, in XML."""
        signed = self._gate.authenticate(asked)
        partner, exchange = asked.path["partner"], asked.path["exchange"]
        known = self._desk.known()
        if partner not in known:
            raise _unknown("partner_unknown", known)
        if signed.caller.partner != partner:
            raise refusal("service_forbidden")
        if exchange not in known[partner]:
            raise _unknown("exchange_unknown", known[partner])
        require(signed, exchange)
        _plain(asked)
        call = Call(signed.caller, partner, exchange, asked.raw, None, idempotency_key(asked))
        try:
            document = self._xml_document(asked, partner, exchange)
        except Refused as error:
            # Kept like any other refused message: the sender is known, only its document is wrong.
            asked.trace.handed = True
            self._desk.reject(call, error)
            raise
        call = replace(call, document=document)
        return _exchanged(self._serve(asked, call))

    def _xml_document(self, asked: Asked, partner: str, exchange: str) -> Mapping[str, object] | None:
        """The document of an XML body; ``None`` where the body is no XML and the desk reads it itself."""
        if not looks_like_xml(asked.raw):
            return None
        root = parse_xml(asked.raw)
        port = self._soap.get(partner)
        element = port.element_of(exchange) if port else ""
        if port is None or not element:
            raise refusal("malformed", en=" This exchange takes JSON.", zh="，该交换应使用 JSON")
        if root.tag != f"{{{port.namespace}}}{element}":
            raise refusal(
                "malformed", en=f" The root must be {{{port.namespace}}}{element}.", zh=f"，根元素应为 {element}"
            )
        return port.operations[element].read(root)

    def _accepted(self, signed: Signed, exchange: str, raw: bytes, no: str = "") -> Answer:
        partner = self._settings.case_partner
        call = Call(signed.caller, partner, exchange, raw, None, idempotency_key(signed.asked), no)
        receipt = self._serve(signed.asked, call)
        status_url = f"/api/v1/cases/{receipt.case}"
        document = {
            "case": receipt.case,
            "message": receipt.message,
            "state": receipt.case_state,
            "missing": receipt.missing,
            "status_url": status_url,
        }
        return as_json(document, 202, {"location": status_url, **replay_header(receipt)})

    def _serve(self, asked: Asked, call: Call) -> Receipt:
        asked.trace.handed = True
        return self._desk.serve(call)

    def _signed(self, asked: Asked, key: str) -> Signed:
        signed = self._gate.authenticate(asked)
        require(signed, key)
        return signed


def replay_header(receipt: Receipt) -> dict[str, str]:
    """What tells a caller that this is the first answer given again."""
    return {"idempotent-replayed": "true"} if receipt.replayed else {}


def looks_like_xml(raw: bytes) -> bool:
    """Whether the first character that is not space is ``<``."""
    return raw[:64].removeprefix(_BOM).lstrip()[:1] == b"<"


def plain_encoding(asked: Asked) -> bool:
    """Whether the body was sent as it is."""
    return asked.headers.get("content-encoding", "").strip().lower() in ("", "identity")


def idempotency_key(asked: Asked) -> str:
    """The ``Idempotency-Key`` header, or empty.

    Raises:
        hub.errors.Refused: 400 ``idempotency_key_invalid``.
    """
    key = asked.headers.get("idempotency-key")
    if key is None:
        return ""
    if not _KEY.fullmatch(key):
        raise refusal("idempotency_key_invalid")
    return key


def _exchanged(receipt: Receipt) -> Answer:
    document = {"message": receipt.message, "state": receipt.state, "code": receipt.code}
    return as_json(document, 200, replay_header(receipt))


def _plain(asked: Asked) -> None:
    if not plain_encoding(asked):
        raise refusal("encoding_unsupported")


def _json_body(asked: Asked) -> bytes:
    """The body of an endpoint that takes only JSON; XML is told apart, so that a DOCTYPE is named as what it is."""
    _plain(asked)
    if looks_like_xml(asked.raw):
        raise refusal("xml_doctype" if b"<!DOCTYPE" in asked.raw.upper() else "malformed")
    return asked.raw


def _name(asked: Asked, parameter: str, unknown: str) -> str:
    """A path parameter that can be a number of ours; what cannot is not carried any further."""
    name = asked.path[parameter]
    if len(name) > _LONGEST_NAME or not name.isascii() or not name.isprintable():
        raise refusal(unknown)
    return name


def _unknown(code: str, names: Mapping[str, object] | tuple[str, ...]) -> Exception:
    listed = ", ".join(sorted(names)) or "-"
    return refusal(code, en=f" Known: {listed}.", zh=f"，已登记：{listed}")
