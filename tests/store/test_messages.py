"""Messages: claimed in order, under a lease that proves itself, and to be rebuilt from their events."""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from hub.model.identity import wire_id
from hub.store import cases, idempotency, messages, signs
from hub.store import ledger as store
from hub.store.cases import CaseRow
from hub.store.idempotency import Entry, Scope
from hub.store.ledger import Collision, Ledger, StaleLease
from hub.store.tables import attempts
from hub.store.tables import events as event_table
from hub.store.tables import messages as message_table
from tests.store import rows


def ids(claimed: list[Any]) -> list[str]:
    return [row["id"] for row in claimed]


def expire(book: Ledger, message_id: str) -> None:
    """Time passes until the lease has run out."""
    book.write(lambda c: c.execute(update(message_table).where(message_table.c.id == message_id).values(lease_until=1)))


# Order ----------------------------------------------------------------------------------------------------------------


def test_order_within_partner_and_case(ledger: Ledger) -> None:
    first, second, third = rows.add(ledger, rows.message(), rows.message(), rows.message())
    other_case, other_partner = rows.add(ledger, rows.message(case="C2"), rows.message("registry"))
    free, free_too = rows.add(ledger, rows.message(case=""), rows.message(case=""))
    claimed = rows.claim(ledger)
    assert set(ids(claimed)) == {first, other_case, other_partner, free, free_too}
    assert rows.claim(ledger) == []
    held = {row["id"]: row for row in claimed}
    rows.settle(ledger, held[first])
    (next_one,) = rows.claim(ledger)
    assert next_one["id"] == second
    rows.settle(ledger, next_one, rows.AGAIN)
    (again,) = rows.claim(ledger)
    assert (again["id"], again["attempts"]) == (second, 2)
    rows.settle(ledger, again, rows.DEAD)
    assert rows.claim(ledger) == []  # a dead letter blocks its own (partner, case)
    ledger.write(
        lambda c: messages.change(c, store.now(c), messages.get(c, second), "message.skipped", state="skipped")  # type: ignore[arg-type]
    )
    assert ids(rows.claim(ledger)) == [third]


def test_numbers_run_on_within_partner_and_case(ledger: Ledger) -> None:
    made = rows.add(ledger, rows.message(), rows.message("registry"), rows.message(), rows.message(direction="serve"))
    made += rows.add(ledger, rows.message())
    assert [rows.get(ledger, one)["seq"] for one in made] == [1, 1, 2, 0, 3]


def test_what_is_due_later_holds_back_what_is_behind(ledger: Ledger) -> None:
    first, _ = rows.add(ledger, rows.message(), rows.message())
    (row,) = rows.claim(ledger)
    assert row["id"] == first
    rows.settle(ledger, row, messages.Outcome("unsent", "x", "waiting", "x", wait_ms=60_000))
    assert rows.claim(ledger) == []


def test_claim_rules(ledger: Ledger) -> None:
    live, bulk, refused = rows.add(
        ledger, rows.message(), rows.message("platform", lane="bulk"), rows.message("hall", state="refused")
    )
    assert rows.claim(ledger, partner="registry") == []
    assert ids(rows.claim(ledger, partner="platform", first_of_live=True)) == []
    assert rows.claim(ledger, grace_ms=60_000, partner="tax") == []  # the courier's for a minute
    assert ids(rows.claim(ledger, without=("tax",), limit=1)) == [bulk]
    (row,) = rows.claim(ledger, first_of_live=True, by="courier", owner="c@1")
    assert (row["id"], row["lease_owner"]) == (live, "c@1")
    rows.settle(ledger, row, rows.AGAIN)
    assert rows.claim(ledger, first_of_live=True) == []  # no longer a first attempt
    assert ids(rows.claim(ledger, grace_ms=60_000)) == [live]
    assert rows.get(ledger, refused)["state"] == "refused"


