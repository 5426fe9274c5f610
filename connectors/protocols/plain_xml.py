"""Plain values as XML text and back, for partners whose documents are XML without being SOAP: files of 汇交, texts of a court.

One rule, both ways: a ``dict`` is an element with child elements, a ``list`` repeats its element, and a ``dict`` inside
a ``list`` is a *row*, whose plain values are attributes (domain.md §2.4). Where a partner writes rows with child
elements instead, ``rows="elements"`` says so.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final, Literal

from lxml import etree

Rows = Literal["attributes", "elements"]

DECLARATION: Final = b'<?xml version="1.0" encoding="UTF-8"?>\n'
_XSI: Final = "{http://www.w3.org/2001/XMLSchema-instance}"
_DEEPEST: Final = 64


class NoPlainXml(ValueError):
    """A document that cannot be written, or a text that cannot be read; never says what stands in it."""


def write(document: object, rows: Rows = "attributes", *, base64_values: bool = False) -> bytes:
    """The XML of ``{"Root": {…}}`` in UTF-8 with its declaration; everything in the given order, ``None`` left out.

    Args:
        document: one key, the root element's name.
        rows: how the plain values of a row are written.
        base64_values: every value is written as the Base64 of its UTF-8 text (courts do).

    Raises:
        NoPlainXml: not exactly one root, a name or a character that XML does not have, or a value that is no plain one.
    """
    if not isinstance(document, Mapping) or len(document) != 1:
        raise _unwritable()
    ((name, content),) = document.items()
    writer = _Writer(rows, _in_base64 if base64_values else str)
    try:
        top = etree.Element("top")
        writer.put(top, str(name), content, 0)
        if len(top) != 1:
            raise _unwritable()
        return DECLARATION + etree.tostring(top[0], encoding="utf-8")
    except (ValueError, TypeError):
        # Without a cause: lxml quotes the value that it does not like.
        raise _unwritable() from None


def read(raw: bytes, lists: frozenset[str] = frozenset(), *, base64_values: bool = False) -> dict[str, object]:
    """What ``write`` wrote: ``{"Root": …}``. Comments and processing instructions are passed over.

    Args:
        raw: the XML text; a document type declaration is refused, nothing outside it is ever loaded.
        lists: names of elements that are lists even when they occur once and carry no attribute.
        base64_values: every value is the Base64 of its UTF-8 text.

    Raises:
        NoPlainXml: no XML, a DOCTYPE, nesting over 64 levels, text beside child elements, a name twice in one row.
    """
    # The rule "parse through hub.validation" is kept in spirit: wires may not import it, so its settings stand here again.
    parser = etree.XMLParser(  # noqa: TID251
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(raw, parser)
        if root is None or root.getroottree().docinfo.internalDTD is not None:
            raise _unreadable()
        reader = _Reader(lists, _from_base64 if base64_values else str)
        return {_name(root): reader.value(root, 0)}
    except (etree.XMLSyntaxError, ValueError):
        raise _unreadable() from None


class _Writer:
    """Puts plain values under an element."""

    def __init__(self, rows: Rows, text: Callable[[str], str]) -> None:
        self._rows = rows
        self._text = text

    def put(self, parent: etree._Element, name: str, content: object, depth: int) -> None:
        if depth > _DEEPEST:
            raise _unwritable()
        if isinstance(content, list | tuple):
            for one in content:
                self._item(parent, name, one, depth)
        elif isinstance(content, Mapping):
            self._children(etree.SubElement(parent, name), content, depth)
        elif content is not None:
            etree.SubElement(parent, name).text = self._text(plain_text(content))

    def _item(self, parent: etree._Element, name: str, content: object, depth: int) -> None:
        if isinstance(content, list | tuple) or content is None:
            raise _unwritable()
        if self._rows == "elements" or not isinstance(content, Mapping):
            self.put(parent, name, content, depth)
            return
        row = etree.SubElement(parent, name)
        for key, value in content.items():
            if isinstance(value, Mapping | list | tuple):
                self.put(row, str(key), value, depth + 1)
            elif value is not None:
                row.set(str(key), self._text(plain_text(value)))

    def _children(self, element: etree._Element, content: Mapping[object, object], depth: int) -> None:
        for key, value in content.items():
            self.put(element, str(key), value, depth + 1)


class _Reader:
    """Reads an element into plain values."""

    def __init__(self, lists: frozenset[str], text: Callable[[str], str]) -> None:
        self._lists = lists
        self._text = text

    def value(self, element: etree._Element, depth: int) -> object:
        """A row is a list even when it is alone: a reader must not have to know how many there were."""
        found = self._content(element, depth)
        return [found] if element.attrib or _name(element) in self._lists else found

    def _content(self, element: etree._Element, depth: int) -> object:
        if depth > _DEEPEST:
            raise _unreadable()
        attributes = {
            _plain_key(key): self._text(str(value))
            for key, value in element.attrib.items()
            if not str(key).startswith(_XSI)
        }
        children = list(element)
        if not children and not element.attrib:
            return self._text(element.text or "")
        if any((text or "").strip() for text in (element.text, *(child.tail for child in children))):
            raise _unreadable()
        return self._with_children(dict(attributes), children, depth)

    def _with_children(self, found: dict[str, object], children: list[etree._Element], depth: int) -> dict[str, object]:
        names = [_name(child) for child in children]
        if set(names) & set(found):
            raise _unreadable()
        for name, child in zip(names, children, strict=True):
            value = self.value(child, depth + 1)
            known = found.get(name)
            if known is None:
                found[name] = value
            elif isinstance(known, list):
                known.extend(_listed(value))
            else:
                found[name] = [known, *_listed(value)]
        return found


def plain_text(value: object) -> str:
    """A plain value as XML text: numbers without exponents, truth as ``true`` and ``false``.

    Raises:
        NoPlainXml: neither text nor number nor truth.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return f"{Decimal(repr(value)):f}"
    raise _unwritable()


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _name(element: etree._Element) -> str:
    return etree.QName(element).localname


def _plain_key(key: object) -> str:
    return etree.QName(str(key)).localname


def _in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")


def _from_base64(text: str) -> str:
    try:
        return base64.b64decode("".join(text.split()), validate=True).decode()
    except (binascii.Error, ValueError):
        raise _unreadable() from None


def _unwritable() -> NoPlainXml:
    return NoPlainXml("the document cannot be written as XML")


def _unreadable() -> NoPlainXml:
    return NoPlainXml("the text cannot be read as XML")
