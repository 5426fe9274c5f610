"""The message wire against a real RabbitMQ: confirms in windows, every way in which one may not come, and taking without loss."""

from __future__ import annotations

import hashlib
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import jsonschema
import orjson
import pytest
from kombu import Connection

from connectors.protocols.amqp import AmqpWire
from connectors.protocols.amqp_window import Publisher
from hub.errors import HubError, Misconfigured, Unknown, Unsent
from hub.model.declarations import Exchange, Partner
from hub.ports import FeedItem, Outgoing
from tests.connectors.relay import Relay

pytestmark = pytest.mark.amqp

PERSONAL = "测试甲"
DOCUMENT = {"QLRMC": PERSONAL, "n": 1}
PASSWORD = "password-of-the-test"
SCHEMA = orjson.loads(Path("schemas/declarations/options_amqp.json").read_bytes())


def delivery(number: int) -> str:
    return f"{number:032x}"


def exchange_of(**options: object) -> Exchange:
    jsonschema.Draft202012Validator(SCHEMA).validate(options)
    return Exchange(
        "bank", "progress", "进度", "deliver", "live", "amqp", "", ("extranet",), "", "idempotent", options=options
    )


def partner_of(base: str, connect_s: float = 3, read_s: float = 5) -> Partner:
    return Partner("bank", "银行", "Bank", {"test": base}, connect_s, read_s, 4, {}, {})


def outgoing(partner: Partner, exchange: Exchange, number: int = 1, document: object = DOCUMENT) -> Outgoing:
    return Outgoing(partner, exchange, delivery(number), document)


@pytest.fixture
def wire() -> Iterator[AmqpWire]:
    made = AmqpWire(lambda partner: partner.endpoints["test"], {}, lambda: int(time.time() * 1000))
    yield made
    made.close()


class Desk:
    """The test's own view of the broker: unique names, deleted afterwards."""

    def __init__(self, url: str) -> None:
        self.connection = Connection(url)
        self.connection.connect()
        self.names: list[str] = []
        self.exchanges: list[str] = []
        self.prefix = f"dukou-test-{os.urandom(6).hex()}"

    def name(self, word: str = "q") -> str:
        name = f"{self.prefix}.{word}.{len(self.names)}"
        self.names.append(name)
        return name

    def queue(self, **arguments: object) -> str:
        name = self.name()
        with self.connection.channel() as channel:
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
        return name

    def size(self, queue: str) -> int:
        with self.connection.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).message_count)

    def wait_size(self, queue: str, size: int) -> None:
        until = time.monotonic() + 5
        while self.size(queue) != size:
            assert time.monotonic() < until, f"{queue}: {self.size(queue)} instead of {size}"
            time.sleep(0.05)

    def all(self, queue: str) -> list[Any]:
        found = []
        with self.connection.channel() as channel:
            while message := channel.basic_get(queue, no_ack=True):
                found.append(message)
        return found

    def put(self, queue: str, body: bytes, encoding: str | None = None, **properties: object) -> None:
        with self.connection.channel() as channel:
            message = channel.prepare_message(body, content_encoding=encoding, properties=dict(properties))
            channel.basic_publish(message, routing_key=queue)

    def close(self) -> None:
        with self.connection.channel() as channel:
            for name in self.names:
                channel.queue_delete(name)
                channel.exchange_delete(name)
        self.connection.release()


@pytest.fixture
def desk(amqp_url: str) -> Iterator[Desk]:
    made = Desk(amqp_url)
    yield made
    made.close()


@pytest.fixture
def relay(amqp_url: str) -> Iterator[Relay]:
    parts = urlsplit(amqp_url)
    made = Relay(parts.hostname or "127.0.0.1", parts.port or 5672)
    yield made
    made.close()


def through(relay: Relay, amqp_url: str) -> str:
    parts = urlsplit(amqp_url)
    user = f"{parts.username}:{parts.password}@" if parts.username else ""
    return urlunsplit((parts.scheme, f"{user}127.0.0.1:{relay.port}", parts.path, "", ""))


