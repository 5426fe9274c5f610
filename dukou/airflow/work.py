"""What the tasks do, as plain functions: build the hub, do one bounded piece of work, give back counts. Imports nothing of Airflow."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol, TypeVar

from dukou.airflow.environment import environment
from dukou.settings import Settings
from hub.model.views import DrainReport

# A drain ends before the next minute's run is due.
BUDGET_S = 50.0
# Who drains, in the ledger's events: the demo counts deliveries by it.
DRAINER = "airflow"
# Everything that a run leaves behind; `dag`, `trigger` and versions belong to the DAGs, not to their runs.
_PRUNED_TABLES = "dag_run,task_instance,task_instance_history,xcom,asset_event,log,job,import_error"
_CLEAN_LIMIT_S = 240

Counts = dict[str, int | str | bool]
T = TypeVar("T")


class Hub(Protocol):
    """What a task needs of the hub that ``dukou.build`` makes."""

    def collect(self, partner: str, seconds: float) -> DrainReport:
        """Poll the partner for what it owes us."""
        ...

    def drain(self, partner: str, by: str, seconds: float) -> DrainReport:
        """Deliver what is due."""
        ...

    def reconcile(self, partner: str) -> dict[str, int]:
        """Compare sent with confirmed."""
        ...

    def seal(self) -> dict[str, int]:
        """Seal new events."""
        ...

    def sweep(self) -> dict[str, int]:
        """Mend what stands still."""
        ...

    def prune(self) -> dict[str, int]:
        """Forget what may go."""
        ...

    def close(self) -> None:
        """Let connections go."""
        ...


def _with_hub(work: Callable[[Hub], T]) -> T:
    """Build the hub inside the task (an engine must not cross a fork), work, close."""
    from dukou.build import build  # noqa: PLC0415 - the DAG processor parses without loading the whole hub

    hub = build(Settings.from_env(os.environ))
    try:
        return work(hub)
    finally:
        hub.close()


def collect(partner: str) -> Counts:
    """Ask the partner for answers that did not come by themselves."""
    return asdict(_with_hub(lambda hub: hub.collect(partner, BUDGET_S)))


def deliver(partner: str) -> Counts:
    """Deliver what is due: backlog, retries, lanes that the courier leaves to us."""
    return asdict(_with_hub(lambda hub: hub.drain(partner, DRAINER, BUDGET_S)))


def reconcile(partner: str) -> Counts:
    """Compare what we sent with what is confirmed, and count what stands."""
    return dict(_with_hub(lambda hub: hub.reconcile(partner)))


def seal() -> Counts:
    """Seal newly committed events and write an anchor."""
    return dict(_with_hub(lambda hub: hub.seal()))


def sweep() -> Counts:
    """Take back lapsed leases, act on deadlines, hint what nobody works on."""
    return dict(_with_hub(lambda hub: hub.sweep()))


def prune() -> Counts:
    """Forget what the ledger may forget: idempotency keys and the like that have had their time."""
    return dict(_with_hub(lambda hub: hub.prune()))


def prune_airflow() -> Counts:
    """Forget old Airflow runs and their logs.

    A task has no access to Airflow's database, on purpose. The upstream command `airflow db clean`, started as a process of its
    own with the supervisor's environment, is the supported way; nothing of it is archived, since runs hold counts only.

    Raises:
        subprocess.CalledProcessError: the command failed; its words are in the task's log.
    """
    settings = Settings.from_env(os.environ)
    before = datetime.fromtimestamp(time.time(), UTC) - timedelta(hours=settings.airflow_keep_h)
    command = ["db", "clean", "--yes", "--skip-archive", "--error-on-cleanup-failure"]
    command += ["--tables", _PRUNED_TABLES, "--clean-before-timestamp", before.isoformat()]
    subprocess.run(  # noqa: S603 - our own interpreter, fixed words
        [sys.executable, "-m", "airflow", *command],
        env=environment(os.environ, settings),
        check=True,
        timeout=_CLEAN_LIMIT_S,
    )
    return {"log_folders": _prune_logs(settings.var / "log" / "airflow", before.timestamp())}


def _prune_logs(folder: Path, before: float) -> int:
    """Remove the log folders of runs, and the DAG processor's days, that ended before a time."""
    old = [
        place
        for pattern in ("dag_id=*/run_id=*", "dag_processor/????-??-??")
        for place in folder.glob(pattern)
        if place.is_dir() and place.stat().st_mtime < before
    ]
    for place in old:
        shutil.rmtree(place)
    return len(old)
