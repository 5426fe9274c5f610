"""After everything else: nothing personal anywhere, the ledger agrees, Airflow was green."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.services import Services

pytestmark = pytest.mark.e2e
SENTINELS = ("哨兵受让", "哨兵出让", "5101001900010", "19900001234")


def _needles() -> list[bytes]:
    """Every sentinel as UTF-8, as JSON escapes, and as UTF-16."""
    found: list[bytes] = []
    for text in SENTINELS:
        found += [text.encode(), json.dumps(text).strip('"').encode(), text.encode("utf-16-le"), text.encode("gb18030")]
    return found


def _files(var: Path) -> list[Path]:
    outside = (var / "sandbox", var / "demo")
    return [path for path in var.rglob("*") if path.is_file() and not any(place in path.parents for place in outside)]


def test_no_name_and_no_number_outside_the_sandbox(hub: Services) -> None:
    needles = _needles()
    found = [(path.name, needle) for path in _files(hub.var) for needle in needles if needle in path.read_bytes()]
    assert not found
    # The search itself works: the sandbox, which keeps what it received in plain text, has them.
    plain = b"".join(path.read_bytes() for path in (hub.var / "sandbox").rglob("*") if path.is_file())
    assert any(needle in plain for needle in needles)
    metrics = hub.session.get(f"{hub.gateway}/metrics", timeout=20)
    assert metrics.ok
    assert not any(text in metrics.text for text in SENTINELS)


def test_the_ledger_agrees(hub: Services) -> None:
    hub.dukou("seal")
    answer = json.loads(hub.dukou("verify-ledger", "--json").stdout)
    assert answer["ok"] is True
    assert answer["sealed"] > 1000


def test_airflow_shows_one_green_dag_per_partner(hub: Services) -> None:
    told = hub.credentials()["airflow"]
    login = {"username": told["user"], "password": told["password"]}
    token = hub.session.post(f"{told['url']}/auth/token", json=login, timeout=30).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}

    def ask(path: str, **query: object) -> dict:  # type: ignore[type-arg]
        return hub.session.get(f"{told['url']}/api/v2{path}", params=query, headers=headers, timeout=30).json()  # type: ignore[arg-type]

    dags = {dag["dag_id"] for dag in ask("/dags", limit=100)["dags"]}
    assert dags >= {"platform", "tax", "registry", "hall", "upkeep_seal", "upkeep_sweep", "upkeep_prune"}
    for dag in ("platform", "tax", "registry", "hall"):
        tasks = ask(f"/dags/{dag}/tasks")["tasks"]
        assert [task["task_id"] for task in tasks] == ["collect", "deliver", "reconcile"]
        assert all(task["task_display_name"] and task["doc_md"] for task in tasks)
        assert ask(f"/dags/{dag}/dagRuns", state="success", limit=1)["total_entries"] > 0
        assert ask(f"/dags/{dag}/dagRuns", state="failed", limit=1)["total_entries"] == 0
    assert ask("/importErrors")["total_entries"] == 0