def fails(call: Callable[[], object], kind: type[HubError], code: str) -> HubError:
    """It raises what it should, and its text and its chain say nothing of the document or of passwords."""
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.code == code
    said = "".join(traceback.format_exception(caught.value))
    assert PERSONAL not in said
    assert PASSWORD not in said
    return caught.value


# Publishing ----------------------------------------------------------------------------------------------------------


def test_message_is_persistent_named_and_confirmed(wire: AmqpWire, desk: Desk, amqp_url: str) -> None:
    queue = desk.queue()
    answer = wire(outgoing(partner_of(amqp_url), exchange_of(queue=queue)))
    assert (answer.status, answer.document) == (200, {"code": "confirmed", "local": False})
    [message] = desk.all(queue)
    assert orjson.loads(message.body) == DOCUMENT
    properties = message.properties
    assert properties["message_id"] == delivery(1)
    assert properties["delivery_mode"] == 2
    assert properties["content_type"] == "application/json"
    assert properties["content_encoding"] == "utf-8"
    assert properties["type"] == "bank/progress"
    assert not wire.local(partner_of(amqp_url))


def test_declares_queue_exchange_and_dead_letters(wire: AmqpWire, desk: Desk, amqp_url: str) -> None:
    queue, dead, dlx, topic = desk.name(), desk.name(), desk.name(), desk.name()
    exchange = exchange_of(
        queue=queue,
        exchange=topic,
        exchange_type="topic",
        routing_key="bank.progress",
        declare=True,
        dead_letter={"exchange": dlx, "queue": dead},
    )
    partner = partner_of(amqp_url)
    wire(outgoing(partner, exchange))
    [item] = list(wire.take(partner, exchange, ""))
    assert (item.key, item.document) == (delivery(1), DOCUMENT)
    wire.refuse(partner, exchange, item, "contract_invalid")
    desk.wait_size(dead, 1)
    assert desk.size(queue) == 0


def test_many_callers_share_windows_and_each_is_confirmed(
    wire: AmqpWire, desk: Desk, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = desk.queue()
    windows: list[int] = []
    original = Publisher._next

    def counted(self: Publisher) -> list[Any]:
        letters = original(self)
        windows.append(len(letters))
        return letters

    monkeypatch.setattr(Publisher, "_next", counted)
    partner, exchange = partner_of(amqp_url, connect_s=10, read_s=10), exchange_of(queue=queue)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda n: wire(outgoing(partner, exchange, n)).status, range(400)))
    assert answers == [200] * 400
    assert {m.properties["message_id"] for m in desk.all(queue)} == {delivery(n) for n in range(400)}
    assert max(windows) > 1
    assert len(windows) < 400


def test_missing_queue_is_the_operators(wire: AmqpWire, desk: Desk, amqp_url: str) -> None:
    good, partner = desk.queue(), partner_of(amqp_url)
    missing = exchange_of(queue=f"{desk.prefix}.none")
    fails(lambda: wire(outgoing(partner, missing)), Misconfigured, "queue_missing")
    fails(lambda: list(wire.take(partner, missing, "")), Misconfigured, "queue_missing")
    nowhere = exchange_of(exchange=f"{desk.prefix}.none", routing_key="x")
    fails(lambda: wire(outgoing(partner, nowhere)), Misconfigured, "queue_missing")
    unbound = exchange_of(exchange="dukou-test-unbound", routing_key="x", queue=desk.queue())
    with desk.connection.channel() as channel:
        channel.exchange_declare("dukou-test-unbound", "direct", durable=True, auto_delete=False)
        try:
            fails(lambda: wire(outgoing(partner, unbound)), Misconfigured, "queue_missing")
        finally:
            channel.exchange_delete("dukou-test-unbound")
    assert wire(outgoing(partner, exchange_of(queue=good))).status == 200


