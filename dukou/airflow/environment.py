"""What every Airflow process is started with: where it lives, its ports and its secrets. Imports nothing of Airflow."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.fernet import Fernet

from dukou.settings import Settings
from hub.errors import Misconfigured

USER = "admin"
# A parent's taste in Python, in proxies or in another Airflow must not reach our processes.
_NOT_INHERITED = ("AIRFLOW", "_AIRFLOW", "PYTHON", "DUKOU_")


@dataclass(frozen=True, slots=True)
class AirflowSecrets:
    """Secrets of Airflow itself: they open its API, never a body of the ledger."""

    password: str
    jwt_secret: str
    fernet_key: str
    secret_key: str

    def __repr__(self) -> str:
        """Say nothing: a representation ends in logs."""
        return "AirflowSecrets(***)"


def secrets_path(settings: Settings) -> Path:
    """Where Airflow's secrets lie (mode 0600)."""
    return settings.var / "keys" / "airflow.json"


def create_secrets(settings: Settings) -> AirflowSecrets:
    """Make the secrets and the password file of Airflow's simple login, or read those that exist."""
    path = secrets_path(settings)
    if not path.exists():
        made = AirflowSecrets(
            password=secrets.token_urlsafe(12),
            jwt_secret=secrets.token_urlsafe(48),
            fernet_key=Fernet.generate_key().decode(),
            secret_key=secrets.token_urlsafe(32),
        )
        write_private(path, json.dumps(asdict(made), indent=1))
    found = read_secrets(settings)
    write_private(settings.airflow_home / "passwords.json", json.dumps({USER: found.password}))
    return found


def read_secrets(settings: Settings) -> AirflowSecrets:
    """The secrets that ``create_secrets`` made.

    Raises:
        Misconfigured: ``airflow_secrets_missing`` when they were never made or cannot be read.
    """
    try:
        return AirflowSecrets(**json.loads(secrets_path(settings).read_text("utf-8")))
    except (OSError, ValueError, TypeError) as wrong:
        raise Misconfigured(
            "airflow_secrets_missing",
            "var/keys/airflow.json cannot be read: run `make setup`",
            "无法读取 var/keys/airflow.json，请先执行 make setup",
        ) from wrong


def clean(parent: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """The environment of any process of ours: the parent's, without what would bend it, with every setting spelled out."""
    kept = {
        name: value
        for name, value in parent.items()
        if not name.startswith(_NOT_INHERITED) and not name.lower().endswith("_proxy")
    }
    return kept | {
        "PYTHONPATH": str(settings.root),
        "PYTHONSAFEPATH": "1",  # the working folder is var/: nothing is imported from there
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": "*",
        "no_proxy": "*",
        **settings.to_env(),
    }


def environment(parent: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """The environment of an Airflow process.

    Raises:
        Misconfigured: ``airflow_secrets_missing``.
    """
    known = read_secrets(settings)
    address = f"http://127.0.0.1:{settings.airflow_port}"
    return clean(parent, settings) | {
        "AIRFLOW_HOME": str(settings.airflow_home),
        "AIRFLOW_CONFIG": str(settings.root / "airflow.cfg"),
        **_database(settings.airflow_database_url),
        "AIRFLOW__API__PORT": str(settings.airflow_port),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__API_AUTH__JWT_SECRET": known.jwt_secret,
        "AIRFLOW__CORE__FERNET_KEY": known.fernet_key,
        "AIRFLOW__API__SECRET_KEY": known.secret_key,
    }


def _database(url: str) -> dict[str, str]:
    """Airflow's own database. On PostgreSQL one driver serves both its ways of connecting: ours."""
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0] != "postgresql":
        return {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url}
    ours = f"postgresql+psycopg://{rest}"
    return {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": ours, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": ours}


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib cannot set the mode at birth
        file.write(text)
    fresh.replace(path)
