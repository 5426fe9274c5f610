"""The numbers of the field: valid and invalid samples of domain.md §4, and every single wrong character."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.validation.checks import certificate_no, citizen_id, credit_code, unit_code

UNITS = [
    "510199001001GB00001F00010001",
    "510199001001GB00001W00000000",
    "510199002003JC00012F00010001",
    "510199001002GE00003L00000001",
]
CITIZENS = [
    "510100190001010012",
    "510100190001010020",
    "510100190001010039",
    "510100190001010047",
    "51010019000101008X",
]
CREDITS = ["91510000MA00000072", "12510000000000019B", "115100000000000279", "51510000500000031C", "52510100MJ000000XW"]
CERTIFICATES = [
    "川(2026)测试市不动产权第0000001号",
    "川（2026）测试县不动产证明第0000002号",
    "皖(2019)测试县不动产证明第0000003号",
]


@pytest.mark.parametrize("text", UNITS)
def test_unit_codes(text: str) -> None:
    assert unit_code(text)


@pytest.mark.parametrize(
    "text",
    ["", UNITS[0][:27], UNITS[0] + "0", "510199001001KB00001F00010001", "510199001001GB00001Z00010001",
     "510199001001GB00001W00000001", "510199001001GB00001F00000000", UNITS[0].lower(), UNITS[0] + "\n", " " + UNITS[0],
     "５10199001001GB00001F00010001"],
)  # fmt: skip
def test_wrong_unit_codes(text: str) -> None:
    assert not unit_code(text)


@pytest.mark.parametrize("text", CITIZENS)
def test_citizen_ids(text: str) -> None:
    assert citizen_id(text)


@pytest.mark.parametrize(
    "text",
    ["", "510100190001010013", "51019919000229010X", "51010019000101008x", "510100900101001", CITIZENS[0] + "\n",
     "５10100190001010012", "000000000000000000"],
)  # fmt: skip
def test_wrong_citizen_ids(text: str) -> None:
    assert not citizen_id(text)


@given(st.sampled_from(CITIZENS), st.integers(0, 16), st.sampled_from("0123456789"))
def test_one_wrong_digit_of_a_citizen_id_is_seen(text: str, place: int, digit: str) -> None:
    changed = text[:place] + digit + text[place + 1 :]
    assert citizen_id(changed) == (changed == text)


@pytest.mark.parametrize("text", CREDITS)
def test_credit_codes(text: str) -> None:
    assert credit_code(text)


@pytest.mark.parametrize(
    "text", ["", "91510000MA00000073", "91510000MI00000072", "91510000ma00000072", CREDITS[0] + "\n", CREDITS[0][:17]]
)
def test_wrong_credit_codes(text: str) -> None:
    assert not credit_code(text)


def test_the_organisation_code_within_a_credit_code_is_checked() -> None:
    alphabet = "0123456789ABCDEFGHJKLMNPQRTUWXY"
    body = "91510000MA0000008"  # its organisation code ends in 8 where 7 is right
    total = sum(3**place % 31 * alphabet.index(letter) for place, letter in enumerate(body))
    assert not credit_code(body + alphabet[(31 - total % 31) % 31])


@given(st.sampled_from(CREDITS), st.integers(0, 17), st.sampled_from("0123456789ABCDEFGHJKLMNPQRTUWXY"))
def test_one_wrong_character_of_a_credit_code_is_seen(text: str, place: int, letter: str) -> None:
    changed = text[:place] + letter + text[place + 1 :]
    assert credit_code(changed) == (changed == text)


@pytest.mark.parametrize("text", CERTIFICATES)
def test_certificate_numbers(text: str) -> None:
    assert certificate_no(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "川2026测试市不动产权第1号",
        CERTIFICATES[0] + " ",
        CERTIFICATES[0] + "\n",
        "中(2026)测试市不动产权第0000001号",
        ",".join(CERTIFICATES[:2]),
    ],
)
def test_wrong_certificate_numbers(text: str) -> None:
    assert not certificate_no(text)
