"""An XSD contract: libxml2 decides, our own walk says what is wrong where, and the document becomes plain values.

Supported: global elements, named and inline complex types that are a sequence of elements, simple types by
restriction. Anything else in an XSD is refused when it is loaded, so that nothing is checked by half.
"""

from __future__ import annotations

import copy
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxml import etree

from hub.errors import Fault, Misconfigured
from hub.model.shapes import Shape, ShapeKind
from hub.validation.documents import parse_xml
from hub.validation.faults import fault
from hub.validation.json_contract import plain_name

if TYPE_CHECKING:
    from collections.abc import Mapping

_XS = "{http://www.w3.org/2001/XMLSchema}"
_XSI = "{http://www.w3.org/2001/XMLSchema-instance}"
_UNBOUNDED = 10**9
_NUMBERS: Mapping[str, ShapeKind] = {
    "decimal": "number",
    "double": "number",
    "float": "number",
    **dict.fromkeys(
        ("integer", "int", "long", "short", "byte", "nonNegativeInteger", "positiveInteger", "unsignedInt"), "integer"
    ),
}


@dataclass(frozen=True, slots=True)
class _Element:
    """One declared element; ``fields`` is empty for a leaf, whose text ``probe`` (a global element) can judge."""

    tag: str
    least: int
    most: int
    kind: ShapeKind
    fields: Mapping[str, _Element]
    probe: str = ""

    @property
    def name(self) -> str:
        return etree.QName(self.tag).localname


class XsdContract:
    """What the XML documents of one schema file must be.

    Attributes:
        name: the file's path below the project.
        roots: names of the documents (global elements) that it describes.
    """

    def __init__(self, name: str, raw: bytes) -> None:
        self.name = name
        reader = _SchemaReader(name, parse_xml(raw))
        self._roots = reader.roots()
        self._source = etree.tostring(reader.schema)
        self._local = threading.local()
        self._valid()
        self.roots = tuple(element.name for element in self._roots.values())

    def check(self, element: object) -> tuple[Fault, ...]:
        """Everything that is wrong with ``element`` (a root of this schema); empty if nothing is."""
        if not isinstance(element, etree._Element):  # noqa: SLF001  # lxml's only name for the type
            return (fault("", "field_type", "no XML element", "不是 XML 元素"),)
        declared = self._roots.get(str(element.tag))
        if declared is None:
            return (fault(f"/{_local(element.tag)}", "field_unknown"),)
        if self._valid().validate(element):
            return ()
        found: list[Fault] = []
        self._walk(element, declared, f"/{declared.name}", found)
        # libxml2 is the judge: what it refuses for a reason that our walk does not see stays refused.
        return tuple(found) or (fault(f"/{declared.name}", "field_type"),)

    def to_document(self, element: etree._Element) -> dict[str, object]:
        """A checked ``element`` as plain values: repeatable elements as lists, decimals and integers as numbers."""
        return _document(element, self._roots[str(element.tag)])

    def shape(self, root: str) -> Shape | None:
        """The shape of the document whose root element is called ``root``."""
        for element in self._roots.values():
            if element.name == root:
                return self._shape(element)
        return None

    def _shape(self, element: _Element) -> Shape:
        if not element.fields:
            return Shape(element.kind, accepts=lambda value: self._fits(element, str(value)))
        fields = {}
        for one in element.fields.values():
            inner = self._shape(one)
            fields[one.name] = Shape("list", item=inner) if one.most > 1 else inner
        return Shape("object", fields, frozenset(one.name for one in element.fields.values() if one.least > 0))

    def _valid(self) -> etree.XMLSchema:
        """This thread's own compiled schema: its error log is not shared."""
        schema: etree.XMLSchema | None = getattr(self._local, "schema", None)
        if schema is None:
            try:
                schema = etree.XMLSchema(parse_xml(self._source))
            except etree.XMLSchemaParseError as error:
                raise _unsupported(self.name, str(error)) from error
            self._local.schema = schema
        return schema

    def _fits(self, declared: _Element, text: str | None) -> bool:
        probe = etree.Element(declared.probe)
        try:
            probe.text = text
        except ValueError:
            return False
        return bool(self._valid().validate(probe))

    def _walk(self, element: etree._Element, declared: _Element, path: str, found: list[Fault]) -> None:
        strange = [name for name in element.attrib if not str(name).startswith(_XSI)]
        found += [fault(f"{path}/@{_local(name)}", "field_unknown") for name in strange]
        children = _children(element)
        if not declared.fields:
            found += [fault(f"{path}/{_local(child.tag)}", "field_unknown") for child in children]
            if not children and not self._fits(declared, element.text):
                found.append(fault(path, "field_type"))
            return
        if _own_text(element):
            found.append(fault(path, "field_type", "elements only", "只能包含子元素"))
        self._walk_children(children, declared, path, found)

    def _walk_children(self, children: list[etree._Element], declared: _Element, path: str, found: list[Fault]) -> None:
        order = {tag: place for place, tag in enumerate(declared.fields)}
        seen: Counter[str] = Counter()
        last = 0
        for child in children:
            tag = str(child.tag)
            one = declared.fields.get(tag)
            if one is None:
                found.append(fault(f"{path}/{_local(tag)}", "field_unknown"))
                continue
            seen[tag] += 1
            here = f"{path}/{one.name}" + (f"[{seen[tag]}]" if one.most > 1 else "")
            if seen[tag] == one.most + 1:
                found.append(fault(here, "field_type", f"at most {one.most} times", f"最多出现 {one.most} 次"))
            if order[tag] < last:
                found.append(fault(here, "field_type", "out of order", "顺序错误"))
            last = max(last, order[tag])
            self._walk(child, one, here, found)
        for tag, one in declared.fields.items():
            if seen[tag] < one.least:
                found.append(fault(f"{path}/{one.name}", "field_missing"))