def test_wrong_route_takes_no_neighbour_along(wire: AmqpWire, desk: Desk, amqp_url: str) -> None:
    partner = partner_of(amqp_url)
    good, none = exchange_of(queue=desk.queue()), exchange_of(exchange=f"{desk.prefix}.none", routing_key="x")
    unroutable = exchange_of(queue=f"{desk.prefix}.none")

    def send(number: int) -> str:
        try:
            wire(outgoing(partner, (good, none, unroutable)[number % 3], number))
        except HubError as error:
            return error.code
        return "confirmed"

    with ThreadPoolExecutor(24) as pool:
        ends = list(pool.map(send, range(90)))
    assert ends == ["confirmed", "queue_missing", "queue_missing"] * 30


def test_other_properties_than_declared(wire: AmqpWire, desk: Desk, amqp_url: str) -> None:
    queue = desk.queue(**{"x-max-length": 5})
    partner = partner_of(amqp_url)
    fails(lambda: wire(outgoing(partner, exchange_of(queue=queue, declare=True))), Misconfigured, "queue_mismatch")


def test_nacked_message_may_be_sent_again(wire: AmqpWire, desk: Desk, amqp_url: str) -> None:
    queue = desk.queue(**{"x-max-length": 1, "x-overflow": "reject-publish"})
    partner, exchange = partner_of(amqp_url), exchange_of(queue=queue)
    wire(outgoing(partner, exchange, 1))
    fails(lambda: wire(outgoing(partner, exchange, 2)), Unsent, "broker_refused")
    assert desk.all(queue)[0].properties["message_id"] == delivery(1)
    assert wire(outgoing(partner, exchange, 3)).status == 200


def test_refused_credentials_and_wrong_places(desk: Desk, amqp_url: str) -> None:
    parts = urlsplit(amqp_url)
    address = f"amqp://{parts.hostname}:{parts.port}/"
    exchange = exchange_of(queue=desk.queue())

    def send(base: str, secrets: dict[str, str]) -> object:
        wire = AmqpWire(lambda partner: partner.endpoints["test"], {"bank": secrets}, lambda: 0)
        try:
            return wire(outgoing(partner_of(base), exchange))
        finally:
            wire.close()

    wrong = {"user": "nobody", "password": PASSWORD}
    fails(lambda: send(address, wrong), Misconfigured, "credentials_refused")
    fails(lambda: send(address + "no-such-vhost", {}), Misconfigured, "endpoint_invalid")
    for base in ("http://127.0.0.1/", "amqp://", "amqp://h:99999999/", "filesystem://host/x", "filesystem:///", "x"):
        fails(lambda base=base: send(base, wrong), Misconfigured, "endpoint_invalid")


def test_unreachable_broker_got_nothing(wire: AmqpWire, relay: Relay, amqp_url: str, desk: Desk) -> None:
    exchange = exchange_of(queue=desk.queue())
    relay.refusing = True
    partner = partner_of(through(relay, amqp_url))
    fails(lambda: wire(outgoing(partner, exchange)), Unsent, "partner_unreachable")
    fails(lambda: list(wire.take(partner, exchange, "")), Unsent, "partner_unreachable")
    relay.close()
    fails(lambda: wire(outgoing(partner, exchange)), Unsent, "partner_unreachable")


def test_connection_that_broke_while_idle_is_renewed(wire: AmqpWire, relay: Relay, amqp_url: str, desk: Desk) -> None:
    partner, exchange = partner_of(through(relay, amqp_url)), exchange_of(queue=desk.queue())
    for number in range(3):
        assert wire(outgoing(partner, exchange, number)).status == 200
        relay.cut()
        time.sleep(0.05)
    assert relay.connections == 3


def test_confirm_that_is_lost_or_late_is_unknown(wire: AmqpWire, relay: Relay, amqp_url: str, desk: Desk) -> None:
    queue = desk.queue()
    partner, exchange = partner_of(through(relay, amqp_url), read_s=0.7), exchange_of(queue=queue)
    wire(outgoing(partner, exchange, 1))
    relay.silent.set()
    begun = time.monotonic()
    fails(lambda: wire(outgoing(partner, exchange, 2)), Unknown, "confirm_late")
    assert time.monotonic() - begun < 2
    relay.cut()
    relay.silent.clear()
    assert wire(outgoing(partner, exchange, 3)).status == 200
    relay.cut_at, relay.cut_passes_on = delivery(4).encode(), True
    partner_slow = replace(partner, slug="bank2", read_s=5)
    fails(lambda: wire(outgoing(partner_slow, exchange, 4)), Unknown, "confirm_lost")
    # It had arrived: that is what Unknown is for.
    assert delivery(4) in {message.properties["message_id"] for message in desk.all(queue)}


