"""Brings the ledger's database to the newest schema: expand first, contract in a later release."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import make_url

from hub.store.ledger import open_engine

HERE = Path(__file__).resolve().parent / "migrations"


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
