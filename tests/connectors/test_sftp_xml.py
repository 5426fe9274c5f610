"""Plain values as XML: what is written is read again, whatever stands in it, and nothing outside the text is touched."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.protocols.plain_xml import NoPlainXml, read, write

NAMES = st.from_regex(r"[A-Z][A-Z_]{0,8}", fullmatch=True)
# XML has no control characters, and a reader turns carriage returns in texts that are not escaped into line feeds.
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"), max_size=12)
ROWS = st.lists(st.dictionaries(NAMES, TEXTS, min_size=1, max_size=4), min_size=1, max_size=3)
GROUPS = st.dictionaries(
    NAMES, TEXTS.filter(lambda text: text == "" or text.strip() != "") | ROWS, min_size=1, max_size=4
)


@given(NAMES, GROUPS, st.booleans())
def test_what_is_written_is_read_again(root, group, base64_values):
    document = {root: {"HEAD": group, "DATA": group}}
    assert read(write(document, base64_values=base64_values), base64_values=base64_values) == document


def test_rows_with_elements():
    document = {"M": {"L": {"R": [{"A": "1", "B": {"C": "2"}}]}}}
    raw = write(document, "elements")
    assert raw.endswith(b"<M><L><R><A>1</A><B><C>2</C></B></R></L></M>")
    assert read(raw, frozenset({"R"})) == document
    assert read(raw)["M"] == {"L": {"R": {"A": "1", "B": {"C": "2"}}}}
    twice = {"M": {"R": ["1", "2"], "T": [{"A": "1"}, {"A": "2"}]}}
    assert read(write(twice, "elements")) == twice


def test_the_log_of_registrations():
    lists = {"Register": [{"YWH": "2026031500001", "SFSB": 1}]}
    document = {"AccessLogs": {"AccessLog": {"AreaCode": "510199", "RegisterList": [{"totalNum": 1, **lists}]}}}
    assert write(document).endswith(
        b'<AccessLogs><AccessLog><AreaCode>510199</AreaCode><RegisterList totalNum="1"><Register YWH="2026031500001" '
        b'SFSB="1"/></RegisterList></AccessLog></AccessLogs>'
    )


def test_numbers_and_truth():
    raw = write({"M": {"A": 1e-7, "B": 1e20, "C": True, "D": 3, "E": None, "F": ""}})
    assert raw.endswith(b"<M><A>0.0000001</A><B>100000000000000000000</B><C>true</C><D>3</D><F></F></M>")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<a>",
        b"<a/><b/>",
        b"<!DOCTYPE a><a/>",
        b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/hostname'>]><a>&b;</a>",
        b"<a>text<b/></a>",
        b'<a b="1"><b/></a>',
        b"<a>" * 70 + b"</a>" * 70,
        b"\xff",
    ],
)
def test_what_cannot_be_read(raw):
    with pytest.raises(NoPlainXml):
        read(raw)


def test_instructions_comments_and_nil_are_passed_over():
    raw = b'<?x y?><a xmlns:i="http://www.w3.org/2001/XMLSchema-instance"><!-- c --><b i:nil="true"/><?x?></a>'
    assert read(raw)["a"] != ""


def test_many_rows_in_linear_time():
    document = {"M": {"R": [{"A": str(number)} for number in range(100_000)]}}
    began = time.monotonic()
    assert read(write(document)) == document
    assert time.monotonic() - began < 20
