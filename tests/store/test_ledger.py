"""Transactions: durable when they return, independent of their neighbours, honest when the database is busy."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, insert, select, text
from sqlalchemy.exc import DatabaseError

import hub.store.ledger as ledger_module
from hub.errors import Transient
from hub.store import cases
from hub.store.ledger import Collision, Ledger
from hub.store.tables import counters, heartbeats

WAIT_S = 20


def beat(name: str) -> Callable[[Any], str]:
    """A work that writes one row; a second one of the name collides."""

    def work(connection: Any) -> str:
        connection.execute(insert(heartbeats).values(process=name, at=1))
        return name

    return work


def beats(url: str) -> set[str]:
    """The rows as a connection sees them that has nothing to do with the ledger."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = {str(name) for name in connection.execute(select(heartbeats.c.process)).scalars()}
    engine.dispose()
    return found


def together(book: Ledger, works: list[Callable[[Any], Any]]) -> list[Future[Any]]:
    """Run works in as many threads, gathered behind one slow work so that SQLite commits them as one group."""
    entered, gate = threading.Event(), threading.Event()

    def slow(_: Any) -> None:
        entered.set()
        assert gate.wait(WAIT_S)

    pool = ThreadPoolExecutor(len(works) + 1)
    first = pool.submit(book.write, slow)
    assert entered.wait(WAIT_S)
    futures = [pool.submit(book.write, work) for work in works]
    if book.sqlite:
        until = time.monotonic() + WAIT_S
        while book._queue.qsize() < len(works) and time.monotonic() < until:
            time.sleep(0.002)
    gate.set()
    first.result(WAIT_S)
    pool.shutdown(wait=True)
    return futures


def test_a_write_is_on_disk_when_it_returns(ledger: Ledger, url: str) -> None:
    for n in range(5):
        assert ledger.write(beat(f"p{n}")) == f"p{n}"
        assert f"p{n}" in beats(url)


def test_a_failing_work_does_not_undo_its_neighbours(ledger: Ledger, url: str) -> None:
    ledger.write(beat("taken"))

    def half(connection: Any) -> None:
        beat("half")(connection)
        raise ValueError

    def collides(connection: Any) -> None:
        beat("before")(connection)
        beat("taken")(connection)

    works: list[Callable[[Any], Any]] = [beat("a"), half, beat("b"), collides, beat("c")]
    a, wrong, b, collided, c = together(ledger, works)
    assert [item.result() for item in (a, b, c)] == ["a", "b", "c"]
    assert isinstance(wrong.exception(), ValueError)
    assert isinstance(collided.exception(), Collision)
    assert beats(url) == {"taken", "a", "b", "c"}


def test_sqlite_commits_a_group_at_once(sqlite_url: str) -> None:
    book = Ledger(sqlite_url)
    commits: list[int] = []
    event.listen(book._writers, "commit", lambda _: commits.append(1))
    together(book, [beat(f"p{n}") for n in range(20)])
    book.close()
    assert len(commits) == 2  # the slow one, then the twenty
    assert len(beats(sqlite_url)) == 20


def test_more_works_than_a_group_holds(sqlite_url: str) -> None:
    book = Ledger(sqlite_url)
    done = together(book, [beat(f"p{n}") for n in range(ledger_module.BATCH + 10)])
    book.close()
    assert all(item.exception() is None for item in done)
    assert len(beats(sqlite_url)) == ledger_module.BATCH + 10


def test_the_same_key_is_taken_once(ledger: Ledger, other: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit((ledger, other)[n % 2].write, beat("one")) for n in range(16)]
    errors = [item.exception() for item in futures]
    assert errors.count(None) == 1
    assert all(error is None or isinstance(error, Collision) for error in errors)


def test_counters_have_no_twins(ledger: Ledger, other: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit((ledger, other)[n % 2].write, lambda c: cases.draw(c, "n")) for n in range(40)]
    assert sorted(item.result() for item in futures) == list(range(1, 41))


def test_reading_sees_one_snapshot(ledger: Ledger, other: Ledger) -> None:
    ledger.write(beat("a"))

    def twice(connection: Any) -> tuple[int, int]:
        count = text("SELECT count(*) FROM heartbeats")
        before = connection.execute(count).scalar_one()
        other.write(beat("b"))
        return before, connection.execute(count).scalar_one()

    assert ledger.read(twice) == (1, 1)


