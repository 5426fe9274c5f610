"""Masks for what must be shown of a personal value (domain.md §8: our choice, no standard); as long as the value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, Literal

Kind = Literal["name", "company", "citizen_id", "credit_code", "phone", "certificate_no", "address"]

_STAR: Final = "*"
_SERIAL: Final = re.compile(r"\d+(?=号$)")
# Through the road; where there is none, through the county.
_ROAD: Final = re.compile(r"^.*?(?:街道|大道|路|街|巷)")
_COUNTY: Final = re.compile(r"^.*?(?:区|县|旗)|^.*?市")


def mask(kind: Kind, value: str) -> str:
    """The masked value, of the same length.

    ==============  =================================  ==========================
    kind            kept                               example
    ==============  =================================  ==========================
    name            first character                    ``测**``
    company         first 4, last 2                    ``测试有限****公司``
    citizen_id      first 6, last 4 (15 digits: 6, 3)  ``510100********0012``
    credit_code     first 8, last 2                    ``91510000********72``
    phone           first 3, last 4                    ``138****0000``
    certificate_no  all but the serial's head          ``…不动产权第*****01号``
    address         through the road, or the county    ``测试市测试区测试路***``
    ==============  =================================  ==========================

    A value too short for its kind, or without what its kind is known by, is masked whole.
    """
    return _MASKS[kind](value)


def _ends(value: str, head: int, tail: int) -> str:
    hidden = len(value) - head - tail
    if hidden <= 0:
        return _STAR * len(value)
    return value[:head] + _STAR * hidden + value[len(value) - tail :]


def _name(value: str) -> str:
    return _ends(value, 1, 0)


def _citizen_id(value: str) -> str:
    return _ends(value, 6, 3 if len(value) == 15 else 4)


def _certificate_no(value: str) -> str:
    found = _SERIAL.search(value)
    if found is None:
        return _STAR * len(value)
    return value[: found.start()] + _ends(found.group(), 0, 2) + value[found.end() :]


def _address(value: str) -> str:
    found = _ROAD.match(value) or _COUNTY.match(value)
    kept = found.end() if found else 0
    return value[:kept] + _STAR * (len(value) - kept)


_MASKS: Final[Mapping[Kind, Callable[[str], str]]] = {
    "name": _name,
    "company": lambda value: _ends(value, 4, 2),
    "citizen_id": _citizen_id,
    "credit_code": lambda value: _ends(value, 8, 2),
    "phone": lambda value: _ends(value, 3, 4),
    "certificate_no": _certificate_no,
    "address": _address,
}
