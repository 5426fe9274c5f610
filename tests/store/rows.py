"""Rows that the tests of the store are about, and readings of them."""

from __future__ import annotations

import itertools
import json
from typing import Any

from sqlalchemy import func, select

from hub.model.identity import new_id
from hub.store import ledger, messages
from hub.store.ledger import Ledger, RowMapping
from hub.store.messages import ClaimRule, NewMessage, Outcome
from hub.store.tables import events

TENANT = "510199"
DONE = Outcome("done", "0000", "delivered")
AGAIN = Outcome("unsent", "partner_busy", "waiting", "partner_busy")
DEAD = Outcome("dead", "answer_invalid", "dead", "answer_invalid")
_serial = itertools.count()


def message(partner: str = "tax", case: str = "C1", **changes: Any) -> NewMessage:
    """A message that is ready to be delivered."""
    values: dict[str, Any] = {
        "id": new_id(),
        "tenant": TENANT,
        "partner": partner,
        "exchange": "taxable_case",
        "direction": "deliver",
        "lane": "live",
        "redelivery": "idempotent",
        "case_no": case,
        "state": "ready",
        "step": "tax",
    }
    return NewMessage(**{**values, **changes})


def add(book: Ledger, *new: NewMessage) -> list[str]:
    """Write messages; their ids."""
    book.write(lambda c: messages.add(c, ledger.now(c), list(new)))
    return [item.id for item in new]


def rule(**changes: Any) -> ClaimRule:
    """A rule that takes everything."""
    return ClaimRule(**{"by": "airflow", "owner": "test", "lease_ms": 60_000, **changes})


def claim(book: Ledger, limit: int = 10, **changes: Any) -> list[RowMapping]:
    """Claim by a rule."""
    wanted = rule(**changes)
    return book.write(lambda c: messages.claim(c, ledger.now(c), wanted, limit))


def settle(book: Ledger, row: RowMapping, result: Outcome = DONE) -> None:
    """Record an outcome under the row's fencing token."""

    def work(connection: Any) -> None:
        held = messages.held(connection, row["id"], row["fence"])
        messages.settle(connection, ledger.now(connection), held, result)

    book.write(work)


def get(book: Ledger, message_id: str) -> RowMapping:
    """One message."""
    found = book.read(lambda c: messages.get(c, message_id))
    assert found is not None
    return found


def count_events(book: Ledger) -> int:
    """How many events there are."""
    return book.read(lambda c: int(c.execute(select(func.count()).select_from(events)).scalar_one()))


def last_content(book: Ledger, message_id: str) -> dict[str, Any]:
    """What the newest event of a message says."""
    return dict(json.loads(book.read(lambda c: messages_events(c, message_id))[-1]["content"]))


def messages_events(connection: Any, message_id: str) -> list[RowMapping]:
    """Events of a message, oldest first."""
    from sqlalchemy import select

    from hub.store.tables import events

    found = connection.execute(select(events).where(events.c.message_id == message_id).order_by(events.c.pos))
    return list(found.mappings())
