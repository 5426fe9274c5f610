"""What the core needs from outside: one verb each. Production parts are built in ``dukou.build``, fakes are shipped beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from hub.model.declarations import Exchange, Partner


class Clock(Protocol):
    """Wall clock in milliseconds since the epoch."""

    def __call__(self) -> int:
        """Now."""
        ...


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One attempt as a protocol sees it. ``document`` is the partner's own document (JSON-like)."""

    partner: Partner
    exchange: Exchange
    delivery_id: str
    document: object
    purpose: Literal["send", "query"] = "send"


@dataclass(frozen=True, slots=True)
class Incoming:
    """What the partner answered. ``document`` is parsed; ``status`` is the HTTP status or 0."""

    status: int
    document: object = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Transport(Protocol):
    """A wire: sends one document and gives the answer.

    Raises:
        hub.errors.Unsent: nothing reached the partner.
        hub.errors.Unknown: it may have reached the partner.
        hub.errors.Misconfigured: an operator must act (no endpoint in this environment, credentials refused).
    """

    def __call__(self, outgoing: Outgoing) -> Incoming:
        """Send, wait, answer. HTTP answers other than 2xx, 404, 409 and 422 are raised, those are given back."""
        ...


class Hints(Protocol):
    """Wakes someone who drains. A hint may be lost: it only wakes."""

    def __call__(self, audience: Literal["courier", "airflow"], partner: str) -> None:
        """Never raises and never blocks for long."""
        ...
