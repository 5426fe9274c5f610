"""A JSON contract: JSON Schema on jsonschema-rs, then our own checks of numbers, all faults at once and no value in any."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urldefrag, urljoin

import jsonschema_rs

from hub.errors import Fault, Misconfigured
from hub.model.shapes import Shape, ShapeKind
from hub.validation import checks
from hub.validation.faults import fault

if TYPE_CHECKING:
    from collections.abc import Mapping

Schema = dict[str, Any]
NumberCheck = Callable[[object, str, list[Fault]], None]

# A document of many megabytes must not become an answer of many megabytes.
_MOST_FAULTS = 500
_MOST_NAMED_CODES = 30
_PLAIN_NAME = re.compile(r"(?!.*[0-9]{5})[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_KINDS: Mapping[str, ShapeKind] = {
    "string": "text",
    "number": "number",
    "integer": "integer",
    "boolean": "boolean",
    "array": "list",
    "object": "object",
}
_TEXT_CHECKS: Mapping[str, tuple[Callable[[str], bool], str]] = {
    "unit_code": (checks.unit_code, "unit_code_invalid"),
    "certificate_no": (checks.certificate_no, "certificate_no_invalid"),
}
# What the number of a document of this kind (ZJZL) must be.
_PARTY_CHECKS: Mapping[str, tuple[Callable[[str], bool], str]] = {
    "1": (checks.citizen_id, "citizen_id_invalid"),
    "7": (checks.credit_code, "credit_code_invalid"),
}


class SchemaSet:
    """Every JSON Schema of the project, by ``$id``, with its code lists filled in."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._schemas = schemas
        self._registry = jsonschema_rs.Registry(list(schemas.items()))

    def validator(self, schema: Schema) -> jsonschema_rs.Draft202012Validator:
        """A validator that masks every value, checks formats and never reaches for the network."""
        return jsonschema_rs.Draft202012Validator(
            schema, registry=self._registry, offline=True, mask="***", validate_formats=True
        )

    def schema(self, address: str) -> Schema:
        """The schema with this ``$id``."""
        return self._schemas[address]

    def resolved(self, schema: Schema, address: str) -> tuple[Schema, str]:
        """``schema`` with its ``$ref`` followed, and the address of the file that it is in."""
        while "$ref" in schema:
            target = urljoin(address, schema["$ref"])
            address, pointer = urldefrag(target)
            found: Any = self._schemas[address]
            for part in pointer.split("/")[1:]:
                found = found[part.replace("~1", "/").replace("~0", "~")]
            schema = {**found, **{key: value for key, value in schema.items() if key != "$ref"}}
        return schema, address


class JsonContract:
    """What one JSON document must be.

    Attributes:
        name: the contract's path or canonical name.
        shape: its shape, for mappings.
    """

    def __init__(self, name: str, address: str, schemas: SchemaSet) -> None:
        self.name = name
        schema = schemas.schema(address)
        self._validator = schemas.validator({"$ref": address})
        self._numbers = _numbers(schema, address, schemas)
        self.shape = _shape(schema, address, schemas)

    def check(self, document: object) -> tuple[Fault, ...]:
        """Everything that is wrong with ``document``; empty if nothing is."""
        found = [] if self._validator.is_valid(document) else faults_of(self._validator, document)
        if self._numbers is not None:
            numbers: list[Fault] = []
            self._numbers(document, "", numbers)
            if numbers:
                named = {one.path for one in found}
                found += [one for one in numbers if one.path not in named]
        return tuple(found)


def faults_of(validator: jsonschema_rs.Draft202012Validator, document: object) -> list[Fault]:
    """What a validator says, in our codes: at most one fault for each value, the broken type before the rest."""
    found: dict[str, Fault] = {}
    for error in islice(validator.iter_errors(document), _MOST_FAULTS):
        path = "".join(f"/{plain_name(part)}" for part in error.instance_path)
        for one in _translated(path, error.kind):
            if one.path not in found or error.kind.name == "type":
                found[one.path] = one
    return list(found.values())


def plain_name(part: object) -> str:
    """A field's name as a pointer's token; a name that is no identifier may be personal and is not repeated."""
    text = str(part)
    return text if isinstance(part, int) or _PLAIN_NAME.fullmatch(text) else "*"


