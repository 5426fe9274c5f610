"""Seals: Merkle trees over committed events, their roots chained, and the comparison of everything with everything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, RowMapping, insert, select
from sqlalchemy.exc import DatabaseError

from hub.errors import Transient
from hub.model.documents import compact
from hub.store import bodies as body_rows
from hub.store import events as event_rows
from hub.store.cases import PROJECTED as CASE_COLUMNS
from hub.store.ledger import Ledger
from hub.store.messages import PROJECTED as MESSAGE_COLUMNS
from hub.store.tables import attempts, bodies, body_keys, cases, events, leaves, messages, seals

GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class Seal:
    """One seal: what it covers and how it hangs on the one before."""

    no: int
    at: int
    events: int
    first_pos: int
    last_pos: int
    root: str
    previous: str
    chain: str

    @property
    def anchor(self) -> str:
        """The line that stands for this seal outside the database."""
        at = datetime.fromtimestamp(self.at / 1000, UTC).isoformat(timespec="milliseconds")
        return json.dumps({"seal": self.no, "chain": self.chain, "events": self.events, "at": at}, sort_keys=True)


Anchors = Callable[[], Mapping[int, str]]
"""Reads the anchors: seal number → its line; a line that says nothing stands under its own number, negative."""


def merkle_root(digests: Sequence[str]) -> str:
    """Root of a binary Merkle tree (RFC 6962 style: leaves and nodes are hashed with different prefixes)."""
    level = [hashlib.sha256(b"\0" + bytes.fromhex(d)).digest() for d in digests]
    if not level:
        return hashlib.sha256(b"").hexdigest()
    while len(level) > 1:
        paired = [hashlib.sha256(b"\1" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        level = paired + ([level[-1]] if len(level) % 2 else [])
    return level[0].hex()


def link(no: int, at: int, count: int, span: tuple[int, int], root: str, previous: str) -> str:
    """The chain value of a seal: a hash over all that it says and the one before."""
    text = compact([no, at, count, span[0], span[1], root, previous])
    return hashlib.sha256(text.encode()).hexdigest()


def seal_next(connection: Connection, at: int, limit: int = 20_000) -> Seal | None:
    """Seal committed events that no seal covers yet; nothing when there are none.

    Taking "what has no leaf yet" instead of "what is above the last" catches an event that a slow transaction
    committed below the last sealed place.
    """
    missing = (
        select(events.c.pos, events.c.digest)
        .outerjoin(leaves, leaves.c.pos == events.c.pos)
        .where(leaves.c.pos.is_(None))
    )
    before = connection.execute(select(seals).order_by(seals.c.no.desc()).limit(1)).mappings().first()
    if connection.dialect.name == "sqlite" and before is not None:
        # One writer, places without gaps: nothing can appear below the last sealed place.
        missing = select(events.c.pos, events.c.digest).where(events.c.pos > before["last_pos"])
    rows = list(connection.execute(missing.order_by(events.c.pos).limit(limit)))
    if not rows:
        return None
    no, previous = (before["no"] + 1, before["chain"]) if before else (1, GENESIS)
    root = merkle_root([row.digest for row in rows])
    span = (int(rows[0].pos), int(rows[-1].pos))
    made = Seal(no, at, len(rows), *span, root, previous, link(no, at, len(rows), span, root, previous))
    connection.execute(insert(leaves), [{"pos": r.pos, "seal": no, "digest": r.digest} for r in rows])
    connection.execute(
        insert(seals).values(
            no=no,
            at=at,
            events=made.events,
            first_pos=span[0],
            last_pos=span[1],
            root=root,
            previous=previous,
            chain=made.chain,
        )
    )
    return made


def since(connection: Connection, no: int) -> list[Seal]:
    """Seals above a number, in order: what the anchor file does not have yet."""
    query = select(seals).where(seals.c.no > no).order_by(seals.c.no)
    return [Seal(**row) for row in connection.execute(query).mappings()]


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One row that does not agree with the rest: its table, its id, what is wrong with it."""

    table: str
    id: str
    kind: str


@dataclass(slots=True)
class _Seen:
    """What one pass over the events has learned."""

    messages: dict[str, Mapping[str, object]]
    births: dict[str, tuple[str, str]]
    cases: dict[str, tuple[Mapping[str, object], str, int]]
    attempts: dict[tuple[str, int], dict[str, object]]
    bodies: dict[str, tuple[str, int]]
    keys: dict[str, tuple[str, int]]
    total: int = 0


def examine(ledger: Ledger, anchors: Anchors) -> tuple[list[Discrepancy], dict[str, int]]:
    """``verify`` on one snapshot; a database that cannot be read is a finding, not a crash."""
    try:
        return ledger.read(lambda c: verify(c, anchors))
    except (DatabaseError, Transient, ValueError, TypeError, OverflowError) as error:
        # The latter three: values of a kind that the hub never writes, in places where nothing else can name them.
        return [Discrepancy("database", type(error).__name__, "unreadable")], {"events": 0, "sealed": 0, "tail": 0}


