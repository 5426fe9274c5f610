"""What Airflow makes of dags/: it imports, it names what connector.yaml declares, operators can read it."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dukou.airflow.environment import create_secrets, environment
from dukou.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PARTNERS = sorted(path.parent.name for path in ROOT.glob("connectors/partners/*/connector.yaml"))


def probe(what, var):
    settings = Settings.from_env({"DUKOU_VAR": str(var), "DUKOU_BROKER_URL": "filesystem://"})
    create_secrets(settings)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("probe.py")), what],
        env=environment(os.environ, settings),
        capture_output=True,
        text=True,
        check=False,
        cwd=var,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return probe("dags", tmp_path_factory.mktemp("var"))


def test_every_file_imports(bag):
    assert bag["errors"] == {}
    assert set(bag["dags"]) == {*PARTNERS, "upkeep_seal", "upkeep_sweep", "upkeep_prune"}


@pytest.mark.parametrize("slug", PARTNERS)
def test_a_partner_dag_names_exactly_what_is_declared(bag, slug):
    declared = yaml.safe_load((ROOT / f"connectors/partners/{slug}/connector.yaml").read_text("utf-8"))
    ours = {name for name, exchange in declared["exchanges"].items() if exchange["direction"] != "serve"}
    assert sorted(bag["dags"][slug]["exchanges"]) == sorted(ours)
    assert declared["name_zh"] in bag["dags"][slug]["name"]


@pytest.mark.parametrize("slug", PARTNERS)
def test_a_partner_dag_collects_delivers_and_reconciles_one_run_at_a_time(bag, slug):
    dag = bag["dags"][slug]
    assert dag["order"] == {"collect": ["deliver"], "deliver": ["reconcile"], "reconcile": []}
    assert (dag["max_active_runs"], dag["catchup"]) == (1, False)
    assert dag["timetable"] == "AssetOrTimeSchedule"
    assert all(task["retries"] == 2 for task in dag["tasks"])


def test_operators_can_read_every_dag_and_task(bag):
    for dag_id, dag in bag["dags"].items():
        assert dag["doc"], dag_id
        assert dag["tags"], dag_id
        for said in (dag["name"], *(task["name"] for task in dag["tasks"])):
            assert any("\u4e00" <= letter <= "\u9fff" for letter in said), said
            assert any("a" <= letter <= "z" for letter in said), said
        assert all(task["doc"] for task in dag["tasks"]), dag_id


def test_hints_wake_the_named_partner_only_and_no_secret_is_stored(tmp_path):
    found = probe("hints", tmp_path)
    assert found["serialized"] == ["dukou.airflow.triggers.HintTrigger", {"partner": "tax"}]
    assert found["shared"]
    assert found["ack_mode"]
    assert found["heard"] == {"fired": [{"partner": "tax"}], "seen": ["hall", "tax"]}


def test_dag_files_are_thin():
    for path in (ROOT / "dags").glob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        kinds = {type(node) for node in tree.body}
        assert kinds <= {ast.Expr, ast.ImportFrom, ast.Assign}, path.name
        imports = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
        assert imports <= {"dukou.airflow", "dukou.airflow.factory"}, path.name
