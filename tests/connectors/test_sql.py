"""The front-end table wire on SQLite, PostgreSQL and MariaDB: one effect per delivery, and no row lost however late it is committed."""

from __future__ import annotations

import itertools
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import jsonschema
import orjson
import pytest
import sqlalchemy as sa

from connectors.protocols.sql import SqlWire
from connectors.protocols.sql_values import LOCAL
from hub.errors import HubError, Misconfigured, Unknown, Unsent
from hub.model.declarations import Exchange, Partner
from hub.ports import FeedItem, Outgoing
from tests.connectors.relay import Relay

PERSONAL = "测试甲"
PASSWORD = "password-of-the-test"
SCHEMA = orjson.loads(Path("schemas/declarations/options_sql.json").read_bytes())
NOON = datetime(2026, 3, 1, 12, 0, 0)  # noqa: DTZ001 - a front-end table's wall clock
NOW_MS = int(datetime(2026, 3, 1, 13, 0, 0, tzinfo=LOCAL).timestamp() * 1000)
DRIVERS = {"postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}
# As it stands on the wire, unlike the isolation level READ COMMITTED.
COMMITS = {"postgresql": b"COMMIT\0", "mariadb": b"\3COMMIT"}
HOSTILE = ('a"; DROP TABLE x; --', "b`c'd", "e%f%(g)s", "h:i[j].k", "登记 原因", "select")


def delivery(number: int) -> str:
    return f"{number:032x}"


def exchange_of(options: dict[str, Any], check: bool = True) -> Exchange:
    if check:
        jsonschema.Draft202012Validator(SCHEMA).validate(options)
    return Exchange(
        "housing", "result", "结果", "deliver", "bulk", "sql", "", ("extranet",), "", "query_first", options=options
    )


def partner_of(base: str, connect_s: float = 3, read_s: float = 10) -> Partner:
    return Partner("housing", "住建", "Housing", {"test": base}, connect_s, read_s, 4, {}, {})


def fails(call: Callable[[], object], kind: type[HubError], code: str) -> HubError:
    """It raises what it should, and its text and its chain say nothing of the values or of passwords."""
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.code == code
    said = "".join(traceback.format_exception(caught.value))
    assert PERSONAL not in said
    assert PASSWORD not in said
    return caught.value


class Desk:
    """A database with the test's own tables, and the wire to it."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.now_ms = NOW_MS
        scheme = urlsplit(base).scheme
        self.engine = sa.create_engine(base.replace(scheme, DRIVERS.get(scheme, scheme), 1))
        self.dialect = self.engine.dialect.name
        self.metadata = sa.MetaData()
        self.prefix = f"T_{os.urandom(4).hex()}"
        self.partner = partner_of(base)
        self.wire = SqlWire(lambda partner: partner.endpoints["test"], {}, lambda: self.now_ms)

    def table(self, *columns: sa.Column[Any], **keywords: Any) -> sa.Table:
        name = f"{self.prefix}_{len(self.metadata.tables)}"
        made = sa.Table(name, self.metadata, *columns, **keywords)
        made.create(self.engine)
        return made

    def rows(self, table: sa.Table) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return sorted(tuple(row) for row in connection.execute(sa.select(table)))

    def insert(self, table: sa.Table, *rows: dict[str, Any]) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.insert(table), list(rows))

    def send(
        self, exchange: Exchange, number: int, document: object, partner: Partner | None = None
    ) -> tuple[int, str]:
        answer = self.wire(Outgoing(partner or self.partner, exchange, delivery(number), document))
        assert isinstance(answer.document, dict)
        return answer.status, answer.document["code"]

    def query(self, exchange: Exchange, number: int) -> tuple[int, str]:
        answer = self.wire(Outgoing(self.partner, exchange, delivery(number), {}, "query"))
        assert isinstance(answer.document, dict)
        return answer.status, answer.document["code"]

    def take(self, exchange: Exchange, mark: str = "") -> list[FeedItem]:
        return list(self.wire.take(self.partner, exchange, mark))

    def close(self) -> None:
        self.wire.close()
        self.metadata.drop_all(self.engine)
        self.engine.dispose()


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        file = tmp_path / "front end.db"
        file.touch()
        return f"sqlite:///{file}"
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def desk(base: str) -> Iterator[Desk]:
    made = Desk(base)
    yield made
    made.close()


class Hub:
    """What the hub does with a feed: deduplicates by key, commits the mark with the item, settles afterwards."""

    def __init__(self, desk: Desk, exchange: Exchange) -> None:
        self.desk = desk
        self.exchange = exchange
        self.mark = ""
        self.seen: dict[str, object] = {}
        self.taken: list[Any] = []

    def drain(self, most: int = 10_000) -> list[Any]:
        fresh = []
        for item in itertools.islice(self.desk.wire.take(self.desk.partner, self.exchange, self.mark), most):
            if item.key not in self.seen:
                self.seen[item.key] = item.document
                assert isinstance(item.document, dict)
                fresh.append(item.document["id"])
            self.mark = item.mark
            self.desk.wire.settle(self.desk.partner, self.exchange, item)
        self.taken += fresh
        return fresh


# Writing -------------------------------------------------------------------------------------------------------------


def case_tables(desk: Desk, unique: bool = True) -> tuple[sa.Table, sa.Table, Exchange]:
    base = desk.table(
        sa.Column("onlymark", sa.String(50), primary_key=unique, autoincrement=False),
        sa.Column("caseno", sa.String(50), nullable=False),
        sa.Column("applicant", sa.String(10)),
        sa.Column("regdate", sa.DateTime),
        sa.Column("price", sa.Numeric(12, 2)),
        sa.Column("syncsign", sa.Integer),
    )
    steps = desk.table(
        sa.Column("onlymark", sa.String(50)),
        sa.Column("caseno", sa.String(50)),
        sa.Column("no", sa.Integer),
        sa.Column("nodename", sa.String(50)),
    )
    options = {
        "delivery_column": "onlymark",
        "tables": [
            {
                "table": base.name,
                "rows": "/",
                "columns": {"caseno": "/YWH", "applicant": "/QLR/0/QLRMC", "regdate": "/SLSJ", "price": "/JE"},
                "set": {"syncsign": 0},
                "key": ["caseno"],
            },
            {
                "table": steps.name,
                "rows": "/steps",
                "columns": {"caseno": "/YWH", "no": "/no", "nodename": "/name"},
                "key": ["caseno", "no"],
            },
        ],
    }
    return base, steps, exchange_of(options)


def case_document(number: int = 1, **more: object) -> dict[str, object]:
    ywh = f"YWH{number}"
    steps = [{"YWH": ywh, "no": n, "name": word} for n, word in enumerate(("受理", "初审"))]
    return {
        "YWH": ywh,
        "QLR": [{"QLRMC": PERSONAL}],
        "SLSJ": "2026-03-01T12:00:00+08:00",
        "JE": 12.5,
        "steps": steps,
        **more,
    }


def test_rows_of_a_delivery_once(desk: Desk) -> None:
    base, steps, exchange = case_tables(desk)
    assert desk.query(exchange, 1) == (404, "missing")
    assert desk.send(exchange, 1, case_document()) == (200, "inserted")
    assert desk.send(exchange, 1, case_document()) == (200, "present")
    assert desk.query(exchange, 1) == (200, "present")
    assert desk.rows(base) == [(delivery(1), "YWH1", PERSONAL, NOON, Decimal("12.50"), 0)]
    assert desk.rows(steps) == [
        (f"{delivery(1)}-0001", "YWH1", 0, "受理"),
        (f"{delivery(1)}-0002", "YWH1", 1, "初审"),
    ]


def test_key_of_another_delivery_is_a_conflict_and_nothing_is_written(desk: Desk) -> None:
    base, steps, exchange = case_tables(desk)
    desk.send(exchange, 1, case_document())
    assert desk.send(exchange, 2, case_document()) == (409, "conflict")
    # A conflict in the second table takes the first one's row back.
    second = case_document(2, steps=[{"YWH": "YWH1", "no": 1, "name": "x"}])
    assert desk.send(exchange, 3, second) == (409, "conflict")
    assert (len(desk.rows(base)), len(desk.rows(steps))) == (1, 2)
    assert desk.query(exchange, 3) == (404, "missing")


@pytest.mark.parametrize("unique", [True, False])
def test_one_delivery_from_many_threads(desk: Desk, unique: bool) -> None:
    base, steps, exchange = case_tables(desk, unique)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: desk.send(exchange, 1, case_document()), range(12)))
    assert sorted(answers) == [(200, "inserted")] + [(200, "present")] * 11
    assert (len(desk.rows(base)), len(desk.rows(steps))) == (1, 2)


@pytest.mark.parametrize("unique", [True, False])
def test_one_key_of_two_deliveries_from_many_threads(desk: Desk, unique: bool) -> None:
    base, _, exchange = case_tables(desk, unique)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: desk.send(exchange, n, case_document()), range(8)))
    assert sorted(answers) == [(200, "inserted")] + [(409, "conflict")] * 7
    assert len(desk.rows(base)) == 1


def test_what_the_table_does_not_take(desk: Desk) -> None:
    base, _, exchange = case_tables(desk)
    unfit: list[dict[str, object]] = [
        {"SLSJ": "no time"},
        {"JE": "no number"},
        {"YWH": None},
        {"QLR": [{"QLRMC": {"a": 1}}]},
        {"steps": "no list"},
        {"steps": [{"YWH": "a", "no": 1}, {"YWH": "a", "no": 1}]},
    ]
    if desk.dialect != "sqlite":
        unfit += [{"QLR": [{"QLRMC": PERSONAL * 9}]}, {"JE": 10**12}]
    for change in unfit:
        assert desk.send(exchange, 1, case_document(**change)) == (422, "unfit"), change
    assert desk.rows(base) == []
    # A constraint of the table that we know nothing of.
    strict = desk.table(
        sa.Column("onlymark", sa.String(50)),
        sa.Column("a", sa.String(50)),
        sa.Column("b", sa.String(9), nullable=False),
    )
    target = {"table": strict.name, "rows": "/", "columns": {"a": "/a"}, "key": ["a"]}
    options = {"delivery_column": "onlymark", "tables": [target]}
    assert desk.send(exchange_of(options), 1, {"a": PERSONAL}) == (422, "unfit")


def test_lists_at_the_head_and_empty_ones(desk: Desk) -> None:
    base, steps, exchange = case_tables(desk)
    assert desk.send(exchange, 1, case_document(steps=[])) == (200, "inserted")
    assert desk.send(exchange, 2, {k: v for k, v in case_document(2).items() if k != "steps"}) == (200, "inserted")
    only = exchange_of({"delivery_column": "onlymark", "tables": [exchange.options["tables"][1]]})  # type: ignore[index]
    assert desk.send(only, 3, case_document(3)) == (200, "inserted")
    assert desk.send(only, 3, case_document(3)) == (200, "present")
    assert desk.query(only, 3) == (200, "present")
    assert desk.send(only, 4, {"steps": []}) == (422, "unfit")
    many = [{"YWH": "M", "no": n, "name": "x"} for n in range(450)]
    assert desk.send(only, 5, {"steps": many}) == (200, "inserted")
    assert desk.send(only, 6, {"steps": [{"YWH": "M", "no": 449}]}) == (409, "conflict")
    assert (len(desk.rows(base)), len(desk.rows(steps))) == (2, 452)


def test_hostile_names(desk: Desk) -> None:
    # SQLAlchemy reads MariaDB's catalogue back with a backtick doubled; such a column must be declared (types).
    names = [name.replace("`", "") if desk.dialect == "mariadb" else name for name in HOSTILE]
    table = desk.table(
        sa.Column("onlymark", sa.String(50), primary_key=True), *(sa.Column(name, sa.String(50)) for name in names)
    )
    columns = {name: f"/{number}" for number, name in enumerate(names)}
    target = {"table": table.name, "rows": "/", "columns": columns, "key": list(names[:3])}
    exchange = exchange_of({"delivery_column": "onlymark", "tables": [target]})
    document = {str(number): f"'; {name}" for number, name in enumerate(names)}
    assert desk.send(exchange, 1, document) == (200, "inserted")
    assert desk.send(exchange, 2, document) == (409, "conflict")
    assert desk.rows(table) == [(delivery(1), *document.values())]
    feed = exchange_of(
        {
            "table": table.name,
            "key": ["onlymark", names[0]],
            "order_by": names[1],
            "overlap": {"rows": 2},
            "where_new": {names[3]: document["3"]},
            "mark_taken": {names[3]: "1"},
            "mark_refused": {"error_column": names[4], "set": {names[3]: "2"}},
        }
    )
    [item] = desk.take(feed)
    assert item.document == {
        "onlymark": delivery(1),
        **{n: document[str(i)] for i, n in enumerate(names) if i not in (3, 4)},
    }
    desk.wire.refuse(desk.partner, feed, item, "contract_invalid")
    assert desk.take(feed) == []
    assert desk.rows(table)[0][4:6] == ("2", "contract_invalid")
    missing = exchange_of({"table": table.name, "key": ["onlymark"], "order_by": 'x"; DROP TABLE y; --'})
    fails(lambda: desk.take(missing), Misconfigured, "column_missing")
    fails(
        lambda: desk.take(exchange_of({"table": 'x"; DROP TABLE y; --', "key": ["a"], "order_by": "a"})),
        Misconfigured,
        "table_missing",
    )


def test_declared_columns_need_no_catalogue(desk: Desk) -> None:
    base, _, exchange = case_tables(desk)
    target = dict(exchange.options["tables"][0])  # type: ignore[index]
    types = {
        "onlymark": "text",
        "caseno": "text",
        "applicant": "text",
        "regdate": "time",
        "price": "decimal",
        "syncsign": "integer",
    }
    declared = exchange_of({"delivery_column": "onlymark", "tables": [{**target, "types": types}]})
    assert desk.send(declared, 1, case_document()) == (200, "inserted")
    assert desk.rows(base) == [(delivery(1), "YWH1", PERSONAL, NOON, Decimal("12.50"), 0)]
    feed = {"table": base.name, "key": ["onlymark"], "order_by": "regdate", "overlap": {"seconds": 5}, "types": types}
    [item] = desk.take(exchange_of(feed))
    assert item.document["price"] == 12.5  # type: ignore[index]
    wrong = exchange_of({**feed, "types": {**types, "nosuch": "text"}, "columns": ["nosuch"]})
    fails(lambda: desk.take(wrong), Misconfigured, "statement_refused")


def test_addresses_drivers_and_credentials(desk: Desk, tmp_path: Path) -> None:
    _, _, exchange = case_tables(desk)
    wire = SqlWire(lambda p: p.endpoints["test"], {"housing": {"user": "nobody", "password": PASSWORD}}, lambda: 0)

    def at(base: str) -> object:
        return wire(Outgoing(partner_of(base, 1), exchange, delivery(1), case_document()))

    for address in ("", "x", "sqlite://", "sqlite:///relative.db", "postgresql://h", "postgresql:///d", "mysql://"):
        fails(lambda a=address: at(a), Misconfigured, "endpoint_invalid")
    fails(lambda: at("kingbase+ksycopg2://h:1/d"), Misconfigured, "driver_missing")
    fails(lambda: at("dm+dmPython://h:1/d"), Misconfigured, "driver_missing")
    fails(lambda: at("postgresql://127.0.0.1:9/d"), Unsent, "partner_unreachable")
    fails(lambda: at("mariadb://127.0.0.1:9/d"), Unsent, "partner_unreachable")
    fails(lambda: at(f"sqlite:///{tmp_path}/none.db"), Unsent, "partner_unreachable")
    assert not (tmp_path / "none.db").exists()
    if desk.dialect != "sqlite":
        fails(lambda: at(desk.base), Misconfigured, "credentials_refused")
        nowhere = urlunsplit(urlsplit(desk.base)._replace(path="/no_such_database"))
        lost = partner_of(nowhere)
        fails(lambda: desk.send(exchange, 1, case_document(), lost), Misconfigured, "credentials_refused")
    wire.close()


# Reading -------------------------------------------------------------------------------------------------------------


def source(desk: Desk, order: sa.types.TypeEngine[Any] | None = None, **options: object) -> tuple[sa.Table, Exchange]:
    table = desk.table(
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", order or sa.DateTime),
        sa.Column("text", sa.String(50)),
        sa.Column("syncsign", sa.String(2), server_default="0"),
        sa.Column("syncerrormsg", sa.String(80)),
    )
    given = {"table": table.name, "key": ["id"], "order_by": "at", "columns": ["id", "at", "text"]} | options
    return table, exchange_of(given)


def row(number: int, seconds: float) -> dict[str, Any]:
    return {"id": number, "at": NOON + timedelta(seconds=seconds), "text": f"{PERSONAL}{number}"}


def test_row_committed_late_is_taken_once(desk: Desk) -> None:
    table, exchange = source(desk, overlap={"seconds": 60}, page=2)
    hub = Hub(desk, exchange)
    if desk.dialect == "sqlite":
        # One writer at a time: lateness there is a row with an older time.
        desk.insert(table, row(1, 0), row(3, 20))
        assert hub.drain() == [1, 3]
        desk.insert(table, row(2, 10))
        assert hub.drain() == [2]
    else:
        late = desk.engine.connect()
        late.execute(sa.insert(table), row(2, 10))
        desk.insert(table, row(1, 0), row(3, 20), row(4, 20))
        assert hub.drain() == [1, 3, 4]
        late.commit()
        late.close()
        assert hub.drain() == [2]
    assert hub.drain() == []
    desk.insert(table, row(5, 90))
    assert hub.drain() == [5]
    assert sorted(hub.taken) == sorted(set(hub.taken))


def test_the_mark_never_goes_back_for_a_late_row(desk: Desk) -> None:
    table, exchange = source(desk, overlap={"seconds": 60})
    hub = Hub(desk, exchange)
    desk.insert(table, row(1, 0), row(2, 100))
    hub.drain()
    mark = hub.mark
    desk.insert(table, row(3, 50))
    assert hub.drain() == [3]
    assert hub.mark == mark


def test_equal_times_over_pages_and_broken_off_takings(desk: Desk) -> None:
    table, exchange = source(desk, overlap={"seconds": 1}, page=3)
    desk.insert(table, *(row(number, number // 10) for number in range(40)))
    hub = Hub(desk, exchange)
    for _ in range(8):
        hub.drain(most=25)
        desk.wire.close()
    assert sorted(hub.taken) == list(range(40))
    desk.insert(table, *(row(number, 3) for number in range(40, 47)))
    assert sorted(hub.drain()) == list(range(40, 47))


def test_clock_that_jumps_ahead_and_back(desk: Desk) -> None:
    table, exchange = source(desk, overlap={"seconds": 60})
    hub = Hub(desk, exchange)
    # Two hours ahead, then set right: the mark stayed at our own time.
    desk.insert(table, row(1, 0), row(2, 7200), row(3, 7201))
    assert hub.drain() == [1, 2, 3]
    desk.now_ms += 60_000
    desk.insert(table, row(4, 3630))
    assert hub.drain() == [4]
    # Set back within the overlap.
    desk.insert(table, row(5, 3590))
    assert hub.drain() == [5]


def test_source_that_begins_anew(desk: Desk) -> None:
    table, exchange = source(desk, sa.Integer(), overlap={"rows": 2})
    hub = Hub(desk, exchange)
    desk.insert(table, *({"id": n, "at": n, "text": "a"} for n in range(1, 50)))
    assert len(hub.drain()) == 49
    assert hub.mark == "number:49"
    with desk.engine.begin() as connection:
        connection.execute(sa.delete(table))
    assert hub.drain() == []
    desk.insert(table, *({"id": n, "at": n, "text": "b"} for n in range(1, 20)))
    assert len(hub.drain()) == 19
    assert hub.mark == "number:19"


def test_overlap_in_rows_on_sequences_and_text(desk: Desk) -> None:
    for kind, make in (
        (sa.BigInteger(), int),
        (sa.Numeric(20, 0), Decimal),
        (sa.String(14), lambda n: f"2026030112{n:04d}"),
    ):
        table, exchange = source(desk, kind, overlap={"rows": 5}, page=4)
        hub = Hub(desk, exchange)
        desk.insert(table, *({"id": n, "at": make(n), "text": "a"} for n in (1, 2, 4, 5, 7)))  # type: ignore[operator]
        assert hub.drain() == [1, 2, 4, 5, 7]
        desk.insert(table, *({"id": n, "at": make(n), "text": "a"} for n in (3, 6, 8)))  # type: ignore[operator]
        assert hub.drain() == [3, 6, 8]


def test_text_times_overlap_in_seconds(desk: Desk) -> None:
    table, exchange = source(desk, sa.String(19), overlap={"seconds": 60})
    hub = Hub(desk, exchange)
    desk.insert(table, {"id": 1, "at": "20260301120000"}, {"id": 2, "at": "20260301120100"})
    assert hub.drain() == [1, 2]
    desk.insert(table, {"id": 3, "at": "20260301120030"})
    assert hub.drain() == [3]


def test_changed_row_is_another_item(desk: Desk) -> None:
    table, exchange = source(desk, overlap={"seconds": 60})
    hub = Hub(desk, exchange)
    desk.insert(table, row(1, 0))
    assert hub.drain() == [1]
    with desk.engine.begin() as connection:
        connection.execute(sa.update(table).values(text="changed", syncerrormsg="not ours to read"))
    assert hub.drain() == [1]
    assert hub.drain() == []


MARKED = {
    "where_new": {"syncsign": "0"},
    "mark_taken": {"syncsign": "1"},
    "mark_refused": {"error_column": "syncerrormsg", "set": {"syncsign": "2"}},
}


def test_marked_rows_need_no_clock(desk: Desk) -> None:
    table, exchange = source(desk, overlap={"seconds": 1}, **MARKED)
    hub = Hub(desk, exchange)
    desk.insert(table, row(1, 5000), row(2, 0))
    assert hub.drain() == [2, 1]
    desk.insert(table, row(3, -90_000))
    assert hub.drain() == [3]
    assert [r[3] for r in desk.rows(table)] == ["1"] * 3
    # Not settled: met again under the same key.
    desk.insert(table, row(4, 0))
    [first], [second] = desk.take(exchange, hub.mark), desk.take(exchange, hub.mark)
    assert first.key == second.key


def test_row_that_changed_after_it_was_read_is_not_marked(desk: Desk) -> None:
    table, exchange = source(desk, **MARKED)
    desk.insert(table, row(1, 0), row(2, 0))
    one, two = desk.take(exchange)
    with desk.engine.begin() as connection:
        connection.execute(sa.update(table).where(table.c.id == 1).values(text="changed"))
        connection.execute(sa.delete(table).where(table.c.id == 2))
    for item in (one, two):
        desk.wire.settle(desk.partner, exchange, item)
    [again] = desk.take(exchange)
    assert again.document["text"] == "changed"  # type: ignore[index]
    assert again.key != one.key
    desk.wire.settle(desk.partner, exchange, again)
    desk.wire.settle(desk.partner, exchange, again)
    assert desk.take(exchange) == []


def test_refused_row_tells_the_code_and_nothing_else(desk: Desk) -> None:
    table, exchange = source(desk, **MARKED)
    desk.insert(table, row(1, 0))
    [item] = desk.take(exchange)
    desk.wire.refuse(desk.partner, exchange, item, "contract_invalid")
    assert desk.rows(table)[0][3:] == ("2", "contract_invalid")
    assert desk.take(exchange) == []


def test_rows_without_time_or_key_are_not_lost(desk: Desk) -> None:
    table = desk.table(sa.Column("id", sa.Integer), sa.Column("at", sa.DateTime), sa.Column("n", sa.Integer))
    exchange = exchange_of({"table": table.name, "key": ["id"], "order_by": "at", "overlap": {"seconds": 5}})
    desk.insert(table, {"id": 1, "at": NOON, "n": 1}, {"id": 2, "at": None, "n": 2}, {"id": None, "at": NOON, "n": 3})
    items = desk.take(exchange)
    assert sorted(item.document["n"] for item in items) == [1, 2, 3]  # type: ignore[index]
    assert len({item.key for item in items}) == 3
    assert {item.key for item in desk.take(exchange, items[-1].mark)} == {item.key for item in items}
    desk.insert(table, *({"id": n, "at": None, "n": n} for n in range(10, 1011)))
    fails(lambda: desk.take(exchange), Misconfigured, "rows_unordered")


def test_bytes_and_exactness(desk: Desk) -> None:
    table = desk.table(
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("price", sa.Numeric(30, 2)),
        sa.Column("photo", sa.LargeBinary),
        sa.Column("real", sa.Float),
    )
    whole = exchange_of({"table": table.name, "key": ["id"], "order_by": "id"})
    with desk.engine.begin() as connection:
        quoted = desk.engine.dialect.identifier_preparer.quote(table.name)
        connection.execute(sa.text(f"INSERT INTO {quoted} (id, price) VALUES (1, 12.5), (2, 1234567890123456.78)"))
    fails(lambda: desk.take(whole), Misconfigured, "column_binary")
    fails(lambda: desk.take(exchange_of({**whole.options, "order_by": "real"})), Misconfigured, "order_unusable")
    listed = {**whole.options, "columns": ["id", "price"]}
    one, two = desk.take(exchange_of(listed))
    assert one.document == {"id": 1, "price": 12.5}
    if desk.dialect != "sqlite":
        assert two.document is None
        assert b"1234567890123456" not in two.raw
        assert desk.take(exchange_of({**listed, "decimals": "text"}))[1].document == {
            "id": 2,
            "price": "1234567890123456.78",
        }


def test_marks_of_another_kind_are_the_operators(desk: Desk) -> None:
    table, exchange = source(desk, sa.Integer(), overlap={"seconds": 5})
    desk.insert(table, {"id": 1, "at": 1})
    fails(lambda: desk.take(exchange, "number:1"), Misconfigured, "mark_unreadable")
    for mark in ("x", "time:2026-01-01T00:00:00", "text:a"):
        fails(
            lambda m=mark: desk.take(replace(exchange, options={**exchange.options, "overlap": {"rows": 1}}), m),
            Misconfigured,
            "mark_unreadable",
        )


def test_options_that_contradict_themselves(desk: Desk) -> None:
    wrong: list[dict[str, Any]] = [
        {},
        {"table": "t"},
        {"tables": [], "delivery_column": "x"},
        {"table": "t", "key": ["a"], "order_by": "b", "mark_taken": {"a": 1}},
        {"table": "t", "key": ["a"], "order_by": "b", "columns": ["c"], "mark_taken": {"c": 1}},
    ]
    for options in wrong:
        fails(lambda o=options: desk.take(exchange_of(o, check=False)), Misconfigured, "options_invalid")
        fails(lambda o=options: desk.send(exchange_of(o, check=False), 1, {}), Misconfigured, "options_invalid")


def test_no_transaction_stays_open_while_the_caller_works(desk: Desk) -> None:
    table, exchange = source(desk, page=2, overlap={"seconds": 5})
    desk.insert(table, *(row(number, number) for number in range(5)))
    for item in desk.wire.take(desk.partner, exchange, ""):
        with desk.engine.begin() as connection:
            # In SQLite and MariaDB a reader's open transaction would hold this up.
            connection.execute(sa.update(table).where(table.c.id == item.document["id"]).values(syncsign="9"))  # type: ignore[index]
    assert [r[3] for r in desk.rows(table)] == ["9"] * 5


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_of_a_fork_opens_its_own(desk: Desk) -> None:
    table, exchange = source(desk, overlap={"seconds": 5})
    desk.insert(table, row(1, 0))
    assert len(desk.take(exchange)) == 1
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if len(desk.take(exchange)) == 1 else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert len(desk.take(exchange)) == 1


# A wire that breaks --------------------------------------------------------------------------------------------------


@pytest.fixture(
    params=[pytest.param("postgres", marks=pytest.mark.postgres), pytest.param("mariadb", marks=pytest.mark.mariadb)]
)
def server(request: pytest.FixtureRequest) -> Iterator[tuple[Desk, Relay, str]]:
    base = str(request.getfixturevalue(f"{request.param}_url"))
    parts = urlsplit(base)
    relay = Relay(parts.hostname or "127.0.0.1", parts.port or 1)
    user = f"{parts.username}@" if parts.username else ""
    desk = Desk(base)
    query = "sslmode=disable" if request.param == "postgres" else ""
    yield desk, relay, urlunsplit((parts.scheme, f"{user}127.0.0.1:{relay.port}", parts.path, query, ""))
    desk.close()
    relay.close()


def test_connection_cut_at_commit(server: tuple[Desk, Relay, str]) -> None:
    desk, relay, base = server
    table, _, exchange = case_tables(desk)
    partner = partner_of(base)
    # PyMySQL commits when it connects.
    assert desk.send(exchange, 9, case_document(9), partner) == (200, "inserted")
    relay.cut_at = COMMITS[desk.dialect]
    fails(lambda: desk.send(exchange, 1, case_document(), partner), Unknown, "answer_lost")
    assert desk.query(exchange, 1) == (404, "missing")
    relay.cut_at = b""
    assert desk.send(exchange, 8, case_document(8), partner) == (200, "inserted")
    relay.cut_at, relay.cut_passes_on = COMMITS[desk.dialect], True
    fails(lambda: desk.send(exchange, 2, case_document(2), partner), Unknown, "answer_lost")
    relay.cut_at = b""
    relay.silent.clear()
    # The server had read it: asking first finds that, and nothing is written twice.
    assert desk.query(exchange, 2) == (200, "present")
    assert desk.send(exchange, 2, case_document(2), partner) == (200, "present")
    assert desk.send(exchange, 1, case_document(), partner) == (200, "inserted")
    assert len(desk.rows(table)) == 4


def test_connection_cut_before_commit_is_unsent(server: tuple[Desk, Relay, str]) -> None:
    desk, relay, base = server
    table, _, exchange = case_tables(desk)
    partner = partner_of(base)
    relay.cut_at = b"INSERT"
    fails(lambda: desk.send(exchange, 1, case_document(), partner), Unsent, "partner_unreachable")
    relay.cut_at = b""
    assert desk.rows(table) == []
    assert desk.send(exchange, 1, case_document(), partner) == (200, "inserted")
    # Idle connections that broke are found before they are used.
    relay.cut()
    assert desk.send(exchange, 2, case_document(2), partner) == (200, "inserted")


def test_silent_server_is_not_waited_for_without_end(server: tuple[Desk, Relay, str]) -> None:
    desk, relay, base = server
    _, _, exchange = case_tables(desk)
    partner = partner_of(base, read_s=1)
    assert desk.send(exchange, 1, case_document(), partner) == (200, "inserted")
    relay.silent.set()
    begun = time.monotonic()
    fails(lambda: desk.send(exchange, 2, case_document(2), partner), Unsent, "partner_unreachable")
    assert time.monotonic() - begun < 8


def test_cut_between_taking_and_settling(server: tuple[Desk, Relay, str]) -> None:
    desk, relay, base = server
    table, exchange = source(desk, page=2, **MARKED)
    desk.insert(table, *(row(number, number) for number in range(6)))
    partner = partner_of(base)
    taken: dict[str, int] = {}
    for turn in range(4):
        try:
            for count, item in enumerate(desk.wire.take(partner, exchange, "")):
                taken.setdefault(item.key, turn)
                relay.cut_at = COMMITS[desk.dialect] if count == 1 and turn < 3 else b""
                relay.cut_passes_on = turn == 1
                desk.wire.settle(partner, exchange, item)
        except Unsent:
            relay.silent.clear()
            relay.cut_at = b""
    assert len(taken) == 6
    assert [r[3] for r in desk.rows(table)] == ["1"] * 6


def test_row_locked_by_the_partner_waits_for_another_time(server: tuple[Desk, Relay, str]) -> None:
    desk, _, _ = server
    table, exchange = source(desk, **MARKED)
    desk.insert(table, row(1, 0))
    partner = replace(partner_of(desk.base, read_s=1), slug="impatient")
    [item] = desk.take(exchange)
    with desk.engine.begin() as connection:
        connection.execute(sa.update(table).values(text="locked"))
        with pytest.raises(Unsent) as error:
            desk.wire.settle(partner, exchange, item)
        assert error.value.code in ("partner_busy", "partner_unreachable")
        connection.rollback()
    desk.wire.settle(partner, exchange, item)


@pytest.mark.mariadb
def test_table_without_transactions(mariadb_url: str) -> None:
    desk = Desk(mariadb_url)
    try:
        table = desk.table(sa.Column("onlymark", sa.String(50)), sa.Column("a", sa.Integer), mariadb_engine="MyISAM")
        target = {"table": table.name, "rows": "/", "columns": {"a": "/a"}, "key": ["a"]}
        exchange = exchange_of({"delivery_column": "onlymark", "tables": [target]})
        fails(lambda: desk.send(exchange, 1, {"a": 1}), Misconfigured, "table_not_transactional")
    finally:
        desk.close()


def test_busy_sqlite_is_unsent(tmp_path: Path) -> None:
    (tmp_path / "front.db").touch()
    desk = Desk(f"sqlite:///{tmp_path}/front.db")
    _, _, exchange = case_tables(desk)
    partner = partner_of(desk.base, read_s=0.2)
    holding = threading.Event()
    with desk.engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        holding.set()
        fails(lambda: desk.send(exchange, 1, case_document(), partner), Unsent, "partner_busy")
        connection.rollback()
    assert desk.send(exchange, 1, case_document(), partner) == (200, "inserted")
    desk.close()
