"""The message wire: documents to a partner's queue with publisher confirms, and messages taken from one, never acknowledged early.

A partner without a broker of its own may live in a folder (``filesystem://``, the embedded default). That is a *local*
transport: nobody but this host's disk confirms what was put there. `AmqpWire.local` and every answer say so.
"""
# kombu carries no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import codecs
import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from connectors.protocols import amqp_folder
from connectors.protocols.amqp_broker import (
    Broker,
    Route,
    broker_of,
    connect,
    declare,
    let_go,
    lost_by,
    meaning,
    queue_missing,
    route_of,
    unreachable,
)
from connectors.protocols.amqp_window import Letter, Publisher
from hub.errors import HubError, Misconfigured
from hub.model.declarations import Exchange, Partner
from hub.ports import Clock, FeedItem, Incoming, Outgoing

DOCUMENT_LIMIT: Final = 16 * 1024 * 1024

# A taker that died without a farewell must not keep its messages from the next one for hours.
_HEARTBEAT_S: Final = 60


class AmqpWire:
    """`hub.ports.Transport` and `hub.ports.Feed` over a message broker. Safe between threads; nothing connects before it is used.

    Args:
        base_of: where a partner lives: ``amqp://host:port/vhost``, ``amqps://…`` or ``filesystem:///folder``; raises
            Misconfigured when it lives nowhere.
        secrets: slug → what the key file holds for that partner (``user``, ``password``, ``ca_file``).
        clock: wall clock, for the messages' time.
    """

    def __init__(
        self, base_of: Callable[[Partner], str], secrets: Mapping[str, Mapping[str, str]], clock: Clock
    ) -> None:
        self._base_of = base_of
        self._secrets = secrets
        self._clock = clock
        self._begin()

    def local(self, partner: Partner) -> bool:
        """Whether this partner's queues are a folder of this host, where nobody confirms."""
        return self._broker(partner).folder is not None

    def __call__(self, outgoing: Outgoing) -> Incoming:
        """Publish one persistent message; its id is the delivery id.

        Returns:
            Status 200 and ``{"code": "confirmed", "local": false}``; for a folder ``{"code": "stored", "local": true}``.

        Raises:
            Unsent: ``partner_unreachable``, ``partner_busy``, ``broker_refused``.
            Unknown: ``confirm_lost``, ``confirm_late``.
            Misconfigured: ``queue_missing``, ``queue_mismatch``, ``credentials_refused``, ``endpoint_invalid``,
                ``certificate_untrusted``, ``document_unsendable``, ``options_invalid``, ``query_undeclared``.
        """
        if outgoing.purpose == "query":
            raise Misconfigured("query_undeclared", "A queue cannot be asked what arrived.", "消息队列不支持查询。")
        route = route_of(outgoing.exchange)
        broker = self._broker(outgoing.partner)
        body = _encoded(outgoing.document)
        properties = {
            "delivery_mode": 2,
            "message_id": outgoing.delivery_id,
            "timestamp": self._clock() // 1000,
            "app_id": "dukou",
            "type": outgoing.exchange.key,
        }
        if broker.folder is not None:
            amqp_folder.put(broker.folder, route, body, properties)
            return Incoming(200, {"code": "stored", "local": True})
        self._publisher(broker, outgoing.partner).send(Letter(outgoing.delivery_id, route, body, properties))
        return Incoming(200, {"code": "confirmed", "local": False})

    def take(self, partner: Partner, exchange: Exchange, mark: str) -> Iterator[FeedItem]:
        """Messages until the queue is empty for a moment or ``at_most`` were given; ``mark`` does not matter.

        The key is the message id, or ``sha256:…`` of the body where the sender gave none. A body that is no JSON has the
        document ``None``. Messages of an earlier taking by this thread that were never settled go back and come again.

        Raises:
            Unsent: ``partner_unreachable``.
            Misconfigured: as `__call__`.
        """
        del mark
        route = route_of(exchange)
        broker = self._broker(partner)
        if not route.queue:
            raise queue_missing()
        if broker.folder is not None:
            return self._lying(broker, route)
        return self._delivered(broker, partner, exchange, route)

    def settle(self, partner: Partner, exchange: Exchange, item: FeedItem) -> None:
        """Acknowledge.

        Raises:
            Unsent: ``partner_unreachable``: the connection that gave it is lost; it comes again, under the same key.
        """
        del partner, exchange
        if isinstance(item.receipt, amqp_folder.Left):
            amqp_folder.settle(item.receipt)
        elif isinstance(item.receipt, _Receipt):
            item.receipt.taking.settle(item.receipt.tag)

    def refuse(self, partner: Partner, exchange: Exchange, item: FeedItem, code: str) -> None:
        """Reject without requeueing: the broker moves it to the queue's dead-letter exchange, if the queue has one.

        Raises:
            Unsent: as `settle`.
        """
        del partner, code
        if isinstance(item.receipt, amqp_folder.Left):
            amqp_folder.refuse(item.receipt, route_of(exchange))
        elif isinstance(item.receipt, _Receipt):
            item.receipt.taking.settle(item.receipt.tag, refused=True)

    def close(self) -> None:
        """Publish what is waiting, give back what was not settled, let every connection go."""
        if self._pid != os.getpid():
            return
        with self._lock:
            publishers, takings = list(self._publishers.values()), list(self._takings.values())
            self._publishers.clear()
            self._takings.clear()
        for taking in takings:
            taking.close()
        for publisher in publishers:
            publisher.close()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._publishers: dict[tuple[Broker, str], Publisher] = {}
        self._takings: dict[tuple[str, int], _Taking] = {}

    def _own(self) -> None:
        """After a fork the connections belong to the parent, and its threads are not here."""
        if self._pid != os.getpid():
            self._begin()

    def _broker(self, partner: Partner) -> Broker:
        return broker_of(self._base_of(partner), self._secrets.get(partner.slug, {}))

    def _publisher(self, broker: Broker, partner: Partner) -> Publisher:
        self._own()
        with self._lock:
            # One for each partner, also on one broker: their timeouts differ, and none waits for the other's.
            key = (broker, partner.slug)
            if key not in self._publishers:
                self._publishers[key] = Publisher(broker, partner)
            return self._publishers[key]

    def _lying(self, broker: Broker, route: Route) -> Iterator[FeedItem]:
        if broker.folder is None:
            return
        for given, left in enumerate(amqp_folder.lying(broker.folder, route.queue, self._clock() / 1000)):
            if given >= route.at_most:
                return
            yield _item(left.message_id, left.body, left)

    def _delivered(self, broker: Broker, partner: Partner, exchange: Exchange, route: Route) -> Iterator[FeedItem]:
        self._own()
        slot = (exchange.key, threading.get_ident())
        with self._lock:
            earlier = self._takings.pop(slot, None)
        if earlier is not None:
            earlier.close()
        taking = _Taking(broker, partner, route)
        with self._lock:
            self._takings[slot] = taking
        for message in taking.messages():
            properties = message.properties
            tag = message.delivery_info["delivery_tag"]
            yield _item(str(properties.get("message_id") or ""), _bytes_of(message.body), _Receipt(taking, tag))


