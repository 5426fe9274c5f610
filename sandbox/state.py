"""Everything that a stand-in remembers, in one plain SQLite file: it survives kill -9 of the sandbox."""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SHANGHAI = timezone(timedelta(hours=8))

_TABLES = """
CREATE TABLE IF NOT EXISTS receipts (
  n INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, partner TEXT NOT NULL, exchange TEXT NOT NULL,
  delivery_id TEXT NOT NULL, identity TEXT NOT NULL, sha256 TEXT NOT NULL, applied INTEGER, code TEXT NOT NULL,
  body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS receipts_delivery ON receipts (partner, delivery_id);
CREATE TABLE IF NOT EXISTS effects (
  partner TEXT NOT NULL, exchange TEXT NOT NULL, identity TEXT NOT NULL, count INTEGER NOT NULL,
  PRIMARY KEY (partner, exchange, identity));
CREATE TABLE IF NOT EXISTS cases (
  partner TEXT NOT NULL, ywh TEXT NOT NULL, unit TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (partner, ywh));
CREATE TABLE IF NOT EXISTS results (
  partner TEXT NOT NULL, ywh TEXT NOT NULL, document TEXT NOT NULL, ready_at REAL NOT NULL,
  PRIMARY KEY (partner, ywh));
CREATE TABLE IF NOT EXISTS jobs (
  id INTEGER PRIMARY KEY AUTOINCREMENT, partner TEXT NOT NULL, kind TEXT NOT NULL, ywh TEXT NOT NULL,
  unit TEXT NOT NULL, content TEXT NOT NULL, due REAL NOT NULL, fate TEXT NOT NULL, state TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0, last_status INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS jobs_pending ON jobs (partner, ywh, id) WHERE state = 'pending';
CREATE TABLE IF NOT EXISTS working_secrets (
  secret TEXT PRIMARY KEY, rid TEXT NOT NULL, issued REAL NOT NULL, expires REAL NOT NULL);
CREATE TABLE IF NOT EXISTS control (partner TEXT PRIMARY KEY, setting TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Receipt:
    """One request that arrived.

    ``applied`` is true when it became an effect, false when it was a repeat that was absorbed, and ``None`` when it
    was neither: a query, or something that the stand-in refused (``code`` says with which code).
    """

    partner: str
    exchange: str
    delivery_id: str
    identity: str
    sha256: str
    applied: bool | None
    code: str
    body: str


@dataclass(frozen=True, slots=True)
class Job:
    """One callback that a stand-in owes the gateway."""

    id: int
    partner: str
    kind: str
    ywh: str
    unit: str
    content: Mapping[str, Any]
    fate: Mapping[str, Any]
    attempts: int


def shanghai(epoch: float) -> str:
    """An instant as ``2026-01-02T15:04:05+08:00``."""
    return datetime.fromtimestamp(epoch, SHANGHAI).isoformat(timespec="seconds")


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


class State:
    """The one connection to the state file; used by the event loop's thread only."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        # NORMAL under WAL loses nothing when the process is killed, only when the power goes.
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_TABLES)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; what happens inside must not wait for anything."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # receipts and effects

    def record(self, receipt: Receipt, epoch: float) -> None:
        """Write down that a request arrived, and count its effect if it was applied."""
        at = datetime.fromtimestamp(epoch, SHANGHAI).isoformat(timespec="milliseconds")
        applied = None if receipt.applied is None else int(receipt.applied)
        self._db.execute(
            "INSERT INTO receipts (at, partner, exchange, delivery_id, identity, sha256, applied, code, body)"
            " VALUES (?,?,?,?,?,?,?,?,?)",
            (at, receipt.partner, receipt.exchange, receipt.delivery_id, receipt.identity, receipt.sha256, applied,
             receipt.code, receipt.body),
        )  # fmt: skip
        if receipt.applied:
            self._db.execute(
                "INSERT INTO effects VALUES (?,?,?,1) ON CONFLICT DO UPDATE SET count = count + 1",
                (receipt.partner, receipt.exchange, receipt.identity),
            )

    def was_applied(self, partner: str, delivery_id: str, exchange: str | None = None) -> bool:
        """Whether a delivery has already become an effect, of one exchange or of any."""
        row = self._db.execute(
            "SELECT 1 FROM receipts WHERE partner = ? AND delivery_id = ? AND exchange = coalesce(?, exchange)"
            " AND applied = 1 LIMIT 1",
            (partner, delivery_id, exchange),
        ).fetchone()
        return bool(delivery_id) and row is not None

    def received(self, partner: str, exchange: str | None, after: int) -> list[dict[str, Any]]:
        """What a partner received, oldest first, without the bodies."""
        rows = self._db.execute(
            "SELECT n, at, exchange, delivery_id, identity, sha256, applied, code FROM receipts"
            " WHERE partner = ? AND exchange = coalesce(?, exchange) AND n > ? ORDER BY n",
            (partner, exchange, after),
        )
        return [{**dict(row), "applied": None if row["applied"] is None else bool(row["applied"])} for row in rows]

    def effects(self) -> dict[str, dict[str, int]]:
        """How often each identity took effect, by ``partner/exchange``."""
        found: dict[str, dict[str, int]] = {}
        for row in self._db.execute("SELECT * FROM effects ORDER BY partner, exchange, identity"):
            found.setdefault(f"{row['partner']}/{row['exchange']}", {})[row["identity"]] = row["count"]
        return found

    # cases and their results

    def put_case(self, partner: str, ywh: str, unit: str, document: Mapping[str, Any]) -> None:
        """Keep a case as a partner knows it."""
        self._db.execute("INSERT OR REPLACE INTO cases VALUES (?,?,?,?)", (partner, ywh, unit, _text(document)))

    def case(self, partner: str, ywh: str) -> dict[str, Any] | None:
        """A partner's case, if it has one."""
        return self._document("SELECT document FROM cases WHERE partner = ? AND ywh = ?", (partner, ywh))

    def put_result(self, partner: str, ywh: str, document: Mapping[str, Any], ready_at: float) -> None:
        """Keep what a partner will tell about a case, by callback and by query alike."""
        self._db.execute("INSERT OR REPLACE INTO results VALUES (?,?,?,?)", (partner, ywh, _text(document), ready_at))

    def result(self, partner: str, ywh: str, now: float) -> dict[str, Any] | None:
        """A partner's result for a case, once it is ready."""
        return self._document(
            "SELECT document FROM results WHERE partner = ? AND ywh = ? AND ready_at <= ?", (partner, ywh, now)
        )

    def forget_case(self, partner: str, ywh: str) -> None:
        """A withdrawn case: no result, no more callbacks."""
        self._db.execute("DELETE FROM results WHERE partner = ? AND ywh = ?", (partner, ywh))
        self._db.execute("DELETE FROM cases WHERE partner = ? AND ywh = ?", (partner, ywh))
        self.cancel_jobs(partner, ywh)

    def _document(self, query: str, values: tuple[object, ...]) -> dict[str, Any] | None:
        row = self._db.execute(query, values).fetchone()
        if row is None:
            return None
        document: dict[str, Any] = json.loads(row["document"])
        return document

    # callbacks

    def add_job(self, job: Job, due: float, state: str) -> None:
        """Owe a callback; the id of ``job`` is given here."""
        self._db.execute(
            "INSERT INTO jobs (partner, kind, ywh, unit, content, due, fate, state) VALUES (?,?,?,?,?,?,?,?)",
            (job.partner, job.kind, job.ywh, job.unit, _text(job.content), due, _text(job.fate), state),
        )

    def due_jobs(self, now: float) -> list[Job]:
        """Callbacks whose time has come and that no older one of the same case holds back."""
        rows = self._db.execute(
            "SELECT * FROM jobs j WHERE state = 'pending' AND due <= ? AND NOT EXISTS (SELECT 1 FROM jobs e"
            " WHERE e.state = 'pending' AND e.partner = j.partner AND e.ywh = j.ywh AND e.id < j.id) ORDER BY id",
            (now,),
        )
        return [
            Job(row["id"], row["partner"], row["kind"], row["ywh"], row["unit"], json.loads(row["content"]),
                json.loads(row["fate"]), row["attempts"])
            for row in rows
        ]  # fmt: skip

    def pending_jobs(self) -> int:
        """How many callbacks are owed."""
        count: int = self._db.execute("SELECT count(*) FROM jobs WHERE state = 'pending'").fetchone()[0]
        return count

    def bind_fate(self, job: Job, fate: Mapping[str, Any]) -> None:
        """Write down what the control makes of a callback, so that a repeat does not ask again."""
        self._db.execute("UPDATE jobs SET fate = ? WHERE id = ?", (_text(fate), job.id))

    def end_job(self, job: Job, state: str, status: int = 0) -> None:
        """A callback is over: ``sent``, ``failed`` or ``skipped``."""
        self._db.execute(
            "UPDATE jobs SET state = ?, attempts = attempts + 1, last_status = ? WHERE id = ? AND state = 'pending'",
            (state, status, job.id),
        )

    def postpone_job(self, job: Job, due: float, status: int = 0) -> None:
        """A callback failed for now."""
        self._db.execute(
            "UPDATE jobs SET due = ?, attempts = attempts + 1, last_status = ? WHERE id = ? AND state = 'pending'",
            (due, status, job.id),
        )

    def cancel_jobs(self, partner: str, ywh: str, kind: str | None = None) -> None:
        """Owe nothing any more for a case."""
        self._db.execute(
            "UPDATE jobs SET state = 'cancelled' WHERE state = 'pending' AND partner = ? AND ywh = ?"
            " AND kind = coalesce(?, kind)",
            (partner, ywh, kind),
        )

    # the platform's working secrets

    def add_secret(self, secret: str, rid: str, issued: float, expires: float) -> None:
        """Keep a working secret until it expires, and drop those that have."""
        self._db.execute("DELETE FROM working_secrets WHERE expires <= ?", (issued,))
        self._db.execute("INSERT INTO working_secrets VALUES (?,?,?,?)", (secret, rid, issued, expires))

    def live_secrets(self, rid: str, now: float) -> list[tuple[str, float]]:
        """The working secrets of a requester that still hold, newest first, each with its time of issue."""
        rows = self._db.execute(
            "SELECT secret, issued FROM working_secrets WHERE rid = ? AND expires > ? ORDER BY issued DESC", (rid, now)
        )
        return [(row["secret"], row["issued"]) for row in rows]

    # control

    def control(self) -> dict[str, dict[str, Any]]:
        """The settings in force, by partner."""
        return {row["partner"]: json.loads(row["setting"]) for row in self._db.execute("SELECT * FROM control")}

    def put_control(self, partner: str, setting: Mapping[str, Any]) -> None:
        """Keep a partner's setting."""
        self._db.execute("INSERT OR REPLACE INTO control VALUES (?,?)", (partner, _text(setting)))
