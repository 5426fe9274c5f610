"""Serves a port's WSDL and XSD with addresses under which the asking client can really fetch and call."""

from __future__ import annotations

from posixpath import basename

from lxml import etree

from hub.gateway.soap_port import SoapPort
from hub.validation.documents import parse_xml

XS = "{http://www.w3.org/2001/XMLSchema}"
ADDRESSES = ("{http://schemas.xmlsoap.org/wsdl/soap/}address", "{http://schemas.xmlsoap.org/wsdl/soap12/}address")
# Stands for scheme://host in the prepared documents: a name that no contract uses.
ORIGIN = "http://origin.dukou.invalid"


class Contracts:
    """A port's documents, prepared once; only the origin is filled in per request."""

    def __init__(self, port: SoapPort) -> None:
        self._wsdl = _rewritten(port.wsdl_bytes, port)
        self._xsd = {name: _rewritten(raw, port) for name, raw in port.xsd_files.items()}

    def wsdl(self, origin: str) -> bytes:
        """The WSDL as seen from ``origin`` (``scheme://host``)."""
        return self._wsdl.replace(ORIGIN.encode(), origin.encode())

    def xsd(self, name: str, origin: str) -> bytes | None:
        """One XSD as seen from ``origin``, or ``None`` if there is none of that name."""
        found = self._xsd.get(name)
        return None if found is None else found.replace(ORIGIN.encode(), origin.encode())


def _rewritten(raw: bytes, port: SoapPort) -> bytes:
    root = parse_xml(raw)
    own = f"{ORIGIN}/soap/{port.partner}"
    for found in root.iter(f"{XS}import", f"{XS}include", f"{XS}redefine"):
        name = basename(found.get("schemaLocation", ""))
        if name in port.xsd_files:
            found.set("schemaLocation", f"{own}?xsd={name}")
    for found in root.iter(*ADDRESSES):
        found.set("location", own)
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8")
