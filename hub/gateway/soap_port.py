"""The SOAP operations of a partner as plain values, read from its WSDL by the composition root."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from lxml import etree


@dataclass(frozen=True, slots=True)
class SoapOperation:
    """One operation of a document/literal port.

    Attributes:
        exchange: the ``serve`` exchange that it stands for.
        response: local name of the answering element, in the port's namespace.
        read: checks the request element against the XSD and gives its document; raises ``hub.errors.Refused``
            with every fault, paths as ``/submitClearance/wszt``.
        query: ``case_state`` where it only asks for a case's state; empty: the desk serves it.
        case_at: the field of the document that holds the case's number (queries only).
        fields: child of the answering element → what is written there: ``message``, ``code``, ``state``, ``case`` of
            the receipt; a query knows ``state`` alone.
    """

    exchange: str
    response: str
    read: Callable[[etree._Element], Mapping[str, object]]
    query: Literal["", "case_state"] = ""
    case_at: str = "ywsldh"
    fields: Mapping[str, str] = field(default_factory=lambda: {"ticket": "message", "code": "code"})


@dataclass(frozen=True, slots=True)
class SoapPort:
    """What a partner calls on the hub by SOAP.

    Attributes:
        namespace: the target namespace of requests and answers.
        wsdl_bytes: the WSDL as it stands in ``schemas/``.
        xsd_files: file name → XSD, as the WSDL's ``schemaLocation`` names them.
        operations: local name of the request element → operation.
    """

    partner: str
    namespace: str
    wsdl_bytes: bytes
    xsd_files: Mapping[str, bytes]
    operations: Mapping[str, SoapOperation]

    def element_of(self, exchange: str) -> str:
        """The request element of an exchange, or empty."""
        return next((name for name, operation in self.operations.items() if operation.exchange == exchange), "")
