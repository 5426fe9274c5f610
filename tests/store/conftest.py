"""A migrated ledger per test, on SQLite and, where it answers and a driver is installed, on PostgreSQL."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from hub.model.identity import new_id
from hub.store.ledger import Ledger
from hub.store.migrate import upgrade

DRIVERS = ("psycopg", "psycopg2")


@pytest.fixture
def postgres_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of the test's own."""
    driver = next((name for name in DRIVERS if importlib.util.find_spec(name)), "")
    if not driver:
        reason = (
            "NOT TESTED: PostgreSQL answers, but neither psycopg nor psycopg2 is installed / 未安装 PostgreSQL 驱动"
        )
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    server = make_url(request.getfixturevalue("postgres_url")).set(drivername=f"postgresql+{driver}")
    name = "dukou_" + new_id().replace("-", "")[-12:]
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server.set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated database."""
    if request.param == "sqlite":
        found = f"sqlite:///{tmp_path}/ledger.db"
    else:
        found = request.getfixturevalue("postgres_database")
    upgrade(found)
    return found


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    found = Ledger(url)
    yield found
    found.close()


@pytest.fixture
def other(url: str) -> Iterator[Ledger]:
    """The same database as another process sees it."""
    found = Ledger(url)
    yield found
    found.close()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A migrated SQLite database, for what only SQLite does."""
    found = f"sqlite:///{tmp_path}/ledger.db"
    upgrade(found)
    return found