def test_the_databases_clock(ledger: Ledger) -> None:
    import hub.store.ledger as store

    at = ledger.read(store.now)
    assert abs(at - time.time() * 1000) < 5_000
    assert ledger.read(store.now) >= at


# Busy -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(ledger_module, "BUSY_MS", 150)
    book = Ledger(sqlite_url)
    yield book
    book.close()


def test_busy_is_said_and_nothing_is_lost(impatient: Ledger, sqlite_url: str, tmp_path: Path) -> None:
    impatient.write(beat("before"))
    blocker = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(Transient) as caught:
        impatient.write(beat("refused"))
    assert (caught.value.code, caught.value.retry_after_s) == ("busy", 2)
    # Reading goes on beside a writer.
    assert impatient.read(lambda c: c.execute(text("SELECT count(*) FROM heartbeats")).scalar_one()) == 1
    blocker.execute("ROLLBACK")
    blocker.close()
    assert impatient.write(beat("after")) == "after"
    assert impatient.write(beat("refused")) == "refused"
    assert beats(sqlite_url) == {"before", "after", "refused"}


def test_a_short_wait_is_no_error(impatient: Ledger, sqlite_url: str, tmp_path: Path) -> None:
    blocker = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.03, lambda: blocker.execute("ROLLBACK"))
    release.start()
    assert impatient.write(beat("waited")) == "waited"
    release.join()
    blocker.close()
    assert beats(sqlite_url) == {"waited"}


def test_an_operational_error_undoes_the_group_and_says_so(sqlite_url: str) -> None:
    book = Ledger(sqlite_url)

    def broken(connection: Any) -> None:
        connection.execute(text("SELECT * FROM no_such_table"))

    done = together(book, [beat("a"), broken, beat("b")])
    assert {type(item.exception()) for item in done} == {Transient}
    assert beats(sqlite_url) == set()
    assert book.write(beat("a")) == "a"
    book.close()


def test_the_writer_outlives_any_database_error(sqlite_url: str) -> None:
    """A disk fault at commit must reach the caller: a writer thread that died of it would leave every one waiting."""
    book = Ledger(sqlite_url)
    book.write(beat("before"))
    fail = [True]

    @event.listens_for(book._writers, "commit")
    def _broken(_: Any) -> None:
        if fail:
            fail.clear()
            raise DatabaseError("COMMIT", {}, sqlite3.DatabaseError("database disk image is malformed"))

    told: list[Exception] = []

    def write() -> None:
        try:
            book.write(beat("lost"))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must be told
            told.append(error)

    caller = threading.Thread(target=write, daemon=True)
    caller.start()
    caller.join(WAIT_S)
    assert [type(error) for error in told] == [Transient]
    assert book.write(beat("after")) == "after"
    book.close()
    assert beats(sqlite_url) == {"before", "after"}


def test_closing_leaves_no_one_waiting(sqlite_url: str) -> None:
    for _ in range(20):
        book = Ledger(sqlite_url)
        start = threading.Barrier(5)

        def write(book: Ledger = book, start: threading.Barrier = start) -> str:
            start.wait(WAIT_S)
            try:
                return book.write(lambda c: cases.draw(c, "n")) and "done"
            except Transient as error:
                return error.code

        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(write) for _ in range(4)]
            start.wait(WAIT_S)
            book.close()
            assert {item.result(WAIT_S) for item in futures} <= {"done", "busy"}


def test_a_closed_ledger_says_busy(sqlite_url: str) -> None:
    book = Ledger(sqlite_url)
    book.write(beat("a"))
    book.close()
    with pytest.raises(Transient):
        book.write(beat("b"))


def test_sqlite_settings(sqlite_url: str) -> None:
    """What the promises stand on."""
    book = Ledger(sqlite_url)

    def pragmas(connection: Any) -> list[Any]:
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]

    assert book.write(pragmas) == ["wal", 2]
    assert book.read(lambda c: c.exec_driver_sql("PRAGMA busy_timeout").scalar()) >= 10_000
    book.close()


def test_counters_grow_by_steps(ledger: Ledger) -> None:
    assert ledger.write(lambda c: cases.draw(c, "ywh:x", 20)) == 20
    assert ledger.write(lambda c: cases.draw(c, "ywh:x", 20)) == 40
    assert ledger.write(lambda c: cases.draw(c, "other")) == 1
    assert sorted(ledger.read(lambda c: c.execute(select(counters.c.value)).scalars().all())) == [1, 40]
