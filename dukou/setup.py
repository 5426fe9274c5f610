"""Prepares everything under ``var/`` once the dependencies are installed: folders, keys, databases, demo credentials."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from dukou.airflow.environment import USER, AirflowSecrets, create_secrets, environment, write_private
from dukou.settings import Settings
from hub.errors import Misconfigured
from hub.security.keys import Keyring, create, key_path
from hub.store.migrate import ensure_database, upgrade

_FOLDERS = ("run", "log", "log/airflow", "keys", "demo", "sandbox", "anchors", "hints")
_MIGRATE_LIMIT_S = 300


def prepare(settings: Settings) -> None:
    """Make what is missing and leave what is there; the second time takes no more than a look.

    Raises:
        Misconfigured: ``airflow_migration_failed`` (naming the log), or what keys and the ledger's migration have to say.
    """
    for folder in (settings.var, *(settings.var / name for name in _FOLDERS), settings.airflow_home):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keyring = create(key_path(settings.keys), os.urandom)
    airflow = create_secrets(settings)
    migration = _start_airflow_migration(settings)
    ensure_database(settings.database_url)
    upgrade(settings.database_url)
    if settings.environment != "production":
        _write_demo_credentials(settings, keyring, airflow)
    if migration:
        _finish_airflow_migration(settings, migration)


def _write_demo_credentials(settings: Settings, keyring: Keyring, airflow: AirflowSecrets) -> None:
    """What an outsider of the demo needs to call us, and a stand-in to recognise us."""
    callers = {
        name: {
            "rid": caller.rid,
            "secret": caller.secret,
            "tenants": list(caller.tenants),
            "sids": dict(caller.sids),
            "profile": caller.profile,
        }
        for name, caller in keyring.callers.items()
    }
    told: Mapping[str, Any] = {
        "gateway": f"http://127.0.0.1:{settings.gateway_port}",
        "airflow": {
            "url": f"http://127.0.0.1:{settings.airflow_port}",
            "user": USER,
            "password": airflow.password,
        },
        "callers": callers,
        "partners": {slug: dict(presented) for slug, presented in keyring.partners.items()},
    }
    write_private(settings.var / "demo" / "credentials.json", json.dumps(told, ensure_ascii=False, indent=1))


def _start_airflow_migration(settings: Settings) -> subprocess.Popen[bytes] | None:
    """Start `airflow db migrate` beside our own migration; nothing when this version has already migrated this database."""
    stamp = settings.airflow_home / "migrated"
    made = ensure_database(settings.airflow_database_url)
    if not made and stamp.exists() and stamp.read_text("utf-8") == _stamp(settings):
        return None
    log = settings.var / "log" / "airflow-migrate.log"
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env=environment(os.environ, settings),
            cwd=settings.var,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def _finish_airflow_migration(settings: Settings, migration: subprocess.Popen[bytes]) -> None:
    if migration.wait(_MIGRATE_LIMIT_S) != 0:
        log = settings.var / "log" / "airflow-migrate.log"
        raise Misconfigured(
            "airflow_migration_failed",
            f"Airflow's database could not be migrated, see {log}",
            f"Airflow 数据库迁移失败，请看日志 {log}",
        )
    file = settings.airflow_home / "airflow.db"
    if file.exists():
        file.chmod(0o600)
    (settings.airflow_home / "migrated").write_text(_stamp(settings), "utf-8")


def _stamp(settings: Settings) -> str:
    """Which Airflow migrated which database; the address may hold a password, so its digest stands for it."""
    where = hashlib.sha256(settings.airflow_database_url.encode()).hexdigest()[:16]
    return f"{importlib.metadata.version('apache-airflow-core')} {where}"
