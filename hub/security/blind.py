"""The blind index: names and document numbers are found by keyed digests of their normal form, never by themselves."""

from __future__ import annotations

import datetime as dt
import unicodedata
from typing import Final, Literal

import suites
from hub.security.keys import KeySet

Kind = Literal["name", "number"]

_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECKS: Final = "10X98765432"
_OLD_CITIZEN_ID: Final = 15


def normalise(kind: Kind, value: str) -> str:
    """The form in which equal things are equal; for search only, never for what is kept or sent.

    NFKC, no white space, upper case; a citizen id of 15 digits becomes that of 18 (GB 11643).
    """
    # Twice: taking out a space or raising a letter may leave what NFKC would join.
    plain = unicodedata.normalize("NFKC", "".join(unicodedata.normalize("NFKC", value).split()).upper())
    return _as_18_digits(plain) if kind == "number" else plain


class BlindIndex:
    """Makes the tokens under which a value is kept and found.

    Args:
        keys: the index keys of the key file; two while rotating.
        suite: whose MAC to use.
    """

    def __init__(self, keys: KeySet, suite: suites.Suite) -> None:
        self._keys = tuple(sorted(keys.keys.items()))
        self._suite = suite

    def tokens(self, kind: Kind, value: str) -> tuple[tuple[str, str], ...]:
        """``(key id, hex)`` for every live key, so that a value is found whichever of them wrote it."""
        message = f"{kind}\0{normalise(kind, value)}".encode()
        return tuple((key_id, self._suite.mac(key, message).hex()) for key_id, key in self._keys)


def _as_18_digits(number: str) -> str:
    # Other 15-digit numbers (business registration) have no date of birth in the middle and stay as they are.
    if len(number) != _OLD_CITIZEN_ID or not (number.isascii() and number.isdigit()) or not _born(number[6:12]):
        return number
    digits = f"{number[:6]}19{number[6:]}"
    total = sum(int(digit) * weight for digit, weight in zip(digits, _WEIGHTS, strict=True))
    return digits + _CHECKS[total % 11]


def _born(yymmdd: str) -> bool:
    try:
        dt.date.fromisoformat(f"19{yymmdd[:2]}-{yymmdd[2:4]}-{yymmdd[4:]}")
    except ValueError:
        return False
    return True
