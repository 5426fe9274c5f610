"""The append-only events: every change of a message or a case, each row with a digest over all that it says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, insert, select, text

from hub.model.documents import compact
from hub.model.identity import new_id
from hub.store.tables import events


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that is about to be written. ``content`` is the projection after the change: no personal data."""

    kind: str
    tenant: str
    message_id: str
    case_no: str
    content: Mapping[str, object]
    body_id: str = ""
    body_digest: str = ""


FIELDS = ("pos", "id", "at", "kind", "tenant", "message_id", "case_no", "content", "body_id", "body_digest")


def digest_of(row: Mapping[str, object] | RowMapping) -> str:
    """SHA-256 over every column of an event but the digest itself; its place in the ledger is part of it.

    A value of a kind that no event ever had (somebody else wrote it) gets a digest too: one that fits nothing.
    """
    said = json.dumps(
        [row[name] for name in FIELDS], ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=repr
    )
    return hashlib.sha256(said.encode(errors="replace")).hexdigest()


def append(connection: Connection, at: int, new: Sequence[NewEvent]) -> None:
    """Write events at the next free places.

    On SQLite the writer is alone, so places have no gaps; on PostgreSQL a rolled-back transaction leaves one.
    """
    if not new:
        return
    rows = []
    for place, item in zip(_places(connection, len(new)), new, strict=True):
        row: dict[str, object] = {
            "pos": place,
            "id": new_id(at),
            "at": at,
            "kind": item.kind,
            "tenant": item.tenant,
            "message_id": item.message_id,
            "case_no": item.case_no,
            "content": compact(item.content),
            "body_id": item.body_id,
            "body_digest": item.body_digest,
        }
        row["digest"] = digest_of(row)
        rows.append(row)
    connection.execute(insert(events), rows)


def _places(connection: Connection, count: int) -> list[int]:
    if connection.dialect.name == "sqlite":
        last = connection.execute(text("SELECT coalesce(max(pos), 0) FROM events")).scalar_one()
        return list(range(int(last) + 1, int(last) + 1 + count))
    drawn = connection.execute(text("SELECT nextval('events_pos') FROM generate_series(1, :n)"), {"n": count})
    return sorted(int(row[0]) for row in drawn)


def of_case(connection: Connection, case_no: str) -> list[RowMapping]:
    """Every event of a case in order."""
    found = connection.execute(select(events).where(events.c.case_no == case_no).order_by(events.c.pos))
    return list(found.mappings())
