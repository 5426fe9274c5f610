"""The blind index: synthetic values of domain.md §4 only."""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

import suites
from hub.security.blind import BlindIndex, Kind, normalise
from hub.security.keys import KeySet


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("name", "测试甲", "测试甲"),
        ("name", " 测 试\u3000甲\n", "测试甲"),
        ("name", "Ｔｅｓｔ a", "TESTA"),
        ("number", "51010019000101008x", "51010019000101008X"),
        ("number", "５１０１００ 19000101 ００１２", "510100190001010012"),
        # 15 digits: century 19, the check digit is computed
        ("number", "510100000101001", "510100190001010012"),
        ("number", "510100000101008", "51010019000101008X"),
        # no date in the middle: a business registration number
        ("number", "510100990000001", "510100990000001"),
        ("number", "510100000230001", "510100000230001"),
        ("number", "91510000ma00000072", "91510000MA00000072"),
        ("number", "", ""),
    ],
)
def test_normal_form(kind: Kind, value: str, expected: str) -> None:
    assert normalise(kind, value) == expected
    assert normalise(kind, expected) == expected


@given(st.text())
def test_the_normal_form_of_a_normal_form_is_itself(value: str) -> None:
    once = normalise("number", value)
    assert normalise("number", once) == once


def test_tokens_under_every_live_key() -> None:
    old, new = os.urandom(32), os.urandom(32)
    before = BlindIndex(KeySet("i1", {"i1": old}), suites.get("intl"))
    rotating = BlindIndex(KeySet("i2", {"i2": new, "i1": old}), suites.get("intl"))
    assert [key_id for key_id, _ in rotating.tokens("name", "测试甲")] == ["i1", "i2"]
    assert set(before.tokens("name", "测试甲")) < set(rotating.tokens("name", "测 试甲"))


def test_kinds_values_and_suites_do_not_meet() -> None:
    keys = KeySet("i1", {"i1": bytes(32)})
    found = [
        BlindIndex(keys, suites.get(suite)).tokens(kind, value)
        for suite, kind, value in itertools.product(("intl", "gm"), ("name", "number"), ("测试甲", "测试乙"))
    ]
    assert len(set(found)) == len(found)
    assert all(len(token) == 64 for ((_, token),) in found)
