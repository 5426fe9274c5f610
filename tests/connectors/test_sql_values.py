"""Values of rows and of documents: nothing changes silently on the way."""
# ruff: noqa: DTZ001 - front-end tables keep a wall clock

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.protocols.sql_values import (
    LOCAL,
    UnfitError,
    bindable,
    earlier,
    in_future,
    mark_of,
    mark_text,
    pointed,
    read_row,
    row_key,
)


def shown(value: object, *, text: bool = False) -> object:
    read = read_row(["c"], [value], decimals_as_text=text)
    return read.document and read.document["c"]


def test_row_values_as_json() -> None:
    assert shown(Decimal("1.10")) == 1.1
    assert shown(Decimal("1.10"), text=True) == "1.10"
    assert shown(Decimal("7.00")) == 7
    assert type(shown(Decimal("7.00"))) is int
    assert shown(datetime(2026, 1, 2, 3, 4, 5)) == "2026-01-02T03:04:05"
    assert shown(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == "2026-01-02T11:04:05+08:00"
    assert shown(date(2026, 1, 2)) == "2026-01-02"
    assert shown(time(3, 4)) == "03:04:00"
    assert shown(timedelta(hours=30)) == "1 day, 6:00:00"
    assert shown(UUID(int=1)) == "00000000-0000-0000-0000-000000000001"
    assert shown({"a": [1]}) == {"a": [1]}
    assert read_row(["c"], [None], decimals_as_text=False).document == {"c": None}


@pytest.mark.parametrize(
    "value",
    [
        b"x",
        memoryview(b"x"),
        float("nan"),
        Decimal("NaN"),
        Decimal("0.12345678901234567"),
        Decimal(2**60),
        object,
        2**70,
    ],
)
def test_what_no_document_can_carry(value: object) -> None:
    read = read_row(["a", "c"], [1, value], decimals_as_text=False)
    assert read.document is None
    assert orjson.loads(read.raw)["a"] == 1
    assert read.digest == read_row(["c", "a"], [value, 1], decimals_as_text=False).digest


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_decimal_as_number_is_exact_or_refused(value: Decimal) -> None:
    number = shown(value)
    if number is not None:
        assert Decimal(str(number)) == value


def test_key_tells_nothing_and_depends_on_everything() -> None:
    keys = {
        row_key(t, k, d) for t in ("t", "u") for k in ((1,), ("1", None), (None, "1")) for d in ("a" * 64, "b" * 64)
    }
    assert len(keys) == 12
    assert "510100190001010012" not in row_key("t", ("510100190001010012",), "a" * 64)


@pytest.mark.parametrize(
    ("value", "kind", "bound"),
    [
        (1, "text", "1"),
        (True, "text", "1"),
        ("12", "integer", 12),
        (3.0, "integer", 3),
        (1.1, "decimal", Decimal("1.1")),
        ("2026-01-02T03:04:05+00:00", "time", datetime(2026, 1, 2, 11, 4, 5)),
        ("2026-01-02 03:04:05", "time", datetime(2026, 1, 2, 3, 4, 5)),
        ("20260102030405", "time", datetime(2026, 1, 2, 3, 4, 5)),
        ("2026-01-02", "date", date(2026, 1, 2)),
        (1, "boolean", True),
        (None, "binary", None),
    ],
)
def test_document_values_as_their_columns_want_them(value: object, kind: str, bound: object) -> None:
    assert bindable(value, kind) == bound  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "kind"),
    [({}, "text"), ([], "text"), ("x", "integer"), (1.5, "integer"), (2**63, "integer"), ("x", "decimal"), ("inf", "decimal"),
     (True, "decimal"), ("2026-13-01", "time"), ("", "date"), (2, "boolean"), ("x", "binary"), ("x", "other"), ("a\0", "text"),
     ("\ud800", "text"), ("9" * 5000, "integer")],
)  # fmt: skip
def test_values_that_do_not_fit(value: object, kind: str) -> None:
    with pytest.raises(UnfitError) as caught:
        bindable(value, kind)  # type: ignore[arg-type]
    assert str(caught.value) == ""


def test_pointers() -> None:
    document = {"a": [{"b~/": 1}], "": 2}
    assert pointed(document, "/") is document
    assert pointed(document, "/a/0/b~0~1") == 1
    assert pointed(document, "/a/1/b") is None
    assert pointed(document, "/a/x") is None
    assert pointed([1], "/-1") is None


@pytest.mark.parametrize(
    "value",
    [
        5,
        -5,
        Decimal("1.5"),
        datetime(2026, 1, 2, 3, 4, 5, 6),
        date(2026, 1, 2),
        "x:y",
        "",
        datetime(2026, 1, 2, tzinfo=LOCAL),
    ],
)
def test_marks_round_trip(value: object) -> None:
    assert mark_of(mark_text(value)) == value  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "time:x", "number:x", "other:1"])
def test_foreign_marks(text: str) -> None:
    with pytest.raises(UnfitError):
        mark_of(text)


def test_earlier_and_never_in_the_future() -> None:
    assert earlier(datetime(2026, 1, 1, 0, 1), 120) == datetime(2025, 12, 31, 23, 59)
    assert earlier(date(2026, 1, 2), 3600) == date(2026, 1, 1)
    assert earlier("20260101000100", 120) == "20251231235900"
    assert earlier("2026-01-01 00:01:00.5", 120) == "2025-12-31 23:59:00"
    assert earlier("2026-01-01T00:01:00", 120) == "2025-12-31T23:59:00"
    for no_time in (5, "abc", "2026-01-01T00:00:00+08:00"):
        with pytest.raises(UnfitError):
            earlier(no_time, 1)
    now_ms = int(datetime(2026, 1, 1, tzinfo=LOCAL).timestamp() * 1000)
    for future in (
        datetime(2026, 1, 1, 0, 1),
        datetime(2025, 12, 31, 16, 1, tzinfo=UTC),
        date(2026, 1, 2),
        "2026-01-01 00:00:01",
    ):
        assert in_future(future, now_ms)
    for past in (
        datetime(2026, 1, 1),
        datetime(2025, 12, 31, 15, 59, tzinfo=UTC),
        date(2026, 1, 1),
        "20260101000000",
        "zzz",
        10**12,
    ):
        assert not in_future(past, now_ms)
