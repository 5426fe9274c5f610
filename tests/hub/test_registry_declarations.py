"""Connectors: found by name, and every defect planted in a copy of the project is found."""

from __future__ import annotations

import dataclasses
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hub.errors import Misconfigured, Refused
from hub.registry.checking import check_declarations
from hub.registry.declarations import Declarations, endpoint_base

ROOT = Path(__file__).parents[2]
DECLARATIONS = Declarations.load(ROOT)
PARTNERS = "connectors/partners"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in (PARTNERS, "schemas", "mappings"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def test_the_project_is_without_fault_and_checked_quickly() -> None:
    begun = time.process_time()
    assert check_declarations(ROOT) == []
    assert time.process_time() - begun < 3


def test_partners_and_exchanges_are_found_by_name() -> None:
    assert DECLARATIONS.partner("tax").wsdl == "schemas/tax/tax.wsdl"
    case = DECLARATIONS.exchange("registry", "case")
    assert (case.key, case.direction, case.redelivery, case.identity) == (
        "registry/case",
        "deliver",
        "query_first",
        ("/ywh",),
    )
    assert case.query is not None
    assert case.query.path == "/registry/deliveries/{delivery_id}"
    assert case.answer is not None
    assert (case.answer.codes["2001"], case.answer.reasons["2001"]) == ("refused", "unit_seized")
    assert DECLARATIONS.operation("tax", "queryCase").query_kind == "case_state"
    assert DECLARATIONS.operation("tax", "submitClearance").revision
    assert DECLARATIONS.exchange("hall", "correction").identity == "body"
    assert {one.key for one in DECLARATIONS.exchanges()} >= {"tax/clearance_query", "platform/progress", "hall/notice"}
    assert [one.slug for one in DECLARATIONS.partners()] == sorted(one.slug for one in DECLARATIONS.partners())


def test_what_was_declared_cannot_be_changed() -> None:
    partner = DECLARATIONS.partner("tax")
    with pytest.raises(dataclasses.FrozenInstanceError):
        partner.slug = "x"  # type: ignore[misc]
    with pytest.raises(TypeError):
        partner.exchanges["x"] = DECLARATIONS.exchange("tax", "result")  # type: ignore[index]


@pytest.mark.parametrize(
    ("find", "code", "known"),
    [
        (lambda: DECLARATIONS.partner("nobody"), "partner_unknown", "tax"),
        (lambda: DECLARATIONS.exchange("nobody", "x"), "partner_unknown", "registry"),
        (lambda: DECLARATIONS.exchange("tax", "x"), "exchange_unknown", "clearance_query"),
        (lambda: DECLARATIONS.operation("tax", "x"), "exchange_unknown", "submitClearance"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(find: Callable[[], object], code: str, known: str) -> None:
    with pytest.raises(Refused) as refused:
        find()
    assert (refused.value.code, refused.value.status) == (code, 404)
    assert known in refused.value.en
    assert known in refused.value.zh


def test_an_endpoint_belongs_to_an_environment() -> None:
    tax = DECLARATIONS.partner("tax")
    assert tax.endpoints["demo"] == "http://127.0.0.1:{sandbox+2}"
    assert endpoint_base(tax, "demo", 9100) == "http://127.0.0.1:9102"
    with pytest.raises(Misconfigured, match="endpoint_missing"):
        endpoint_base(tax, "production", 8900)


def plant(project: Path, file: str, pattern: str, new: str) -> None:
    path = project / file
    text = path.read_text(encoding="utf-8")
    changed = re.sub(pattern, new, text, count=1)
    assert changed != text, f"{pattern} is not in {file}"
    path.write_text(changed, encoding="utf-8")


TAX, REGISTRY, PLATFORM, HALL = (
    f"{PARTNERS}/{name}/connector.yaml" for name in ("tax", "registry", "platform", "hall")
)


@pytest.mark.parametrize(
    ("file", "pattern", "new", "words"),
    [
        (TAX, "partner: tax", "partner: taxes", "folder's name"),
        (TAX, "concurrency: 4", "concurrency: 4\nconcurrency: 5", "repeated"),
        (TAX, "concurrency: 4", "concurrency: many", "required form"),
        (TAX, "concurrency: 4", "", "missing"),
        (TAX, "concurrency: 4", "concurrency: 4\nnew: 1", "does not know"),
        (TAX, "127.0.0.1", "tax.example.cn", "required form"),
        (TAX, "auth: {scheme: bearer}", "auth: {scheme: none}", "required form"),
        (TAX, "soap: .*", "", "soap.wsdl"),
        (TAX, "operation: queryCase", "operation: submitClearance", "served twice"),
        (TAX, "operation: queryCase", "operation: getCase", "no document"),
        (TAX, r"    operation: queryCase\n", "", "soap goes with an operation"),
        (TAX, "event: clearance", "lane: live", "repeated"),
        (TAX, r"    event: clearance\n", "", "either an event or a query"),
        (TAX, r"    mapping: mappings/tax/clearance.yaml\n", "", "needs a mapping"),
        (TAX, r"    canonical: canonical/clearance\n", "", "needs its canonical"),
        (TAX, "canonical: canonical/clearance", "canonical: canonical/registration", "must be that of arrives_as"),
        (TAX, r"identity: \[/YWH\]", "identity: [/none]", "/none is no field"),
        (TAX, r"identity: \[/body/ywsldh\]", "identity: [/body]", "/body is no field"),
        (TAX, r"identity: \[/body/ywsldh\]", "identity: []", "need an identity"),
        (TAX, r"identity: \[/body/ywsldh\]", "identity: body", "named identity"),
        (TAX, "arrives_as: clearance", "arrives_as: case_query", "must name a serve exchange"),
        (TAX, "arrives_as: clearance", "arrives_as: nowhere", "must name a serve exchange"),
        (TAX, r"    arrives_as: clearance\n", "", "must name a serve exchange"),
        (TAX, r"    request: .*taxable-cases}\n", "", "needs request"),
        (TAX, r"    mapping: mappings/tax/taxable_case.yaml\n", "", "needs mapping"),
        (TAX, "mappings/tax/taxable_case.yaml", "mappings/tax/result.yaml", "must go from"),
        (TAX, "mappings/tax/taxable_case.yaml", "mappings/tax/none.yaml", "no mapping"),
        (TAX, "schemas/tax/taxable_case.answer.json", "schemas/tax/none.json", "no contract"),
        (TAX, "code_at: /head/rtn_code", "code_at: /head/none", "/head/none is no field"),
        (TAX, '"0000": done, "9999": retry, "3001"', '"9999": retry, "3001"', "means done"),
        (TAX, '"9999": retry, "3001": refused', '"9999": pending', "only a fetch"),
        (TAX, "direction: deliver", "direction: push", "not in the code list"),
        (REGISTRY, r"    query: .*\n", "", "query_first goes with"),
        (REGISTRY, "redelivery: query_first", "redelivery: idempotent", "query_first goes with"),
        (REGISTRY, r"deliveries/\{delivery_id\}", "deliveries", "must hold {delivery_id}"),
        (REGISTRY, "path: /registry/cases", 'path: "/registry/{delivery_id}"', "no placeholder"),
        (REGISTRY, r'reasons: \{"2001"', 'reasons: {"0000"', "that mean refused"),
        (REGISTRY, "zones: .extranet.", "zones: []", "required form"),
        (REGISTRY, r"      canonical: canonical/registration\n", "", "must be that of arrives_as"),
        (PLATFORM, r"      mapping: mappings/platform/identity_check.answer.yaml\n", "", "ask needs answer.mapping"),
        (PLATFORM, "redelivery: manual", "redelivery: sometimes", "not in the code list"),
        (HALL, "event: application", "event: application\n    request: {method: POST, path: /x}", "partner calls us"),
        (HALL, r"    event: application\n", "    event: application\n    arrives_as: notice\n", "partner calls us"),
        ("mappings/tax/result.yaml", "to: body.djsj", "to: body.none", "no field of the target"),
        ("mappings/tax/result.yaml", "rules:", "rule:", "field_|does not know|missing"),
        ("schemas/tax/result.json", '"djsj"', '"djsj2"', "requires djsj2"),
        ("schemas/codes/GYFS.csv", r"3,.*\n", "", "3 entries"),
        ("schemas/codes/maps/tax.GYFS.csv", "3,03", "3,09", "does not accept"),
        ("schemas/canonical/application.json", '"x-codes": "GYFS"', '"x-codes": "QSZT"', "does not map the list"),
    ],
)  # fmt: skip
def test_a_planted_defect_is_found(project: Path, file: str, pattern: str, new: str, words: str) -> None:
    plant(project, file, pattern, new)
    said = "\n".join(f"{one.path} {one.code} {one.en}" for one in check_declarations(project))
    assert re.search(words if "|" in words else re.escape(words), said), said


def test_all_faults_of_all_files_come_at_once(project: Path) -> None:
    plant(project, TAX, "arrives_as: clearance", "arrives_as: nowhere")
    plant(project, REGISTRY, "redelivery: query_first", "redelivery: manual")
    plant(project, PLATFORM, "concurrency: 4", "concurrency: 0")
    with pytest.raises(Misconfigured) as broken:
        Declarations.load(project)
    assert {one.path.split("#")[0] for one in broken.value.faults} == {TAX, REGISTRY, PLATFORM}


def test_what_nothing_uses_is_found(project: Path) -> None:
    shutil.copy(project / "mappings/tax/result.yaml", project / "mappings/tax/old.yaml")
    (project / "schemas/tax/old.json").write_text(
        '{"$id": "https://dukou.invalid/tax/old", "type": "object", "properties": {}}'
    )
    (project / "schemas/codes/OLD.csv").write_text("code,zh,en\n1,一,one\n", encoding="utf-8")
    (project / "schemas/codes/maps/tax.QSZT.csv").write_text(
        "canonical,partner,zh\n0,0,临时\n1,1,现势\n2,2,历史\n3,3,终止\n", encoding="utf-8")  # fmt: skip
    with (project / "schemas/codes/index.csv").open("a", encoding="utf-8") as index:
        index.write("OLD,1,ours\ntax.QSZT,4,ours\n")
    assert {one.path for one in check_declarations(project) if one.code == "declaration_unused"} == {
        "mappings/tax/old.yaml", "schemas/tax/old.json", "schemas/codes/OLD.csv", "schemas/codes/maps/tax.QSZT.csv"}  # fmt: skip


def test_a_project_without_partners_is_a_fault(project: Path) -> None:
    shutil.rmtree(project / PARTNERS)
    with pytest.raises(Misconfigured, match="there are no partners"):
        Declarations.load(project)


def test_a_project_without_the_schema_of_connectors_is_a_fault(project: Path) -> None:
    (project / "schemas/declarations/connector.json").unlink()
    with pytest.raises(Misconfigured, match="declarations_broken"):
        Declarations.load(project)
