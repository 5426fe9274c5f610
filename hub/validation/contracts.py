"""Every contract of the project, found by its path (``schemas/tax/result.json``) or canonical name (``canonical/progress``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urldefrag, urljoin

import jsonschema_rs

from hub.errors import Fault, Faults, Misconfigured, Refused
from hub.validation.documents import parse_json
from hub.validation.json_contract import JsonContract, SchemaSet, faults_of
from hub.validation.xsd_contract import XsdContract

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from hub.model.shapes import Shape
    from hub.validation.codes import Codes

Contract = JsonContract | XsdContract

_HOST = "https://dukou.invalid/"
_DECLARATIONS = "schemas/declarations/"


class Contracts:
    """Loads ``schemas/`` once; what cannot be used is a fault at the start, not at the first document.

    Args:
        root: the project's folder.
        codes: the code lists that ``x-codes`` names.

    Raises:
        hub.errors.Misconfigured: ``contracts_broken`` with every fault.
    """

    def __init__(self, root: Path, codes: Codes) -> None:
        self._root = root
        self._codes = codes
        self._faults = Faults()
        self.lists_used: set[str] = set()
        schemas = {f"{_HOST}{file[len('schemas/') : -len('.json')]}": schema for file, schema in self._read().items()}
        self._dangling(schemas)
        # No set can be made of schemas that refer to what is not there.
        self._refuse()
        self._schemas = SchemaSet(schemas)
        self._contracts: dict[str, Contract] = {}
        self._declared: dict[str, jsonschema_rs.Draft202012Validator] = {}
        for address in schemas:
            self._compile_json(f"schemas/{address[len(_HOST) :]}.json", address)
        for path in sorted((root / "schemas").rglob("*.xsd")):
            self._compile_xsd(path)
        self._refuse()

    def get(self, path: str) -> Contract:
        """The contract at ``schemas/<partner>/<file>``, or of a canonical document (``canonical/<name>``).

        Raises:
            hub.errors.Misconfigured: ``contract_unknown``.
        """
        found = self._contracts.get(f"schemas/{path}.json" if path.startswith("canonical/") else path)
        if found is None:
            raise Misconfigured("contract_unknown", f"there is no contract {path}", f"没有契约 {path}")
        return found

    def json(self, path: str) -> JsonContract:
        """The same, where it must be a JSON contract."""
        found = self.get(path)
        if not isinstance(found, JsonContract):
            raise Misconfigured("contract_unknown", f"{path} is no JSON contract", f"{path} 不是 JSON 契约")
        return found

    def xsd(self, path: str) -> XsdContract:
        """The same, where it must be an XSD."""
        found = self.get(path)
        if not isinstance(found, XsdContract):
            raise Misconfigured("contract_unknown", f"{path} is no XSD", f"{path} 不是 XSD")
        return found

    def shape(self, path: str) -> Shape:
        """The shape of a document; of an XSD it is named with its root element, ``schemas/tax/tax.xsd#queryCase``.

        Raises:
            hub.errors.Misconfigured: ``contract_unknown``.
        """
        file, _, root = path.partition("#")
        contract = self.get(file)
        shape = contract.shape(root) if isinstance(contract, XsdContract) else contract.shape
        if shape is None:
            raise Misconfigured("contract_unknown", f"there is no document {path}", f"没有文档 {path}")
        return shape

    def declared(self, name: str, document: object) -> tuple[Fault, ...]:
        """What is wrong with a declaration (YAML) of the kind ``name`` (``connector``, ``mapping``, ``matter``).

        Raises:
            hub.errors.Misconfigured: ``contract_unknown``: there is no ``schemas/declarations/<name>.json``.
        """
        validator = self._declared.get(name)
        if validator is None:
            raise Misconfigured("contract_unknown", f"nothing is declared as {name}", f"没有声明种类 {name}")
        return tuple(faults_of(validator, document)) if not validator.is_valid(document) else ()

    def _read(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for path in sorted((self._root / "schemas").rglob("*.json")):
            name = path.relative_to(self._root).as_posix()
            try:
                schema = parse_json(path.read_bytes())
            except Refused:
                self._fault(name, "is no well-formed JSON", "不是合法的 JSON")
                continue
            address = f"{_HOST}{name[len('schemas/') : -len('.json')]}"
            if not isinstance(schema, dict) or schema.get("$id") != address:
                self._fault(name, f"$id must be {address}", f"$id 应为 {address}")
                continue
            found[name] = self._filled(schema, name)
        return found

    def _filled(self, node: Any, name: str) -> Any:  # noqa: ANN401  # a tree of JSON
        """The schema with each ``x-codes`` turned into the ``enum`` that jsonschema-rs can check."""
        if isinstance(node, list):
            return [self._filled(one, name) for one in node]
        if not isinstance(node, dict):
            return node
        filled = {key: self._filled(value, name) for key, value in node.items()}
        wanted = node.get("x-codes")
        if isinstance(wanted, str):
            known = self._codes.lists.get(wanted)
            if known is None:
                self._fault(name, f"code list {wanted} does not exist", f"字典 {wanted} 不存在")
            else:
                self.lists_used.add(wanted)
                filled["enum"] = list(known.entries)
        return filled

    def _dangling(self, schemas: Mapping[str, Any]) -> None:
        for address, schema in schemas.items():
            for reference in _references(schema):
                file, pointer = urldefrag(urljoin(address, reference))
                found = schemas.get(file)
                for part in pointer.split("/")[1:]:
                    found = found.get(part) if isinstance(found, dict) else None
                if found is None:
                    name = f"schemas/{address[len(_HOST) :]}.json"
                    self._fault(name, f"{reference} is not there", f"{reference} 不存在")

    def _compile_json(self, name: str, address: str) -> None:
        try:
            if name.startswith(_DECLARATIONS):
                kind = name[len(_DECLARATIONS) : -len(".json")]
                self._declared[kind] = self._schemas.validator({"$ref": address})
            else:
                self._contracts[name] = JsonContract(name, address, self._schemas)
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
            self._fault(name, f"is no usable JSON Schema: {error.message}", "不是可用的 JSON Schema")
        except (KeyError, ValueError) as error:
            self._fault(name, f"refers to what is not there, or has no type: {error}", "引用不存在或缺少类型")
        except Misconfigured as error:
            self._fault(name, error.en, error.zh)

    def _compile_xsd(self, path: Path) -> None:
        name = path.relative_to(self._root).as_posix()
        try:
            self._contracts[name] = XsdContract(name, path.read_bytes())
        except Misconfigured as error:
            self._fault(name, error.en, error.zh)
        except Refused as error:
            self._fault(name, error.en, error.zh)

    def _fault(self, path: str, en: str, zh: str) -> None:
        self._faults.found.append(Fault(path, "contracts_broken", en, zh))

    def _refuse(self) -> None:
        if self._faults.found:
            first = self._faults.found[0]
            raise Misconfigured(
                "contracts_broken", f"{first.path}: {first.en}", f"{first.path}：{first.zh}", tuple(self._faults.found)
            )


def _references(node: object) -> Iterator[str]:
    """Every ``$ref`` of a schema."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for one in node.values():
            yield from _references(one)
    elif isinstance(node, list):
        for one in node:
            yield from _references(one)
