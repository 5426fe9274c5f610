"""The tax bureau's own SOAP: it writes ``submitClearance`` and ``queryCase`` and reads what the gateway answers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lxml import etree

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMESPACE = "urn:dukou:tax:1"
ENVELOPES = {
    "1.1": "http://schemas.xmlsoap.org/soap/envelope/",
    "1.2": "http://www.w3.org/2003/05/soap-envelope",
}
_SENDERS_FAULT = ("Client", "Sender")

# The order is the contract's: a sequence.
_CLEARANCE_FIELDS = ("ywsldh", "htbh", "jyuuid", "fwuuid", "wszt", "hszt", "thyy")
_TAXPAYER_FIELDS = ("nsrmc", "nsrsbh", "swjgdm", "sphm", "sjyzhj", "mmfbz")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is sent: the bytes and the headers that go with the version."""

    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reading:
    """What came back: the leaves of the body by local name, and whose fault it is, if it is one."""

    leaves: Mapping[str, str]
    fault: bool
    senders_fault: bool


def version_for(ywsldh: str) -> str:
    """Half of the cases are told over SOAP 1.1 and half over 1.2, always the same for the same case."""
    return "1.1" if hashlib.sha256(ywsldh.encode()).digest()[0] % 2 == 0 else "1.2"


def submit_clearance(clearance: Mapping[str, Any], version: str) -> Envelope:
    """``submitClearance`` with the fields of domain.md §6.1."""
    operation = etree.Element(f"{{{NAMESPACE}}}submitClearance", nsmap={"t": NAMESPACE})
    _add_fields(operation, clearance, _CLEARANCE_FIELDS)
    for taxpayer in clearance.get("nsrxx", ()):
        _add_fields(etree.SubElement(operation, f"{{{NAMESPACE}}}nsrxx"), taxpayer, _TAXPAYER_FIELDS)
    return _wrap(operation, "submitClearance", version)


def query_case(ywsldh: str, version: str) -> Envelope:
    """``queryCase``."""
    operation = etree.Element(f"{{{NAMESPACE}}}queryCase", nsmap={"t": NAMESPACE})
    _add_fields(operation, {"ywsldh": ywsldh}, ("ywsldh",))
    return _wrap(operation, "queryCase", version)


def read(body: bytes) -> Reading | None:
    """Read an answer; ``None`` if it is no SOAP envelope."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(body, parser)
    except etree.XMLSyntaxError:
        return None
    if root is None or root.tag not in {f"{{{namespace}}}Envelope" for namespace in ENVELOPES.values()}:
        return None
    leaves: dict[str, str] = {}
    for element in root.iter():
        if isinstance(element.tag, str) and len(element) == 0:
            leaves.setdefault(etree.QName(element).localname, (element.text or "").strip())
    fault = any(isinstance(element.tag, str) and etree.QName(element).localname == "Fault" for element in root.iter())
    # 1.1 puts the code into faultcode, 1.2 into Code/Value; both are qualified names.
    said = (leaves.get("faultcode") or leaves.get("Value") or "").rpartition(":")[2]
    return Reading(leaves, fault, fault and said in _SENDERS_FAULT)


def _add_fields(parent: etree._Element, values: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if values.get(name) is not None:
            etree.SubElement(parent, f"{{{NAMESPACE}}}{name}").text = str(values[name])


def _wrap(operation: etree._Element, name: str, version: str) -> Envelope:
    namespace = ENVELOPES[version]
    envelope = etree.Element(f"{{{namespace}}}Envelope", nsmap={"soap": namespace})
    etree.SubElement(envelope, f"{{{namespace}}}Body").append(operation)
    action = f"{NAMESPACE}/{name}"
    headers = (
        {"Content-Type": "text/xml; charset=utf-8", "SOAPAction": f'"{action}"'}
        if version == "1.1"
        else {"Content-Type": f'application/soap+xml; charset=utf-8; action="{action}"'}
    )
    return Envelope(etree.tostring(envelope, xml_declaration=True, encoding="UTF-8"), headers)
