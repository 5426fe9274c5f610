"""Reads a partner's WSDL with zeep at start and gives the gateway its table of SOAP operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lxml import etree
from zeep.settings import Settings as ZeepSettings
from zeep.transports import Transport
from zeep.wsdl import Document

from hub.errors import Faults, Misconfigured
from hub.gateway.soap_port import SoapOperation, SoapPort
from hub.model.declarations import Exchange, Partner
from hub.registry.declarations import Declarations
from hub.validation.contracts import Contracts
from hub.validation.xsd_contract import XsdContract


def soap_ports(root: Path, declarations: Declarations, contracts: Contracts) -> dict[str, SoapPort]:
    """Every partner that declares a WSDL, by slug.

    Raises:
        Misconfigured: an operation has no exchange, or an exchange no operation.
    """
    return {p.slug: _port(root, p, contracts) for p in declarations.partners() if p.wsdl}


def _port(root: Path, partner: Partner, contracts: Contracts) -> SoapPort:
    path = root / partner.wsdl
    document = Document(str(path), Transport(), settings=ZeepSettings(strict=True))  # type: ignore[no-untyped-call,arg-type]
    declared = {e.operation: e for e in partner.exchanges.values() if e.protocol == "soap" and e.direction == "serve"}
    operations: dict[str, SoapOperation] = {}
    namespace = ""
    for binding in document.bindings.values():
        for operation in binding.all().values():  # type: ignore[no-untyped-call]
            element = operation.input.body.qname
            namespace = element.namespace
            exchange = declared.get(operation.name)
            if exchange is None:
                raise Misconfigured(
                    "operation_undeclared",
                    f"{partner.wsdl}: operation {operation.name} has no exchange in connector.yaml",
                    f"{partner.wsdl}: 操作 {operation.name} 未在 connector.yaml 中声明",
                )
            operations[element.localname] = _operation(exchange, operation.output.body.qname.localname, contracts)
    missing = set(declared) - set(operations)
    if missing:
        raise Misconfigured(
            "operation_missing",
            f"{partner.wsdl} lacks the operations {', '.join(sorted(missing))}",
            f"{partner.wsdl} 缺少操作 {', '.join(sorted(missing))}",
        )
    files = {file.name: file.read_bytes() for file in path.parent.glob("*.xsd")}
    return SoapPort(partner.slug, namespace, path.read_bytes(), files, operations)


def _operation(exchange: Exchange, response: str, contracts: Contracts) -> SoapOperation:
    reader = _reader(contracts, exchange.contract)
    if exchange.query_kind == "case_state":
        return SoapOperation(exchange.name, response, reader, query="case_state", fields={"state": "state"})
    return SoapOperation(exchange.name, response, reader)


def _reader(contracts: Contracts, path: str) -> Callable[[etree._Element], Mapping[str, object]]:
    contract = contracts.get(path)
    if not isinstance(contract, XsdContract):
        raise Misconfigured("contract_kind", f"{path} is no XSD", f"{path} 不是 XSD")

    def read(element: etree._Element) -> Mapping[str, object]:
        Faults(list(contract.check(element))).refuse()
        return contract.to_document(element)

    return read