def _document(element: etree._Element, declared: _Element) -> dict[str, object]:
    found: dict[str, object] = {}
    for child in _children(element):
        one = declared.fields[str(child.tag)]
        value = _document(child, one) if one.fields else _value(child.text or "", one.kind)
        if one.most > 1:
            listed = found.setdefault(one.name, [])
            if isinstance(listed, list):
                listed.append(value)
        else:
            found[one.name] = value
    return found


def _value(text: str, kind: ShapeKind) -> object:
    if kind == "integer":
        return int(text)
    if kind == "number":
        return float(text)
    return text


def _children(element: etree._Element) -> list[etree._Element]:
    return list(element.iterchildren(etree.Element))


def _own_text(element: etree._Element) -> bool:
    return any((text or "").strip() for text in (element.text, *(child.tail for child in element)))


def _local(tag: object) -> str:
    return plain_name(etree.QName(str(tag)).localname)


def _unsupported(name: str, why: str) -> Misconfigured:
    return Misconfigured(
        "schema_unsupported",
        f"{name}: {why}",
        f"{name}：不支持（{why}）",
        (Fault(name, "schema_unsupported", why, f"不支持（{why}）"),),
    )


class _SchemaReader:
    """Reads one XSD into declared elements, and adds to it a global probe element for each leaf."""

    def __init__(self, name: str, schema: etree._Element) -> None:
        self._name = name
        self.schema = schema
        self._target = schema.get("targetNamespace", "")
        self._qualified = schema.get("elementFormDefault") == "qualified"
        self._types = {
            node.get("name"): node for node in schema if node.tag in (f"{_XS}complexType", f"{_XS}simpleType")
        }
        known = {f"{_XS}{kind}" for kind in ("complexType", "simpleType", "element", "annotation")}
        for node in schema:
            if node.tag not in known:
                raise _unsupported(name, _local(node.tag))

    def roots(self) -> dict[str, _Element]:
        found = {}
        for node in self.schema.findall(f"{_XS}element"):
            root = self._element(node, is_global=True)
            found[root.tag] = root
        return found

    def _element(self, node: etree._Element, *, is_global: bool = False) -> _Element:
        if node.get("name") is None:
            raise _unsupported(self._name, "element without a name")
        most = node.get("maxOccurs", "1")
        tag = self._tag(str(node.get("name")), qualified=is_global or self._qualified)
        least, count = int(node.get("minOccurs", "1")), _UNBOUNDED if most == "unbounded" else int(most)
        type_node = self._type_of(node)
        if type_node is not None and type_node.tag == f"{_XS}complexType":
            return _Element(tag, least, count, "object", self._sequence(type_node))
        builtin = self._builtin(node.get("type"), type_node)
        return _Element(tag, least, count, _NUMBERS.get(builtin, "text"), {}, self._probe(node))

    def _type_of(self, node: etree._Element) -> etree._Element | None:
        for child in node:
            if child.tag in (f"{_XS}complexType", f"{_XS}simpleType"):
                return child
        return self._named(node, node.get("type"))

    def _named(self, node: etree._Element, name: str | None) -> etree._Element | None:
        if name is None:
            raise _unsupported(self._name, "element without a type")
        prefix, _, local = name.rpartition(":")
        if node.nsmap.get(prefix or None) == _XS[1:-1]:
            return None
        if local not in self._types:
            raise _unsupported(self._name, f"type {local} is unknown")
        return self._types[local]

    def _builtin(self, name: str | None, type_node: etree._Element | None) -> str:
        """The built-in type at the end of a chain of restrictions."""
        while type_node is not None:
            restriction = type_node.find(f"{_XS}restriction")
            if restriction is None:
                raise _unsupported(self._name, "simple type that is no restriction")
            name = restriction.get("base")
            type_node = self._named(restriction, name)
        return str(name).rpartition(":")[2]

    def _sequence(self, type_node: etree._Element) -> dict[str, _Element]:
        parts = [child for child in type_node if child.tag != f"{_XS}annotation"]
        if [part.tag for part in parts] != [f"{_XS}sequence"]:
            raise _unsupported(self._name, "complex type that is no sequence")
        found: dict[str, _Element] = {}
        for node in parts[0]:
            if node.tag != f"{_XS}element":
                raise _unsupported(self._name, _local(node.tag))
            one = self._element(node)
            if one.tag in found:
                raise _unsupported(self._name, f"{one.name} is declared twice")
            found[one.tag] = one
        return found

    def _probe(self, node: etree._Element) -> str:
        probe = copy.deepcopy(node)
        for occurs in ("minOccurs", "maxOccurs", "form"):
            if occurs in probe.attrib:
                del probe.attrib[occurs]
        name = f"probe.{len(self.schema)}"
        probe.set("name", name)
        self.schema.append(probe)
        return self._tag(name, qualified=True)

    def _tag(self, name: str, *, qualified: bool) -> str:
        return f"{{{self._target}}}{name}" if qualified and self._target else name
