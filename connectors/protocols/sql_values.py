"""What stands in a database row and what stands in a document, each made from the other without loss; knows no database."""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Final, Literal

import orjson

Kind = Literal["text", "integer", "decimal", "float", "time", "date", "boolean", "binary", "other"]
Mark = int | Decimal | datetime | date | str

LOCAL: Final = timezone(timedelta(hours=8))
"""Front-end databases keep the wall clock of China, which has no summer time."""

_EXACT_DIGITS: Final = 15
_COMPACT: Final = "%Y%m%d%H%M%S"


class UnfitError(Exception):
    """A value does not fit its column, or a row no document. Says nothing more: the value may be personal."""


@dataclass(frozen=True, slots=True)
class Read:
    """A row as a document. ``document`` is ``None`` where a value can be no JSON (bytes, a number that no double carries).

    ``digest`` names the content: the same row read again has the same.
    """

    document: dict[str, object] | None
    raw: bytes = field(repr=False)
    digest: str


def read_row(names: Sequence[str], values: Sequence[object], *, decimals_as_text: bool) -> Read:
    """The document of a row."""
    readable = True
    shown: dict[str, object] = {}
    for name, value in zip(names, values, strict=True):
        try:
            shown[name] = _shown(value, decimals_as_text=decimals_as_text)
        except UnfitError:
            readable = False
            shown[name] = {"unreadable": hashlib.sha256(_bytes_of(value)).hexdigest()}
    raw = orjson.dumps(shown, option=orjson.OPT_SORT_KEYS)
    return Read(shown if readable else None, raw, hashlib.sha256(raw).hexdigest())


def row_key(table: str, key: Sequence[object], digest: str) -> str:
    """Names a row and its content at its source; a key may be personal, therefore only its digest is told."""
    named = orjson.dumps([table, *(str(value) if value is not None else None for value in key)])
    return f"{hashlib.sha256(named).hexdigest()[:32]}-{digest[:32]}"


def bindable(value: object, kind: Kind) -> object:
    """A document's value as its column wants it.

    Raises:
        UnfitError: it does not fit.
    """
    if value is None:
        return None
    if isinstance(value, Mapping | list) or kind in ("binary", "other"):
        raise UnfitError
    try:
        return _BINDERS[kind](value)
    except (ValueError, InvalidOperation, OverflowError):
        pass
    raise UnfitError


def pointed(document: object, pointer: str) -> object:
    """The value at a JSON Pointer (RFC 6901), or ``None``; ``/`` is the whole document."""
    for part in pointer.strip("/").split("/") if pointer != "/" else ():
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, Mapping):
            document = document.get(name)
        elif isinstance(document, list) and name.isascii() and name.isdigit() and int(name) < len(document):
            document = document[int(name)]
        else:
            return None
    return document


def mark_text(value: Mark) -> str:
    """A mark as the hub keeps it."""
    if isinstance(value, datetime):
        return f"time:{_zoned(value).isoformat()}"
    if isinstance(value, date):
        return f"date:{value.isoformat()}"
    return f"text:{value}" if isinstance(value, str) else f"number:{value}"


def mark_of(text: str) -> Mark:
    """The mark that `mark_text` wrote.

    Raises:
        UnfitError: it did not.
    """
    kind, _, rest = text.partition(":")
    try:
        if kind == "time":
            return datetime.fromisoformat(rest)
        if kind == "date":
            return date.fromisoformat(rest)
        if kind == "number":
            number = Decimal(rest)
            return int(number) if number == number.to_integral_value() else number
    except (ValueError, InvalidOperation):
        kind = ""
    if kind != "text":
        raise UnfitError
    return rest


def earlier(mark: Mark, seconds: int) -> Mark:
    """The mark so many seconds before. A time may be text: ISO 8601, or fourteen digits.

    Raises:
        UnfitError: it is no time.
    """
    step = timedelta(seconds=seconds)
    if isinstance(mark, datetime):
        return mark - step
    if isinstance(mark, date):
        # A day has no hour: what came late on a day may carry the day before as well.
        return mark - timedelta(days=-(-seconds // 86_400))
    if isinstance(mark, str):
        return _like(mark, _text_time(mark) - step)
    raise UnfitError


def in_future(mark: Mark, now_ms: int) -> bool:
    """Whether a mark is a time that has not come: one row with a wrong year must not hide all that follow it."""
    now = datetime.fromtimestamp(now_ms / 1000, LOCAL)
    if isinstance(mark, datetime):
        return mark > (now if mark.tzinfo else now.replace(tzinfo=None))
    if isinstance(mark, date):
        return mark > now.date()
    if isinstance(mark, str):
        try:
            return _text_time(mark) > now.replace(tzinfo=None)
        except UnfitError:
            return False
    return False


def _text_time(text: str) -> datetime:
    try:
        found = (
            datetime.strptime(text, _COMPACT).replace(tzinfo=None)  # noqa: DTZ007 - a front-end table's wall clock
            if text.isdigit() and len(text) == 14
            else datetime.fromisoformat(text)
        )
    except ValueError:
        found = None
    # With offsets in it, text does not sort by time.
    if found is None or found.tzinfo is not None:
        raise UnfitError
    return found


def _like(pattern: str, value: datetime) -> str:
    """The time written as the pattern is; seconds are rounded down, which only reads more."""
    _text_time(pattern)
    if pattern.isdigit():
        return value.strftime(_COMPACT)
    return value.isoformat("T" if "T" in pattern else " ", "seconds")


def _shown(value: object, *, decimals_as_text: bool) -> object:
    if isinstance(value, Decimal):
        return str(value) if decimals_as_text else _number(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UnfitError
    if isinstance(value, datetime):
        return _zoned(value).isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta | uuid.UUID):
        return str(value)
    if value is None or isinstance(value, str | int | float | dict | list):
        try:
            orjson.dumps(value)
        except TypeError:
            pass
        else:
            return value
    raise UnfitError


def _number(value: Decimal) -> int | float:
    if not value.is_finite():
        raise UnfitError
    if value == value.to_integral_value():
        number = int(value)
        # Beyond it not every JSON reader keeps every digit.
        if abs(number) >= 2**53:
            raise UnfitError
        return number
    if len(value.normalize().as_tuple().digits) > _EXACT_DIGITS:
        raise UnfitError
    return float(value)


def _zoned(value: datetime) -> datetime:
    """Whatever zone the database's session has, the same instant is the same text."""
    return value.astimezone(LOCAL) if value.tzinfo else value


def _bytes_of(value: object) -> bytes:
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else str(value).encode("utf-8", "replace")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    text = str(value)
    if "\0" in text:
        raise UnfitError
    text.encode()
    return text


def _integer(value: object) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise UnfitError
    number = int(value) if isinstance(value, int | float | str) else int(str(value))
    if not -(2**63) <= number < 2**63:
        raise UnfitError
    return number


def _decimal(value: object) -> Decimal:
    number = Decimal(str(value))
    if isinstance(value, bool) or not number.is_finite():
        raise UnfitError
    return number


def _boolean(value: object) -> bool:
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    raise UnfitError


def _moment(value: object) -> datetime:
    text = str(value)
    found = _text_time(text) if text.isdigit() else datetime.fromisoformat(text)
    return found.astimezone(LOCAL).replace(tzinfo=None) if found.tzinfo else found


def _day(value: object) -> date:
    return _moment(value).date()


_BINDERS: Final = {
    "text": _text,
    "integer": _integer,
    "decimal": _decimal,
    "float": lambda value: float(_decimal(value)),
    "boolean": _boolean,
    "time": _moment,
    "date": _day,
}
