"""UUIDv7: ids sort by time of birth."""

from __future__ import annotations

import time
import uuid

from hypothesis import given
from hypothesis import strategies as st

from hub.model.identity import new_id, wire_id

MOMENTS = st.integers(0, 2**48 - 1)
TAILS = st.binary(min_size=10, max_size=10)


@given(MOMENTS, MOMENTS, TAILS, TAILS)
def test_order_is_time(one: int, two: int, a: bytes, b: bytes) -> None:
    if one != two:
        assert (new_id(one, a) < new_id(two, b)) == (one < two)


@given(MOMENTS, TAILS)
def test_form(at: int, tail: bytes) -> None:
    found = uuid.UUID(new_id(at, tail))
    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert found.int >> 80 == at
    assert str(found) == new_id(at, tail)


def test_the_clock_and_chance_of_the_system() -> None:
    made = [new_id() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert abs((uuid.UUID(made[0]).int >> 80) - time.time() * 1000) < 5_000
    assert wire_id(made[0]) == uuid.UUID(made[0]).hex
