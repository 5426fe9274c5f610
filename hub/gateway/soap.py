"""The SOAP endpoints: contract first, document/literal, versions 1.1 and 1.2 answered in kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import parse_qsl

from lxml import etree

from hub.errors import Refused
from hub.gateway.asked import Answer, Asked, Signed
from hub.gateway.codes import refusal
from hub.gateway.desk import Desk
from hub.gateway.envelope import DIALECTS, SOAP_11, SOAP_12, Dialect, dialect_of, fault, payload, result
from hub.gateway.gate import Endpoint, Gate, require
from hub.gateway.problems import problem_of, retry_after
from hub.gateway.rest import idempotency_key, plain_encoding, replay_header
from hub.gateway.soap_port import SoapOperation, SoapPort
from hub.gateway.wsdl import Contracts
from hub.model.call import Call, Problem, Receipt
from hub.validation.documents import parse_xml

PATH = "/soap/{partner}"
XML_TYPE = "text/xml; charset=utf-8"
_MEDIA = ("text/xml", "application/soap+xml", "application/xml")
# HTTP itself says these; everything else travels with the status that the SOAP binding gives a fault.
_HTTP_STATUSES = (401, 403, 408, 413, 415, 429)


class Soap:
    """What SOAP callers may ask.

    Args:
        gate: authenticates.
        desk: serves and reads.
        ports: by partner.
    """

    def __init__(self, gate: Gate, desk: Desk, ports: Mapping[str, SoapPort]) -> None:
        self._gate = gate
        self._desk = desk
        self._ports = ports
        self._contracts = {partner: Contracts(port) for partner, port in ports.items()}

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The table."""
        return (Endpoint("POST", PATH, self.call, soap_render), Endpoint("GET", PATH, self.contract))

    def contract(self, asked: Asked) -> Answer:
        """``GET /soap/{partner}?wsdl`` and ``?xsd=name``; unsigned."""
        contracts = self._contracts.get(asked.path["partner"])
        if contracts is None:
            raise self._partner_unknown()
        wanted = {name.lower(): value for name, value in parse_qsl(asked.query, keep_blank_values=True)}
        found = None
        if "wsdl" in wanted:
            found = contracts.wsdl(asked.origin)
        elif "xsd" in wanted:
            found = contracts.xsd(wanted["xsd"], asked.origin)
        if found is None:
            raise refusal("not_found", en=" Ask for ?wsdl.", zh="，请使用 ?wsdl")
        return Answer(200, found, XML_TYPE)

    def call(self, asked: Asked) -> Answer:
        """``POST /soap/{partner}``: one operation."""
        signed = self._gate.authenticate(asked)
        port = self._port(signed)
        _readable(asked)
        root = parse_xml(asked.raw)
        dialect = dialect_of(root)
        asked.trace.dialect = dialect.namespace
        element = payload(root, dialect)
        operation = _operation(port, element)
        require(signed, etree.QName(element).localname, operation.exchange)
        document = self._read(signed, port, operation, element)
        if operation.query:
            return self._query(signed, port, operation, document)
        receipt = self._serve(signed, port, operation, document)
        fields = {name: _text(receipt, source) for name, source in operation.fields.items()}
        return result(dialect, port.namespace, operation.response, fields, replay_header(receipt))

    def _read(
        self, signed: Signed, port: SoapPort, operation: SoapOperation, element: etree._Element
    ) -> Mapping[str, object]:
        """The checked document; a refused one is kept like any other refused message."""
        try:
            return operation.read(element)
        except Refused as error:
            asked = signed.asked
            asked.trace.handed = True
            self._desk.reject(Call(signed.caller, port.partner, operation.exchange, asked.raw), error)
            raise

    def _port(self, signed: Signed) -> SoapPort:
        port = self._ports.get(signed.asked.path["partner"])
        if port is None:
            raise self._partner_unknown()
        if signed.caller.partner != port.partner:
            raise refusal("service_forbidden")
        return port

    def _query(
        self, signed: Signed, port: SoapPort, operation: SoapOperation, document: Mapping[str, object]
    ) -> Answer:
        state = self._desk.case_state(signed.caller, str(document[operation.case_at]))
        fields = dict.fromkeys((name for name, source in operation.fields.items() if source == "state"), state)
        dialect = DIALECTS[signed.asked.trace.dialect]
        return result(dialect, port.namespace, operation.response, fields, {})

    def _serve(
        self, signed: Signed, port: SoapPort, operation: SoapOperation, document: Mapping[str, object]
    ) -> Receipt:
        asked = signed.asked
        call = Call(signed.caller, port.partner, operation.exchange, asked.raw, document, idempotency_key(asked))
        asked.trace.handed = True
        try:
            return self._desk.serve(call)
        except Refused as error:
            # The desk speaks of the document; the sender sees it inside the request element.
            name = port.element_of(operation.exchange)
            inside = tuple(replace(fault, path=f"/{name}{fault.path}") for fault in error.faults)
            raise Refused(error.code, error.en, error.zh, error.status, inside) from error

    def _partner_unknown(self) -> Exception:
        listed = ", ".join(sorted(self._ports)) or "-"
        return refusal("partner_unknown", en=f" Known: {listed}.", zh=f"，已登记：{listed}")


def soap_render(asked: Asked, error: BaseException) -> Answer:
    """What a SOAP caller is told about an error: a fault of the version that it speaks."""
    problem = problem_of(error)
    dialect = DIALECTS.get(asked.trace.dialect) or _hinted(asked)
    return fault(dialect, problem, _status(asked, dialect, problem), retry_after(error))


def _status(asked: Asked, dialect: Dialect, problem: Problem) -> int:
    """The HTTP status of a fault: SOAP 1.1 §6.2 and SOAP 1.2 part 2 §7.5.2."""
    if problem.status in _HTTP_STATUSES:
        return problem.status
    if problem.code == "partner_unknown":
        return 404
    if not asked.trace.dialect and problem.code in ("malformed", "xml_doctype"):
        return 400  # what is no SOAP at all (WS-I Basic Profile R1113)
    own = problem.status >= 500 or problem.code in ("soap_version_mismatch", "soap_must_understand")
    return 400 if dialect is SOAP_12 and not own else 500


def _hinted(asked: Asked) -> Dialect:
    return SOAP_12 if _media(asked) == "application/soap+xml" else SOAP_11


def _media(asked: Asked) -> str:
    return asked.headers.get("content-type", "").partition(";")[0].strip().lower()


def _readable(asked: Asked) -> None:
    if not plain_encoding(asked):
        raise refusal("encoding_unsupported")
    if _media(asked) not in ("", *_MEDIA):
        raise refusal("media_type_unsupported")


def _operation(port: SoapPort, element: etree._Element) -> SoapOperation:
    name = etree.QName(element)
    found = port.operations.get(name.localname) if name.namespace == port.namespace else None
    if found is None:
        listed = ", ".join(sorted(port.operations))
        raise refusal(
            "exchange_unknown", en=f" Known in {port.namespace}: {listed}.", zh=f"，{port.namespace} 中有：{listed}"
        )
    return found


def _text(receipt: Receipt, source: str) -> str:
    values = {"message": receipt.message, "code": receipt.code, "state": receipt.state, "case": receipt.case}
    return values[source]