@dataclass(frozen=True, slots=True)
class _Receipt:
    taking: _Taking
    tag: int


class _Taking:
    """One taking: a connection of its own, which lives until everything that it gave is settled."""

    def __init__(self, broker: Broker, partner: Partner, route: Route) -> None:
        self._route = route
        self._lock = threading.RLock()
        self._arrived: deque[Any] = deque()
        self._unsettled: set[int] = set()
        self._ended = False
        self._cancelled = False
        self._broken = False
        self._consumer = ""
        self._connection = connect(broker, partner, _HEARTBEAT_S)
        self._lost = lost_by(self._connection)
        self._channel: Any = None

    def messages(self) -> Iterator[Any]:
        """What the queue has, each noted as unsettled."""
        self._guarded(self._consume)
        try:
            for _ in range(self._route.at_most):
                message = self._guarded(self._next)
                if message is None:
                    return
                yield message
        finally:
            self._end()

    def settle(self, tag: int, *, refused: bool = False) -> None:
        """Acknowledge or reject; a second time does nothing."""
        with self._lock:
            if tag not in self._unsettled:
                if self._broken:
                    raise unreachable()
                return
            self._guarded(lambda: self._say(tag, refused=refused))
            self._unsettled.discard(tag)
            self._rest()

    def close(self) -> None:
        """End; what was not settled goes back."""
        with self._lock:
            connection, self._connection = self._connection, None
            self._broken = self._broken or bool(self._unsettled)
            self._unsettled.clear()
            if connection is not None:
                let_go(connection)

    def _consume(self) -> None:
        channel = self._connection.channel()
        # The body as it was sent, whatever encoding it claims.
        channel.auto_decode = False
        self._channel = channel
        if self._route.declare:
            declare(channel, self._route)
        channel.basic_qos(0, self._route.prefetch, False)  # noqa: FBT003 - AMQP's own order of arguments
        self._consumer = channel.basic_consume(
            self._route.queue, callback=self._arrived.append, on_cancel=lambda _: self._note_cancelled()
        )

    def _next(self) -> Any:  # noqa: ANN401 - py-amqp's message
        with self._lock:
            while not self._arrived:
                if self._cancelled:
                    raise queue_missing()
                try:
                    self._connection.drain_events(timeout=self._route.idle_s)
                except TimeoutError:
                    return None
            message = self._arrived.popleft()
            self._unsettled.add(message.delivery_info["delivery_tag"])
            return message

    def _end(self) -> None:
        """No more is wanted: what arrived and was not given goes back at once, what was given may still be settled."""
        with self._lock:
            if self._connection is None:
                return
            try:
                if not self._cancelled:
                    self._channel.basic_cancel(self._consumer)
                for message in self._arrived:
                    self._channel.basic_reject(message.delivery_info["delivery_tag"], requeue=True)
            except self._lost:
                self._drop()
                return
            self._arrived.clear()
            self._ended = True
            self._rest()

    def _say(self, tag: int, *, refused: bool) -> None:
        if refused:
            self._channel.basic_reject(tag, requeue=False)
        else:
            self._channel.basic_ack(tag)

    def _rest(self) -> None:
        if self._ended and not self._unsettled:
            self.close()

    def _guarded(self, step: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the step gives
        if self._connection is None:
            raise unreachable()
        trouble: HubError
        try:
            return step()
        except self._lost as error:
            trouble = meaning(error)
        self._drop()
        raise trouble

    def _drop(self) -> None:
        """The connection does not work: the broker gives everything again that was not acknowledged."""
        with self._lock:
            connection, self._connection = self._connection, None
            self._broken = True
            self._unsettled.clear()
            if connection is not None:
                connection.collect()

    def _note_cancelled(self) -> None:
        self._cancelled = True


def _item(message_id: str, body: bytes, receipt: object) -> FeedItem:
    key = message_id or f"sha256:{hashlib.sha256(body).hexdigest()}"
    return FeedItem(key, body, _parsed(body), receipt=receipt)


def _parsed(body: bytes) -> object:
    if len(body) > DOCUMENT_LIMIT:
        return None
    try:
        return orjson.loads(body.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError:
        return None


def _bytes_of(body: object) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body)  # type: ignore[call-overload]


def _encoded(document: object) -> bytes:
    try:
        body = orjson.dumps(document)
    except (TypeError, ValueError):
        body = b""
    if not 0 < len(body) <= DOCUMENT_LIMIT:
        raise Misconfigured(
            "document_unsendable", "The document is no JSON, or too long for a message.", "报文无法作为消息发送。"
        )
    return body
