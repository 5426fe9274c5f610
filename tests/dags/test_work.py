"""What the tasks do, without Airflow: build inside the task, bounded, closed afterwards, counts only."""

import json
import os
import sys
import time
import types

import pytest

from dukou.airflow import environment, work
from dukou.settings import Settings
from hub.errors import Misconfigured, Transient
from hub.model.views import DrainReport


class FakeHub:
    def __init__(self):
        self.calls = []
        self.closed = False
        self.fails = False

    def collect(self, partner, seconds):
        self.calls.append(("collect", partner, seconds))
        return DrainReport(partner, collected=3)

    def drain(self, partner, by, seconds):
        self.calls.append(("drain", partner, by, seconds))
        if self.fails:
            raise Transient("busy", "busy", "忙")
        return DrainReport(partner, claimed=2, waiting=2, down=True)

    def reconcile(self, partner):
        self.calls.append(("reconcile", partner))
        return {"confirmed": 1}

    def close(self):
        self.closed = True


@pytest.fixture
def hub(monkeypatch, tmp_path):
    made = FakeHub()
    monkeypatch.setenv("DUKOU_VAR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "dukou.build", types.SimpleNamespace(build=lambda _settings: made))
    return made


def test_a_partner_that_is_down_is_a_result_not_a_failure(hub):
    assert work.deliver("tax")["down"] is True
    assert hub.calls == [("drain", "tax", "airflow", 50.0)]
    assert hub.closed


def test_counts_travel_as_plain_json(hub):
    for counts in (work.collect("tax"), work.deliver("tax"), work.reconcile("tax")):
        assert json.loads(json.dumps(counts)) == counts
        assert all(isinstance(value, int) for key, value in counts.items() if key != "partner")


def test_our_own_fault_is_red_and_still_closes_the_hub(hub):
    hub.fails = True
    with pytest.raises(Transient):
        work.deliver("tax")
    assert hub.closed


def test_old_logs_go_and_young_ones_stay(tmp_path):
    old, young = tmp_path / "dag_id=tax" / "run_id=1", tmp_path / "dag_id=tax" / "run_id=2"
    for folder in (old, young):
        (folder / "task_id=collect").mkdir(parents=True)
    os.utime(old, (1, 1))
    assert work._prune_logs(tmp_path, time.time() - 3600) == 1
    assert young.exists()
    assert not old.exists()


def test_airflow_secrets_are_private_made_once_and_never_shown(tmp_path):
    settings = Settings.from_env({"DUKOU_VAR": str(tmp_path)})
    with pytest.raises(Misconfigured):
        environment.read_secrets(settings)
    made = environment.create_secrets(settings)
    assert environment.create_secrets(settings) == made
    for file in (environment.secrets_path(settings), settings.airflow_home / "passwords.json"):
        assert file.stat().st_mode & 0o777 == 0o600
    assert made.password not in repr(made)


def test_every_airflow_process_is_told_its_place_and_no_other(tmp_path):
    settings = Settings.from_env({"DUKOU_VAR": str(tmp_path), "DUKOU_AIRFLOW_PORT": "18123"})
    environment.create_secrets(settings)
    env = environment.environment(
        {"AIRFLOW_HOME": "/elsewhere", "AIRFLOW__CORE__EXECUTOR": "X", "PATH": "/bin"}, settings
    )
    assert env["AIRFLOW_HOME"] == str(tmp_path / "airflow")
    assert env["AIRFLOW_CONFIG"] == str(settings.root / "airflow.cfg")
    assert env["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:18123/execution/"
    assert "AIRFLOW__CORE__EXECUTOR" not in env
    assert env["PATH"] == "/bin"
