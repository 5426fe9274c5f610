"""Encrypted bodies and the wrapped keys that open them. The plaintext never reaches this module."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, insert, select

from hub.store import events
from hub.store.tables import bodies, body_keys


@dataclass(frozen=True, slots=True)
class NewBody:
    """A sealed body. ``key_owner`` is the case whose key sealed it (or ``u:<tenant>:<day>`` for what has no case)."""

    id: str
    tenant: str
    key_owner: str
    encoding: str
    address: str
    ciphertext: bytes

    @property
    def digest(self) -> str:
        """SHA-256 over every column: what the event records and what the verifier compares."""
        return digest_of(
            {
                "id": self.id,
                "tenant": self.tenant,
                "key_owner": self.key_owner,
                "encoding": self.encoding,
                "address": self.address,
                "ciphertext": self.ciphertext,
            }
        )


@dataclass(frozen=True, slots=True)
class NewKey:
    """A data key wrapped by its tenant's key."""

    owner: str
    tenant: str
    key_id: str
    wrapped: bytes


def digest_of(row: Mapping[str, object] | RowMapping) -> str:
    """The digest of a body's row."""
    mark = hashlib.sha256()
    for name in ("id", "tenant", "key_owner", "encoding", "address"):
        mark.update(str(row[name]).encode() + b"\0")
    cipher = row["ciphertext"]
    mark.update(bytes(cipher) if isinstance(cipher, bytes | bytearray | memoryview) else b"?")
    return mark.hexdigest()


def add(connection: Connection, at: int, new: Sequence[NewBody]) -> None:
    """Store bodies."""
    if new:
        connection.execute(
            insert(bodies),
            [
                {
                    "id": b.id,
                    "tenant": b.tenant,
                    "key_owner": b.key_owner,
                    "encoding": b.encoding,
                    "address": b.address,
                    "ciphertext": b.ciphertext,
                    "digest": b.digest,
                    "created": at,
                }
                for b in new
            ],
        )


def key_digest(row: Mapping[str, object] | RowMapping) -> str:
    """The digest of a wrapped key's row: what its event records and what the verifier compares."""
    mark = hashlib.sha256()
    for name in ("owner", "tenant", "key_id"):
        mark.update(str(row[name]).encode() + b"\0")
    wrapped = row["wrapped"]
    mark.update(bytes(wrapped) if isinstance(wrapped, bytes | bytearray | memoryview) else b"?")
    return mark.hexdigest()


def add_key(connection: Connection, at: int, key: NewKey) -> None:
    """Store a wrapped key with its event. A second one for the same owner is a ``Collision``."""
    row = {"owner": key.owner, "tenant": key.tenant, "key_id": key.key_id, "wrapped": key.wrapped}
    kept = events.NewEvent("key.kept", key.tenant, "", "", {"owner": key.owner, "digest": key_digest(row)})
    events.append(connection, at, [kept])
    connection.execute(
        insert(body_keys).values(owner=key.owner, tenant=key.tenant, key_id=key.key_id, wrapped=key.wrapped, created=at)
    )


def get(connection: Connection, body_id: str) -> RowMapping | None:
    """One body, still sealed."""
    return connection.execute(select(bodies).where(bodies.c.id == body_id)).mappings().first()


def get_key(connection: Connection, owner: str) -> RowMapping | None:
    """The wrapped key of an owner."""
    return connection.execute(select(body_keys).where(body_keys.c.owner == owner)).mappings().first()