def test_limit_and_backlog(ledger: Ledger) -> None:
    rows.add(ledger, *(rows.message(case=f"C{n}") for n in range(5)))
    rows.add(ledger, rows.message("platform", lane="bulk"))

    def backlog(grace: int) -> dict[str, tuple[int, int]]:
        found = ledger.read(lambda c: messages.backlog(c, store.now(c), grace))
        return {item.partner: (item.first_of_live, item.orchestrated) for item in found}

    assert backlog(60_000) == {"tax": (5, 0), "platform": (0, 1)}
    assert backlog(0) == {"tax": (5, 5), "platform": (0, 1)}
    claimed = rows.claim(ledger, limit=2, partner="tax")
    assert len(claimed) == 2
    assert backlog(60_000)["tax"] == (3, 0)
    expire(ledger, claimed[0]["id"])
    assert backlog(60_000)["tax"] == (3, 1)  # the lost one is the orchestrator's


# Leases and fences ----------------------------------------------------------------------------------------------------


def test_the_attempt_is_recorded_by_the_claim(ledger: Ledger) -> None:
    (one,) = rows.add(ledger, rows.message())
    (row,) = rows.claim(ledger, by="courier")
    (attempt,) = ledger.read(lambda c: list(c.execute(select(attempts)).mappings()))
    assert (attempt["message_id"], attempt["n"], attempt["by"], attempt["outcome"]) == (one, 1, "courier", "")
    assert (attempt["delivery_id"], attempt["fence"]) == (wire_id(one), row["fence"])
    assert not ledger.read(lambda c: messages.ever_ended(c, one, ("unsent",)))
    rows.settle(ledger, row, rows.AGAIN)
    rows.settle(ledger, rows.claim(ledger)[0])
    assert ledger.read(lambda c: messages.ever_ended(c, one, ("unknown", "unsent")))
    assert not ledger.read(lambda c: messages.ever_ended(c, one, ("unknown", "lost")))
    tried = ledger.read(lambda c: list(c.execute(select(attempts).order_by(attempts.c.n)).mappings()))
    assert [(a["n"], a["delivery_id"], a["outcome"]) for a in tried] == [
        (1, wire_id(one), "unsent"),
        (2, wire_id(one), "done"),
    ]
    assert all(a["started"] <= a["ended"] for a in tried)


def test_a_stale_fence_writes_nothing(ledger: Ledger, other: Ledger) -> None:
    (one,) = rows.add(ledger, rows.message())
    (sleeper,) = rows.claim(ledger, lease_ms=1)
    expire(ledger, one)
    (lost,) = other.read(lambda c: messages.expired(c, store.now(c)))
    rows.settle(other, lost, messages.Outcome("lost", "worker_lost", "waiting", "worker_lost"))
    before, events = rows.get(ledger, one), rows.count_events(ledger)
    for _ in range(2):
        with pytest.raises(StaleLease):
            rows.settle(ledger, sleeper)
        assert (rows.get(ledger, one), rows.count_events(ledger)) == (before, events)
        if before["state"] == "waiting":
            (taken,) = rows.claim(other)
            assert taken["fence"] > sleeper["fence"]
            before, events = rows.get(ledger, one), rows.count_events(ledger)
    rows.settle(other, taken)
    with pytest.raises(StaleLease):
        rows.settle(other, taken)


def test_a_living_lease_is_not_expired(ledger: Ledger) -> None:
    (one,) = rows.add(ledger, rows.message())
    rows.claim(ledger)
    assert ledger.read(lambda c: messages.expired(c, store.now(c))) == []
    expire(ledger, one)
    assert ids(ledger.read(lambda c: messages.expired(c, store.now(c), "tax"))) == [one]
    assert ledger.read(lambda c: messages.expired(c, store.now(c), "registry")) == []


