"""The rules of .importlinter hold, and each of them catches what it is for: violations are planted in a copy."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("dags", "bench", "dukou", "connectors", "ferry", "suites", "hub", "sandbox")
LINT = (
    sys.executable,
    "-c",
    "from importlinter.cli import lint_imports_command; lint_imports_command()",
    "--no-logo",
    "--no-cache",
)

# (file, line planted at its end, words of the contract that must break)
VIOLATIONS = [
    ("hub/errors.py", "import hub.model.call", "Inside the hub"),
    ("hub/ports.py", "import hub.security", "Inside the hub"),
    ("hub/store/__init__.py", "import hub.pipeline", "Inside the hub"),
    ("hub/validation/__init__.py", "import hub.store", "Inside the hub"),
    ("hub/mapping/__init__.py", "import hub.gateway", "Inside the hub"),
    ("hub/security/__init__.py", "import connectors.opening", "Imports point down"),
    ("hub/pipeline/__init__.py", "import dukou.settings", "Imports point down"),
    ("connectors/opening.py", "import dukou.settings", "Imports point down"),
    ("dukou/settings.py", "import dags.tax", "Imports point down"),
    ("connectors/hints.py", "import connectors.opening", "Inside connectors"),
    ("connectors/protocols/rest.py", "import hub.store", "Wires see the hub's ports"),
    ("sandbox/__init__.py", "import hub.errors", "Stand-ins share no code"),
    ("sandbox/__init__.py", "import suites", "Stand-ins share no code"),
    ("dukou/settings.py", "import sandbox", "Nobody leans on the sandbox"),
    ("ferry/__init__.py", "import hub.errors", "The ferry knows neither"),
    ("hub/pipeline/__init__.py", "import ferry", "Nobody below the composition root"),
    ("suites/__init__.py", "import hub.errors", "Imports point down"),
    ("hub/gateway/__init__.py", "import airflow", "Airflow stays at the edge"),
    ("dukou/settings.py", "import airflow", "In dukou only"),
    ("dukou/airflow/work.py", "import airflow.sdk", "In dukou only"),
    ("hub/pipeline/__init__.py", "import requests", "Wire libraries"),
    ("hub/gateway/__init__.py", "import zeep", "Wire libraries"),
    ("dags/tax.py", "import kombu", "Wire libraries"),
    ("hub/cases/__init__.py", "import sqlalchemy", "Database code"),
    ("connectors/opening.py", "import sqlalchemy", "Database code"),
    ("dags/tax.py", "import sqlalchemy", "Database code"),
]


def lint(root):
    done = subprocess.run(LINT, cwd=root, capture_output=True, text=True, check=False)
    said = " ".join((done.stdout + done.stderr).split())
    broken = re.findall(r"([A-Z][^.]*?) BROKEN", said)
    return done.returncode, said, broken


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", root)
    return root


def test_the_rules_hold():
    code, said, _ = lint(ROOT)
    assert code == 0, said


@pytest.mark.parametrize(
    ("file", "line", "contract"), VIOLATIONS, ids=[f"{file}: {line}" for file, line, _ in VIOLATIONS]
)
def test_a_planted_violation_is_caught(copy, file, line, contract):
    place = copy / file
    before = place.read_text("utf-8")
    place.write_text(f"{before}\n{line}\n", "utf-8")
    try:
        code, said, _ = lint(copy)
    finally:
        place.write_text(before, "utf-8")
    assert code == 1, said
    assert re.search(rf"{re.escape(contract)}[^.]{{0,200}} BROKEN", said), said


@pytest.mark.parametrize(
    ("module", "contract_says"),
    [("hub/extras.py", "extras"), ("connectors/extras.py", "extras"), ("connectors/protocols/fax.py", "fax")],
)
def test_a_new_module_must_be_given_its_place(copy, module, contract_says):
    place = copy / module
    place.write_text('"""Planted."""\n', "utf-8")
    try:
        code, said, _ = lint(copy)
    finally:
        place.unlink()
    assert code == 1
    assert contract_says in said
