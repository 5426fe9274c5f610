"""Messages, their attempts and their leases. Every change writes its event in the same transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from hub.model.identity import wire_id
from hub.model.states import BLOCKING, CLAIMABLE
from hub.store import events
from hub.store.ledger import StaleLease
from hub.store.tables import attempts, counters, messages

# What an event of a message repeats: with these every column of the projection but the lease can be rebuilt.
PROJECTED = (
    "partner",
    "exchange",
    "direction",
    "lane",
    "redelivery",
    "seq",
    "step",
    "caller",
    "state",
    "attempts",
    "due_at",
    "reason",
    "fence",
    "created",
)


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message that is about to be written; ``seq`` is drawn when it is."""

    id: str
    tenant: str
    partner: str
    exchange: str
    direction: str
    lane: str
    redelivery: str
    case_no: str
    state: str
    step: str = ""
    caller: str = ""
    reason: str = ""
    body_id: str = ""
    body_digest: str = ""


def add(connection: Connection, at: int, new: Sequence[NewMessage]) -> None:
    """Write messages with the next numbers of their (partner, case)."""
    if not new:
        return
    rows, made, drawn = [], [], dict[tuple[str, str], int]()
    for item in new:
        row: dict[str, object] = {
            "id": item.id,
            "tenant": item.tenant,
            "partner": item.partner,
            "exchange": item.exchange,
            "direction": item.direction,
            "lane": item.lane,
            "redelivery": item.redelivery,
            "case_no": item.case_no,
            "seq": _next_seq(connection, drawn, item),
            "step": item.step,
            "caller": item.caller,
            "state": item.state,
            "attempts": 0,
            "due_at": at,
            "reason": item.reason,
            "body_id": item.body_id,
            "fence": 0,
            "created": at,
            "updated": at,
        }
        rows.append(row)
        made.append(_event(f"message.{item.state}", row, item.body_digest))
    connection.execute(insert(messages), rows)
    events.append(connection, at, made)


def _next_seq(connection: Connection, drawn: dict[tuple[str, str], int], item: NewMessage) -> int:
    if not item.case_no or item.direction not in ("deliver", "ask"):
        return 0
    key = (item.partner, item.case_no)
    if key not in drawn:
        query = select(func.coalesce(func.max(messages.c.seq), 0)).where(
            messages.c.case_no == item.case_no, messages.c.partner == item.partner
        )
        drawn[key] = int(connection.execute(query).scalar_one())
    drawn[key] += 1
    return drawn[key]


def _event(kind: str, row: Mapping[str, object] | RowMapping, body_digest: str, **more: object) -> events.NewEvent:
    content = {name: row[name] for name in PROJECTED}
    if more:
        content["note"] = more
    return events.NewEvent(
        kind, str(row["tenant"]), str(row["id"]), str(row["case_no"]), content, str(row["body_id"]), body_digest
    )


def change(
    connection: Connection,
    at: int,
    row: RowMapping,
    kind: str,
    note: Mapping[str, object] | None = None,
    **values: object,
) -> None:
    """Change a message's projection and say so in an event. The caller holds the row (lease or write lock)."""
    after = {**row, **values, "updated": at}
    connection.execute(update(messages).where(messages.c.id == row["id"]).values(**values, updated=at))
    # Only the event of birth carries the body's digest: a body never changes.
    events.append(connection, at, [_event(kind, after, "", **(note or {}))])


def get(connection: Connection, message_id: str) -> RowMapping | None:
    """One message."""
    return connection.execute(select(messages).where(messages.c.id == message_id)).mappings().first()


def lock(connection: Connection, message_id: str) -> RowMapping | None:
    """One message, held against every other transaction until this one ends."""
    query = select(messages).where(messages.c.id == message_id)
    if connection.dialect.name != "sqlite":
        query = query.with_for_update()
    return connection.execute(query).mappings().first()


