"""Opens SOAP 1.1 and 1.2 envelopes and builds the answering ones: elements in, elements out, no business."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lxml import etree

from hub.errors import Fault, Refused
from hub.gateway.asked import Answer
from hub.gateway.codes import refusal
from hub.model.call import Problem

XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
FAULT_NAMESPACE = "urn:dukou:fault:1"
_SERVER_SIDE = 500


@dataclass(frozen=True, slots=True)
class Dialect:
    """One version of SOAP: its names for the same things.

    ``mine`` are the roles (actors) that mean us; an absent one does too.
    """

    namespace: str
    prefix: str
    media: str
    sender: str
    receiver: str
    role: str
    mine: tuple[str, ...]

    def tag(self, name: str) -> str:
        """A name in this version's namespace."""
        return f"{{{self.namespace}}}{name}"


SOAP_11 = Dialect(
    namespace="http://schemas.xmlsoap.org/soap/envelope/",
    prefix="soap",
    media="text/xml; charset=utf-8",
    sender="Client",
    receiver="Server",
    role="actor",
    mine=("", "http://schemas.xmlsoap.org/soap/actor/next"),
)
SOAP_12 = Dialect(
    namespace="http://www.w3.org/2003/05/soap-envelope",
    prefix="env",
    media="application/soap+xml; charset=utf-8",
    sender="Sender",
    receiver="Receiver",
    role="role",
    mine=(
        "",
        "http://www.w3.org/2003/05/soap-envelope/role/next",
        "http://www.w3.org/2003/05/soap-envelope/role/ultimateReceiver",
    ),
)
DIALECTS = {dialect.namespace: dialect for dialect in (SOAP_11, SOAP_12)}
# Codes that have a fault code of their own in both versions.
_OWN_FAULT_CODES = {"soap_version_mismatch": "VersionMismatch", "soap_must_understand": "MustUnderstand"}


def dialect_of(root: etree._Element) -> Dialect:
    """The version of an envelope, by its namespace (what the standard goes by; the media type is only a hint).

    Raises:
        hub.errors.Refused: ``malformed`` if it is no envelope, ``soap_version_mismatch`` if of another namespace.
    """
    name = etree.QName(root)
    if name.localname != "Envelope":
        raise refusal("malformed", en=" The root is no SOAP Envelope.", zh="，根元素不是 SOAP Envelope")
    found = DIALECTS.get(name.namespace or "")
    if found is None:
        raise refusal("soap_version_mismatch")
    return found


def payload(root: etree._Element, dialect: Dialect) -> etree._Element:
    """The one element in the body of an envelope whose headers we may ignore.

    Raises:
        hub.errors.Refused: ``malformed`` or ``soap_must_understand``.
    """
    parts = list(root)
    if parts and parts[0].tag == dialect.tag("Header"):
        _understand(parts.pop(0), dialect)
    if len(parts) != 1 or parts[0].tag != dialect.tag("Body"):
        raise refusal("malformed", en=" The Envelope must hold one Body.", zh="，Envelope 应有且只有一个 Body")
    children = list(parts[0])
    if len(children) != 1:
        raise refusal("malformed", en=" The Body must hold one element.", zh="，Body 应有且只有一个元素")
    return children[0]


def _understand(header: etree._Element, dialect: Dialect) -> None:
    missed = tuple(
        Fault(f"/Header/{etree.QName(block).localname}", "soap_must_understand", "not understood", "无法理解")
        for block in header
        if block.get(dialect.tag("mustUnderstand"), "").strip() in ("1", "true")
        and block.get(dialect.tag(dialect.role), "").strip() in dialect.mine
    )
    if missed:
        base = refusal("soap_must_understand")
        raise Refused(base.code, base.en, base.zh, base.status, missed)


def result(
    dialect: Dialect, namespace: str, name: str, fields: Mapping[str, str], headers: Mapping[str, str]
) -> Answer:
    """A successful answer: one element with one text child per field."""
    envelope, body = _empty(dialect, {"r": namespace})
    element = etree.SubElement(body, f"{{{namespace}}}{name}")
    for field, text in fields.items():
        etree.SubElement(element, f"{{{namespace}}}{field}").text = text
    return Answer(200, _bytes(envelope), dialect.media, headers)


def fault(dialect: Dialect, problem: Problem, status: int, headers: Mapping[str, str]) -> Answer:
    """A SOAP fault: standard fault code, reason in both languages, ``code`` and ``fault`` in the detail."""
    envelope, body = _empty(dialect, {"d": FAULT_NAMESPACE} if dialect is SOAP_12 else {})
    element = etree.SubElement(body, dialect.tag("Fault"))
    ours = problem.status >= _SERVER_SIDE
    name = _OWN_FAULT_CODES.get(problem.code, dialect.receiver if ours else dialect.sender)
    value = f"{dialect.prefix}:{name}"
    detail = _reason_11(element, value, problem) if dialect is SOAP_11 else _reason_12(element, value, problem)
    _detail(detail, problem)
    return Answer(status, _bytes(envelope), dialect.media, headers)


def _reason_11(element: etree._Element, value: str, problem: Problem) -> etree._Element:
    etree.SubElement(element, "faultcode").text = value
    etree.SubElement(element, "faultstring").text = f"{problem.title_zh} / {problem.title}"
    return etree.SubElement(element, "detail")


def _reason_12(element: etree._Element, value: str, problem: Problem) -> etree._Element:
    code = etree.SubElement(element, SOAP_12.tag("Code"))
    etree.SubElement(code, SOAP_12.tag("Value")).text = value
    subcode = etree.SubElement(code, SOAP_12.tag("Subcode"))
    etree.SubElement(subcode, SOAP_12.tag("Value")).text = f"d:{problem.code}"
    reason = etree.SubElement(element, SOAP_12.tag("Reason"))
    for language, text in (("zh", problem.title_zh), ("en", problem.title)):
        etree.SubElement(reason, SOAP_12.tag("Text"), {XML_LANG: language}).text = text
    return etree.SubElement(element, SOAP_12.tag("Detail"))


def _detail(detail: etree._Element, problem: Problem) -> None:
    etree.SubElement(detail, "code").text = problem.code
    for found in problem.faults:
        row = etree.SubElement(detail, "fault", {"path": found.path, "code": found.code})
        row.text = f"{found.zh} / {found.en}"


def _empty(dialect: Dialect, names: Mapping[str, str]) -> tuple[etree._Element, etree._Element]:
    envelope = etree.Element(dialect.tag("Envelope"), nsmap={dialect.prefix: dialect.namespace, **names})
    return envelope, etree.SubElement(envelope, dialect.tag("Body"))


def _bytes(envelope: etree._Element) -> bytes:
    return etree.tostring(envelope, xml_declaration=True, encoding="UTF-8")
