"""Contracts: every fault at once, each with its path and stable code, none with a value."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.errors import Fault, Misconfigured
from hub.validation.codes import Codes
from hub.validation.contracts import Contracts
from hub.validation.documents import parse_xml
from hub.validation.faults import known_codes

ROOT = Path(__file__).parents[2]
CODES = Codes.load(ROOT)
CONTRACTS = Contracts(ROOT, CODES)
APPLICATION = CONTRACTS.json("canonical/application")
TAX = CONTRACTS.xsd("schemas/tax/tax.xsd")

PARTY = {"QLRMC": "测试甲", "ZJZL": "1", "ZJH": "510100190001010012", "GYFS": "0"}
GOOD: dict[str, Any] = {
    "matter": "clf_transfer", "tenant": "510199", "channel": "hall",
    "BDCDYH": "510199001001GB00001F00010001", "BDCQZH": "川(2026)测试市不动产权第0000001号", "HTBH": "HT-1", "ZL": "测试路1号",
    "QLR": [PARTY], "YWR": [PARTY | {"ZJZL": "7", "ZJH": "91510000MA00000072"}],
    "SJ": [{"SJMC": "合同", "SJLX": "1", "sha256": "0" * 64}], "HTJE": 1000000.5, "HTQDRQ": "2026-01-31", "FWYT": "11",
}  # fmt: skip


def coded(faults: tuple[Fault, ...]) -> set[tuple[str, str]]:
    return {(one.path, one.code) for one in faults}


def changed(**fields: object) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    document.update(fields)
    return document


def test_a_good_application_has_no_fault() -> None:
    assert APPLICATION.check(GOOD) == ()


def test_all_faults_come_at_once() -> None:
    document = changed(
        BDCDYH="510199001001KB00001F00010001", BDCQZH="川2026测试市不动产权第1号", HTQDRQ="2026-02-30", FWYT="0", HTJE=-1, more=1,
        QLR=[PARTY | {"ZJH": "510100190001010013", "a": 1}, PARTY | {"ZJZL": "7"}, {"QLRMC": 1}], tenant="51019", SJ={},
    )  # fmt: skip
    del document["ZL"]
    assert coded(APPLICATION.check(document)) == {
        ("/BDCDYH", "unit_code_invalid"), ("/BDCQZH", "certificate_no_invalid"), ("/HTQDRQ", "field_type"),
        ("/FWYT", "code_unknown"), ("/HTJE", "field_type"), ("/more", "field_unknown"), ("/QLR/0/ZJH", "citizen_id_invalid"),
        ("/QLR/0/a", "field_unknown"), ("/QLR/1/ZJH", "credit_code_invalid"), ("/QLR/2/QLRMC", "field_type"),
        ("/QLR/2/ZJZL", "field_missing"), ("/QLR/2/ZJH", "field_missing"), ("/QLR/2/GYFS", "field_missing"),
        ("/tenant", "field_type"), ("/SJ", "field_type"), ("/ZL", "field_missing"),
    }  # fmt: skip


@pytest.mark.parametrize("document", [None, 1, "x", [], True])
def test_a_document_of_another_kind(document: object) -> None:
    assert coded(APPLICATION.check(document)) == {("", "field_type")}


def test_a_wrong_type_is_said_before_an_unknown_code() -> None:
    assert coded(APPLICATION.check(changed(FWYT=11))) == {("/FWYT", "field_type")}


@pytest.mark.parametrize(
    "number", ["510100900101001", " 510100190001010012", "510100190001010012 ", "510100190001010012\n"]
)
def test_identifiers_are_not_normalised(number: str) -> None:
    assert coded(APPLICATION.check(changed(QLR=[PARTY | {"ZJH": number}]))) == {("/QLR/0/ZJH", "citizen_id_invalid")}


def test_other_kinds_of_documents_are_not_held_to_check_digits() -> None:
    assert APPLICATION.check(changed(QLR=[PARTY | {"ZJZL": "3", "ZJH": "E00000001"}])) == ()


SENTINELS = ("测试哨兵", "510100190001010039", "13900000000")


def test_no_fault_repeats_a_value_or_a_telling_name() -> None:
    party = {
        "QLRMC": SENTINELS[0] * 60,
        "ZJZL": SENTINELS[1],
        "ZJH": SENTINELS[0] * 20,
        "GYFS": SENTINELS[2],
        SENTINELS[0]: 1,
        SENTINELS[1]: 1,
    }
    document = changed(
        BDCDYH=SENTINELS[1], QLR=[party], YWR=SENTINELS[0], matter=SENTINELS[1], HTQDRQ=SENTINELS[0], HTJE=SENTINELS[2]
    )
    said = repr(APPLICATION.check(document))
    assert "field_unknown" in said
    assert not any(sentinel in said for sentinel in SENTINELS)


def test_references_cross_files() -> None:
    case_file = CONTRACTS.json("canonical/case_file")
    document = {"YWH": "1", "tenant": "510199", "matter": "clf_transfer", "matter_name": "x", "DJLX": "200", "SLSJ": "x",
                "application": changed(BDCDYH="x"), "party": PARTY | {"ZJH": "1"}, "event": {"node": "nowhere"},
                "delivery": {"id": "x", "at": "x"}}  # fmt: skip
    assert coded(case_file.check(document)) == {
        ("/application/BDCDYH", "unit_code_invalid"), ("/party/ZJH", "citizen_id_invalid"), ("/event/node", "code_unknown")}  # fmt: skip


def oracle_document() -> st.SearchStrategy[dict[str, Any]]:
    odd = st.sampled_from([None, "", "1", "x", 1, -1.5, [], {}, True, "2026-01-01", [{}], [PARTY], "510199"])
    return st.dictionaries(st.sampled_from([*GOOD, "other"]), odd, max_size=5).map(lambda some: changed(**some))


@settings(max_examples=200)
@given(oracle_document())
def test_jsonschema_agrees(document: dict[str, Any]) -> None:
    schema = json.loads((ROOT / "schemas/canonical/application.json").read_text())
    for name, one in (("FWYT", schema["properties"]), ("ZJZL", schema["$defs"]["party"]["properties"]),
                      ("GYFS", schema["$defs"]["party"]["properties"]), ("SJLX", schema["$defs"]["material"]["properties"])):  # fmt: skip
        one[name]["enum"] = list(CODES.lists[name].entries)
    oracle = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    ours = {
        one.path for one in APPLICATION.check(document) if one.code.startswith("field_") or one.code == "code_unknown"
    }
    assert bool(ours) == (not oracle.is_valid(document))


def test_every_code_has_both_texts() -> None:
    assert all(en and zh for en, zh in known_codes().values())


N = "urn:dukou:tax:1"


def xml(inner: str, root: str = "submitClearance", prefix: str = "") -> bytes:
    name = f"{prefix}:{root}" if prefix else root
    return f'<{name} xmlns{":" + prefix if prefix else ""}="{N}">{inner}</{name}>'.encode()


def test_a_clearance_becomes_a_document() -> None:
    element = parse_xml(
        xml(
            "<t:ywsldh>A1</t:ywsldh><t:wszt>1</t:wszt><t:thyy/><t:nsrxx><t:sphm> 3 </t:sphm><t:sjyzhj> 0012.50 </t:sjyzhj></t:nsrxx>",
            prefix="t",
        )
    )
    assert TAX.check(element) == ()
    assert TAX.to_document(element) == {
        "ywsldh": "A1",
        "wszt": "1",
        "thyy": "",
        "nsrxx": [{"sphm": " 3 ", "sjyzhj": 12.5}],
    }


def test_an_absent_list_is_left_out() -> None:
    assert TAX.to_document(parse_xml(xml("<ywsldh>A</ywsldh><wszt>1</wszt>"))) == {"ywsldh": "A", "wszt": "1"}


def test_an_element_inside_an_envelope_is_checked_like_one_alone() -> None:
    inside = parse_xml(b"<e><b>" + xml("<ywsldh>A</ywsldh><x/>") + b"</b></e>")[0][0]
    assert coded(TAX.check(inside)) == {
        ("/submitClearance/x", "field_unknown"),
        ("/submitClearance/wszt", "field_missing"),
    }


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("<ywsldh>A</ywsldh>", {("/submitClearance/wszt", "field_missing")}),
        ("", {("/submitClearance/wszt", "field_missing"), ("/submitClearance/ywsldh", "field_missing")}),
        ("<wszt>1</wszt><ywsldh>A</ywsldh>", {("/submitClearance/ywsldh", "field_type")}),
        ("<ywsldh>A</ywsldh><ywsldh>B</ywsldh><wszt>1</wszt>", {("/submitClearance/ywsldh", "field_type")}),
        ("<ywsldh></ywsldh><wszt>1</wszt>", {("/submitClearance/ywsldh", "field_type")}),
        ("<ywsldh a='1'>A</ywsldh><wszt>1</wszt>", {("/submitClearance/ywsldh/@a", "field_unknown")}),
        ("<ywsldh>A</ywsldh><wszt>1</wszt>text", {("/submitClearance", "field_type")}),
        ("<ywsldh><b/></ywsldh><wszt>1</wszt>", {("/submitClearance/ywsldh/b", "field_unknown")}),
        ("<ywsldh>A</ywsldh><wszt>1</wszt><nsrxx><sjyzhj>1e5</sjyzhj></nsrxx><nsrxx><z/><sjyzhj>x</sjyzhj></nsrxx>",
         {("/submitClearance/nsrxx[1]/sjyzhj", "field_type"), ("/submitClearance/nsrxx[2]/z", "field_unknown"),
          ("/submitClearance/nsrxx[2]/sjyzhj", "field_type")}),
        ("<ywsldh>A</ywsldh><wszt>1</wszt>" + "<nsrxx/>" * 51, {("/submitClearance/nsrxx[51]", "field_type")}),
        ('<ywsldh>A</ywsldh><wszt xmlns="urn:other">1</wszt>',
         {("/submitClearance/wszt", "field_unknown"), ("/submitClearance/wszt", "field_missing")}),
        ('<ywsldh xmlns:x="http://www.w3.org/2001/XMLSchema-instance" x:nil="true"/><wszt>1</wszt>', {("/submitClearance/ywsldh", "field_type")}),
    ],
)  # fmt: skip
def test_faults_of_xml(inner: str, expected: set[tuple[str, str]]) -> None:
    for prefix in ("", "t"):
        if prefix and ("<b/>" in inner or "urn:other" in inner or "nil" in inner):
            continue
        marked = inner.replace("</", "\0").replace("<", "<t:").replace("\0", "</t:") if prefix else inner
        assert coded(TAX.check(parse_xml(xml(marked, prefix=prefix)))) == expected


def test_no_xml_fault_repeats_a_value() -> None:
    inner = f"<ywsldh>{SENTINELS[0] * 60}</ywsldh><wszt>1</wszt><nsrxx><sjyzhj>{SENTINELS[1]}x</sjyzhj><{SENTINELS[0]}/></nsrxx>"
    said = repr(TAX.check(parse_xml(xml(inner))))
    assert "sjyzhj" in said
    assert not any(sentinel in said for sentinel in SENTINELS)


@pytest.mark.parametrize("other", [b"<foo/>", b'<submitClearance xmlns="urn:other"/>', b"<submitClearance/>"])
def test_a_root_that_the_schema_does_not_know(other: bytes) -> None:
    assert {one.code for one in TAX.check(parse_xml(other))} == {"field_unknown"}


def test_threads_do_not_share_faults() -> None:
    good, bad = xml("<ywsldh>A</ywsldh><wszt>1</wszt>"), xml("<ywsldh></ywsldh>")

    def check(number: int) -> bool:
        return bool(TAX.check(parse_xml(bad if number % 2 else good))) == bool(number % 2)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, range(2000)))


def test_unknown_contracts_are_named() -> None:
    for path in ("schemas/tax/none.json", "canonical/none"):
        with pytest.raises(Misconfigured, match="contract_unknown"):
            CONTRACTS.get(path)
    with pytest.raises(Misconfigured, match="contract_unknown"):
        CONTRACTS.shape("schemas/tax/tax.xsd#none")


PLANTED_SCHEMAS = {
    "wrong $id": ("planted.json", '{"$id": "https://dukou.invalid/elsewhere", "type": "object"}'),
    "no JSON": ("planted.json", "{"),
    "unknown list": ("planted.json", '{"$id": "https://dukou.invalid/planted", "type": "string", "x-codes": "NONE"}'),
    "unknown check": ("planted.json", '{"$id": "https://dukou.invalid/planted", "type": "string", "x-check": "none"}'),
    "dangling reference": ("planted.json", '{"$id": "https://dukou.invalid/planted", "$ref": "/none"}'),
    "no type": ("planted.json", '{"$id": "https://dukou.invalid/planted", "type": "object", "properties": {"a": {}}}'),
    "no schema": ("planted.json", '{"$id": "https://dukou.invalid/planted", "type": "nothing"}'),
    "choice": (
        "planted.xsd",
        '<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="a"><xs:complexType><xs:choice/></xs:complexType></xs:element></xs:schema>',
    ),
    "import": (
        "planted.xsd",
        '<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:import namespace="urn:x"/></xs:schema>',
    ),
    "broken XSD": ("planted.xsd", "<xs:schema"),
}


@pytest.mark.parametrize(("file", "text"), PLANTED_SCHEMAS.values(), ids=PLANTED_SCHEMAS)
def test_unusable_schemas_are_found_at_the_start(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / file).write_text(text)
    with pytest.raises(Misconfigured) as broken:
        Contracts(tmp_path, CODES)
    assert [one.path for one in broken.value.faults] == [f"schemas/{file}"]
