"""Two small operations on JSON-like documents that several parts of the hub need."""

from __future__ import annotations

import json
from collections.abc import Mapping


def pointed(document: object, pointer: str) -> object:
    """The value at a JSON Pointer through objects only, or ``None``."""
    for part in pointer.strip("/").split("/"):
        document = document.get(part) if isinstance(document, Mapping) else None
    return document


def compact(value: object) -> str:
    """JSON with sorted keys and no blanks: one text for one value."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
