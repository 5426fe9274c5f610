"""Cases: rows that change under their version, each change with its event."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, func, insert, select, text, update

from hub.model.documents import compact
from hub.store import events
from hub.store.ledger import Collision
from hub.store.tables import blind_index, cases, polls

PROJECTED = (
    "unified_no",
    "matter",
    "matter_version",
    "state",
    "step",
    "waiting_for",
    "reason",
    "version",
    "data",
    "created",
)


@dataclass(frozen=True, slots=True)
class CaseRow:
    """A case as the ledger keeps it. ``data`` holds the machine's own memory: names of steps, times, ids of bodies."""

    no: str
    unified_no: str
    tenant: str
    matter: str
    matter_version: int
    state: str
    step: str
    waiting_for: str
    reason: str
    version: int
    data: Mapping[str, object]
    created: int
    updated: int


def from_row(row: RowMapping | Mapping[str, Any]) -> CaseRow:
    """A database row as a value."""
    return CaseRow(**{**row, "data": json.loads(row["data"])})


def _record(connection: Connection, at: int, kind: str, row: Mapping[str, object]) -> None:
    content = {name: row[name] for name in PROJECTED}
    events.append(connection, at, [events.NewEvent(kind, str(row["tenant"]), "", str(row["no"]), content)])


def open_case(connection: Connection, at: int, case: CaseRow) -> None:
    """A new case. The same number twice is a ``Collision``."""
    row = _columns(case, at)
    connection.execute(insert(cases).values(**row, created=at))
    _record(connection, at, "case.opened", {**row, "created": at})


def move(connection: Connection, at: int, case: CaseRow, from_version: int) -> None:
    """Write the case's next version.

    Raises:
        Collision: somebody else moved the case since it was read.
    """
    row = _columns(case, at)
    done = connection.execute(update(cases).where(cases.c.no == case.no, cases.c.version == from_version).values(**row))
    if done.rowcount != 1:
        raise Collision
    _record(connection, at, "case.moved", {**row, "created": case.created})


def _columns(case: CaseRow, at: int) -> dict[str, object]:
    return {
        "no": case.no,
        "unified_no": case.unified_no,
        "tenant": case.tenant,
        "matter": case.matter,
        "matter_version": case.matter_version,
        "state": case.state,
        "step": case.step,
        "waiting_for": case.waiting_for,
        "reason": case.reason,
        "version": case.version,
        "data": compact(case.data),
        "updated": at,
    }


def get(connection: Connection, no: str) -> CaseRow | None:
    """By YWH or by unified number."""
    row = connection.execute(select(cases).where(cases.c.no == no)).mappings().first()
    if row is None and no:
        row = connection.execute(select(cases).where(cases.c.unified_no == no)).mappings().first()
    return None if row is None else from_row(row)


def note_poll(connection: Connection, case_no: str, exchange: str, times: int, due_at: int) -> None:
    """A case's result was asked for; the next time is not before ``due_at``."""
    wanted = (polls.c.case_no == case_no, polls.c.exchange == exchange)
    if connection.execute(update(polls).where(*wanted).values(times=times, due_at=due_at)).rowcount == 0:
        connection.execute(insert(polls).values(case_no=case_no, exchange=exchange, times=times, due_at=due_at))


@dataclass(frozen=True, slots=True)
class Owed:
    """A running case that waits for a partner, and how often its result was asked for."""

    case: CaseRow
    times: int
    due_at: int


def owed(connection: Connection, partner: str, before: int, now: int, limit: int = 500) -> list[Owed]:
    """Cases that have stood since before a time and may be asked for now: never asked first, then the longest due."""
    due_at = func.coalesce(func.max(polls.c.due_at), 0)
    times = func.coalesce(func.max(polls.c.times), 0)
    query = (
        select(cases, times.label("poll_times"), due_at.label("poll_due"))
        .outerjoin(polls, (polls.c.case_no == cases.c.no) & polls.c.exchange.startswith(f"{partner}/", autoescape=True))
        .where(cases.c.state == "running", cases.c.waiting_for == partner, cases.c.updated <= before)
        .group_by(cases.c.no)
        .having(due_at <= now)
        .order_by(due_at, cases.c.updated)
        .limit(limit)
    )
    found = []
    for row in connection.execute(query).mappings():
        columns = {name: row[name] for name in cases.c.keys()}  # noqa: SIM118 - a column collection is no mapping
        found.append(Owed(from_row(columns), int(row["poll_times"]), int(row["poll_due"])))
    return found


def owing(connection: Connection, before: int, now: int) -> list[str]:
    """Partners for which some case may be asked for now."""
    found = select(cases.c.waiting_for).where(cases.c.state == "running").distinct()
    return sorted(p for p in connection.execute(found).scalars() if p and owed(connection, str(p), before, now, 1))


def overdue_candidates(connection: Connection, partner: str, before: int, limit: int = 2000) -> list[CaseRow]:
    """Running cases that have waited for a partner since before a time, longest first."""
    query = select(cases).where(cases.c.state == "running", cases.c.waiting_for == partner, cases.c.updated <= before)
    return [from_row(row) for row in connection.execute(query.order_by(cases.c.updated).limit(limit)).mappings()]


def listing(connection: Connection, tenants: Sequence[str] | None, state: str = "", limit: int = 200) -> list[CaseRow]:
    """Cases, newest first."""
    query = select(cases).order_by(cases.c.created.desc(), cases.c.no.desc()).limit(limit)
    if tenants is not None:
        query = query.where(cases.c.tenant.in_(tenants))
    if state:
        query = query.where(cases.c.state == state)
    return [from_row(row) for row in connection.execute(query).mappings()]


def by_state(connection: Connection) -> dict[str, int]:
    """How many cases are in each state."""
    return {str(s): int(n) for s, n in connection.execute(select(cases.c.state, func.count()).group_by(cases.c.state))}


def draw(connection: Connection, name: str, step: int = 1) -> int:
    """The next value of a named counter, without gaps on SQLite."""
    # One statement: two processes that draw a new counter at once must both get a number.
    grown = text(
        "INSERT INTO counters (name, value) VALUES (:name, :step)"
        " ON CONFLICT (name) DO UPDATE SET value = counters.value + :step RETURNING value"
    )
    return int(connection.execute(grown, {"name": name, "step": step}).scalar_one())


def index(connection: Connection, tenant: str, case_no: str, tokens: Sequence[tuple[str, str, str]]) -> None:
    """Add (kind, key id, token) rows to the blind index."""
    rows = [
        {"tenant": tenant, "case_no": case_no, "kind": k, "key_id": i, "token": t} for k, i, t in sorted(set(tokens))
    ]
    if rows:
        connection.execute(insert(blind_index), rows)


def find(
    connection: Connection, tenants: Sequence[str] | None, kind: str, tokens: Sequence[tuple[str, str]]
) -> list[str]:
    """Numbers of the cases whose blind index holds one of these (key id, token) pairs."""
    found: set[str] = set()
    for key_id, token in tokens:
        query = select(blind_index.c.case_no).where(
            blind_index.c.kind == kind, blind_index.c.key_id == key_id, blind_index.c.token == token
        )
        if tenants is not None:
            query = query.where(blind_index.c.tenant.in_(tenants))
        found.update(str(no) for no in connection.execute(query).scalars())
    return sorted(found)
