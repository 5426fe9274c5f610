"""Setup on an empty folder, with the real Airflow migration; the second time is a look."""

import json
import sqlite3
import time

import pytest

from dukou.settings import Settings
from dukou.setup import prepare
from hub.errors import Misconfigured


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    made = Settings.from_env(
        {"DUKOU_VAR": str(tmp_path_factory.mktemp("setup") / "var"), "DUKOU_GATEWAY_PORT": "18811"}
    )
    prepare(made)
    return made


def test_outsiders_find_what_they_need_and_nobody_else_reads_it(settings):
    file = settings.var / "demo" / "credentials.json"
    assert file.stat().st_mode & 0o777 == 0o600
    told = json.loads(file.read_text("utf-8"))
    assert told["gateway"] == "http://127.0.0.1:18811"
    assert set(told["airflow"]) == {"url", "user", "password"}
    assert {"hall", "tax", "registry", "operator"} <= set(told["callers"])
    assert {"rid", "secret", "tenants", "sids", "profile"} == set(told["callers"]["hall"])
    assert {"platform", "tax", "registry", "hall"} <= set(told["partners"])
    passwords = json.loads((settings.airflow_home / "passwords.json").read_text("utf-8"))
    assert passwords == {told["airflow"]["user"]: told["airflow"]["password"]}


def test_both_databases_are_migrated(settings):
    for path, table in (
        (settings.var / "dukou.db", "ledger_version"),
        (settings.airflow_home / "airflow.db", "alembic_version"),
    ):
        database = sqlite3.connect(path)
        assert database.execute(f"select count(*) from {table}").fetchone()[0] == 1
        database.close()


def test_nothing_is_readable_for_others(settings):
    assert settings.var.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (settings.var / "keys").iterdir())


def test_the_second_time_changes_nothing_and_is_quick(settings):
    kept = {path: path.read_bytes() for path in (settings.var / "keys").iterdir()}
    begun = time.monotonic()
    prepare(settings)
    assert time.monotonic() - begun < 5
    assert {path: path.read_bytes() for path in (settings.var / "keys").iterdir()} == kept


def test_a_failed_airflow_migration_names_its_log(tmp_path):
    broken = Settings.from_env({"DUKOU_VAR": str(tmp_path)})
    (tmp_path / "airflow" / "airflow.db").mkdir(parents=True)
    with pytest.raises(Misconfigured, match=r"airflow-migrate\.log"):
        prepare(broken)


def test_production_gets_no_demo_credentials(tmp_path, monkeypatch):
    monkeypatch.setattr("dukou.setup._start_airflow_migration", lambda _settings: None)
    prepare(Settings.from_env({"DUKOU_VAR": str(tmp_path), "DUKOU_ENVIRONMENT": "production"}))
    assert not (tmp_path / "demo" / "credentials.json").exists()
