"""Three real processes on one SQLite ledger, killed and stopped at random moments, watched by an independent checker."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.security.keys import create
from hub.store.migrate import upgrade
from tests.pipeline import live_process
from tests.pipeline.checker import Departments, serve
from tests.pipeline.scripted import ROOT

ROLES = ("accept", "courier", "airflow")
TROUBLE_S = 12.0
PATIENCE_S = 60.0
ONCE = (
    "/platform/httpproxy/unified-number",
    "/tax/tax/taxable-cases",
    "/tax/tax/registration-results",
    "/registry/registry/cases",
    "/registry/registry/clearances",
)


class Troupe:
    """The three processes."""

    def __init__(self, place: Path, base: str) -> None:
        self._place, self._base = place, base
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.kills = 0

    def start(self, role: str) -> None:
        accepted = [int(line.split()[0]) for line in lines(self._place / "accepted.txt")]
        command = [sys.executable, "-m", "tests.pipeline.live_process", role, str(self._place), self._base]
        with (self._place / f"{role}.log").open("ab") as log:
            self._running[role] = subprocess.Popen(
                [*command, str(max(accepted, default=0) + 1)], cwd=ROOT, stdout=log, stderr=log
            )

    def kill(self, role: str) -> None:
        self._running[role].send_signal(signal.SIGKILL)
        self._running[role].wait(10)
        self.kills += 1

    def stop(self, role: str) -> None:
        self._running[role].send_signal(signal.SIGSTOP)

    def go_on(self, role: str) -> None:
        self._running[role].send_signal(signal.SIGCONT)

    def alive(self) -> bool:
        return all(process.poll() is None for process in self._running.values())

    def end(self) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait(10)


def lines(path: Path) -> list[str]:
    """Whole lines only: the last writer may have been killed in the middle of one."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


def until(ready: Callable[[], bool], seconds: float = PATIENCE_S) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if ready():
            return True
        time.sleep(0.1)
    return ready()


@pytest.fixture
def departments(tmp_path: Path) -> Iterator[tuple[Departments, str]]:
    found = Departments(tmp_path / "checker.db")
    server = serve(found)
    yield found, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.integration
def test_three_processes(tmp_path: Path, departments: tuple[Departments, str]) -> None:
    checker, base = departments
    place = tmp_path / "var"
    place.mkdir()
    create(place / "keys.json", os.urandom)
    url = live_process.Settings.from_env({"DUKOU_VAR": str(place), "DUKOU_ROOT": str(ROOT)}).database_url
    upgrade(url)
    book = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=10)

    def rows(sql: str) -> list[tuple[Any, ...]]:
        return book.execute(sql).fetchall()

    troupe = Troupe(place, base)
    try:
        for role in ROLES:
            troupe.start(role)
        assert until(lambda: len(lines(place / "accepted.txt")) > 2), logs(place)
        trouble(troupe)
        checker.well = True
        (place / "stop").touch()

        def over() -> bool:
            open_cases = rows("SELECT count(*) FROM cases WHERE state NOT IN ('finished')")[0][0]
            open_messages = rows("SELECT count(*) FROM messages WHERE state IN ('ready', 'asked', 'waiting', 'leased')")
            return not open_cases and not open_messages[0][0]

        assert until(over), (stuck(rows), logs(place))
        assert troupe.alive(), logs(place)
    finally:
        troupe.end()
    assert troupe.kills >= 4
    check_accepted(lines(place / "accepted.txt"), rows)
    check_receipts(checker, rows)
    check_evidence(place, base, rows)
    assert not (place / "broken.txt").exists(), (place / "broken.txt").read_text()
    assert "Traceback" not in logs(place), logs(place)
    book.close()


