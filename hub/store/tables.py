"""The ledger's tables. When each row is born, changes and dies: docs/ledger.md.

Times are integers, milliseconds since the epoch, by the database's clock. ``messages`` and ``cases`` are projections
of ``events`` and can be rebuilt from them; ``lease_owner`` and ``lease_until`` are the only columns without an event.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text, text

metadata = MetaData()

messages = Table(
    "messages",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant", String(12), nullable=False),
    Column("partner", String(40), nullable=False),
    Column("exchange", String(60), nullable=False),
    Column("direction", String(8), nullable=False),
    Column("lane", String(8), nullable=False),
    Column("redelivery", String(12), nullable=False),
    Column("case_no", String(60), nullable=False),
    Column("seq", Integer, nullable=False),
    Column("step", String(60), nullable=False),
    Column("caller", String(60), nullable=False),
    Column("state", String(20), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("reason", String(80), nullable=False),
    Column("body_id", String(36), nullable=False),
    Column("fence", Integer, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Column("lease_owner", String(80), nullable=False, server_default=""),
    Column("lease_until", BigInteger, nullable=False, server_default="0"),
    Index("messages_due", "partner", "state", "due_at"),
    # Only what may be claimed: its size is the backlog's, not the ledger's.
    Index(
        "messages_claimable",
        "partner",
        "due_at",
        "id",
        sqlite_where=text("state IN ('ready', 'asked', 'waiting')"),
        postgresql_where=text("state IN ('ready', 'asked', 'waiting')"),
    ),
    Index("messages_order", "case_no", "partner", "seq"),
    Index("messages_recent", "tenant", "created"),
    Index("messages_lease", "state", "lease_until"),
)

events = Table(
    "events",
    metadata,
    Column("pos", BigInteger, primary_key=True, autoincrement=False),
    Column("id", String(36), nullable=False, unique=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("tenant", String(12), nullable=False),
    Column("message_id", String(36), nullable=False),
    Column("case_no", String(60), nullable=False),
    Column("content", Text, nullable=False),
    Column("body_id", String(36), nullable=False),
    Column("body_digest", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Index("events_message", "message_id", "pos"),
    Index("events_case", "case_no", "pos"),
)

cases = Table(
    "cases",
    metadata,
    Column("no", String(60), primary_key=True),
    Column("unified_no", String(60), nullable=False, index=True),
    Column("tenant", String(12), nullable=False),
    Column("matter", String(60), nullable=False),
    Column("matter_version", Integer, nullable=False),
    Column("state", String(20), nullable=False),
    Column("step", String(60), nullable=False),
    Column("waiting_for", String(40), nullable=False),
    Column("reason", String(80), nullable=False),
    Column("version", Integer, nullable=False),
    Column("data", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Index("cases_waiting", "state", "waiting_for", "updated"),
    Index("cases_recent", "tenant", "created"),
)

bodies = Table(
    "bodies",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant", String(12), nullable=False),
    Column("key_owner", String(60), nullable=False),
    Column("encoding", String(20), nullable=False),
    Column("address", String(64), nullable=False),
    Column("ciphertext", LargeBinary, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created", BigInteger, nullable=False),
)

body_keys = Table(
    "body_keys",
    metadata,
    Column("owner", String(60), primary_key=True),
    Column("tenant", String(12), nullable=False),
    Column("key_id", String(40), nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("created", BigInteger, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant", String(12), primary_key=True),
    Column("caller", String(60), primary_key=True),
    Column("exchange", String(100), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("message_id", String(36), nullable=False),
    Column("answer", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("message_id", String(36), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("delivery_id", String(32), nullable=False),
    Column("by", String(20), nullable=False),
    Column("fence", Integer, nullable=False),
    Column("started", BigInteger, nullable=False),
    Column("ended", BigInteger, nullable=False),
    Column("outcome", String(20), nullable=False),
    Column("code", String(80), nullable=False),
)

seals = Table(
    "seals",
    metadata,
    Column("no", Integer, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("events", Integer, nullable=False),
    Column("first_pos", BigInteger, nullable=False),
    Column("last_pos", BigInteger, nullable=False),
    Column("root", String(64), nullable=False),
    Column("previous", String(64), nullable=False),
    Column("chain", String(64), nullable=False),
)

leaves = Table(
    "leaves",
    metadata,
    Column("pos", BigInteger, primary_key=True, autoincrement=False),
    Column("seal", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
    Index("leaves_seal", "seal", "pos"),
)

blind_index = Table(
    "blind_index",
    metadata,
    Column("tenant", String(12), primary_key=True),
    Column("kind", String(12), primary_key=True),
    Column("key_id", String(40), primary_key=True),
    Column("token", String(64), primary_key=True),
    Column("case_no", String(60), primary_key=True),
)

polls = Table(
    "polls",
    metadata,
    Column("case_no", String(60), primary_key=True),
    Column("exchange", String(100), primary_key=True),
    Column("times", Integer, nullable=False),
    Column("due_at", BigInteger, nullable=False),
)

counters = Table(
    "counters",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

health = Table(
    "health",
    metadata,
    Column("partner", String(40), primary_key=True),
    Column("up", Integer, nullable=False),
    Column("code", String(80), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("seen", BigInteger, nullable=False),
)

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("process", String(60), primary_key=True),
    Column("at", BigInteger, nullable=False),
)
