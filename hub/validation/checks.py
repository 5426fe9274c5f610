"""Check digits and forms of the field's own numbers, as pure predicates. Nothing is trimmed or normalised."""

from __future__ import annotations

import re
from datetime import date
from operator import mul
from typing import Final

_UNIT: Final = re.compile(
    r"[0-9]{6}[0-9]{3}[0-9]{3}[GJZ][ABSXCDEFHGWY][0-9]{5}(?:W0{8}|F(?!0{8})[0-9]{8}|[LQ][0-9]{8})"
)
_CITIZEN: Final = re.compile(r"[1-9][0-9]{16}[0-9X]")
_CITIZEN_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CITIZEN_OFFSET: Final = ord("0") * sum(_CITIZEN_WEIGHTS)
_CREDIT_ALPHABET: Final = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_CREDIT: Final = re.compile(r"[0-9A-HJ-NPQRTUWXY]{2}[0-9]{6}[0-9A-HJ-NPQRTUWXY]{9}[0-9A-HJ-NPQRTUWXY]")
_CREDIT_VALUES: Final = {letter: value for value, letter in enumerate(_CREDIT_ALPHABET)}
_CREDIT_WEIGHTS: Final = tuple(pow(3, place, 31) for place in range(17))
_ORGANISATION_WEIGHTS: Final = (3, 7, 9, 10, 5, 8, 4, 2)
_CERTIFICATE: Final = re.compile(
    "[京津冀晋蒙辽吉黑沪苏浙皖闽赣鲁豫鄂湘粤桂琼渝川贵黔云滇藏陕甘青宁新]"
    r"[(（][0-9]{4}[)）].{2,20}不动产(?:权|证明)第[0-9]{7,}号"
)


def unit_code(text: str) -> bool:
    """Whether it is a 不动产单元代码 of 28 characters (GB/T 37346-2019; domain.md §4.1).

    ``W`` (no fixture) goes with eight zeros, ``F`` (building) never does.
    """
    return _UNIT.fullmatch(text) is not None


def citizen_id(text: str) -> bool:
    """Whether it is an 18-digit 公民身份号码 (GB 11643; domain.md §4.2): its date exists and its check digit agrees."""
    if _CITIZEN.fullmatch(text) is None:
        return False
    try:
        date.fromisoformat(text[6:14])
    except ValueError:
        return False
    # Over bytes, not int() of each digit: two of these are half of the time of checking an application.
    total = sum(map(mul, _CITIZEN_WEIGHTS, text.encode())) - _CITIZEN_OFFSET
    return "10X98765432"[total % 11] == text[17]


def credit_code(text: str) -> bool:
    """Whether it is a 统一社会信用代码 (GB 32100-2015; domain.md §4.3), the organisation code within it included."""
    if _CREDIT.fullmatch(text) is None:
        return False
    total = sum(map(mul, _CREDIT_WEIGHTS, map(_CREDIT_VALUES.__getitem__, text[:17])))
    return _CREDIT_ALPHABET[-total % 31] == text[17] and _organisation_code(text[8:17])


def _organisation_code(text: str) -> bool:
    """Whether the nine characters of 组织机构代码 (GB 11714) agree; letters count A=10 … Z=35 there."""
    total = sum(weight * int(letter, 36) for weight, letter in zip(_ORGANISATION_WEIGHTS, text[:8], strict=True))
    return "0123456789X0"[11 - total % 11] == text[8]


def certificate_no(text: str) -> bool:
    """Whether it is a number of a 不动产权证书 or 不动产登记证明 (domain.md §4.5), one number only."""
    return _CERTIFICATE.fullmatch(text) is not None