def verify(connection: Connection, anchors: Anchors) -> tuple[list[Discrepancy], dict[str, int]]:
    """Compare rows with leaves, leaves with seals, seals with chain and anchors, and projections with events.

    Args:
        connection: one consistent snapshot.
        anchors: reads what was written outside the database.

    Returns:
        What differs, and the figures ``events``, ``sealed`` and ``tail`` (events that no seal covers yet).
    """
    found: list[Discrepancy] = []
    seen = _Seen({}, {}, {}, {}, {}, {})
    sealed = _verify_seals(connection, anchors, found)
    gapless = connection.dialect.name == "sqlite"
    for row in _verify_events(connection, sealed, found, gapless=gapless):
        _learn(row, seen)
    _verify_bodies(connection, seen, found)
    _verify_keys(connection, seen, found)
    _verify_messages(connection, seen, found)
    _verify_attempts(connection, seen, found)
    _verify_cases(connection, seen, found)
    return found, {"events": seen.total, "sealed": len(sealed), "tail": seen.total - len(sealed)}


def _verify_seals(connection: Connection, read_anchors: Anchors, found: list[Discrepancy]) -> dict[int, str]:
    """Check seals among themselves; returns pos → leaf digest of everything sealed."""
    sealed: dict[int, str] = {}
    previous, expected = GENESIS, 1
    # A sealer may be at work: what was anchored before the snapshot must have its seal, and what is sealed in the
    # snapshot its anchor by now.
    before = read_anchors()
    rows = [Seal(**row) for row in connection.execute(select(seals).order_by(seals.c.no)).mappings()]
    anchors = read_anchors()
    for seal in rows:
        no = seal.no
        if no != expected:
            found.append(Discrepancy("seals", str(expected), "missing"))
            expected = no
        expected += 1
        parts = list(
            connection.execute(select(leaves.c.pos, leaves.c.digest).where(leaves.c.seal == no).order_by(leaves.c.pos))
        )
        span = (seal.first_pos, seal.last_pos)
        if seal.previous != previous:
            found.append(Discrepancy("seals", str(no), "chain_broken"))
        if (
            not _is_digests(parts)
            or merkle_root([p.digest for p in parts]) != seal.root
            or len(parts) != seal.events
            or span != (parts[0].pos, parts[-1].pos)
        ):
            found.append(Discrepancy("seals", str(no), "root_differs"))
        if link(no, seal.at, seal.events, span, seal.root, seal.previous) != seal.chain:
            found.append(Discrepancy("seals", str(no), "digest_differs"))
        if anchors.get(no) != seal.anchor:
            found.append(Discrepancy("anchors", str(no), "missing" if no not in anchors else "differs"))
        previous = seal.chain
        sealed.update((int(p.pos), str(p.digest)) for p in parts)
    unreadable = sorted({-no for no in anchors if no <= 0})
    found.extend(Discrepancy("anchors", f"line {line}", "unreadable") for line in unreadable)
    gone = sorted(no for no in before if no > 0 and not 1 <= no < expected)
    found.extend(Discrepancy("seals", str(no), "missing") for no in gone)
    _verify_leaves(connection, found)
    return sealed


def _verify_leaves(connection: Connection, found: list[Discrepancy]) -> None:
    """A leaf without a seal would keep its event from ever being sealed."""
    orphans = select(leaves.c.pos).where(leaves.c.seal.not_in(select(seals.c.no))).order_by(leaves.c.pos).limit(100)
    found.extend(Discrepancy("leaves", str(pos), "unknown") for pos in connection.execute(orphans).scalars())


def _is_digests(parts: Sequence[object]) -> bool:
    width = 64
    return all(len(d) == width and all(c in "0123456789abcdef" for c in d) for d in (str(p.digest) for p in parts))  # type: ignore[attr-defined]


def _verify_events(
    connection: Connection, sealed: Mapping[int, str], found: list[Discrepancy], *, gapless: bool
) -> Iterator[RowMapping]:
    last, unseen = 0, set(sealed)
    for row in connection.execution_options(yield_per=1000).execute(select(events).order_by(events.c.pos)).mappings():
        pos = int(row["pos"])
        if gapless and pos != last + 1:
            found.extend(
                Discrepancy("events", str(gone), "missing")
                for gone in range(last + 1, min(pos, last + 101))
                if gone not in sealed
            )
        last = pos
        unseen.discard(pos)
        digest = event_rows.digest_of(row)
        if digest != row["digest"] or sealed.get(pos, digest) != digest:
            found.append(Discrepancy("events", str(pos), "content_differs"))
        yield row
    found.extend(Discrepancy("events", str(pos), "missing") for pos in sorted(unseen))


