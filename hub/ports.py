"""What the core needs from outside: one verb each. Production parts are built in ``dukou.build``, fakes are shipped beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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
    """One attempt as a protocol sees it.

    ``document`` is the partner's own document (JSON-like). ``until`` is when the lease ends, in seconds of
    ``time.monotonic``: nothing may be begun that could still be under way then.
    """

    partner: Partner
    exchange: Exchange
    delivery_id: str
    document: object
    purpose: Literal["send", "query"] = "send"
    until: float = math.inf


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
        """Send, wait, answer. HTTP answers other than 2xx, 400, 404, 409 and 422 are raised, those are given back."""
        ...


@dataclass(frozen=True, slots=True)
class FeedItem:
    """One thing that a partner left for us to take.

    Attributes:
        key: names it for ever at its source (file name and digest, row key, broker message id, request number): the same
            thing met again has the same key.
        raw: what was read, exactly.
        document: the parsed content.
        mark: where a later reading may go on; the hub commits it together with the message and gives it back.
        receipt: what ``settle`` needs; opaque to the hub.
    """

    key: str
    raw: bytes
    document: object
    mark: str = ""
    receipt: object = None


class Feed(Protocol):
    """A source from which we take: read what is there, commit, then say that it was taken.

    Between ``take`` and ``settle`` anything may die: what was not settled is met again, under the same key.

    Raises:
        hub.errors.Unsent: the source cannot be reached.
        hub.errors.Misconfigured: an operator must act.
    """

    def take(self, partner: Partner, exchange: Exchange, mark: str) -> Iterator[FeedItem]:
        """What is there, oldest first; ``mark`` is that of the last item that was committed, or empty."""
        ...

    def settle(self, partner: Partner, exchange: Exchange, item: FeedItem) -> None:
        """The item is committed on our side: acknowledge it, move it away, or nothing."""
        ...

    def refuse(self, partner: Partner, exchange: Exchange, item: FeedItem, code: str) -> None:
        """The item was refused for good and the refusal is committed: put it where the partner finds it."""
        ...


class Hints(Protocol):
    """Wakes someone who drains. A hint may be lost: it only wakes."""

    def __call__(self, audience: Literal["courier", "airflow"], partner: str) -> None:
        """Never raises and never blocks for long."""
        ...
