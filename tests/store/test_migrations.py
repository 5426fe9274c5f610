"""The migrations make exactly the tables that the code speaks of."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from hub.store.ledger import Ledger
from hub.store.migrate import upgrade
from hub.store.tables import metadata
from tests.store import rows


def test_migrations_equal_the_tables(ledger: Ledger) -> None:
    def differences(connection: object) -> list[object]:
        options = {"compare_type": True, "version_table": "ledger_version"}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    assert ledger.read(differences) == []


def test_a_second_run_changes_nothing(url: str, ledger: Ledger) -> None:
    (one,) = rows.add(ledger, rows.message())
    upgrade(url)
    assert rows.get(ledger, one)["state"] == "ready"
