"""Brings the ledger's database to the newest schema: expand first, contract in a later release."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from hub.store.ledger import open_engine

HERE = Path(__file__).resolve().parent / "migrations"


def ensure_database(url: str) -> bool:
    """Create the database of a PostgreSQL URL, or the folder of a SQLite one. True when it was not there.

    The server's own ``postgres`` database is where databases are made; who may not make one gets it from the administrator
    and is not asked here again.
    """
    parsed = make_url(url)
    if parsed.drivername.startswith("sqlite"):
        place = Path(parsed.database or "")
        place.parent.mkdir(parents=True, exist_ok=True)
        return not place.exists()
    engine = create_engine(
        parsed.set(drivername="postgresql+psycopg", database="postgres"), isolation_level="AUTOCOMMIT"
    )
    try:
        with engine.connect() as connection:
            known = connection.execute(
                text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": parsed.database}
            )
            if known.first() is not None:
                return False
            quoted = connection.dialect.identifier_preparer.quote(parsed.database or "")
            connection.execute(text(f"CREATE DATABASE {quoted}"))
            return True
    finally:
        engine.dispose()


def upgrade(url: str) -> None:
    """Run every migration that the database has not seen; nothing to do is quick."""
    parsed = make_url(url)
    if parsed.drivername.startswith("sqlite") and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = open_engine(url, writer=True)
    config = Config()
    config.set_main_option("script_location", str(HERE).replace("%", "%%"))
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()
