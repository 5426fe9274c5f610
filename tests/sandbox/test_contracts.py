"""The stand-ins listen exactly where their OpenAPI documents say, for the contracts that those name."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from sandbox import partners
from tests.sandbox.conftest import PARTNERS, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = ("hub", "suites", "connectors", "ferry", "dukou", "console", "dags")


def _document(partner: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "schemas" / partner / "openapi.yaml").read_text("utf-8"))
    return document


def _references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


@pytest.mark.parametrize("partner", PARTNERS)
def test_every_reference_leads_somewhere(partner: str) -> None:
    document = _document(partner)
    assert (document["openapi"], document["info"]["x-source"]) == ("3.1.0", "ours")
    for reference in _references(document):
        if reference.startswith("#"):
            place: Any = document
            for step in reference.split("/")[1:]:
                place = place[step]
        else:
            schema = yaml.safe_load((ROOT / "schemas" / partner / reference).read_text("utf-8"))
            Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("partner", PARTNERS)
def test_the_stand_in_and_its_document_agree(partner: str) -> None:
    documented = {
        (method.upper(), path, operation["operationId"], _contract(operation))
        for path, item in _document(partner)["paths"].items()
        for method, operation in item.items()
    }
    standing = {
        (exchange.method, exchange.path, exchange.name, exchange.contract.rpartition("/")[2])
        for exchange in partners.ALL[partner].exchanges
    }
    extra = {("POST", path, "refresh_secret", "") for path in partners.ALL[partner].extra_routes}
    assert documented == standing | extra


def _contract(operation: dict[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return str(content.get("schema", {}).get("$ref", "")).removeprefix("./")


def test_the_sandbox_imports_nothing_of_ours() -> None:
    imported = set()
    for path in (ROOT / "sandbox").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    assert not imported & set(OURS)