def test_many_workers_take_each_message_once(ledger: Ledger, other: Ledger) -> None:
    made = [rows.message(case=f"C{n % 7}") for n in range(42)]
    rows.add(ledger, *made)
    taken: list[str] = []

    def work(book: Ledger) -> None:
        idle = 0
        while idle < 20:
            claimed = rows.claim(book, limit=3)
            idle = 0 if claimed else idle + 1
            for row in claimed:
                taken.append(row["id"])
                rows.settle(book, row)

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(work, (ledger, other)[n % 2]) for n in range(6)]:
            future.result(60)
    left = {row["id"]: row["state"] for row in ledger.read(lambda c: list(c.execute(select(message_table)).mappings()))}
    assert set(left.values()) == {"delivered"}
    assert sorted(taken) == sorted(item.id for item in made)
    for case in range(7):
        order = [one for one in taken if one in {m.id for m in made[case::7]}]
        assert order == [m.id for m in made[case::7]]


# Evidence -------------------------------------------------------------------------------------------------------------


def test_messages_can_be_rebuilt_from_events(ledger: Ledger) -> None:
    made = rows.add(ledger, rows.message(), rows.message("registry", caller="hall"), rows.message(case="C2"))
    for result in (rows.AGAIN, rows.DEAD):
        for row in rows.claim(ledger):
            rows.settle(ledger, row, result)
    rows.claim(ledger)
    for one in made:
        row, said = rows.get(ledger, one), rows.last_content(ledger, one)
        assert {name: row[name] for name in messages.PROJECTED} == {name: said[name] for name in messages.PROJECTED}


def test_places_of_events_are_unique_and_rise(ledger: Ledger, other: Ledger) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(rows.add, (ledger, other)[n % 2], rows.message(case=f"C{n}")) for n in range(24)]
        assert all(item.result(60) for item in done)
    places = ledger.read(lambda c: list(c.execute(select(event_table.c.pos).order_by(event_table.c.pos)).scalars()))
    assert len(places) == 24
    if ledger.sqlite:
        assert places == list(range(1, 25))


UNKNOWN = messages.Outcome("unknown", "answer_lost", "waiting", "answer_lost")


@pytest.mark.parametrize(
    ("result", "knows", "becomes"),
    [
        (rows.AGAIN, False, "cancelled"),  # certainly reached nobody
        (UNKNOWN, True, "waiting"),
        (rows.DEAD, True, "dead"),  # it answered, if not as declared
        (rows.DONE, True, "delivered"),
        (messages.Outcome("refused", "3001", "refused", "partner_refused"), False, "refused"),
    ],
)
def test_cancel_and_told(ledger: Ledger, result: messages.Outcome, knows: bool, becomes: str) -> None:
    tried, fresh, elsewhere = rows.add(
        ledger, rows.message(exchange="a"), rows.message(exchange="b"), rows.message(case="C2")
    )

    def told(exchange: str) -> bool:
        return ledger.read(lambda c: messages.told(c, "C1", "tax", exchange))

    (row,) = [row for row in rows.claim(ledger) if row["id"] == tried]
    assert told("a")  # under way: it may arrive at any moment
    rows.settle(ledger, row, result)
    assert (told("a"), told("b")) == (knows, False)
    cancelled = ledger.write(lambda c: messages.cancel_unsent(c, store.now(c), "C1", ["tax"]))
    states = [rows.get(ledger, one)["state"] for one in (tried, fresh, elsewhere)]
    assert states == [becomes, "cancelled", "leased"]
    assert cancelled == states.count("cancelled")


# Keys and cases -------------------------------------------------------------------------------------------------------

SCOPE = Scope(rows.TENANT, "hall", "hall/application", "k" * 64)


def test_a_key_is_taken_once_per_revision(ledger: Ledger, other: Ledger) -> None:
    def take(book: Ledger, message: str) -> None:
        book.write(lambda c: idempotency.remember(c, store.now(c), SCOPE, Entry(1, "d", message, "{}")))

    with ThreadPoolExecutor(6) as pool:
        done = [pool.submit(take, (ledger, other)[n % 2], f"m{n}") for n in range(12)]
    assert sorted(type(item.exception()).__name__ for item in done) == ["Collision"] * 11 + ["NoneType"]
    ledger.write(lambda c: idempotency.remember(c, store.now(c), SCOPE, Entry(2, "e", "m", "{}")))
    assert [row["revision"] for row in ledger.read(lambda c: idempotency.known(c, SCOPE))] == [1, 2]
    assert ledger.write(lambda c: idempotency.prune(c, store.now(c) + 1)) == 2
    assert ledger.read(lambda c: idempotency.known(c, SCOPE)) == []