@dataclass(frozen=True, slots=True)
class ClaimRule:
    """Which messages a worker may take.

    Attributes:
        by: ``courier`` or ``airflow``: written into the attempt.
        owner: name of the worker, for people.
        partner: only this partner's, or every one's when empty.
        first_of_live: the courier's share: first attempts of live lanes and nothing else.
        grace_ms: an orchestrator leaves first attempts of live lanes to the courier for so long.
        lease_ms: how long the lease holds.
        without: partners that are left alone now.
    """

    by: str
    owner: str
    lease_ms: int
    partner: str = ""
    first_of_live: bool = False
    grace_ms: int = 0
    without: tuple[str, ...] = ()


# Literals, not bound values: a partial index serves only a query that says what the index says.
_CLAIMABLE: tuple[ColumnElement[str], ...] = tuple(literal_column(f"'{state}'") for state in CLAIMABLE)
# An attempt that ended so may have reached the partner: also one whose answer we could not read as declared.
MAY_HAVE_ARRIVED = ("done", "unknown", "lost", "refused", "dead")


def _due(at: int) -> ColumnElement[bool]:
    """Due now, with nothing unfinished before it in its (partner, case): this is what keeps the order."""
    earlier = messages.alias("earlier")
    blocked = exists().where(
        earlier.c.case_no == messages.c.case_no,
        earlier.c.partner == messages.c.partner,
        earlier.c.seq < messages.c.seq,
        earlier.c.seq > 0,
        earlier.c.state.in_(BLOCKING),
    )
    return and_(messages.c.state.in_(_CLAIMABLE), messages.c.due_at <= at, or_(messages.c.case_no == "", ~blocked))


def claim(connection: Connection, at: int, rule: ClaimRule, limit: int) -> list[RowMapping]:
    """Take up to ``limit`` due messages under a lease, each with an attempt recorded before anything is sent."""
    wanted = [_due(at)]
    if rule.partner:
        wanted.append(messages.c.partner == rule.partner)
    if rule.without:
        wanted.append(messages.c.partner.not_in(rule.without))
    first = and_(messages.c.lane == "live", messages.c.attempts == 0)
    if rule.first_of_live:
        wanted.append(first)
    elif rule.grace_ms:
        wanted.append(or_(~first, messages.c.created <= at - rule.grace_ms))
    query = select(messages).where(*wanted).order_by(messages.c.due_at, messages.c.id).limit(limit)
    if connection.dialect.name != "sqlite":
        query = query.with_for_update(skip_locked=True, of=messages)
    taken = list(connection.execute(query).mappings())
    for row in taken:
        _lease(connection, at, rule, row)
    ids = [row["id"] for row in taken]
    again = connection.execute(
        select(messages).where(messages.c.id.in_(ids)).order_by(messages.c.due_at, messages.c.id)
    )
    return list(again.mappings())


def _lease(connection: Connection, at: int, rule: ClaimRule, row: RowMapping) -> None:
    n, fence = row["attempts"] + 1, row["fence"] + 1
    delivery = wire_id(row["id"])
    connection.execute(
        insert(attempts).values(
            message_id=row["id"],
            n=n,
            delivery_id=delivery,
            by=rule.by,
            fence=fence,
            started=at,
            ended=0,
            outcome="",
            code="",
        )
    )
    note = {"n": n, "by": rule.by, "delivery_id": delivery, "before": row["state"]}
    change(
        connection,
        at,
        row,
        "message.leased",
        note,
        state="leased",
        attempts=n,
        fence=fence,
        lease_owner=rule.owner,
        lease_until=at + rule.lease_ms,
    )


