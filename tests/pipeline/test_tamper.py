"""Whatever is changed behind the hub's back in what is evidence, ``verify`` names it."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hub.pipeline.upkeep import Report, Upkeep, read_anchors
from hub.store.ledger import Ledger
from hub.store.seals import examine
from hub.store.tables import metadata
from tests.pipeline.scripted import Stage

KEYS = {
    "events": "pos",
    "bodies": "id",
    "body_keys": "owner",
    "seals": "no",
    "leaves": "pos",
    "messages": "id",
    "cases": "no",
    "attempts": "message_id",
}
# Columns that no event vouches for: a lease is nobody's evidence.
FREE = {("messages", "lease_owner"), ("messages", "lease_until")}


@dataclass(frozen=True)
class Played:
    """A ledger in which a case was played: sealed, then a tail that is not."""

    place: Path

    def copy(self, to: Path) -> Copy:
        for name in ("ledger.db", "anchors.jsonl"):
            shutil.copy(self.place / name, to / name)
        return Copy(to)


@dataclass(frozen=True)
class Copy:
    """A ledger to tamper with."""

    place: Path

    def run(self, sql: str, *values: object) -> int:
        connection = sqlite3.connect(self.place / "ledger.db")
        connection.execute("PRAGMA synchronous=OFF")
        with connection:
            count = connection.execute(sql, values).rowcount
        connection.close()
        return count

    def put(self, table: str, column: str, place: object, value: object) -> int:
        return self.run(f'UPDATE {table} SET "{column}" = ? WHERE rowid = ?', value, place)

    def rows(self, sql: str, *values: object) -> list[dict[str, Any]]:
        connection = sqlite3.connect(self.place / "ledger.db")
        connection.row_factory = sqlite3.Row
        found = [dict(row) for row in connection.execute(sql, values)]
        connection.close()
        return found

    def verify(self) -> Report:
        book = Ledger(f"sqlite:///{self.place}/ledger.db")
        found, figures = examine(book, lambda: read_anchors(self.place / "anchors.jsonl"))
        book.close()
        return Report(tuple(found), figures)

    def named(self) -> set[tuple[str, str]]:
        return {(item.table, item.id) for item in self.verify().found}

    def anchors(self) -> list[str]:
        return (self.place / "anchors.jsonl").read_text().splitlines()

    def write_anchors(self, lines: list[str]) -> None:
        (self.place / "anchors.jsonl").write_text("".join(line + "\n" for line in lines))


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    place = tmp_path_factory.mktemp("played")
    stage = Stage(place)
    receipt = stage.apply()
    stage.drain()
    assert stage.hub.seal()["anchors"] == 1
    stage.clear(receipt.case)
    stage.drain()
    assert stage.hub.seal()["anchors"] == 1
    stage.register(receipt.case)
    stage.drain()
    assert stage.view(receipt.case).state == "finished"
    report = stage.hub.verify()
    assert report.ok
    assert report.figures["sealed"] > 20
    assert report.figures["tail"] > 10
    stage.close()
    copied = tmp_path_factory.mktemp("master")
    connection = sqlite3.connect(stage.settings.database_url.removeprefix("sqlite:///"))
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.execute("VACUUM INTO ?", (str(copied / "ledger.db"),))
    connection.close()
    shutil.copy(place / "anchors" / "anchors.jsonl", copied / "anchors.jsonl")
    return Played(copied)


@pytest.fixture
def copy(played: Played, tmp_path: Path) -> Copy:
    found = played.copy(tmp_path)
    assert found.verify().ok
    return found


def other(value: object) -> object:
    """A value of the same type that is another one."""
    if isinstance(value, int):
        return value + 1_000_000
    if isinstance(value, bytes):
        return value[:-1] + bytes([value[-1] ^ 1])
    assert isinstance(value, str)
    if value.startswith("{"):
        return "{ " + value[1:]  # the same JSON, another text
    return ("0" if value[:1] != "0" else "1") + value[1:]


def columns(table: str) -> list[str]:
    return [column.name for column in metadata.tables[table].columns if (table, column.name) not in FREE]


EXPECTED = {"leaves": {"leaves", "seals", "events"}}


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("table", KEYS)
def test_every_column_of_every_evidence(copy: Copy, table: str, where: str) -> None:
    key = KEYS[table]
    for column in columns(table):
        found = copy.rows(f"SELECT rowid AS place, * FROM {table} ORDER BY {key}")
        row = found[{"first": 0, "middle": len(found) // 2, "last": -1}[where]]
        changed = other(row[column])
        assert changed != row[column]
        assert copy.put(table, column, row["place"], changed) == 1
        named = copy.named()
        ids = {str(row[key]), str(changed) if column == key else str(row[key])}
        if table == "attempts":
            ids = {f"{one}/{n}" for one in ids for n in (row["n"], changed)}
        if table == "leaves":
            ids |= {str(row["seal"])}
        assert {(t, i) for t, i in named if t in EXPECTED.get(table, {table}) and i in ids}, (column, named)
        # A changed rowid alias took the row to another place.
        copy.put(table, column, changed if table == "seals" and column == key else row["place"], row[column])
    assert copy.verify().ok


@pytest.mark.parametrize("table", KEYS)
def test_a_value_of_another_kind_is_a_finding_and_no_crash(copy: Copy, table: str) -> None:
    for column in columns(table):
        for strange in ("x", b"\xff\xfe", -1.5):
            row = copy.rows(f"SELECT rowid AS place, * FROM {table} ORDER BY {KEYS[table]} LIMIT 1")[0]
            try:
                copy.put(table, column, row["place"], strange)
            except sqlite3.IntegrityError:
                continue  # SQLite itself refuses it
            report = copy.verify()
            assert {item.table for item in report.found} & {table, "database", "seals", "events"}, (column, strange)
            copy.put(table, column, row["place"], row[column])
    assert copy.verify().ok


@pytest.mark.parametrize("where", ["first", "sealed", "tail", "last"])
def test_a_deleted_event(copy: Copy, where: str) -> None:
    sealed = copy.rows("SELECT max(pos) AS pos FROM leaves")[0]["pos"]
    last = copy.rows("SELECT max(pos) AS pos FROM events")[0]["pos"]
    pos = {"first": 1, "sealed": sealed, "tail": (sealed + last) // 2, "last": last}[where]
    (row,) = copy.rows("SELECT * FROM events WHERE pos = ?", pos)
    copy.run("DELETE FROM events WHERE pos = ?", pos)
    named = copy.named()
    if where == "last":
        # Nothing stands behind it: what it said is missed where it showed.
        shown = {("messages", row["message_id"]), ("cases", row["case_no"]), ("bodies", row["body_id"])}
        assert named & shown
    else:
        assert ("events", str(pos)) in named


@pytest.mark.parametrize("sealed", [True, False])
def test_two_events_swapped(copy: Copy, sealed: bool) -> None:
    one, two = (
        (5, 9) if sealed else tuple(r["pos"] for r in copy.rows("SELECT pos FROM events ORDER BY pos DESC LIMIT 2"))
    )
    for whole in (True, False):
        names = [c for c in columns("events") if c != "pos" and (whole or c != "digest")]
        (a,), (b,) = (copy.rows("SELECT * FROM events WHERE pos = ?", pos) for pos in (one, two))
        copy.run("UPDATE events SET id = 'x' WHERE pos = ?", one)
        for pos, row in ((two, a), (one, b)):
            sets = ", ".join(f'"{name}" = ?' for name in names)
            copy.run(f"UPDATE events SET {sets} WHERE pos = ?", *(row[name] for name in names), pos)
        assert {("events", str(one)), ("events", str(two))} <= copy.named()


def test_an_event_changed_with_its_digest_is_caught_by_its_leaf(copy: Copy) -> None:
    from hub.store.events import digest_of

    (row,) = copy.rows("SELECT * FROM events WHERE pos = 7")
    row["content"] = row["content"].replace("1", "2")
    copy.run("UPDATE events SET content = ?, digest = ? WHERE pos = 7", row["content"], digest_of(row))
    assert ("events", "7") in copy.named()
    # And with its leaf too: the seal's root.
    copy.run("UPDATE leaves SET digest = ? WHERE pos = 7", digest_of(row))
    assert ("seals", "1") in copy.named()


def test_a_whole_forged_seal_is_caught_by_its_anchor(copy: Copy) -> None:
    from hub.store.events import digest_of
    from hub.store.seals import link, merkle_root

    (row,) = copy.rows("SELECT * FROM events WHERE pos = 7")
    row["at"] += 1
    copy.run("UPDATE events SET at = ?, digest = ? WHERE pos = 7", row["at"], digest_of(row))
    copy.run("UPDATE leaves SET digest = ? WHERE pos = 7", digest_of(row))
    previous = "0" * 64
    for seal in copy.rows("SELECT * FROM seals ORDER BY no"):
        root = merkle_root(
            [leaf["digest"] for leaf in copy.rows("SELECT * FROM leaves WHERE seal = ? ORDER BY pos", seal["no"])]
        )
        span = (seal["first_pos"], seal["last_pos"])
        chain = link(seal["no"], seal["at"], seal["events"], span, root, previous)
        copy.run("UPDATE seals SET root = ?, previous = ?, chain = ? WHERE no = ?", root, previous, chain, seal["no"])
        previous = chain
    assert {("anchors", "1"), ("anchors", "2")} <= copy.named()


def test_a_deleted_body(copy: Copy) -> None:
    for row in copy.rows("SELECT id FROM bodies")[::4]:
        copy.run("DELETE FROM bodies WHERE id = ?", row["id"])
        assert ("bodies", row["id"]) in copy.named()


def test_every_byte_of_a_ciphertext_counts(copy: Copy) -> None:
    (row,) = copy.rows("SELECT id, ciphertext FROM bodies ORDER BY length(ciphertext) LIMIT 1")
    chance = random.Random(7)
    for _ in range(12):
        text = bytearray(row["ciphertext"])
        text[chance.randrange(len(text))] ^= 1 << chance.randrange(8)
        copy.run("UPDATE bodies SET ciphertext = ? WHERE id = ?", bytes(text), row["id"])
        assert ("bodies", row["id"]) in copy.named()


def test_bodies_swapped(copy: Copy) -> None:
    a, b = copy.rows("SELECT id, ciphertext, digest, address FROM bodies LIMIT 2")
    for one, two in ((a, b), (b, a)):
        copy.run(
            "UPDATE bodies SET ciphertext = ?, digest = ?, address = ? WHERE id = ?",
            one["ciphertext"], one["digest"], one["address"], two["id"],
        )  # fmt: skip
    assert {("bodies", a["id"]), ("bodies", b["id"])} <= copy.named()


def test_a_foreign_body(copy: Copy) -> None:
    copy.run(
        "INSERT INTO bodies SELECT 'x', tenant, key_owner, encoding, address, ciphertext, digest, created FROM bodies LIMIT 1"
    )
    assert ("bodies", "x") in copy.named()


@pytest.mark.parametrize("no", [1, 2])
def test_a_deleted_seal(copy: Copy, no: int) -> None:
    copy.run("DELETE FROM seals WHERE no = ?", no)
    assert ("seals", str(no)) in copy.named()
    copy.run("DELETE FROM leaves WHERE seal = ?", no)
    assert ("seals", str(no)) in copy.named()


def test_every_seal_deleted(copy: Copy) -> None:
    copy.run("DELETE FROM seals")
    copy.run("DELETE FROM leaves")
    assert {("seals", "1"), ("seals", "2")} <= copy.named()


@pytest.mark.parametrize("no", [1, 2])
def test_anchor_lines(copy: Copy, no: int) -> None:
    lines = copy.anchors()
    assert len(lines) == 2
    copy.write_anchors([line for n, line in enumerate(lines, 1) if n != no])
    assert ("anchors", str(no)) in copy.named()
    broken = list(lines)
    place = broken[no - 1].index('"chain": "') + 15
    broken[no - 1] = (
        broken[no - 1][:place] + ("0" if broken[no - 1][place] != "0" else "1") + broken[no - 1][place + 1 :]
    )
    copy.write_anchors(broken)
    assert ("anchors", str(no)) in copy.named()
    copy.write_anchors([*lines[: no - 1], "not json", *lines[no:]])
    assert {("anchors", str(no)), ("anchors", f"line {no}")} <= copy.named()
    copy.write_anchors([*lines, broken[no - 1]])
    assert ("anchors", "line 3") in copy.named()
    copy.write_anchors(lines)
    assert copy.verify().ok


@pytest.mark.parametrize("part", ["events", "at"])
def test_the_rest_of_an_anchor_line(copy: Copy, part: str) -> None:
    """One changed byte in any anchor: also in what only people read."""
    lines = copy.anchors()
    place = lines[0].index(f'"{part}": ') + len(f'"{part}": "')
    changed = lines[0][:place] + ("1" if lines[0][place] != "1" else "2") + lines[0][place + 1 :]
    copy.write_anchors([changed, lines[1]])
    assert ("anchors", "1") in copy.named()


def test_a_torn_last_line_is_written_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.apply()
    stage.hub.seal()
    path = stage.settings.var / "anchors" / "anchors.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert [(item.table, item.id, item.kind) for item in stage.hub.verify().found] == [("anchors", "1", "missing")]
    assert stage.hub.seal() == {"events": 0, "anchors": 1}
    assert path.read_bytes() == whole
    stage.apply(2)
    stage.hub.seal()
    assert stage.hub.verify().ok
    stage.close()


def test_no_anchor_file(copy: Copy) -> None:
    (copy.place / "anchors.jsonl").unlink()
    assert {("anchors", "1"), ("anchors", "2")} <= copy.named()


def test_leaves(copy: Copy) -> None:
    copy.run("DELETE FROM leaves WHERE pos = 3")
    assert ("seals", "1") in copy.named()


def test_a_foreign_leaf_would_keep_an_event_from_being_sealed(copy: Copy) -> None:
    (tail,) = copy.rows("SELECT max(pos) AS pos FROM events")
    copy.run("INSERT INTO leaves (pos, seal, digest) SELECT pos, 99, digest FROM events WHERE pos = ?", tail["pos"])
    assert ("leaves", str(tail["pos"])) in copy.named()


@pytest.mark.parametrize("table", ["messages", "cases", "attempts", "body_keys"])
def test_deleted_and_foreign_rows_of_projections(copy: Copy, table: str) -> None:
    key = KEYS[table]
    row = copy.rows(f"SELECT * FROM {table}")[-1]
    name = f"{row['message_id']}/{row['n']}" if table == "attempts" else row[key]
    copy.run(f"DELETE FROM {table} WHERE {key} = ?", row[key])
    assert (table, name) in copy.named()
    row[key] = "foreign"
    marks = ", ".join("?" * len(row))
    names = ", ".join(f'"{column}"' for column in row)
    copy.run(f"INSERT INTO {table} ({names}) VALUES ({marks})", *row.values())
    assert (table, f"foreign/{row['n']}" if table == "attempts" else "foreign") in copy.named()


def test_a_lease_is_no_evidence(copy: Copy) -> None:
    copy.run("UPDATE messages SET lease_until = 5, lease_owner = 'x'")
    assert copy.verify().ok


# Raw bytes --------------------------------------------------------------------------------------------------------------


def flip(path: Path, needle: bytes, chance: random.Random) -> None:
    """Flip one bit within a stored value, wherever in the file it lies."""
    data = bytearray(path.read_bytes())
    start = data.index(needle)
    assert data.count(needle) == 1
    data[start + chance.randrange(len(needle))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(data))


STORED: dict[str, Callable[[Copy], list[tuple[str, bytes]]]] = {
    # Short enough to lie on one page; a piece of a longer one lies on one anyway.
    "bodies": lambda c: [(r["id"], r["ciphertext"][:200]) for r in c.rows("SELECT id, ciphertext FROM bodies")],
    "events": lambda c: [
        (str(r["pos"]), r["digest"].encode())
        for r in c.rows("SELECT pos, digest FROM events WHERE pos > (SELECT max(pos) FROM leaves)")
    ],
    "seals": lambda c: [(str(r["no"]), r["root"].encode()) for r in c.rows("SELECT no, root FROM seals")],
    "cases": lambda c: [(r["no"], r["data"].encode()[:150]) for r in c.rows("SELECT no, data FROM cases")],
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("table", STORED)
def test_a_flipped_bit_in_the_file(copy: Copy, table: str, seed: int) -> None:
    chance = random.Random(seed * 31 + len(table))
    found = [
        (i, piece) for i, piece in STORED[table](copy) if (copy.place / "ledger.db").read_bytes().count(piece) == 1
    ]
    if not found:
        # The same text stands in an event too: take the last place, that of the table built last or first alike.
        found = STORED[table](copy)
    row_id, needle = chance.choice(found)
    path = copy.place / "ledger.db"
    if path.read_bytes().count(needle) == 1:
        flip(path, needle, chance)
    else:
        data = bytearray(path.read_bytes())
        data[data.index(needle) + chance.randrange(len(needle))] ^= 1
        path.write_bytes(bytes(data))
    report = copy.verify()
    assert not report.ok
    named = {(item.table, item.id) for item in report.found}
    assert (table, row_id) in named or any(item.kind == "unreadable" or item.table == "events" for item in report.found)


def test_a_torn_file_is_unreadable_and_no_crash(copy: Copy) -> None:
    data = (copy.place / "ledger.db").read_bytes()
    chance = random.Random(3)
    for _ in range(25):
        torn = bytearray(data)
        start = chance.randrange(4096, len(torn) - 512)
        torn[start : start + 512] = chance.randbytes(512)
        (copy.place / "ledger.db").write_bytes(bytes(torn))
        copy.verify()  # whatever it finds, it answers; free pages and indexes may well be unhurt


# Beside a running hub ---------------------------------------------------------------------------------------------------


def test_sealing_beside_verifying_is_no_fault(tmp_path: Path) -> None:
    """A seal that is made between reading the anchors and reading the ledger is nobody's tampering."""
    stage = Stage(tmp_path)
    stage.apply()
    stage.hub.seal()
    other_hub = stage.build()
    read = stage.hub.parts.ledger.read

    class Meanwhile:
        """Seals just before the snapshot is taken."""

        def __getattr__(self, name: str) -> Any:
            return getattr(stage.hub.parts.ledger, name)

        def read(self, work: Any) -> Any:
            stage.drain(1)
            other_hub.seal()
            return read(work)

    from dataclasses import replace

    parts = replace(stage.hub.parts, ledger=Meanwhile())  # type: ignore[arg-type]
    upkeep = Upkeep(parts, None, None, stage.settings.var / "anchors")  # type: ignore[arg-type]
    for _ in range(3):
        report = upkeep.verify()
        assert report.ok, report.found
    other_hub.close()
    stage.close()