def _translated(path: str, kind: Any) -> list[Fault]:  # noqa: ANN401  # a union of jsonschema-rs's own classes
    name = kind.name
    if name in ("additionalProperties", "unevaluatedProperties"):
        return [fault(f"{path}/{plain_name(field)}", "field_unknown") for field in kind.unexpected]
    if name == "required":
        return [fault(f"{path}/{kind.property}", "field_missing")]
    if name == "enum":
        return [fault(path, "code_unknown", *_allowed(kind.options))]
    limit = getattr(kind, "limit", None) or getattr(kind, "types", None) or getattr(kind, "format", None)
    said = f"{name} {'/'.join(limit) if isinstance(limit, list) else limit}" if limit is not None else name
    return [fault(path, "field_type", said, said)]


def _allowed(options: object) -> tuple[str, str]:
    if not isinstance(options, list) or len(options) > _MOST_NAMED_CODES:
        return "", ""
    listed = ", ".join(str(option) for option in options)
    return f"one of {listed}", f"可用代码 {listed}"


def _shape(schema: Schema, address: str, schemas: SchemaSet) -> Shape:
    schema, address = schemas.resolved(schema, address)
    kind = _KINDS[schema["type"]]
    if kind == "list":
        return Shape("list", item=_shape(schema["items"], address, schemas))
    if kind == "object" and "properties" in schema:
        fields = {name: _shape(one, address, schemas) for name, one in schema["properties"].items()}
        required = frozenset(schema.get("required", ()))
        if required - fields.keys():
            names = ", ".join(sorted(required - fields.keys()))
            raise Misconfigured(
                "schema_unsupported", f"requires {names}, which it does not allow", f"要求了未定义的 {names}"
            )
        return Shape("object", fields, required)
    return Shape(
        "any" if kind == "object" else kind,
        codes=schema.get("x-codes", ""),
        values=tuple(schema.get("enum", ())),
        accepts=lambda value: schemas.validator(schema).is_valid(value),
    )


def _numbers(schema: Schema, address: str, schemas: SchemaSet) -> NumberCheck | None:
    """A closure that checks the numbers (``x-check``) of a document, or ``None`` where there are none."""
    schema, address = schemas.resolved(schema, address)
    if "items" in schema:
        return _each(_numbers(schema["items"], address, schemas))
    name = schema.get("x-check", "")
    if name in _TEXT_CHECKS:
        return _text_check(*_TEXT_CHECKS[name])
    fields = {
        field: check
        for field, one in schema.get("properties", {}).items()
        if (check := _numbers(one, address, schemas)) is not None
    }
    if name == "party":
        return _party
    if name:
        raise Misconfigured("schema_unsupported", f"x-check {name} is unknown", f"x-check {name} 未定义")
    return _fields(fields) if fields else None


def _each(check: NumberCheck | None) -> NumberCheck | None:
    if check is None:
        return None

    def run(value: object, path: str, found: list[Fault]) -> None:
        if isinstance(value, list):
            for index, item in enumerate(value):
                check(item, f"{path}/{index}", found)

    return run


def _fields(
    fields: Mapping[str, NumberCheck],
) -> NumberCheck:
    pairs = tuple(fields.items())

    def run(value: object, path: str, found: list[Fault]) -> None:
        if isinstance(value, dict):
            for name, check in pairs:
                if name in value:
                    check(value[name], f"{path}/{name}", found)

    return run


def _text_check(good: Callable[[str], bool], code: str) -> NumberCheck:
    def run(value: object, path: str, found: list[Fault]) -> None:
        if isinstance(value, str) and not good(value):
            found.append(fault(path, code))

    return run


def _party(value: object, path: str, found: list[Fault]) -> None:
    if not isinstance(value, dict):
        return
    kind, number = value.get("ZJZL"), value.get("ZJH")
    rule = _PARTY_CHECKS.get(kind) if isinstance(kind, str) else None
    if rule is not None and isinstance(number, str) and not rule[0](number):
        found.append(fault(f"{path}/ZJH", rule[1]))
