"""What has been accepted under which key: the guard against doing anything twice."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, delete, insert, select

from hub.store.tables import idempotency


@dataclass(frozen=True, slots=True)
class Scope:
    """(tenant, caller, exchange, key); ``key`` is a keyed digest, so that whatever the caller chose is not stored."""

    tenant: str
    caller: str
    exchange: str
    key: str


def known(connection: Connection, scope: Scope) -> list[RowMapping]:
    """Every revision that was accepted under this key, oldest first."""
    query = select(idempotency).where(
        idempotency.c.tenant == scope.tenant,
        idempotency.c.caller == scope.caller,
        idempotency.c.exchange == scope.exchange,
        idempotency.c.key == scope.key,
    )
    return list(connection.execute(query.order_by(idempotency.c.revision)).mappings())


def remember(connection: Connection, at: int, scope: Scope, revision: int, digest: str, message_id: str, answer: str) -> None:  # noqa: PLR0913
    """Take the key. A second taker gets a ``Collision`` from the transaction."""
    connection.execute(
        insert(idempotency).values(
            tenant=scope.tenant,
            caller=scope.caller,
            exchange=scope.exchange,
            key=scope.key,
            revision=revision,
            digest=digest,
            message_id=message_id,
            answer=answer,
            created=at,
        )
    )


def prune(connection: Connection, before: int) -> int:
    """Forget keys older than ``before``. Returns how many."""
    return int(connection.execute(delete(idempotency).where(idempotency.c.created < before)).rowcount)
