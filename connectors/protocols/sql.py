"""The front-end table wire (前置库): rows written in one transaction under the delivery id, rows read again and again over an overlap.

Databases by URL: PostgreSQL (``postgresql://``, psycopg), MariaDB and MySQL (``mariadb://``, ``mysql://``, PyMySQL), SQLite
(``sqlite:////absolute/file``). Others by the SQLAlchemy dialect that their maker ships and an operator installs, not tested
here: Dameng ``dm+dmPython://`` (packages dmSQLAlchemy 2.0 and dmPython), Kingbase ``kingbase+ksycopg2://`` (ksycopg2 and the
maker's dialect package for SQLAlchemy 2; the public one is for 1.3). There two writers of one delivery at the same moment are
kept apart by a unique constraint of the table alone, and no read of a silent server is cut short.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, make_url

from connectors.protocols import sql_values
from connectors.protocols.sql_options import Source, Spec, Target, source_of, targets_of
from connectors.protocols.sql_values import Kind, Mark, UnfitError
from hub.errors import HubError, Misconfigured, Unknown, Unsent
from hub.model.declarations import Exchange, Partner
from hub.ports import Clock, FeedItem, Incoming, Outgoing

Result = TypeVar("Result")

ROWS_LIMIT: Final = 9_999
"""Rows that one list of a document may make."""

_DRIVERS: Final = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}
_MYSQL: Final = ("mysql", "mariadb")
# Rows that have no key or no place in the order cannot be read page by page.
_ODD_LIMIT: Final = 1_000
_KEYS_AT_ONCE: Final = 100
_RECYCLE_S: Final = 600
_CODE_LIMIT: Final = 64
_SQLITE_PASSING: Final = (5, 6, 14)  # busy, locked, cannot be opened
_SQLITE_BUSY: Final = 5
# MariaDB's complaints that the driver sorts under "operational": about the values, about us, about a lost race.
_MYSQL_UNFIT: Final = frozenset({1048, 1062, 1264, 1265, 1292, 1364, 1366, 1406, 3819, 4025})
_MYSQL_OURS: Final = frozenset({1044, 1045, 1049, 1054, 1142, 1143, 1146, 1227, 1290, 1698, 1836})
_MYSQL_ROLLED_BACK: Final = frozenset({1205, 1213})
# The client library tells a refused login from an unreachable server by its text only.
_LOGIN_REFUSED: Final = ("authentication failed", "no password supplied", "no pg_hba.conf entry", "does not exist")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Row:
    """What ``settle`` needs: which row, and what it said when it was read."""

    key: tuple[object, ...] = field(repr=False)
    digest: str


@dataclass(frozen=True, slots=True)
class _Table:
    table: sa.Table
    kinds: Mapping[str, Kind]

    def column(self, name: str) -> sa.Column[Any]:
        if name not in self.kinds:
            raise Misconfigured(
                "column_missing",
                f"Table {self.table.name} has no column {name}.",
                f"表 {self.table.name} 没有列 {name}。",
            )
        return self.table.c[name]

    def bound(self, name: str, value: object) -> object:
        """A value as the column takes it; raises UnfitError."""
        column = self.column(name)
        fit = sql_values.bindable(value, self.kinds[name])
        if getattr(column.type, "timezone", False):
            return fit.replace(tzinfo=sql_values.LOCAL)  # type: ignore[attr-defined] # a time column's value
        # SQLite has neither times nor decimals: there they are text, which the column's affinity turns into numbers.
        raw = isinstance(column.type, sa.types.NullType)
        return fit if not raw or fit is None or isinstance(fit, int | float | str) else str(fit)

    def equal(self, values: Mapping[str, object]) -> list[sa.ColumnElement[bool]]:
        """Conditions; NULL equals NULL."""
        return [self.column(n).is_(None) if v is None else self.column(n) == v for n, v in values.items()]


class _ClashError(Exception):
    """A constraint or a type of the table refuses the row; nothing was written."""


class SqlWire:
    """`hub.ports.Transport` and `hub.ports.Feed` over a partner's front-end tables. Safe between threads.

    Nothing connects before it is used, no transaction stays open while the caller works, nothing is remembered between takings.
    Answers: ``{"code": "inserted"}`` and ``{"code": "present"}`` (200), ``missing`` (404, a query), ``conflict`` (409: another
    delivery's row has the key), ``unfit`` (422: a value or a constraint of the table refuses the row).

    Args:
        base_of: the database's URL; raises Misconfigured when the partner lives nowhere.
        secrets: slug → what the key file holds for that partner (``user`` and ``password`` win over the URL's).
        clock: wall clock: a row whose time has not come moves no mark.
    """

    def __init__(
        self, base_of: Callable[[Partner], str], secrets: Mapping[str, Mapping[str, str]], clock: Clock
    ) -> None:
        self._base_of = base_of
        self._secrets = secrets
        self._clock = clock
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._databases: dict[tuple[str, str], _Database] = {}

    def __call__(self, outgoing: Outgoing) -> Incoming:
        """Write the document's rows, or (purpose ``query``) look whether they were written.

        Raises:
            Unsent: ``partner_unreachable``, ``partner_busy``.
            Unknown: ``answer_lost``: the connection broke while committing.
            Misconfigured: ``endpoint_invalid``, ``driver_missing``, ``credentials_refused``, ``table_missing``,
                ``column_missing``, ``table_not_transactional``, ``statement_refused``, ``options_invalid``.
        """
        targets, delivery_column = targets_of(outgoing.exchange)
        database = self._database(outgoing.partner)
        delivery = _Delivery(database, targets, delivery_column, outgoing.delivery_id, outgoing.document)
        if outgoing.purpose == "query":
            return delivery.ask()
        try:
            return delivery.write()
        except _ClashError:
            # Perhaps another writer was quicker: what stands there now is the answer.
            return delivery.after_clash()

    def take(self, partner: Partner, exchange: Exchange, mark: str) -> Iterator[FeedItem]:
        """Rows from ``overlap`` before the mark on, in order, page by page; rows without an order value or key at the end.

        The key names the row and its content, so that a row that changed is another item. The mark never goes back, unless the
        source itself begins anew (its highest value is below the mark): then everything is read. A row whose time has not come
        does not move it. A row that can be no document (bytes, a number too long) has the document ``None``.

        Raises:
            Unsent: ``partner_unreachable``, ``partner_busy``.
            Misconfigured: as `__call__`, and ``order_unusable``, ``column_binary``, ``mark_unreadable``, ``rows_unordered``.
        """
        source = source_of(exchange)
        reading = _Reading(self._database(partner), source, self._clock)
        return reading.items(mark)

    def settle(self, partner: Partner, exchange: Exchange, item: FeedItem) -> None:
        """Write ``mark_taken``, if declared and if the row is still as it was read.

        Raises:
            Unsent: ``partner_unreachable``, ``partner_busy``: settle again, or meet the row again.
            Misconfigured: as `take`.
        """
        source = source_of(exchange)
        self._write_back(partner, source, item, source.taken)

    def refuse(self, partner: Partner, exchange: Exchange, item: FeedItem, code: str) -> None:
        """Write ``mark_refused``, if declared; the error column takes the code only.

        Raises:
            Unsent: as `settle`.
            Misconfigured: as `take`.
        """
        source = source_of(exchange)
        told = {source.error_column: code[:_CODE_LIMIT]} if source.error_column else {}
        self._write_back(partner, source, item, {**source.refused, **told})

    def close(self) -> None:
        """Let every connection go."""
        if self._pid == os.getpid():
            with self._lock:
                databases = list(self._databases.values())
                self._databases.clear()
            for database in databases:
                database.engine.dispose()

    def _write_back(self, partner: Partner, source: Source, item: FeedItem, values: Mapping[str, object]) -> None:
        if values and isinstance(item.receipt, _Row):
            row = item.receipt
            reading = _Reading(self._database(partner), source, self._clock)
            reading.write_back(row, values)

    def _database(self, partner: Partner) -> _Database:
        if self._pid != os.getpid():
            # After a fork the connections are the parent's: not to be used here, nor to be closed.
            for database in self._databases.values():
                database.engine.dispose(close=False)
            self._pid, self._lock, self._databases = os.getpid(), threading.Lock(), {}
        url = self._base_of(partner)
        with self._lock:
            found = self._databases.get((partner.slug, url))
            if found is None:
                found = _Database(_url_of(url, self._secrets.get(partner.slug, {})), partner)
                self._databases[partner.slug, url] = found
            return found


class _Database:
    """One partner's database in this process: engine and tables."""

    def __init__(self, url: URL, partner: Partner) -> None:
        self._partner = partner
        self.engine = _engine_of(url, partner)
        self.dialect = self.engine.dialect.name
        self._lock = threading.Lock()
        self._tables: dict[Spec, _Table] = {}

    def run(
        self,
        work: Callable[[sa.Connection], tuple[Result, bool]],
        *,
        locks: Sequence[str] = (),
        writes: bool = False,
        repeatable: bool = False,
        clashes: bool = False,
    ) -> Result:
        """Do ``work`` in one transaction, which is committed if it says that it wrote.

        Args:
            work: gives its result and whether there is something to commit.
            locks: names that one transaction at a time may hold, where the database has such locks.
            writes: SQLite takes its one write lock at once then.
            repeatable: a second time would do no harm, so that a lost commit is as good as none.
            clashes: the caller knows what to do when the table refuses a row.

        Raises:
            HubError: what the trouble means.
            _ClashError: the table refuses the row.
        """
        committing = False
        trouble: HubError | _ClashError
        try:
            with (
                self.engine.connect().execution_options(dukou_writes=writes) as connection,
                _deadline(connection, self._partner.read_s),
                self._locked(connection, locks),
            ):
                result, wrote = work(connection)
                if wrote:
                    committing = not repeatable
                    connection.commit()
                    committing = False
                return result
        except (exc.SQLAlchemyError, UnicodeError, OverflowError) as error:
            trouble = _meaning(error, committing=committing)
        if isinstance(trouble, _ClashError) and not clashes:
            trouble = _statement_refused()
        if isinstance(trouble, Misconfigured):
            with self._lock:
                self._tables.clear()
        raise trouble

    def table(self, connection: sa.Connection, spec: Spec) -> _Table:
        """A table, reflected once per process unless its columns are declared."""
        with self._lock:
            found = self._tables.get(spec)
        if found is None:
            found = _declared(spec, self.dialect) if spec.types else _reflected(connection, spec)
            with self._lock:
                self._tables[spec] = found
        return found

    @contextlib.contextmanager
    def _locked(self, connection: sa.Connection, names: Sequence[str]) -> Iterator[None]:
        """Hold database-wide locks. PostgreSQL's end with the transaction, MariaDB's must be given back after it."""
        digests = sorted(hashlib.sha256(name.encode()).digest() for name in names)
        if digests and self.dialect == "postgresql":
            limit = sa.func.set_config("statement_timeout", str(math.ceil(self._partner.read_s * 1000)), True)  # noqa: FBT003 - SQL's
            numbers = [int.from_bytes(digest[:8], signed=True) for digest in digests]
            locks = [sa.func.pg_advisory_xact_lock(sa.literal(number, sa.BigInteger)) for number in numbers]
            connection.execute(sa.select(limit, *locks))
        if not digests or self.dialect not in _MYSQL:
            yield
            return
        held = [f"dukou:{digest.hex()[:40]}" for digest in digests]
        try:
            for name in held:
                if connection.scalar(sa.select(sa.func.get_lock(name, math.ceil(self._partner.read_s)))) != 1:
                    raise _busy()
            yield
        finally:
            _release(connection, held)


class _Delivery:
    """One document on its way into its tables."""

    def __init__(
        self, database: _Database, targets: Sequence[Target], column: str, delivery_id: str, document: object
    ) -> None:
        self._database = database
        self._targets = targets
        self._column = column
        self._id = delivery_id
        self._document = document

    def write(self) -> Incoming:
        """Unless it is there already: every row, in one transaction."""
        head = self._targets[0].spec.table
        names = [f"{head}\0{self._id}"]
        with contextlib.suppress(UnfitError):
            key = self._elements(self._targets[0])[0]
            values = [sql_values.pointed(key, pointer) for pointer in self._key_pointers(self._targets[0])]
            # Two deliveries with one key must not look for it at the same moment and find none both.
            names.append(f"{head}\0key\0{values!r}")
        return self._database.run(self._write, locks=names, writes=True, clashes=True)

    def ask(self) -> Incoming:
        """Whether the delivery is there."""
        found = self._database.run(lambda connection: (self._present(connection), False))
        return _answer(200, "present") if found else _answer(404, "missing")

    def after_clash(self) -> Incoming:
        """What stands there, now that the table refused our rows."""

        def look(connection: sa.Connection) -> tuple[Incoming, bool]:
            if self._present(connection):
                return _answer(200, "present"), False
            try:
                return self._standing(connection, self._rows(connection)) or _answer(422, "unfit"), False
            except UnfitError:
                return _answer(422, "unfit"), False

        try:
            return self._database.run(look, clashes=True)
        except _ClashError:
            return _answer(422, "unfit")

    def _write(self, connection: sa.Connection) -> tuple[Incoming, bool]:
        if self._present(connection):
            return _answer(200, "present"), False
        try:
            rows = self._rows(connection)
        except UnfitError:
            return _answer(422, "unfit"), False
        standing = self._standing(connection, rows)
        if standing is not None:
            return standing, False
        for (table, _), made in rows:
            if made:
                connection.execute(sa.insert(table.table), made)
        return _answer(200, "inserted"), True

    def _present(self, connection: sa.Connection) -> bool:
        target = self._targets[0]
        table = self._database.table(connection, target.spec)
        mark = self._mark(target, 1)
        return connection.execute(sa.select(1).where(table.column(self._column) == mark).limit(1)).first() is not None

    def _standing(self, connection: sa.Connection, rows: _Rows) -> Incoming | None:
        """What already stands under the keys of these rows."""
        for (table, key), made in rows:
            for begin in range(0, len(made), _KEYS_AT_ONCE):
                wanted = made[begin : begin + _KEYS_AT_ONCE]
                conditions = [sa.and_(*table.equal({name: row[name] for name in key})) for row in wanted]
                found = connection.scalars(
                    sa.select(table.column(self._column)).where(sa.or_(*conditions)).limit(1)
                ).all()
                if found:
                    ours = found[0] in {row[self._column] for row in wanted}
                    return _answer(200, "present") if ours else _answer(409, "conflict")
        return None

    def _rows(self, connection: sa.Connection) -> _Rows:
        """The rows of every table; raises UnfitError."""
        return [
            ((table, target.key), self._rows_of(target, table))
            for target in self._targets
            for table in [self._database.table(connection, target.spec)]
        ]

    def _rows_of(self, target: Target, table: _Table) -> list[dict[str, object]]:
        rows = []
        for number, element in enumerate(self._elements(target), 1):
            values = {name: sql_values.pointed(element, pointer) for name, pointer in target.columns.items()}
            values |= {**target.fixed, self._column: self._mark(target, number)}
            rows.append({name: table.bound(name, value) for name, value in values.items()})
        keys = [tuple(row.get(name) for name in target.key) for row in rows]
        if len(set(keys)) < len(keys) or any(None in key for key in keys):
            raise UnfitError
        return rows

    def _elements(self, target: Target) -> list[object]:
        if target.rows == "/":
            return [self._document]
        found = sql_values.pointed(self._document, target.rows)
        head = target is self._targets[0]
        if not isinstance(found, list | None) or len(found or ()) > ROWS_LIMIT or (head and not found):
            raise UnfitError
        return found or []

    def _mark(self, target: Target, number: int) -> str:
        """What a row's delivery column takes: the rows of a list are numbered, since the column may be unique."""
        return self._id if target.rows == "/" else f"{self._id}-{number:04d}"

    def _key_pointers(self, target: Target) -> list[str]:
        return [target.columns[name] for name in target.key if name in target.columns]


_Rows = list[tuple[tuple[_Table, tuple[str, ...]], list[dict[str, object]]]]


class _Reading:
    """A table that is read."""

    def __init__(self, database: _Database, source: Source, clock: Clock) -> None:
        self._database = database
        self._source = source
        self._clock = clock

    def items(self, mark: str) -> Iterator[FeedItem]:
        """Everything from the mark's overlap on."""
        table, names = self._database.run(lambda connection: (self._opened(connection), False))
        reached, start = self._database.run(lambda connection: (self._start(connection, table, mark), False))
        after: tuple[object, ...] | None = None
        while True:
            rows = self._page(table, names, start, after)
            for values in rows:
                # Order value and key lead every row.
                reached = self._reached(table, reached, values[0])
                yield self._item(names, values, reached)
            if len(rows) < self._source.page:
                break
            after = tuple(rows[-1][: 1 + len(self._source.key)])
        for values in self._odd(table, names):
            yield self._item(names, values, reached)

    def write_back(self, row: _Row, values: Mapping[str, object]) -> None:
        """Update a row that is still as it was read."""
        self._database.run(
            lambda connection: ((), self._write_back(connection, row, values)), writes=True, repeatable=True
        )

    def _opened(self, connection: sa.Connection) -> tuple[_Table, tuple[str, ...]]:
        source = self._source
        table = self._database.table(connection, source.spec)
        if table.kinds.get(source.order_by) in ("float", "boolean", "binary", "other"):
            raise Misconfigured(
                "order_unusable",
                f"Column {source.order_by} does not order rows exactly; a time, a number or text does.",
                f"列 {source.order_by} 不能用于排序；可用时间、整数、定点数或文本。",
            )
        names = source.columns or tuple(name for name in table.kinds if name not in source.owned)
        for name in (*names, *source.key, source.order_by, *source.owned):
            if table.column(name) is not None and table.kinds[name] == "binary" and name in names:
                raise Misconfigured(
                    "column_binary",
                    f"Column {name} holds bytes; list the columns to read without it.",
                    f"列 {name} 为二进制；请用 columns 列出其余列。",
                )
        return table, names

    def _start(self, connection: sa.Connection, table: _Table, mark: str) -> tuple[Mark | None, Mark | None]:
        """The mark that was reached (``None``: none, or the source began anew), and where reading begins."""
        source = self._source
        trouble = False
        try:
            reached = sql_values.mark_of(mark) if mark else None
            if reached is None or source.marks_itself or not (source.seconds or source.rows):
                return None, None
            highest = connection.scalar(sa.select(sa.func.max(table.column(source.order_by))))
            if highest is None or highest < reached:
                return None, None
            if source.seconds:
                return reached, sql_values.earlier(reached, source.seconds)
        except (UnfitError, TypeError):
            trouble = True
            reached = None
        if trouble or reached is None:
            raise Misconfigured(
                "mark_unreadable",
                f"The mark kept for table {source.spec.table} does not fit its column {source.order_by} and overlap.",
                f"表 {source.spec.table} 保存的位点与列 {source.order_by} 及 overlap 不符。",
            )
        return reached, self._rows_before(connection, table, reached)

    def _rows_before(self, connection: sa.Connection, table: _Table, mark: Mark) -> Mark | None:
        if isinstance(mark, int | Decimal):
            # Places in a sequence: rows would be fewer than they seem when late ones have filled the gaps.
            return mark - self._source.rows
        order = table.column(self._source.order_by)
        before = sa.select(order).where(order <= mark).order_by(order.desc()).offset(self._source.rows).limit(1)
        found: Mark | None = connection.scalar(before)
        return found

    def _page(
        self, table: _Table, names: Sequence[str], start: Mark | None, after: tuple[object, ...] | None
    ) -> list[tuple[Any, ...]]:
        source = self._source
        leading = [table.column(name) for name in (source.order_by, *source.key)]
        asked = sa.select(*leading, *(table.column(name) for name in names))
        asked = asked.where(*self._new(table), *(column.is_not(None) for column in leading))
        if start is not None:
            asked = asked.where(leading[0] >= start)
        if after is not None:
            asked = asked.where(_beyond(leading, after))
        asked = asked.order_by(*leading).limit(source.page)
        return self._database.run(lambda connection: ([tuple(row) for row in connection.execute(asked)], False))

    def _odd(self, table: _Table, names: Sequence[str]) -> list[tuple[Any, ...]]:
        """Rows that have no place in the order, or no key: read every time, since no mark can stand for them."""
        source = self._source
        leading = [table.column(name) for name in (source.order_by, *source.key)]
        asked = sa.select(*leading, *(table.column(name) for name in names))
        asked = asked.where(*self._new(table), sa.or_(*(column.is_(None) for column in leading))).limit(_ODD_LIMIT + 1)
        rows = self._database.run(lambda connection: ([tuple(row) for row in connection.execute(asked)], False))
        if len(rows) > _ODD_LIMIT:
            raise Misconfigured(
                "rows_unordered",
                f"Table {source.spec.table} has more than {_ODD_LIMIT} rows without {source.order_by} or key.",
                f"表 {source.spec.table} 有超过 {_ODD_LIMIT} 行缺少 {source.order_by} 或主键。",
            )
        return rows

    def _new(self, table: _Table) -> list[sa.ColumnElement[bool]]:
        return table.equal(_configured(table, self._source.where_new))

    def _reached(self, table: _Table, reached: Mark | None, value: Mark) -> Mark | None:
        column = table.column(self._source.order_by)
        if isinstance(value, str) and isinstance(column.type, sa.DateTime | sa.Date):
            return reached  # MariaDB's 0000-00-00, which is no time and sorts before all
        if sql_values.in_future(value, self._clock()):
            return reached
        return value if reached is None else max(reached, value)

    def _item(self, names: Sequence[str], values: tuple[Any, ...], reached: Mark | None) -> FeedItem:
        source = self._source
        key, shown = values[1 : 1 + len(source.key)], values[1 + len(source.key) :]
        read = sql_values.read_row(names, shown, decimals_as_text=source.decimals_as_text)
        named = sql_values.row_key(source.spec.table, key, read.digest)
        mark = "" if reached is None else sql_values.mark_text(reached)
        return FeedItem(named, read.raw, read.document, mark, _Row(key, read.digest))

    def _write_back(self, connection: sa.Connection, row: _Row, values: Mapping[str, object]) -> bool:
        source = self._source
        table, names = self._opened(connection)
        this = table.equal(dict(zip(source.key, row.key, strict=True)))
        # The lock keeps a change of the partner's out between looking and writing: it would be marked as taken unread.
        asked = sa.select(*(table.column(name) for name in names)).where(*this).with_for_update()
        for found in connection.execute(asked):
            read = sql_values.read_row(names, tuple(found), decimals_as_text=source.decimals_as_text)
            if read.digest != row.digest:
                return False
        changed = _configured(table, values)
        connection.execute(sa.update(table.table).where(*this, *self._new(table)).values(changed))
        return True


def _beyond(columns: Sequence[sa.Column[Any]], values: Sequence[object]) -> sa.ColumnElement[bool]:
    """Rows after these values in the order of the columns."""
    steps = []
    for number, (column, value) in enumerate(zip(columns, values, strict=True)):
        same = [earlier == known for earlier, known in zip(columns[:number], values[:number], strict=True)]
        steps.append(sa.and_(*same, column > value))
    return sa.or_(*steps)


def _configured(table: _Table, values: Mapping[str, object]) -> dict[str, object]:
    """Values that the options give, as their columns take them."""
    try:
        return {name: table.bound(name, value) for name, value in values.items()}
    except UnfitError:
        pass
    raise Misconfigured(
        "options_invalid",
        f"A value declared for table {table.table.name} does not fit its column.",
        f"为表 {table.table.name} 声明的值与列类型不符。",
    )


# Engine and tables ---------------------------------------------------------------------------------------------------


def _url_of(base: str, secrets: Mapping[str, str]) -> URL:
    try:
        url = make_url(base)
        dialect = url.get_backend_name()
    except (exc.ArgumentError, ValueError):
        url = None
        dialect = ""
    if url is None or not url.database or (dialect != "sqlite" and not url.host):
        raise _endpoint_invalid()
    if dialect == "sqlite":
        if not os.path.isabs(url.database):  # noqa: PTH117 - a text of a URL
            raise _endpoint_invalid()
        # Opened for reading and writing, never made: an empty database would only hide a wrong address.
        return URL.create("sqlite", database=f"file:{quote(url.database)}", query={"mode": "rw", "uri": "true"})
    return url.set(
        drivername=_DRIVERS.get(url.drivername, url.drivername),
        username=secrets.get("user") or url.username,
        password=secrets.get("password") or url.password,
    )


def _engine_of(url: URL, partner: Partner) -> sa.Engine:
    dialect = url.get_backend_name()
    settings: dict[str, Any] = {"isolation_level": "READ COMMITTED"} if dialect in ("postgresql", *_MYSQL) else {}
    if dialect == "postgresql":
        settings["use_native_hstore"] = False  # it asks the catalogue at every connection
    missing = False
    try:
        engine = sa.create_engine(
            url,
            # Its texts would otherwise carry the values.
            hide_parameters=True,
            poolclass=sa.QueuePool,
            pool_size=partner.concurrency,
            max_overflow=0,
            pool_timeout=partner.connect_s,
            # Psycopg would wait for the ping's answer without end; its connections are looked at instead.
            pool_pre_ping=dialect != "postgresql",
            pool_recycle=_RECYCLE_S,
            connect_args=_connect_args(dialect, partner),
            **settings,
        )
    except (exc.NoSuchModuleError, ImportError):
        missing = True
        engine = None
    if engine is None or missing:
        raise Misconfigured(
            "driver_missing",
            f"No driver is installed for {url.drivername}.",
            f"未安装 {url.drivername} 的数据库驱动。",
        )
    if dialect == "sqlite":
        _listen_to_sqlite(engine)
    elif dialect == "postgresql":
        event.listen(engine, "checkout", _look_at)
    return engine


def _connect_args(dialect: str, partner: Partner) -> dict[str, Any]:
    connect_s, read_s = math.ceil(partner.connect_s), math.ceil(partner.read_s)
    if dialect == "postgresql":
        # The library takes no less than two seconds.
        return {"connect_timeout": max(2, connect_s), "tcp_user_timeout": read_s * 1000, "application_name": "dukou"}
    if dialect in _MYSQL:
        # Without strictness it cuts a text that is too long, and says nothing.
        strict = "SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES'), innodb_lock_wait_timeout = "
        return {
            "connect_timeout": connect_s,
            "read_timeout": read_s,
            "write_timeout": read_s,
            "init_command": f"{strict}{read_s}",
        }
    return {"timeout": partner.read_s, "check_same_thread": False} if dialect == "sqlite" else {}


def _listen_to_sqlite(engine: sa.Engine) -> None:
    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own object
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("dukou_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _declared(spec: Spec, dialect: str) -> _Table:
    made: Mapping[str, sa.types.TypeEngine[Any]] = {
        "text": sa.String(),
        "integer": sa.BigInteger(),
        "decimal": sa.Numeric(),
        "time": sa.DateTime(),
        "date": sa.Date(),
    }
    columns = [sa.Column(name, sa.types.NullType() if dialect == "sqlite" else made[word]) for name, word in spec.types]
    table = sa.Table(spec.table, sa.MetaData(), *columns, schema=spec.schema)
    return _Table(table, dict(spec.types))  # type: ignore[arg-type] # the schema's words are kinds


def _reflected(connection: sa.Connection, spec: Spec) -> _Table:
    table = sa.Table(spec.table, sa.MetaData(), schema=spec.schema, autoload_with=connection, resolve_fks=False)
    dialect = connection.dialect.name
    kept_by = str(table.kwargs.get(f"{dialect}_engine", "InnoDB")) if dialect in _MYSQL else "InnoDB"
    if kept_by.lower() != "innodb":
        raise Misconfigured(
            "table_not_transactional",
            f"Table {spec.table} is kept by {kept_by}, which has no transactions; InnoDB has.",
            f"表 {spec.table} 使用 {kept_by} 引擎，不支持事务；请改用 InnoDB。",
        )
    kinds = {str(column.name): _kind_of(column.type) for column in table.columns}
    if dialect == "sqlite":
        # It keeps times as text, as whoever wrote them liked: they are compared and given as they stand.
        for column in table.columns:
            column.type = sa.types.NullType()
    return _Table(table, kinds)


def _kind_of(column_type: sa.types.TypeEngine[Any]) -> Kind:
    kinds: tuple[tuple[type[sa.types.TypeEngine[Any]], Kind], ...] = (
        (sa.Boolean, "boolean"),
        (sa.Integer, "integer"),
        (sa.Float, "float"),
        (sa.Numeric, "decimal"),
        (sa.DateTime, "time"),
        (sa.Date, "date"),
        (sa.String, "text"),
        (sa.types._Binary, "binary"),  # noqa: SLF001 - the only common ancestor of the binary types
    )
    return next((kind for known, kind in kinds if isinstance(column_type, known)), "other")


def _look_at(connection: Any, _record: object, _proxy: object) -> None:  # noqa: ANN401 - the driver's own object
    """An idle connection on which something arrived was closed by the other side: the pool makes another."""
    if select.select([connection.fileno()], [], [], 0)[0]:
        raise exc.DisconnectionError


@contextlib.contextmanager
def _deadline(connection: sa.Connection, seconds: float) -> Iterator[None]:
    """Cut the connection of a driver that would wait for a silent server without end (psycopg; others have time limits)."""
    number = getattr(connection.connection.driver_connection, "fileno", None)
    if not callable(number):
        yield
        return
    # A descriptor of our own: the driver's may be closed, and its number be another's, when the time is up.
    ours = socket.socket(fileno=os.dup(number()))
    timer = threading.Timer(seconds, _cut, (ours,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        ours.close()


def _cut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _release(connection: sa.Connection, names: Sequence[str]) -> None:
    """Give MariaDB's locks back. What was committed stays committed, whatever becomes of this."""
    try:
        connection.rollback()
        if connection.invalidated:
            return  # they ended with it; asking would make a new connection
        connection.execute(sa.select(*(sa.func.release_lock(name) for name in names)))
    except exc.SQLAlchemyError as error:
        log.debug("locks end with their connection: %s", type(error).__name__)
        connection.invalidate()


# Trouble -------------------------------------------------------------------------------------------------------------


def _meaning(error: Exception, *, committing: bool) -> HubError | _ClashError:
    if isinstance(error, exc.NoSuchTableError):
        return Misconfigured("table_missing", "The declared table does not exist.", "声明的表不存在。")
    if isinstance(error, exc.TimeoutError):
        return _busy()
    # What is no error of the database is a value that the driver cannot even write down.
    if not isinstance(error, exc.DBAPIError) or _unfit(error):
        return _ClashError()
    if _rolled_back(error, _number_of(error)):
        return _busy()
    if committing:
        return Unknown("answer_lost", "The connection broke while committing.", "提交时连接中断。")
    return _before_commit(error, _number_of(error))


def _unfit(error: exc.DBAPIError) -> bool:
    return isinstance(error, exc.IntegrityError | exc.DataError) or _number_of(error) in _MYSQL_UNFIT


def _before_commit(error: exc.DBAPIError, number: int) -> HubError:
    """Nothing was committed, and nothing will be."""
    if isinstance(error, exc.ProgrammingError | exc.NotSupportedError | exc.InternalError) or number in _MYSQL_OURS:
        refused = number in (1044, 1045, 1049, 1698)
        return _credentials_refused() if refused else _statement_refused()
    if (code := getattr(error.orig, "sqlite_errorcode", None)) is not None:
        return _unreachable() if code & 0xFF in _SQLITE_PASSING else _statement_refused()
    if any(words in str(error.orig) for words in _LOGIN_REFUSED):
        return _credentials_refused()
    return _unreachable()


def _number_of(error: exc.DBAPIError) -> int:
    """MariaDB's error number, else 0."""
    first = error.orig.args[0] if error.orig is not None and error.orig.args else 0
    return first if isinstance(first, int) else 0


def _rolled_back(error: exc.DBAPIError, number: int) -> bool:
    """Whether the database itself says that it gave the transaction up: a deadlock, a lost race, a lock not had in time."""
    state = str(getattr(error.orig, "sqlstate", None) or "")
    busy = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == _SQLITE_BUSY
    return number in _MYSQL_ROLLED_BACK or state[:2] in ("40", "55", "53") or state == "57014" or busy


def _answer(status: int, code: str) -> Incoming:
    return Incoming(status, {"code": code})


def _busy() -> Unsent:
    return Unsent("partner_busy", "The partner's database is busy.", "对方数据库繁忙。")


def _unreachable() -> Unsent:
    return Unsent("partner_unreachable", "The partner's database cannot be reached.", "无法连接对方数据库。")


def _credentials_refused() -> Misconfigured:
    return Misconfigured(
        "credentials_refused",
        "The partner's database refuses our credentials, or there is no such database.",
        "对方数据库拒绝我方凭据，或数据库不存在。",
    )


def _statement_refused() -> Misconfigured:
    return Misconfigured(
        "statement_refused",
        "The partner's database refuses the statement: the table, a column or a right is missing.",
        "对方数据库拒绝执行：缺少表、列或权限。",
    )


def _endpoint_invalid() -> Misconfigured:
    return Misconfigured("endpoint_invalid", "The database's address cannot be used.", "数据库地址不可用。")
