"""Checks that everything declared fits together: connectors, contracts, mappings, code lists, and nothing left over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hub.errors import Fault, Misconfigured
from hub.mapping import Mappings
from hub.registry.declarations import FOLDER, Declarations
from hub.validation.codes import Codes
from hub.validation.contracts import Contracts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hub.model.declarations import Exchange

CASE_FILE = "canonical/case_file"


@dataclass(frozen=True, slots=True)
class _Whole:
    """Everything declared, loaded."""

    root: Path
    codes: Codes
    contracts: Contracts
    mappings: Mappings
    declarations: Declarations


def check_declarations(root: Path) -> list[Fault]:
    """Everything that is wrong with ``connectors/partners``, ``schemas``, ``mappings`` and the code lists.

    Args:
        root: the project's folder.

    Returns:
        The faults; empty if all is well. ``matters/`` has its own check.
    """
    faults: list[Fault] = []
    try:
        declarations = Declarations.load(root)
    except Misconfigured as error:
        faults += error.faults
        declarations = None
    try:
        codes = Codes.load(root)
        contracts = Contracts(root, codes)
        mappings = Mappings(root, contracts, codes)
    except Misconfigured as error:
        return faults + list(error.faults)
    for name in mappings.names():
        faults += mappings.get(name).check()
    if declarations is not None:
        whole = _Whole(root, codes, contracts, mappings, declarations)
        faults += [one for exchange in declarations.exchanges() for one in _exchange(whole, exchange)]
        faults += _left_over(whole)
    return faults


def _exchange(whole: _Whole, exchange: Exchange) -> Iterator[Fault]:
    where = f"{FOLDER}/{exchange.partner}/connector.yaml#/exchanges/{exchange.name}"
    document = f"{exchange.contract}#{exchange.operation}" if exchange.operation else exchange.contract
    pointers = exchange.identity if isinstance(exchange.identity, tuple) else ()
    # What arrives is recognised after it was mapped: by any way that it comes, its identity is that of the canon.
    yield from _document(whole, where, document, () if exchange.canonical else pointers)
    if exchange.canonical:
        yield from _document(whole, where, exchange.canonical, pointers)
    if exchange.mapping:
        way = (document, exchange.canonical) if exchange.direction == "serve" else (CASE_FILE, document)
        yield from _mapping(whole, where, exchange.mapping, way)
    if exchange.answer is not None:
        answer = exchange.answer
        yield from _document(whole, f"{where}/answer", answer.contract, (answer.code_at,))
        if answer.mapping:
            yield from _mapping(whole, f"{where}/answer", answer.mapping, (answer.contract, answer.canonical))


def _document(whole: _Whole, where: str, document: str, pointers: tuple[str, ...]) -> Iterator[Fault]:
    try:
        shape = whole.contracts.shape(document)
    except Misconfigured as error:
        yield Fault(where, "declaration_invalid", error.en, error.zh)
        return
    for pointer in pointers:
        node = shape.at(pointer[1:].replace("/", "."))
        if node is None or not node.is_leaf:
            yield Fault(
                where,
                "declaration_invalid",
                f"{pointer} is no field of {document}",
                f"{pointer} 不是 {document} 的字段",
            )


def _mapping(whole: _Whole, where: str, name: str, way: tuple[str, str]) -> Iterator[Fault]:
    try:
        spec = whole.mappings.get(name).spec
    except Misconfigured as error:
        yield Fault(where, "declaration_invalid", error.en, error.zh)
        return
    if (spec.source, spec.target) != way:
        yield Fault(
            where,
            "declaration_invalid",
            f"{name} must go from {way[0]} to {way[1]}",
            f"{name} 应从 {way[0]} 到 {way[1]}",
        )


def _left_over(whole: _Whole) -> Iterator[Fault]:
    """Files that nothing uses: they would rot unseen."""
    exchanges = list(whole.declarations.exchanges())
    answers = [exchange.answer for exchange in exchanges if exchange.answer is not None]
    mappings = {one.mapping for one in exchanges} | {one.mapping for one in answers}
    contracts = {one.contract for one in exchanges} | {one.contract for one in answers}
    contracts |= {partner.wsdl for partner in whole.declarations.partners()}
    for name in whole.mappings.names():
        if name not in mappings:
            yield _unused(name)
    for partner in whole.declarations.partners():
        for path in sorted((whole.root / "schemas" / partner.slug).glob("*")):
            # openapi.yaml describes the same contracts for people; nothing runs on it.
            if path.name != "openapi.yaml" and path.relative_to(whole.root).as_posix() not in contracts:
                yield _unused(path.relative_to(whole.root).as_posix())
    yield from _left_over_codes(whole)


def _left_over_codes(whole: _Whole) -> Iterator[Fault]:
    used = [whole.mappings.get(name) for name in whole.mappings.names()]
    maps = {name for one in used for name in one.maps_used()}
    lists = whole.contracts.lists_used | {name for one in used for name in one.lists_used()}
    for name in whole.codes.maps:
        if name not in maps:
            yield _unused(f"schemas/codes/maps/{name}.csv")
    for name, listed in whole.codes.lists.items():
        # A dictionary of the standard may wait for its first user; one that we made up may not.
        if name not in lists and not listed.source.startswith("domain.md §1.2"):
            yield _unused(f"schemas/codes/{name}.csv")


def _unused(name: str) -> Fault:
    return Fault(name, "declaration_unused", "nothing uses this file", "没有任何声明使用该文件")