def test_cut_before_the_message_leaves_makes_no_second_effect(
    wire: AmqpWire, relay: Relay, amqp_url: str, desk: Desk
) -> None:
    queue = desk.queue()
    partner, exchange = partner_of(through(relay, amqp_url)), exchange_of(queue=queue)
    relay.cut_at = delivery(7).encode()
    with pytest.raises(Unknown):
        wire(outgoing(partner, exchange, 7))
    assert desk.all(queue) == []


def test_queued_behind_a_hanging_window_is_unsent(wire: AmqpWire, relay: Relay, amqp_url: str, desk: Desk) -> None:
    queue = desk.queue()
    partner, exchange = partner_of(through(relay, amqp_url), connect_s=0.5, read_s=3), exchange_of(queue=queue)
    wire(outgoing(partner, exchange, 1))
    relay.silent.set()
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(wire, outgoing(partner, exchange, 2))
        time.sleep(0.3)
        fails(lambda: wire(outgoing(partner, exchange, 3)), Unsent, "partner_busy")
        with pytest.raises(Unknown):
            hanging.result()
    assert delivery(3) not in {message.properties["message_id"] for message in desk.all(queue)}


def test_what_cannot_be_sent(wire: AmqpWire, desk: Desk, amqp_url: str) -> None:
    partner, exchange = partner_of(amqp_url), exchange_of(queue=desk.queue())
    for document in (object(), {PERSONAL: float}, "x" * (17 * 1024 * 1024)):
        fails(lambda d=document: wire(outgoing(partner, exchange, 1, d)), Misconfigured, "document_unsendable")
    query = replace(outgoing(partner, exchange), purpose="query")
    fails(lambda: wire(query), Misconfigured, "query_undeclared")
    wrong = replace(exchange, options={"queue": "q", "colour": "red"})
    fails(lambda: wire(outgoing(partner, wrong)), Misconfigured, "options_invalid")
    fails(lambda: wire(outgoing(partner, replace(exchange, options={}))), Misconfigured, "options_invalid")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_of_a_fork_connects_anew(wire: AmqpWire, desk: Desk, amqp_url: str) -> None:
    queue = desk.queue()
    partner, exchange = partner_of(amqp_url), exchange_of(queue=queue)
    wire(outgoing(partner, exchange, 1))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if wire(outgoing(partner, exchange, 2)).status == 200 else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    wire(outgoing(partner, exchange, 3))
    assert [m.properties["message_id"] for m in desk.all(queue)] == [delivery(n) for n in (1, 2, 3)]


# Taking --------------------------------------------------------------------------------------------------------------


def test_keys_documents_and_acknowledgement_after_the_commit(wire: AmqpWire, desk: Desk, amqp_url: str) -> None:
    queue = desk.queue()
    desk.put(queue, b'{"a": 1}', message_id="m-1")
    desk.put(queue, b'{"a": 2}')
    desk.put(queue, b"no json \xff", "utf-8")
    partner, exchange = partner_of(amqp_url), exchange_of(queue=queue)
    items = list(wire.take(partner, exchange, ""))
    nameless, broken = (f"sha256:{hashlib.sha256(b).hexdigest()}" for b in (b'{"a": 2}', b"no json \xff"))
    assert [(item.key, item.document) for item in items] == [("m-1", {"a": 1}), (nameless, {"a": 2}), (broken, None)]
    assert items[2].raw == b"no json \xff"
    wire.settle(partner, exchange, items[0])
    wire.settle(partner, exchange, items[0])
    # A crash before the others are settled: they come again, under the same keys.
    wire.close()
    desk.wait_size(queue, 2)
    again = list(wire.take(partner, exchange, ""))
    assert [item.key for item in again] == [nameless, broken]
    for item in again:
        wire.settle(partner, exchange, item)
        wire.settle(partner, exchange, item)
    assert desk.size(queue) == 0
    assert list(wire.take(partner, exchange, "")) == []


