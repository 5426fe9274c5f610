"""The documents say what the code does: every code, setting, exchange, table and reason is there, links and commands exist."""

import re
from pathlib import Path

import pytest
import yaml

from dukou.cli import main
from dukou.settings import Settings
from hub.gateway.codes import CODES
from hub.model.states import OWNERS
from hub.registry.declarations import Declarations
from hub.store.tables import metadata

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
PAGES = sorted([*READMES, ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:^|[\s`(])(?:\.venv/bin/)?dukou ([a-z][a-z-]+)")


def text(page):
    return (DOCS / page).read_text(encoding="utf-8")


def first_cells(page):
    """What stands between backticks in the first cell of every table row, with the row."""
    rows = [line for line in text(page).splitlines() if line.startswith("| ")]
    return {name: row for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])}


def shell(page):
    return [body for kind, body in FENCE.findall(page.read_text(encoding="utf-8")) if kind == "sh"]


def prose(page):
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page):
    """The anchors of a page's headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_is_described_with_its_status(code):
    row = first_cells("codes.md")[code]
    assert f"| {CODES[code].status} |" in row


def test_no_code_is_described_that_is_gone():
    assert set(first_cells("codes.md")) == set(CODES)


def test_every_setting_is_described():
    assert set(first_cells("settings.md")) == {f"DUKOU_{name.upper()}" for name in Settings.model_fields}


def test_every_exchange_is_described_as_it_is_declared():
    rows = first_cells("exchanges.md")
    declared = {exchange.key: exchange for exchange in Declarations.load(ROOT).exchanges()}
    assert set(rows) == set(declared)
    for key, exchange in declared.items():
        _, _, title, direction, lane, redelivery, why = (cell.strip() for cell in rows[key].split("|")[:7])
        said = (title, direction.split(" ")[0], lane, redelivery.strip("*"))
        assert said == (exchange.title_zh, exchange.direction, exchange.lane, exchange.redelivery), key
        assert why, key


def test_every_exchange_of_a_matter_is_described():
    rows = first_cells("exchanges.md")
    for path in (ROOT / "matters").glob("*.yaml"):
        matter = yaml.safe_load(path.read_text(encoding="utf-8"))
        steps = [step[field] for step in matter["steps"].values() for field in ("exchange", "query") if field in step]
        told = [item["exchange"] for items in matter["announce"].values() for item in items]
        assert set(steps + told) <= set(rows), path.name


def test_every_table_of_the_ledger_is_described():
    assert set(metadata.tables) <= set(first_cells("ledger.md"))


def test_every_event_kind_is_described():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "hub").rglob("*.py"))
    kinds = set(re.findall(r'"((?:message|body|case)\.(?:[a-z]+))"', source))
    assert kinds
    assert kinds <= set(first_cells("ledger.md"))


def test_every_reason_has_the_owner_that_the_code_names():
    rows = first_cells("operating.md")
    for reason, owner in OWNERS.items():
        assert f"| {owner} |" in rows[reason], reason


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_exist(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for body in shell(page):
        assert set(re.findall(r"^make ([a-z]+)", body, re.MULTILINE)) <= targets
        assert set(COMMAND.findall(body)) <= set(main.commands)


def test_both_readmes_run_the_same_commands():
    english, chinese = (shell(page) for page in READMES)
    assert english == chinese
    headings = [re.findall(r"^(#+) ", prose(page), re.MULTILINE) for page in READMES]
    assert headings[0] == headings[1]


def test_every_decision_is_listed_once():
    listed = LINK.findall((DOCS / "decisions" / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.name for path in (DOCS / "decisions").glob("0*.md"))