def held(connection: Connection, message_id: str, fence: int) -> RowMapping:
    """The message if this fencing token still holds it.

    Raises:
        StaleLease: another worker has it, or it is over.
    """
    query = select(messages).where(messages.c.id == message_id, messages.c.fence == fence, messages.c.state == "leased")
    if connection.dialect.name != "sqlite":
        query = query.with_for_update()
    row = connection.execute(query).mappings().first()
    if row is None:
        raise StaleLease
    return row


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended and what the message becomes."""

    outcome: str
    code: str
    state: str
    reason: str = ""
    wait_ms: int = 0


def settle(connection: Connection, at: int, row: RowMapping, result: Outcome) -> None:
    """Record the end of the attempt that this lease made. ``row`` comes from ``held``."""
    connection.execute(
        update(attempts)
        .where(attempts.c.message_id == row["id"], attempts.c.n == row["attempts"])
        .values(ended=at, outcome=result.outcome, code=result.code)
    )
    note = {"n": row["attempts"], "outcome": result.outcome, "code": result.code}
    change(
        connection,
        at,
        row,
        f"message.{result.state}",
        note,
        state=result.state,
        reason=result.reason,
        due_at=at + result.wait_ms,
        lease_owner="",
        lease_until=0,
    )


def expired(connection: Connection, at: int, partner: str = "") -> list[RowMapping]:
    """Messages whose lease ran out: their worker died or hangs. Who takes them back proves it by the fencing token."""
    query = select(messages).where(messages.c.state == "leased", messages.c.lease_until < at)
    if partner:
        query = query.where(messages.c.partner == partner)
    return list(connection.execute(query).mappings())


def ever_ended(connection: Connection, message_id: str, outcomes: Sequence[str]) -> bool:
    """Whether any attempt of the message ended in one of these ways."""
    query = select(func.count()).where(attempts.c.message_id == message_id, attempts.c.outcome.in_(outcomes))
    return bool(connection.execute(query).scalar_one())


def of_case(connection: Connection, case_no: str) -> list[RowMapping]:
    """The messages of a case, oldest first."""
    query = select(messages).where(messages.c.case_no == case_no).order_by(messages.c.created, messages.c.id)
    return list(connection.execute(query).mappings())


@dataclass(frozen=True, slots=True)
class Filter:
    """What a listing shows; empty means every one.

    ``own`` is (caller, partner): messages that this caller sent or that this partner exchanged. ``cases`` limits to these
    cases, even when there are none.
    """

    tenants: tuple[str, ...] | None = None
    own: tuple[str, str] | None = None
    cases: tuple[str, ...] | None = None
    caller: str = ""
    partner: str = ""
    exchange: str = ""
    state: str = ""
    case_no: str = ""
    since: int = 0
    limit: int = 200
    before: str = ""


def listing(connection: Connection, wanted: Filter) -> list[RowMapping]:
    """Messages, newest first."""
    query = select(messages).order_by(messages.c.id.desc()).limit(wanted.limit)
    if wanted.tenants is not None:
        query = query.where(messages.c.tenant.in_(wanted.tenants))
    for column, value in (
        (messages.c.partner, wanted.partner),
        (messages.c.exchange, wanted.exchange),
        (messages.c.state, wanted.state),
        (messages.c.case_no, wanted.case_no),
        (messages.c.caller, wanted.caller),
    ):
        if value:
            query = query.where(column == value)
    if wanted.own is not None:
        caller, partner = wanted.own
        mine = [messages.c.caller == caller] + ([messages.c.partner == partner] if partner else [])
        query = query.where(or_(*mine))
    if wanted.cases is not None:
        query = query.where(messages.c.case_no.in_(wanted.cases))
    if wanted.since:
        query = query.where(messages.c.created >= wanted.since)
    if wanted.before:
        query = query.where(messages.c.id < wanted.before)
    return list(connection.execute(query).mappings())


@dataclass(frozen=True, slots=True)
class Backlog:
    """Work of one partner that is due now: the courier's share and the orchestrator's."""

    partner: str
    first_of_live: int
    orchestrated: int


def backlog(connection: Connection, at: int, grace_ms: int) -> list[Backlog]:
    """What is due now, per partner. What the courier left lying for ``grace_ms`` is the orchestrator's too."""
    first = and_(messages.c.lane == "live", messages.c.attempts == 0, messages.c.state != "leased")
    lost = and_(messages.c.state == "leased", messages.c.lease_until < at)
    query = (
        select(
            messages.c.partner,
            func.count().filter(first).label("live"),
            func.count().filter(or_(~first, messages.c.created <= at - grace_ms)).label("rest"),
        )
        .where(or_(_due(at), lost))
        .group_by(messages.c.partner)
    )
    return [Backlog(row.partner, row.live, row.rest) for row in connection.execute(query)]