def test_taking_is_bounded_and_gives_back_what_it_did_not_give(wire: AmqpWire, desk: Desk, amqp_url: str) -> None:
    queue = desk.queue()
    for number in range(30):
        desk.put(queue, b"{}", message_id=f"m{number}")
    partner, exchange = partner_of(amqp_url), exchange_of(queue=queue, prefetch=10, at_most=25)
    taken = []
    for item in wire.take(partner, exchange, ""):
        taken.append(item.key)
        wire.settle(partner, exchange, item)
    assert taken == [f"m{number}" for number in range(25)]
    desk.wait_size(queue, 5)
    # Without settling no more than the prefetch come; leaving the loop early loses none.
    for item in wire.take(partner, exchange, ""):
        assert item.key == "m25"
        break
    # Unsettled ones of an earlier taking by this thread come again.
    assert sorted(item.key for item in wire.take(partner, exchange, "")) == [f"m{n}" for n in range(25, 30)]
    small = exchange_of(queue=queue, prefetch=3)
    assert len(list(wire.take(partner, small, ""))) == 3


def test_cut_between_taking_and_settling(wire: AmqpWire, relay: Relay, desk: Desk, amqp_url: str) -> None:
    queue = desk.queue()
    for number in range(20):
        desk.put(queue, b"{}", message_id=f"m{number}")
    partner, exchange = partner_of(through(relay, amqp_url)), exchange_of(queue=queue, idle_s=0.2)
    effects: list[str] = []
    met: list[str] = []
    broke = 0
    until = time.monotonic() + 20
    while len(effects) < 20:
        assert time.monotonic() < until
        try:
            for item in wire.take(partner, exchange, ""):
                met.append(item.key)
                if item.key not in effects:
                    effects.append(item.key)
                if len(met) % 7 == 3:
                    relay.cut()
                wire.settle(partner, exchange, item)
        except Unsent:
            broke += 1
    assert broke >= 2
    assert sorted(effects) == sorted(f"m{number}" for number in range(20))
    for item in wire.take(partner, exchange, ""):
        wire.settle(partner, exchange, item)
    desk.wait_size(queue, 0)


def test_two_takers_never_share_a_message(wire: AmqpWire, desk: Desk, amqp_url: str) -> None:
    queue = desk.queue()
    for number in range(200):
        desk.put(queue, b"{}", message_id=f"m{number}")
    partner, exchange = partner_of(amqp_url), exchange_of(queue=queue, prefetch=5)
    lock, met = threading.Lock(), list[str]()

    def work() -> None:
        for item in wire.take(partner, exchange, ""):
            with lock:
                met.append(item.key)
            wire.settle(partner, exchange, item)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work) for _ in range(2)]:
            done.result()
    assert len(met) == len(set(met)) == 200


def test_queue_deleted_while_taking(wire: AmqpWire, desk: Desk, amqp_url: str) -> None:
    queue = desk.queue()
    desk.put(queue, b"{}")
    partner, exchange = partner_of(amqp_url), exchange_of(queue=queue, idle_s=2)
    items = wire.take(partner, exchange, "")
    first: FeedItem = next(items)
    with desk.connection.channel() as channel:
        channel.queue_delete(queue)
    fails(lambda: next(items), Misconfigured, "queue_missing")
    # There is nothing left to acknowledge, which is no harm.
    wire.settle(partner, exchange, first)


def test_nothing_connects_before_use(wire: AmqpWire, relay: Relay, amqp_url: str) -> None:
    assert not wire.local(partner_of(through(relay, amqp_url)))
    wire.take(partner_of(through(relay, amqp_url)), exchange_of(queue="q"), "")
    assert relay.connections == 0
