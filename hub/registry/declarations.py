"""Reads ``connectors/partners/*/connector.yaml`` into frozen declarations, and finds them by name."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hub.errors import Fault, Misconfigured, Refused
from hub.model.declarations import AnswerRule, Exchange, Partner, RequestLine
from hub.model.strict_yaml import load_yaml
from hub.registry.rules import declaration_faults
from hub.validation.documents import parse_json
from hub.validation.json_contract import SchemaSet, faults_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FOLDER = "connectors/partners"
_SCHEMA = "schemas/declarations/connector.json"
_SANDBOX = re.compile(r"\{sandbox\+([0-9])\}")


class Declarations:
    """Every partner and exchange. Use ``Declarations.load``."""

    def __init__(self, partners: Mapping[str, Partner]) -> None:
        self._partners = partners

    @classmethod
    def load(cls, root: Path) -> Declarations:
        """Read and check every connector.

        Args:
            root: the project's folder.

        Raises:
            hub.errors.Misconfigured: ``declarations_broken`` with every fault of every file.
        """
        faults: list[Fault] = []
        partners: dict[str, Partner] = {}
        schemas = _schemas(root)
        validator = schemas.validator({"$ref": "https://dukou.invalid/declarations/connector"})
        for path in sorted((root / FOLDER).glob("*/connector.yaml")):
            name = path.relative_to(root).as_posix()
            try:
                document = load_yaml(path, name)
            except Misconfigured as error:
                faults += error.faults
                continue
            wrong = [
                Fault(f"{name}#{one.path}", "declaration_invalid", one.en, one.zh)
                for one in faults_of(validator, document)
            ]
            if not wrong and isinstance(document, dict):
                partner = _partner(document)
                wrong = declaration_faults(name, path.parent.name, partner)
                partners[partner.slug] = partner
            faults += wrong
        if not partners and not faults:
            faults.append(Fault(FOLDER, "declaration_invalid", "there are no partners", "没有合作方"))
        if faults:
            raise Misconfigured(
                "declarations_broken",
                f"{faults[0].path}: {faults[0].en}",
                f"{faults[0].path}：{faults[0].zh}",
                tuple(faults),
            )
        return cls(MappingProxyType(partners))

    def partners(self) -> tuple[Partner, ...]:
        """All partners, by slug."""
        return tuple(self._partners[slug] for slug in sorted(self._partners))

    def exchanges(self) -> Iterator[Exchange]:
        """All exchanges of all partners, in a stable order."""
        for partner in self.partners():
            yield from partner.exchanges.values()

    def partner(self, slug: str) -> Partner:
        """The partner with this slug.

        Raises:
            hub.errors.Refused: 404 ``partner_unknown``, naming the known ones.
        """
        found = self._partners.get(slug)
        if found is None:
            known = ", ".join(sorted(self._partners))
            raise Refused(
                "partner_unknown", f"no such partner; known partners: {known}", f"没有该合作方；已知：{known}", 404
            )
        return found

    def exchange(self, partner: str, name: str) -> Exchange:
        """The exchange ``partner/name``.

        Raises:
            hub.errors.Refused: 404 ``partner_unknown`` or ``exchange_unknown``, naming the known ones.
        """
        exchanges = self.partner(partner).exchanges
        found = exchanges.get(name)
        if found is None:
            raise _exchange_unknown(partner, sorted(exchanges))
        return found

    def operation(self, partner: str, name: str) -> Exchange:
        """The exchange that serves a SOAP operation.

        Raises:
            hub.errors.Refused: 404 ``partner_unknown`` or ``exchange_unknown``, naming the known operations.
        """
        served = {one.operation: one for one in self.partner(partner).exchanges.values() if one.operation}
        found = served.get(name)
        if found is None:
            raise _exchange_unknown(partner, sorted(served))
        return found


def endpoint_base(partner: Partner, environment: str, sandbox_port: int) -> str:
    """Where a partner is reached in an environment; ``{sandbox+N}`` becomes the sandbox's port plus N.

    Raises:
        hub.errors.Misconfigured: ``endpoint_missing``: the partner declares none for this environment, so that a test
            hub cannot reach a real department.
    """
    base = partner.endpoints.get(environment)
    if base is None:
        raise Misconfigured(
            "endpoint_missing",
            f"{partner.slug} has no endpoint in environment {environment}",
            f"{partner.slug} 在环境 {environment} 没有地址",
        )
    return _SANDBOX.sub(lambda found: str(sandbox_port + int(found[1])), base)


def _exchange_unknown(partner: str, known: list[str]) -> Refused:
    listed = ", ".join(known)
    return Refused(
        "exchange_unknown",
        f"{partner} has no such exchange; known: {listed}",
        f"{partner} 没有该交换；已知：{listed}",
        404,
    )


def _schemas(root: Path) -> SchemaSet:
    """Only the connectors' own schema: declarations are read before contracts are, and say which of them matter."""
    try:
        schema = parse_json((root / _SCHEMA).read_bytes())
    except (OSError, Refused) as error:
        fault = Fault(_SCHEMA, "declaration_unreadable", "cannot be read", "无法读取")
        raise Misconfigured(
            "declarations_broken", f"{_SCHEMA} {fault.en}", f"{_SCHEMA} {fault.zh}", (fault,)
        ) from error
    return SchemaSet({"https://dukou.invalid/declarations/connector": schema} if isinstance(schema, dict) else {})


def _partner(document: Mapping[str, Any]) -> Partner:
    slug = document["partner"]
    return Partner(
        slug=slug,
        name_zh=document["name_zh"],
        name_en=document["name_en"],
        endpoints=MappingProxyType({name: one["base"] for name, one in document["endpoints"].items()}),
        connect_s=float(document["timeouts"]["connect_s"]),
        read_s=float(document["timeouts"]["read_s"]),
        concurrency=document["concurrency"],
        auth=MappingProxyType(document["auth"]),
        exchanges=MappingProxyType({name: _exchange(slug, name, one) for name, one in document["exchanges"].items()}),
        wsdl=document.get("soap", {}).get("wsdl", ""),
    )


def _exchange(partner: str, name: str, one: Mapping[str, Any]) -> Exchange:
    query = one.get("query")
    identity = one["identity"]
    return Exchange(
        partner=partner,
        name=name,
        title_zh=one["title_zh"],
        direction=one["direction"],
        lane=one["lane"],
        protocol=one["protocol"],
        contract=one["contract"],
        zones=tuple(one["zones"]),
        source=one["source"],
        redelivery=one["redelivery"],
        identity="body" if identity == "body" else tuple(identity),
        mapping=one.get("mapping", ""),
        canonical=one.get("canonical", ""),
        event=one.get("event", ""),
        operation=one.get("operation", ""),
        query_kind=query if isinstance(query, str) else "",
        revision=one.get("revision", False),
        arrives_as=one.get("arrives_as", ""),
        request=_request(one.get("request")),
        query=_request(query) if isinstance(query, dict) else None,
        answer=_answer(one.get("answer")),
    )


def _request(one: Mapping[str, str] | None) -> RequestLine | None:
    return None if one is None else RequestLine(one["method"], one["path"], one.get("sid", ""))


def _answer(one: Mapping[str, Any] | None) -> AnswerRule | None:
    if one is None:
        return None
    return AnswerRule(
        contract=one["contract"],
        code_at=one["code_at"],
        codes=MappingProxyType(one["codes"]),
        reasons=MappingProxyType(one.get("reasons", {})),
        mapping=one.get("mapping", ""),
        canonical=one.get("canonical", ""),
    )
