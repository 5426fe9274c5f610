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


@dataclass(frozen=True, slots=True)
class Entry:
    """What is remembered under a key: which revision, the digest of the content, the message, the answer given."""

    revision: int
    digest: str
    message_id: str
    answer: str


def remember(connection: Connection, at: int, scope: Scope, entry: Entry) -> None:
    """Take the key. A second taker gets a ``Collision`` from the transaction."""
    connection.execute(
        insert(idempotency).values(
            tenant=scope.tenant,
            caller=scope.caller,
            exchange=scope.exchange,
            key=scope.key,
            revision=entry.revision,
            digest=entry.digest,
            message_id=entry.message_id,
            answer=entry.answer,
            created=at,
        )
    )


def prune(connection: Connection, before: int) -> int:
    """Forget keys older than ``before``. Returns how many."""
    return int(connection.execute(delete(idempotency).where(idempotency.c.created < before)).rowcount)
