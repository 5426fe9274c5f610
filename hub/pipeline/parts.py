"""What the pipeline is built from: every dependency in one frozen value, made by the composition root."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

from hub.errors import Broken
from hub.mapping import Mappings
from hub.ports import Clock, Hints, Transport
from hub.registry.declarations import Declarations
from hub.registry.matters import Matters
from hub.security.blind import BlindIndex
from hub.security.envelope import CaseKey, Envelope, Sealed, binding
from hub.store import bodies
from hub.store.ledger import Connection, Ledger, RowMapping
from hub.validation.contracts import Contracts

SHANGHAI = timezone(timedelta(hours=8), "Asia/Shanghai")


@dataclass(frozen=True, slots=True)
class Pace:
    """Times of the pipeline in milliseconds, already divided by ``DUKOU_RETRY_SCALE`` where that applies.

    Attributes:
        lease: how long a worker may keep a message; longer than the slowest partner's timeouts together.
        first_wait: the first retry's wait; each next one doubles.
        longest_wait: no retry waits longer.
        give_up: a message that could not be delivered for so long becomes a dead letter.
        courier_grace: an orchestrator leaves first attempts of live lanes alone for so long.
        poll_after: a result that was not reported for so long is fetched.
        probe: a partner that is down is tried again by the courier after so long.
        hour: an hour of a deadline.
    """

    lease: int = 30_000
    first_wait: int = 2_000
    longest_wait: int = 300_000
    give_up: int = 7 * 24 * 3_600_000
    courier_grace: int = 5_000
    poll_after: int = 60_000
    probe: int = 2_000
    hour: int = 3_600_000


@dataclass(frozen=True, slots=True)
class Parts:
    """The pipeline's dependencies."""

    ledger: Ledger
    declarations: Declarations
    matters: Matters
    contracts: Contracts
    mappings: Mappings
    envelope: Envelope
    blind: BlindIndex
    wires: Mapping[str, Transport]
    hints: Hints
    clock: Clock
    new_id: Callable[[], str]
    chance: random.Random
    pace: Pace


def local_time(ms: int) -> str:
    """``yyyy-MM-ddTHH:mm:ss+08:00``."""
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone(SHANGHAI).strftime("%Y-%m-%dT%H:%M:%S+08:00")


def local_day(ms: int) -> str:
    """``yyyyMMdd`` in Asia/Shanghai."""
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone(SHANGHAI).strftime("%Y%m%d")


class Vault:
    """Seals and opens bodies for the ledger: keys are unwrapped here, outside every transaction."""

    def __init__(self, ledger: Ledger, envelope: Envelope, new_id: Callable[[], str]) -> None:
        self._ledger = ledger
        self._envelope = envelope
        self._new_id = new_id

    def new_key(self, owner: str, tenant: str) -> tuple[CaseKey, bodies.NewKey]:
        """A fresh data key and the row that keeps it, wrapped."""
        key = self._envelope.new_case_key(tenant)
        return key, bodies.NewKey(owner, tenant, key.key_id, key.wrapped)

    def key(self, owner: str) -> CaseKey:
        """The data key of an owner that the ledger knows."""
        row = self._ledger.read(lambda c: bodies.get_key(c, owner))
        if row is None:
            raise Broken("case_key_missing", "a case has no key", "办件缺少密钥")
        return self._envelope.unwrap(row["tenant"], row["key_id"], row["wrapped"])

    def seal(self, key: CaseKey, owner: str, tenant: str, plaintext: bytes) -> bodies.NewBody:
        """A sealed body, bound to its tenant, owner and id."""
        body_id = self._new_id()
        sealed = self._envelope.seal(key, plaintext, binding(tenant, owner, body_id))
        address = self._envelope.address(plaintext, tenant)
        return bodies.NewBody(body_id, tenant, owner, sealed.encoding, address, sealed.ciphertext)

    def open(self, body_id: str) -> bytes:
        """The plaintext of a stored body.

        Raises:
            Broken: it is gone or does not open.
        """

        def load(connection: Connection) -> tuple[RowMapping, RowMapping]:
            row = bodies.get(connection, body_id)
            owner = None if row is None else bodies.get_key(connection, row["key_owner"])
            if row is None or owner is None:
                raise Broken("body_missing", "a stored body is gone", "存储的报文缺失")
            return row, owner

        row, owner = self._ledger.read(load)
        key = self._envelope.unwrap(owner["tenant"], owner["key_id"], bytes(owner["wrapped"]))
        aad = binding(row["tenant"], row["key_owner"], body_id)
        return self._envelope.open(key, Sealed(bytes(row["ciphertext"]), row["encoding"]), aad)

    def open_json(self, body_id: str) -> object:
        """A stored body as the JSON document that it is."""
        return json.loads(self.open(body_id))