def in_state(connection: Connection, partner: str, state: str) -> int:
    """How many messages of a partner are in a state."""
    query = select(func.count()).select_from(messages).where(messages.c.partner == partner, messages.c.state == state)
    return int(connection.execute(query).scalar_one())


def counts(connection: Connection) -> list[RowMapping]:
    """Messages by partner, exchange, direction and state, for metrics."""
    columns = (messages.c.partner, messages.c.exchange, messages.c.direction, messages.c.state)
    return list(connection.execute(select(*columns, func.count().label("n")).group_by(*columns)).mappings())


@dataclass(frozen=True, slots=True)
class Totals:
    """Figures of a period: messages that left or arrived, and who delivered them."""

    messages: int
    delivered: int
    dead: int
    by_courier: int
    by_airflow: int
    duplicates: int


def totals(connection: Connection, since: int) -> Totals:
    """Figures since a time (ms); ``duplicates`` counts from the ledger's beginning."""
    recent = select(func.count()).select_from(messages).where(messages.c.created >= since)
    by_whom = select(attempts.c.by, func.count()).where(attempts.c.outcome == "done", attempts.c.started >= since)
    done = {str(by): int(n) for by, n in connection.execute(by_whom.group_by(attempts.c.by))}
    repeats = select(func.coalesce(func.sum(counters.c.value), 0)).where(counters.c.name.startswith("duplicates:"))
    return Totals(
        messages=int(connection.execute(recent).scalar_one()),
        delivered=int(
            connection.execute(recent.where(messages.c.state.in_(("delivered", "confirmed", "answered")))).scalar_one()
        ),
        dead=int(connection.execute(recent.where(messages.c.state == "dead")).scalar_one()),
        by_courier=done.get("courier", 0),
        by_airflow=done.get("airflow", 0),
        duplicates=int(connection.execute(repeats).scalar_one()),
    )


def told(connection: Connection, case_no: str, partner: str, exchange: str) -> bool:
    """Whether the partner may know of the case by a message of this exchange, or an operator vouched that it does.

    An attempt that is under way counts; one that certainly reached nobody and one that the partner refused do not.
    """
    query = select(func.count()).where(
        messages.c.case_no == case_no,
        messages.c.partner == partner,
        messages.c.exchange == exchange,
        messages.c.state != "refused",
        or_(messages.c.state.in_(("leased", "skipped")), _reached()),
    )
    return bool(connection.execute(query).scalar_one())


def _reached() -> ColumnElement[bool]:
    return exists().where(attempts.c.message_id == messages.c.id, attempts.c.outcome.in_(MAY_HAVE_ARRIVED))


def cancel_unsent(connection: Connection, at: int, case_no: str, steps: Sequence[str]) -> int:
    """Cancel the case's messages of these steps that certainly reached nobody. Returns how many."""
    query = select(messages).where(
        messages.c.case_no == case_no,
        messages.c.state.in_(CLAIMABLE),
        messages.c.step.in_(steps),
        ~_reached(),
    )
    if connection.dialect.name != "sqlite":
        query = query.with_for_update()
    rows = list(connection.execute(query).mappings())
    for row in rows:
        change(connection, at, row, "message.cancelled", state="cancelled", reason="case_ended")
    return len(rows)