def a_case(**changes: Any) -> CaseRow:
    values: dict[str, Any] = {
        "no": "C1",
        "unified_no": "",
        "tenant": rows.TENANT,
        "matter": "clf_transfer",
        "matter_version": 1,
        "state": "running",
        "step": "tax",
        "waiting_for": "tax",
        "reason": "",
        "version": 1,
        "data": {"documents": {}},
        "created": 0,
        "updated": 0,
    }
    return CaseRow(**{**values, **changes})


def test_a_case_moves_only_from_the_version_that_was_read(ledger: Ledger) -> None:
    ledger.write(lambda c: cases.open_case(c, store.now(c), a_case()))
    with pytest.raises(Collision):
        ledger.write(lambda c: cases.open_case(c, store.now(c), a_case()))
    ledger.write(lambda c: cases.move(c, store.now(c), a_case(version=2, unified_no="TY1"), 1))
    events = rows.count_events(ledger)
    with pytest.raises(Collision):
        ledger.write(lambda c: cases.move(c, store.now(c), a_case(version=2, state="stopped"), 1))
    assert rows.count_events(ledger) == events
    found = ledger.read(lambda c: cases.get(c, "TY1"))
    assert found is not None
    assert (found.no, found.version, found.state) == ("C1", 2, "running")
    assert ledger.read(lambda c: cases.get(c, "")) is None


def test_blind_index_finds_by_tenant(ledger: Ledger) -> None:
    ledger.write(lambda c: cases.index(c, rows.TENANT, "C1", [("name", "i1", "t"), ("name", "i1", "t")]))
    ledger.write(lambda c: cases.index(c, "510198", "C2", [("name", "i1", "t")]))
    assert ledger.read(lambda c: cases.find(c, None, "name", [("i1", "t")])) == ["C1", "C2"]
    assert ledger.read(lambda c: cases.find(c, (rows.TENANT,), "name", [("i1", "t"), ("i2", "u")])) == ["C1"]
    assert ledger.read(lambda c: cases.find(c, None, "number", [("i1", "t")])) == []


def test_health_keeps_since_when(ledger: Ledger) -> None:
    def note(at: int, *, up: bool) -> tuple[int, int, int]:
        ledger.write(lambda c: signs.note_health(c, at, "tax", up=up, code=""))
        (row,) = ledger.read(signs.partners)
        return row["up"], row["since"], row["seen"]

    assert note(10, up=True) == (1, 10, 10)
    assert note(20, up=True) == (1, 10, 20)
    assert note(30, up=False) == (0, 30, 30)
    ledger.write(lambda c: signs.beat(c, 5, "courier"))
    ledger.write(lambda c: signs.beat(c, 7, "courier"))
    assert ledger.read(lambda c: (signs.last_beat(c, "courier"), signs.last_beat(c, "other"))) == (7, 0)


def test_an_event_is_never_written_twice(ledger: Ledger) -> None:
    """The place is the key: a second event at a place collides."""
    rows.add(ledger, rows.message())
    row = ledger.read(lambda c: dict(c.execute(select(event_table)).mappings().one()))
    with pytest.raises(Collision):
        ledger.write(lambda c: c.execute(insert(event_table).values(**{**row, "id": "x"})))
    assert json.loads(row["content"])["state"] == "ready"


def test_the_file_is_whole(sqlite_url: str) -> None:
    book = Ledger(sqlite_url)
    rows.add(book, *(rows.message(case=f"C{n}") for n in range(50)))
    book.close()
    connection = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
