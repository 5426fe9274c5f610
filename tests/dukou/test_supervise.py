"""The supervisor, on real processes: a stand-in service that starts a descendant, in a project folder of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dukou import supervise
from dukou.settings import Settings
from hub.errors import Misconfigured

ROOT = Path(__file__).resolve().parents[2]
SERVICE = """
import http.server, json, os, pathlib, subprocess, sys
if os.environ["DUKOU_ENVIRONMENT"] == "test" and pathlib.Path("crash").exists():
    sys.exit(3)
pathlib.Path("environ.json").write_text(json.dumps(dict(os.environ)))
# A descendant in a group of its own, as Airflow's tasks are.
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], process_group=0)
pathlib.Path("descendant").write_text(str(child.pid))
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer.allow_reuse_address = True
http.server.HTTPServer(("127.0.0.1", int(os.environ["DUKOU_SANDBOX_PORT"])), Answer).serve_forever()
"""
ONLY = {"sandbox"}


def free_ports(count):
    """A run of free ports."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = probe.getsockname()[1]
        if first + count < 65535 and not any(supervise._listening(first + n) for n in range(count)):
            return first


def alive(pid):
    return supervise._start_tick(pid) != 0


def eventually(condition, seconds=10):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def settings(tmp_path):
    root = tmp_path / "project"
    (root / "sandbox").mkdir(parents=True)
    # A regular package: a namespace one would give way to the real sandbox wherever that is installed.
    (root / "sandbox" / "__init__.py").touch()
    (root / "sandbox" / "__main__.py").write_text(SERVICE)
    for package in ("dukou", "hub", "suites", "connectors"):
        (root / package).symlink_to(ROOT / package)
    first = free_ports(8)
    made = Settings.from_env(
        {
            "DUKOU_ROOT": str(root),
            "DUKOU_ENVIRONMENT": "test",
            "DUKOU_SANDBOX_PORT": str(first),
            "DUKOU_GATEWAY_PORT": str(first + 6),
            "DUKOU_AIRFLOW_PORT": str(first + 7),
        }
    )
    yield made
    supervise.down(made)


def pid_of(settings, name="sandbox"):
    file = settings.var / "run" / f"{name}.pid"
    return int(file.read_text()) if file.exists() else 0


def test_a_killed_process_is_back_within_five_seconds_and_leaves_no_descendant(settings):
    (row,) = supervise.up(ONLY, settings, limit_s=20)
    assert (row.name, row.state, row.trouble) == ("sandbox", "running", "")
    first, descendant = pid_of(settings), int((settings.var / "descendant").read_text())
    assert first == row.pid
    assert alive(descendant)

    begun = time.monotonic()
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: pid_of(settings) not in {0, first}, 5)
    assert time.monotonic() - begun < 5
    assert not alive(descendant)
    supervise.up(ONLY, settings, limit_s=20)
    assert supervise.exit_code(supervise.status(settings)) == 0


def test_down_leaves_nothing(settings):
    supervise.up(ONLY, settings, limit_s=20)
    pids = [pid_of(settings), pid_of(settings, "supervisor"), int((settings.var / "descendant").read_text())]
    assert all(alive(pid) for pid in pids)
    supervise.down(settings)
    assert not any(alive(pid) for pid in pids)
    assert not list((settings.var / "run").glob("*.pid"))
    assert not supervise._listening(settings.sandbox_port)
    rows = supervise.status(settings)
    assert {row.state for row in rows} == {"stopped"}
    assert supervise.exit_code(rows) == 1
    supervise.down(settings)


def test_only_stops_what_is_named(settings):
    supervise.up(ONLY, settings, limit_s=20)
    supervise.down(settings, ONLY)
    assert pid_of(settings) == 0
    assert alive(pid_of(settings, "supervisor"))


def test_after_a_killed_supervisor_its_children_are_found_and_replaced(settings):
    supervise.up(ONLY, settings, limit_s=20)
    orphan = pid_of(settings)
    os.kill(pid_of(settings, "supervisor"), signal.SIGKILL)
    assert eventually(lambda: not supervise.Place(settings).supervised())
    (row,) = [row for row in supervise.status(settings) if row.name == "sandbox"]
    assert (row.state, row.pid) == ("left behind", orphan)
    assert row.trouble

    (row,) = supervise.up(ONLY, settings, limit_s=20)
    assert row.pid != orphan
    assert not alive(orphan)


def test_a_foreign_process_with_a_remembered_number_is_never_touched(settings):
    place = supervise.Place(settings)
    place.make()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True) as foreign:
        try:
            for tick in (supervise._start_tick(foreign.pid) - 1, supervise._start_tick(foreign.pid) + 1):
                place.remember({"sandbox": supervise.Born(foreign.pid, tick, time.time())})
                supervise.down(settings)
                assert foreign.poll() is None
        finally:
            foreign.kill()


def test_a_taken_port_is_named_with_its_setting(settings):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", settings.sandbox_port + 2))
        taken.listen()
        with pytest.raises(Misconfigured) as caught:
            supervise.up(ONLY, settings, limit_s=5)
    assert caught.value.code == "port_in_use"
    assert f"{settings.sandbox_port + 2} (DUKOU_SANDBOX_PORT" in caught.value.en
    assert not supervise.Place(settings).supervised()


def test_what_does_not_start_is_named_with_its_log(settings):
    (settings.var).mkdir()
    (settings.var / "crash").touch()
    with pytest.raises(Misconfigured) as caught:
        supervise.up(ONLY, settings, limit_s=2)
    assert caught.value.code == "not_healthy"
    assert str(settings.var / "log" / "sandbox.log") in caught.value.en
    (settings.var / "crash").unlink()
    supervise.up(ONLY, settings, limit_s=20)


def test_children_get_a_clean_environment(settings, monkeypatch):
    for name in ("PYTHONDONTWRITEBYTECODE", "AIRFLOW__CORE__EXECUTOR", "http_proxy", "HTTPS_PROXY", "DUKOU_TEST_X"):
        monkeypatch.setenv(name, "1")
    supervise.up(ONLY, settings, limit_s=20)
    found = json.loads((settings.var / "environ.json").read_text())
    assert not {"PYTHONDONTWRITEBYTECODE", "AIRFLOW__CORE__EXECUTOR", "http_proxy", "HTTPS_PROXY"} & set(found)
    assert found["PYTHONPATH"] == str(settings.root)
    assert found["NO_PROXY"] == "*"
    assert Settings.from_env(found) == settings


def test_services_are_picked_by_group_or_by_name():
    assert supervise.services({"airflow"}) == ("api-server", "scheduler", "triggerer", "dag-processor")
    assert supervise.services({"courier", "scheduler"}) == ("courier", "scheduler")
    assert supervise.services(()) == supervise.NAMES
    with pytest.raises(Misconfigured, match="known: airflow, api-server"):
        supervise.services({"gatway"})


def test_airflow_needs_its_secrets_before_anything_is_started(settings):
    with pytest.raises(Misconfigured) as caught:
        supervise.up({"airflow"}, settings)
    assert caught.value.code == "airflow_secrets_missing"
    assert not supervise.Place(settings).supervised()


def test_up_with_other_settings_says_which_the_running_services_keep(settings, capfd):
    supervise.up(ONLY, settings)
    try:
        capfd.readouterr()
        supervise.up(ONLY, settings)
        assert "DUKOU_RETRY_SCALE" not in "".join(capfd.readouterr())
        supervise.up(ONLY, settings.model_copy(update={"retry_scale": 7.0}))
        assert "DUKOU_RETRY_SCALE" in "".join(capfd.readouterr())
    finally:
        supervise.down(settings)
