"""A call that arrived at the hub, who made it, and what it was answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hub.errors import Fault


@dataclass(frozen=True, slots=True)
class Caller:
    """Someone who may call: its secret, its tenants (county codes) and the services (key → sid) that it may use."""

    name: str
    partner: str
    rid: str
    secret: str = field(repr=False)
    tenants: tuple[str, ...]
    sids: Mapping[str, str]
    profile: str = "dukou"

    def services(self, sid: str) -> tuple[str, ...]:
        """The service keys that this sid stands for (one sid may stand for several)."""
        return tuple(key for key, value in self.sids.items() if value == sid)


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated call on a ``serve`` exchange.

    Attributes:
        caller: who called.
        partner: partner of the exchange.
        exchange: name of the exchange.
        raw: the body as it came (at most the gateway's limit).
        document: the parsed body, when the gateway had to parse it (SOAP); else ``None``.
        key: the ``Idempotency-Key`` header, or empty.
        path_case: the case number of the path, or empty.
    """

    caller: Caller
    partner: str
    exchange: str
    raw: bytes
    document: object = None
    key: str = ""
    path_case: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the caller is told after the commit."""

    message: str
    state: str
    code: str = "0000"
    case: str = ""
    case_state: str = ""
    missing: tuple[str, ...] = ()
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """An RFC 9457 problem in both languages."""

    code: str
    status: int
    title: str
    title_zh: str
    faults: tuple[Fault, ...] = field(default_factory=tuple)
