"""Turns bytes from outside into a document, or refuses them: the one place where JSON and XML of others are parsed."""

from __future__ import annotations

import json
import math
import re

from lxml import etree

from hub.errors import Refused
from hub.validation.faults import known_codes

MAX_DEPTH = 64
_MAX_NUMBER = 40
_INT64 = 2**63
_SURROGATES = re.compile("[\x00\ud800-\udfff]")
_ZERO = re.compile(r"-?[0.]+(?:[eE].*)?")


def _refused(code: str) -> Refused:
    en, zh = known_codes()[code]
    return Refused(code, en, zh, 400)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        message = "repeated key"
        raise ValueError(message)
    return found


def _integer(text: str) -> int:
    if len(text) > _MAX_NUMBER:
        message = "too many digits"
        raise ValueError(message)
    number = int(text)
    if not -_INT64 <= number < _INT64:
        message = "beyond 64 bits"
        raise ValueError(message)
    return number


def _real(text: str) -> float:
    number = float(text)
    if len(text) > _MAX_NUMBER or not math.isfinite(number) or (number == 0 and not _ZERO.fullmatch(text)):
        message = "beyond a double"
        raise ValueError(message)
    return number


def _constant(_text: str) -> object:
    message = "NaN and Infinity are no JSON"
    raise ValueError(message)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_real, parse_constant=_constant, strict=True
)


def _walk(document: object) -> None:
    """Refuse what only a look at the whole tree shows: depth, NUL and lone surrogates that came as escapes."""
    level, depth = [document], 0
    while level:
        below: list[object] = []
        for node in level:
            if isinstance(node, str):
                _clean(node)
            elif isinstance(node, dict):
                for key in node:
                    _clean(key)
                below.extend(node.values())
            elif isinstance(node, list):
                below.extend(node)
        depth += any(isinstance(node, dict | list) for node in level)
        if depth > MAX_DEPTH:
            message = "nested too deep"
            raise ValueError(message)
        level = below


def _clean(text: str) -> None:
    if _SURROGATES.search(text):
        message = "NUL or lone surrogate"
        raise ValueError(message)


def parse_json(raw: bytes) -> object:
    """The JSON document in ``raw``.

    Repeated keys, NaN and Infinity, NUL characters, lone surrogates, a byte order mark, nesting over 64 levels, and
    numbers that a double or 64 bits cannot hold are refused: readers disagree about them, and what two readers
    understand differently must not cross a hub.

    Raises:
        hub.errors.Refused: 400 ``malformed``.
    """
    try:
        document: object = _DECODER.decode(raw.decode("utf-8"))
        # Only these can hide depth or odd characters; everything else was refused by the decoder.
        if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH or b"\\u" in raw:
            _walk(document)
    except (ValueError, RecursionError):
        # Without a cause: the decoder's message may quote the document.
        raise _refused("malformed") from None
    return document


def parse_xml(raw: bytes) -> etree._Element:
    """The root element of the XML document in ``raw``; comments and processing instructions are left out.

    Raises:
        hub.errors.Refused: 400 ``xml_doctype`` for any document type declaration, else 400 ``malformed``.
    """
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(raw, parser)
    except (etree.XMLSyntaxError, ValueError):
        raise _refused("xml_doctype" if b"<!DOCTYPE" in raw else "malformed") from None
    if root is None:
        raise _refused("malformed")
    if root.getroottree().docinfo.internalDTD is not None:
        raise _refused("xml_doctype")
    return root
