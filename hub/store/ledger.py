"""Opens the ledger's database and runs transactions on it: group commit on SQLite, plain transactions elsewhere.

SQLite takes one writer at a time. One thread per process owns the writing connection; what callers hand in while a
commit is under way is committed together, each in its own savepoint, so that one caller's error undoes only its own
work. ``synchronous=FULL``: when ``write`` returns, the change is on disk.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, RowMapping, create_engine, event, text
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool, QueuePool

from hub.errors import Transient

T = TypeVar("T")
BATCH = 64
BUSY_MS = 10_000


class Collision(Exception):
    """Two transactions wanted the same row; read again and try again."""


class StaleLease(Exception):
    """The lease was lost: another worker holds the message now. Nothing was written."""


def busy() -> Transient:
    """What a caller is told when the database cannot be written in time."""
    return Transient("busy", "the ledger is busy, try again", "账本繁忙, 请稍后重试", retry_after_s=2)


def open_engine(url: str, *, writer: bool = False) -> Engine:
    """An engine with the ledger's settings; it opens nothing until used."""
    if not url.startswith("sqlite"):
        return create_engine(url, pool_size=10, max_overflow=10, pool_pre_ping=True, hide_parameters=True)
    # A connection stays in the thread that made it: the reader pool hands one to one thread at a time.
    engine = create_engine(
        url,
        poolclass=NullPool if writer else QueuePool,
        # Values of a statement may be personal or a key: no exception may carry them.
        hide_parameters=True,
        connect_args={"timeout": BUSY_MS / 1000, "check_same_thread": False},
        **({} if writer else {"pool_size": 16, "max_overflow": 16}),
    )

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own object
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")

    return engine


@dataclass(slots=True)
class _Work:
    run: Callable[[Connection], Any]
    done: Future[Any]


class Ledger:
    """The database as the rest of the hub sees it: ``read`` and ``write``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sqlite = url.startswith("sqlite")
        self._writers = open_engine(url, writer=True)
        # One snapshot for all that a reader asks: SQLite gives it to every transaction, PostgreSQL when told.
        self._readers = (
            open_engine(url) if self.sqlite else self._writers.execution_options(isolation_level="REPEATABLE READ")
        )
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closed = False

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` on one consistent snapshot."""
        try:
            with self._readers.begin() as connection:
                return work(connection)
        except OperationalError as error:
            raise busy() from error

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in one transaction and return after it is durable.

        ``work`` may be run again from the start by the caller after ``Collision``; it must not act outside the
        connection that it is given.

        Raises:
            Collision: a unique row existed already.
            Transient: ``busy``, the database could not be written in time.
        """
        if self.sqlite:
            return self._write_in_group(work)
        try:
            with self._writers.begin() as connection:
                return work(connection)
        except IntegrityError as error:
            raise Collision from error
        except OperationalError as error:
            raise busy() from error

    def close(self) -> None:
        """Finish what is queued and close every connection."""
        with self._starting:
            self._closed = True
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(None)
        if thread is not None:
            thread.join()
        self._readers.dispose()
        self._writers.dispose()

    def _write_in_group(self, work: Callable[[Connection], T]) -> T:
        done: Future[T] = Future()
        # Under the lock nothing is queued behind the end: nobody would serve it and its caller would wait for ever.
        with self._starting:
            if self._closed:
                raise busy()
            if self._thread is None:
                # Started at the first write and never before a fork.
                self._thread = threading.Thread(target=self._serve, name="ledger-writer", daemon=True)
                self._thread.start()
            self._queue.put(_Work(work, done))
        return done.result()

    def _serve(self) -> None:
        connection: Connection | None = None
        stopping = False
        while not stopping:
            batch, stopping = self._next_batch()
            if not batch:
                break
            try:
                if connection is None:
                    connection = self._writers.connect()
                self._commit(connection, batch)
            except SQLAlchemyError as error:
                # Whatever the database says, the thread must live: every writer of the process waits for it.
                for item in batch:
                    if not item.done.done():
                        item.done.set_exception(busy().with_traceback(error.__traceback__))
                if connection is not None:
                    # Not back into use: what it holds may be half undone.
                    connection.invalidate()
                    connection.close()
                    connection = None
        if connection is not None:
            connection.close()

    def _next_batch(self) -> tuple[list[_Work], bool]:
        first = self._queue.get()
        if first is None:
            return [], True
        batch = [first]
        while len(batch) < BATCH:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
            if item is None:
                return batch, True
            batch.append(item)
        return batch, False

    @staticmethod
    def _commit(connection: Connection, batch: list[_Work]) -> None:
        results: list[tuple[_Work, Any]] = []
        with connection.begin():
            for item in batch:
                savepoint = connection.begin_nested()
                try:
                    value = item.run(connection)
                except OperationalError:
                    savepoint.rollback()
                    raise
                except IntegrityError as error:
                    savepoint.rollback()
                    collision = Collision()
                    collision.__cause__ = error
                    item.done.set_exception(collision)
                except BaseException as error:  # noqa: BLE001 - it belongs to the caller, who gets it
                    savepoint.rollback()
                    item.done.set_exception(error)
                else:
                    savepoint.commit()
                    results.append((item, value))
        for item, value in results:
            item.done.set_result(value)


SQLITE_NOW = "CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)"
POSTGRES_NOW = "CAST(extract(epoch from clock_timestamp()) * 1000 AS BIGINT)"


def now(connection: Connection) -> int:
    """The database's clock in milliseconds: leases of several machines are compared on it alone."""
    sql = SQLITE_NOW if connection.dialect.name == "sqlite" else POSTGRES_NOW
    return int(connection.execute(text(f"SELECT {sql}")).scalar_one())


# The store's words for those above it: SQLAlchemy itself is imported in `hub.store` alone.
__all__ = ["Collision", "Connection", "Ledger", "RowMapping", "StaleLease", "busy", "now", "open_engine"]