def _learn(row: RowMapping, seen: _Seen) -> None:
    seen.total += 1
    try:
        content = json.loads(row["content"])
    except ValueError:
        return  # already named: its digest differs
    if not isinstance(content, dict):
        return
    if row["body_digest"]:
        seen.bodies[row["body_id"]] = (row["body_digest"], row["at"])
    if row["kind"] == "key.kept":
        seen.keys[str(content.get("owner"))] = (str(content.get("digest")), row["at"])
    elif row["kind"].startswith("case."):
        seen.cases[row["case_no"]] = (content, row["tenant"], row["at"])
    elif row["kind"].startswith("message."):
        seen.messages[row["message_id"]] = {**content, "updated": row["at"], "body_id": row["body_id"]}
        seen.births[row["message_id"]] = (row["tenant"], row["case_no"])
        _learn_attempt(row, content, seen)


def _learn_attempt(row: RowMapping, content: Mapping[str, object], seen: _Seen) -> None:
    note = content.get("note")
    n = note.get("n") if isinstance(note, dict) else None
    if not isinstance(note, dict) or not isinstance(n, int):
        return
    entry = seen.attempts.setdefault((row["message_id"], n), {"ended": 0, "outcome": "", "code": ""})
    entry.update({name: note[name] for name in ("by", "delivery_id", "outcome", "code") if name in note})
    if "delivery_id" in note:
        entry.update(started=row["at"], fence=content.get("fence"))
    else:
        entry["ended"] = row["at"]


def _verify_bodies(connection: Connection, seen: _Seen, found: list[Discrepancy]) -> None:
    left = dict(seen.bodies)
    for row in connection.execution_options(yield_per=200).execute(select(bodies)).mappings():
        digest = body_rows.digest_of(row)
        expected = left.pop(row["id"], None)
        if digest != row["digest"] or (expected is not None and expected != (digest, row["created"])):
            found.append(Discrepancy("bodies", row["id"], "content_differs"))
        elif expected is None:
            found.append(Discrepancy("bodies", row["id"], "unknown"))
    found.extend(Discrepancy("bodies", gone, "missing") for gone in sorted(left))


def _verify_keys(connection: Connection, seen: _Seen, found: list[Discrepancy]) -> None:
    """A wrapped key that was changed would make every body of its case unreadable."""
    left = dict(seen.keys)
    for row in connection.execute(select(body_keys)).mappings():
        expected = left.pop(row["owner"], None)
        if expected != (body_rows.key_digest(row), row["created"]):
            found.append(Discrepancy("body_keys", row["owner"], "unknown" if expected is None else "content_differs"))
    found.extend(Discrepancy("body_keys", gone, "missing") for gone in sorted(left))


def _verify_messages(connection: Connection, seen: _Seen, found: list[Discrepancy]) -> None:
    left = dict(seen.messages)
    for row in connection.execution_options(yield_per=1000).execute(select(messages)).mappings():
        content = left.pop(row["id"], None)
        if content is None:
            found.append(Discrepancy("messages", row["id"], "unknown"))
            continue
        tenant, case_no = seen.births[row["id"]]
        same = all(row[name] == content.get(name) for name in (*MESSAGE_COLUMNS, "updated", "body_id"))
        if not same or row["tenant"] != tenant or row["case_no"] != case_no:
            found.append(Discrepancy("messages", row["id"], "projection_differs"))
    found.extend(Discrepancy("messages", gone, "missing") for gone in sorted(left))


def _verify_attempts(connection: Connection, seen: _Seen, found: list[Discrepancy]) -> None:
    left = dict(seen.attempts)
    for row in connection.execution_options(yield_per=1000).execute(select(attempts)).mappings():
        entry = left.pop((row["message_id"], int(row["n"])), None)
        if entry is None or any(row[name] != value for name, value in entry.items()):
            found.append(
                Discrepancy(
                    "attempts", f"{row['message_id']}/{row['n']}", "unknown" if entry is None else "projection_differs"
                )
            )
    found.extend(Discrepancy("attempts", f"{gone[0]}/{gone[1]}", "missing") for gone in sorted(left))


def _verify_cases(connection: Connection, seen: _Seen, found: list[Discrepancy]) -> None:
    left = dict(seen.cases)
    for row in connection.execute(select(cases)).mappings():
        entry = left.pop(row["no"], None)
        if entry is None:
            found.append(Discrepancy("cases", row["no"], "unknown"))
            continue
        content, tenant, at = entry
        same = all(row[name] == content.get(name) for name in CASE_COLUMNS)
        if not same or row["tenant"] != tenant or row["updated"] != at:
            found.append(Discrepancy("cases", row["no"], "projection_differs"))
    found.extend(Discrepancy("cases", gone, "missing") for gone in sorted(left))
