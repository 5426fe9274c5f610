"""The static check of mappings: every line removed from every mapping file is noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hub.errors import Misconfigured
from hub.mapping import Mapping, Mappings
from hub.mapping.specs import read_spec
from hub.model.strict_yaml import load_yaml
from hub.validation.codes import Codes
from hub.validation.contracts import Contracts

ROOT = Path(__file__).parents[2]
CODES = Codes.load(ROOT)
CONTRACTS = Contracts(ROOT, CODES)
FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "mappings").rglob("*.yaml"))


def complains(folder: Path) -> bool:
    try:
        found = Mappings(folder, CONTRACTS, CODES)
    except Misconfigured:
        return True
    return any(found.get(name).check() for name in found.names())


@pytest.mark.parametrize("file", FILES)
def test_the_project_maps_without_fault_and_every_removed_line_is_noticed(tmp_path: Path, file: str) -> None:
    copy = tmp_path / file
    copy.parent.mkdir(parents=True)
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines(keepends=True)
    copy.write_text("".join(lines), encoding="utf-8")
    assert not complains(tmp_path)
    for number, line in enumerate(lines):
        if line.strip() and not line.strip().startswith("#"):
            copy.write_text("".join(lines[:number] + lines[number + 1 :]), encoding="utf-8")
            assert complains(tmp_path), f"{file}:{number + 1} can be removed unseen"


def said(name: str, change: dict[str, Any]) -> str:
    document = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    document["rules"] = change.pop("rules", document["rules"]) + change.pop("more", [])
    document |= change
    wrong = CONTRACTS.declared("mapping", document)
    if wrong:
        return f"declared {wrong[0].path}"
    return " ".join(one.en for one in Mapping(read_spec(name, document), CONTRACTS, CODES).check())


PROGRESS, NOTICE, CASE = "mappings/registry/progress.yaml", "mappings/hall/notice.yaml", "mappings/registry/case.yaml"
CODED = [{"to": "YWH", "from": "ywh"}, {"to": "SJ", "from": "sj"}]


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (PROGRESS, {"more": [{"to": "none", "from": "ywh"}]}, "none is no field of the target"),
        (PROGRESS, {"more": [{"to": "YWH", "from": "ywh"}]}, "written twice"),
        (PROGRESS, {"rules": [*CODED, {"to": "JDMC", "from": "none"}]}, "none is no field of the source"),
        (PROGRESS, {"rules": [*CODED, {"to": "JDMC", "from": "jdmc", "code_in": "registry.NONE"}]}, "does not exist"),
        (
            PROGRESS,
            {"rules": [*CODED, {"to": "JDMC", "from": "jdmc", "code_in": "registry.QSZT"}]},
            "does not map the list",
        ),
        (PROGRESS, {"rules": [*CODED, {"to": "JDMC", "from": "jdmc", "code_in": "tax.ZJZL"}]}, "does not map the list"),
        (PROGRESS, {"rules": [*CODED, {"to": "JDMC", "from": "jdmc"}]}, "codes that the target does not know"),
        (
            PROGRESS,
            {"rules": [*CODED, {"to": "JDMC", "const": "XX"}], "ignored": ["jdmc"]},
            "does not accept the constant",
        ),
        (
            PROGRESS,
            {"rules": [*CODED, {"to": "JDMC", "from": "jdmc", "code_in": "registry.JDMC", "when": "present"}]},
            "absent or conditional",
        ),
        (PROGRESS, {"ignored": ["none"]}, "does not exist"),
        (PROGRESS, {"ignored": ["sj"]}, "is mapped after all"),
        (PROGRESS, {"absent": ["SJ"]}, "is mapped after all"),
        (PROGRESS, {"from": "schemas/registry/none.json"}, "there is no contract"),
        (PROGRESS, {"more": [{"to": "x[]", "each": "y[]", "rules": [{"to": "a", "from": "b"}]}]}, "no list of objects"),
        (PROGRESS, {"more": [{"to": "x", "from": "y", "eval": "1"}]}, "declared /rules/3"),
        (PROGRESS, {"more": [{"to": "x", "from": "y", "const": 1}]}, "declared /rules/3"),
        (PROGRESS, {"more": [{"to": "x"}]}, "declared /rules/3"),
        (PROGRESS, {"more": [{"to": "x", "const": 1, "when": "present"}]}, "declared /rules/3"),
        (
            PROGRESS,
            {"more": [{"to": "x", "first_present": ["y"], "or_const": "/", "when": "present"}]},
            "declared /rules/3",
        ),
        (NOTICE, {"absent": ["missing"]}, "is mapped after all"),
        (NOTICE, {"ignored": ["application", "application.SJ"]}, "covered by another entry"),
        (NOTICE, {"more": [{"to": "ywh", "from": "application"}]}, "is no field of the source"),
        (NOTICE, {"more": [{"to": "missing", "from": "YWH"}]}, "text does not fit list"),
        (NOTICE, {"more": [{"to": "kind_zh", "from": "event.notice", "label": "HJ"}]}, "not of list HJ"),
        (NOTICE, {"more": [{"to": "kind", "from": "event.node"}]}, "codes that the target does not accept"),
        (NOTICE, {"more": [{"to": "kind", "from": "YWH"}]}, "codes that the target does not know"),
        (CASE, {"more": [{"to": "htje", "from": "YWH", "decimal": 2}]}, "decimal reads number"),
        (CASE, {"more": [{"to": "htje", "from": "YWH"}]}, "text does not fit number"),
        (CASE, {"more": [{"to": "htje", "from": "SLSJ", "date": "yyyyMMdd"}]}, "date does not fit number"),
    ],
)
def test_what_cannot_be_true_is_said(name: str, change: dict[str, Any], words: str) -> None:
    assert words in said(name, dict(change))


def test_a_map_that_cannot_be_read_backwards_or_leaves_the_target_is_said() -> None:
    rules = [{"to": "xm", "from": "party.QLRMC"}, {"to": "zjlx", "from": "party.ZJZL", "code": "tax.ZJZL"}]
    assert "codes that the target does not accept" in said("mappings/platform/identity_check.yaml", {"rules": rules})
    backwards = {"to": "party.ZJZL", "from": "zjzl", "code_in": "tax.ZJZL"}
    change = {
        "from": "schemas/registry/progress.json",
        "to": "canonical/case_file",
        "rules": [backwards | {"from": "jdmc"}],
    }
    assert "cannot be read backwards" in said(PROGRESS, change)


@pytest.mark.parametrize(
    "text", ["a: 1\na: 2\n", "a: {b: 1, b: 2}\n", "a: [", "1: a\n", "a: !!python/object:os.system x\n", "\xff"]
)
def test_yaml_is_read_strictly(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(Misconfigured, match="declaration_unreadable"):
        load_yaml(path, "x.yaml")


def test_a_date_in_yaml_stays_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: 2026-01-01\n")
    assert load_yaml(tmp_path / "x.yaml", "x.yaml") == {"a": "2026-01-01"}
