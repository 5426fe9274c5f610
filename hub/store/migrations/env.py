"""Alembic's entry: runs on the connection that ``hub.store.migrate`` opened."""

from __future__ import annotations

from alembic import context

from hub.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table="ledger_version",
    # SQLite cannot alter a column in place.
    render_as_batch=True,
)
context.run_migrations()
