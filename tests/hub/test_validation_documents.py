"""Bytes become documents, or are refused with their code and without a word of what they held."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.errors import Refused
from hub.validation.documents import parse_json, parse_xml

SECRET = "510100190001010012"

MALFORMED_JSON = {
    "empty": b"",
    "blank": b"  \n",
    "not UTF-8": b'{"a":"\xff"}',
    "GBK": '{"a":"测"}'.encode("gbk"),
    "byte order mark": b'\xef\xbb\xbf{"a":1}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "surrogate as UTF-8": b'{"a":"\xed\xa0\x80"}',
    "trailing": b'{"a":1} x',
    "two documents": b"{}{}",
    "repeated key": b'{"a":1,"a":1}',
    "repeated key through an escape": b'{"a":1,"\\u0061":1}',
    "repeated key below": b'[{"b":{"a":1,"c":2,"a":3}}]',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "-Infinity": b"[-Infinity]",
    "raw NUL": b'{"a":"x\x00y"}',
    "NUL escape": b'{"a":"x\\u0000y"}',
    "NUL in a key": b'{"\\u0000":1}',
    "lone high surrogate": b'{"a":"\\ud800"}',
    "lone low surrogate in a key": b'{"\\uDC00":1}',
    "65 lists": b"[" * 65 + b"]" * 65,
    "65 objects": b'{"a":' * 65 + b"1" + b"}" * 65,
    "a hundred thousand lists": b"[" * 100_000 + b"]" * 100_000,
    "beyond a double": b"[1e400]",
    "below a double": b"[1e-400]",
    "beyond 64 bits": b"[9223372036854775808]",
    "five thousand digits": b"[" + b"9" * 5000 + b"]",
    "many places": b"[0." + b"1" * 60 + b"]",
    "leading zero": b"[01]",
    "control character": b'["\x01"]',
    "comment": b"{} // x",
    "cut off": b'{"a":',
}


@pytest.mark.parametrize("raw", MALFORMED_JSON.values(), ids=MALFORMED_JSON)
def test_malformed_json_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse_json(raw)
    assert (refused.value.code, refused.value.status) == ("malformed", 400)


def test_a_refusal_never_quotes_the_document() -> None:
    with pytest.raises(Refused) as refused:
        parse_json(f'{{"ZJH":"{SECRET}" {SECRET}}}'.encode())
    error: BaseException | None = refused.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 64 + b"]" * 64,
        b'{"a":"\\ud83d\\ude00","b":"\\\\u0000"}',
        b"[0.0, -0.0, 0e10, 1.5e10, -9223372036854775808]",
        b'["' + b"[" * 100 + b'"]',
        '{"名":"值"}'.encode(),
        b"[" + b"[]," * 100 + b"[]]",
    ],
)
def test_what_is_well_formed_reads_as_python_reads_it(raw: bytes) -> None:
    assert parse_json(raw) == json.loads(raw)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00")),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00")), inner)
    ),
)


@given(JSON, st.booleans())
def test_every_json_document_survives(document: object, ascii_only: bool) -> None:
    assert parse_json(json.dumps(document, ensure_ascii=ascii_only).encode()) == document


@given(st.binary(max_size=200))
def test_bytes_give_a_document_or_a_refusal(raw: bytes) -> None:
    for parse in (parse_json, parse_xml):
        # Anything but a refusal would come out of here.
        with contextlib.suppress(Refused):
            parse(raw)


DOCTYPES = {
    "empty": b"<!DOCTYPE a><a/>",
    "XXE": b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
    "bomb": b'<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb">'
    + b"".join(b'<!ENTITY b%d "%s">' % (n, (b"&b%d;" % (n - 1) if n else b"&b;") * 10) for n in range(12))
    + b"]><a>&b11;</a>",
    "external": b'<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd"><a/>',
    "UTF-16": '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE a><a/>'.encode("utf-16"),
}


@pytest.mark.parametrize("raw", DOCTYPES.values(), ids=DOCTYPES)
def test_a_doctype_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse_xml(raw)
    assert (refused.value.code, refused.value.status) == ("xml_doctype", 400)


@pytest.mark.parametrize(
    "raw", [b"", b"x", b"<a>", b"<a/><b/>", b"<a>\x00</a>", b"<a b=1/>", b"<a>&x;</a>", b"<a>" * 5000, b"\xff"]
)
def test_broken_xml_is_malformed(raw: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse_xml(raw)
    assert (refused.value.code, refused.value.status) == ("malformed", 400)


def test_comments_and_instructions_are_left_out() -> None:
    root = parse_xml(b"<?xml version='1.0'?><!-- a --><?b c?><r>on<!-- x -->e<s/><?p?></r>")
    assert (root.text, len(root)) == ("one", 1)