def trouble(troupe: Troupe) -> None:
    """Kill someone every now and then; stop one for longer than its lease and let it go on."""
    chance = random.Random(5)
    end = time.monotonic() + TROUBLE_S
    order = ["courier", "airflow", "accept", "courier", "airflow", "accept", "courier"]
    slept = False
    while time.monotonic() < end and order:
        time.sleep(chance.uniform(0.8, 1.6))
        role = order.pop(0)
        troupe.kill(role)
        troupe.start(role)
        if len(order) == 4 and not slept:
            slept = True
            sleeper = "airflow"
            troupe.stop(sleeper)
            time.sleep(live_process.PACE.lease / 1000 + 0.5)
            troupe.go_on(sleeper)
            end += live_process.PACE.lease / 1000


def check_accepted(accepted: list[str], rows: Callable[[str], list[tuple[Any, ...]]]) -> None:
    """Whoever was told "accepted" has exactly one case, and it has come to its end."""
    cases = dict(rows("SELECT no, state FROM cases"))
    told: dict[str, set[tuple[str, str]]] = {}
    for line in accepted:
        number, case, message = line.split()
        told.setdefault(number, set()).add((case, message))
    assert len(told) >= 10
    assert all(len(answers) == 1 for answers in told.values())
    assert {cases[case] for answers in told.values() for case, _ in answers} == {"finished"}
    # One may have been accepted whose answer never left: its caller was killed and no later one repeated it.
    assert len(cases) - len(told) in (0, 1)


def check_receipts(checker: Departments, rows: Callable[[str], list[tuple[Any, ...]]]) -> None:
    """Each thing was done once; each repeat was recognisable."""
    seen: dict[tuple[str, str], list[tuple[str, str, int]]] = {}
    for path, identity, delivery, sha256, applied in checker.rows(
        "SELECT path, identity, delivery, sha256, applied FROM received ORDER BY n"
    ):
        seen.setdefault((path, identity), []).append((delivery, sha256, applied))
    for key, receipts in seen.items():
        assert len({delivery for delivery, _, _ in receipts}) == 1, key
        assert len({sha256 for _, sha256, _ in receipts}) == 1, key
        assert [applied for _, _, applied in receipts] == [1] + [0] * (len(receipts) - 1), key
    deliveries = [receipts[0][0] for receipts in seen.values()]
    assert len(deliveries) == len(set(deliveries))
    recorded = {row[0] for row in rows("SELECT DISTINCT delivery_id FROM attempts")}
    assert set(deliveries) <= recorded
    assert any(len(receipts) > 1 for receipts in seen.values()), "nothing was ever repeated: the test tests nothing"
    every = {row[0] for row in rows("SELECT no FROM cases")}
    for path in ONCE:
        assert {identity for where, identity in seen if where == path} == every, path
    check_invitations(seen, rows, every)


def check_invitations(
    seen: dict[tuple[str, str], Any], rows: Callable[[str], list[tuple[Any, ...]]], every: set[str]
) -> None:
    """An invitation is never repeated; where its fate is unknown a person is asked."""
    path = "/platform/httpproxy/evaluation"
    invited = {identity: receipts for (where, identity), receipts in seen.items() if where == path}
    assert all(len(receipts) == 1 for receipts in invited.values())
    dead = rows("SELECT exchange, reason, redelivery FROM messages WHERE state = 'dead'")
    assert set(dead) <= {("evaluation_invite", "outcome_unknown", "manual")}
    assert len(every) - len(dead) <= len(invited) <= len(every)


def check_evidence(place: Path, base: str, rows: Callable[[str], list[tuple[Any, ...]]]) -> None:
    assert rows("PRAGMA integrity_check") == [("ok",)]
    hub = live_process.open_hub(place, base)
    hub.seal()
    report = hub.verify()
    assert report.ok, report.found
    assert report.figures["tail"] == 0
    hub.close()


def stuck(rows: Callable[[str], list[tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
    return rows(
        "SELECT partner, exchange, state, reason, count(*) FROM messages WHERE state IN"
        " ('ready', 'asked', 'waiting', 'leased', 'dead') GROUP BY 1, 2, 3, 4"
    ) + rows("SELECT state, step, reason, count(*) FROM cases GROUP BY 1, 2, 3")


def logs(place: Path) -> str:
    return "\n".join(f"{role}: {(place / f'{role}.log').read_text()[-3000:]}" for role in ROLES)
