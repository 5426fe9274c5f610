"""The message wire in a folder (kombu's filesystem://): labelled as local, durable, and nothing is lost between taking and settling."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest
from kombu import Connection, Queue
from kombu import Exchange as KombuExchange

from connectors.protocols.amqp import AmqpWire
from hub.errors import Misconfigured, Unsent
from hub.model.declarations import Exchange, Partner
from hub.ports import Outgoing

DOCUMENT = {"QLRMC": "测试甲"}


def exchange_of(**options: object) -> Exchange:
    return Exchange(
        "bank", "progress", "进度", "deliver", "live", "amqp", "", ("extranet",), "", "idempotent", options=options
    )


class Desk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_s = time.time()
        self.partner = Partner("bank", "银行", "Bank", {"test": f"filesystem://{folder}"}, 1, 1, 4, {}, {})
        self.wire = AmqpWire(lambda partner: partner.endpoints["test"], {}, lambda: int(self.now_s * 1000))

    def send(self, exchange: Exchange, number: int = 1) -> object:
        return self.wire(Outgoing(self.partner, exchange, f"{number:032x}", DOCUMENT)).document

    def keys(self, exchange: Exchange) -> list[str]:
        return [item.key for item in self.wire.take(self.partner, exchange, "")]

    def stock(self) -> Connection:
        """Kombu as shipped, as a stand-in uses it."""
        place = str(self.folder)
        options = {"data_folder_in": place, "data_folder_out": place, "control_folder": str(self.folder / "control")}
        return Connection("filesystem://", transport_options=options)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "broker of the test")


def test_says_that_it_is_local_and_syncs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    original = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(True), original(fd)))
    assert desk.wire.local(desk.partner)
    assert desk.send(exchange_of(queue="bank.progress")) == {"code": "stored", "local": True}
    assert len(synced) == 2


def test_kombu_as_shipped_takes_what_we_put_and_the_other_way_round(desk: Desk) -> None:
    exchange = exchange_of(queue="bank.progress")
    desk.send(exchange)
    with desk.stock() as connection:
        message = Queue("bank.progress")(connection.default_channel).get()
        assert message is not None
        assert orjson.loads(message.body) == DOCUMENT
        assert message.properties["message_id"] == f"{1:032x}"
        assert message.content_type == "application/json"
        message.ack()
        connection.Producer(serializer="json").publish({"a": "乙"}, routing_key="bank.progress", message_id="m-9")
        connection.Producer().publish(
            b"\xff", content_type="x/y", content_encoding="binary", routing_key="bank.progress"
        )
    items = list(desk.wire.take(desk.partner, exchange, ""))
    first, second = items
    assert (first.key, first.document) == ("m-9", {"a": "乙"})
    assert second.key.startswith("sha256:")
    assert (second.document, second.raw) == (None, b"\xff")


def test_exchange_and_binding(desk: Desk) -> None:
    bound = exchange_of(queue="q1", exchange="cases", routing_key="bank", declare=True)
    desk.send(bound)
    assert len(desk.keys(bound)) == 1
    with pytest.raises(Misconfigured) as caught:
        desk.send(exchange_of(exchange="cases", routing_key="tax"))
    assert caught.value.code == "queue_missing"
    with desk.stock() as connection:
        connection.Producer(exchange=KombuExchange("cases")).publish({}, routing_key="bank")
    assert len(desk.keys(bound)) == 2


def test_order_and_settling(desk: Desk) -> None:
    exchange = exchange_of(queue="q", at_most=3)
    for number in range(5):
        desk.send(exchange, number)
    desk.send(exchange_of(queue="q.other"), 9)
    items = list(desk.wire.take(desk.partner, exchange, ""))
    assert [item.key for item in items] == [f"{n:032x}" for n in range(3)]
    assert desk.keys(exchange) == [item.key for item in items]
    desk.wire.settle(desk.partner, exchange, items[1])
    desk.wire.settle(desk.partner, exchange, items[1])
    assert desk.keys(exchange) == [f"{n:032x}" for n in (0, 2, 3)]


def test_refused_ones_go_to_the_dead_letters(desk: Desk) -> None:
    plain = exchange_of(queue="q")
    declared = exchange_of(queue="q", dead_letter={"exchange": "dlx", "queue": "q.dead"})
    for exchange, dead in ((plain, "q.refused"), (declared, "q.dead")):
        desk.send(exchange)
        [item] = desk.wire.take(desk.partner, exchange, "")
        desk.wire.refuse(desk.partner, exchange, item, "contract_invalid")
        desk.wire.refuse(desk.partner, exchange, item, "contract_invalid")
        assert desk.keys(exchange) == []
        assert desk.keys(exchange_of(queue=dead)) == [f"{1:032x}"]


def test_half_written_file_waits_and_a_broken_one_blocks_nobody(desk: Desk) -> None:
    exchange = exchange_of(queue="q")
    desk.send(exchange)
    for number, content in enumerate((b"", b'{"body": "e30=', b'{"properties": {}}', b'{"properties": [], "body": 1}')):
        (desk.folder / f"{number}_x.q.msg").write_bytes(content)
    assert len(desk.keys(exchange)) == 1
    assert not list(desk.folder.glob("*.unreadable"))
    desk.now_s += 60
    assert len(desk.keys(exchange)) == 1
    assert len(list(desk.folder.glob("*.unreadable"))) == 4


def test_killed_writer_leaves_no_half_message(desk: Desk) -> None:
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from pathlib import Path\n"
        "from connectors.protocols import amqp_folder\n"
        "from connectors.protocols.amqp_broker import Route\n"
        "n = 0\n"
        "while True:\n"
        "    amqp_folder.put(Path(sys.argv[1]), Route(queue='q'), b'{\"a\": 1}' , {'message_id': str(n)})\n"
        "    n += 1; print(n, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(desk.folder)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        for _ in range(20):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    desk.now_s = time.time() + 60
    items = list(desk.wire.take(desk.partner, exchange_of(queue="q"), ""))
    assert len(items) >= 20
    assert all(item.document == {"a": 1} for item in items)
    assert [item.key for item in items] == [str(number) for number in range(len(items))]
    assert not list(desk.folder.glob("*.unreadable"))


def test_many_writers_lose_nothing(desk: Desk) -> None:
    exchange = exchange_of(queue="q")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: desk.send(exchange, n), range(80)))
    assert sorted(desk.keys(exchange)) == [f"{n:032x}" for n in range(80)]


def test_folder_that_cannot_be_written(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "broker of the test").write_text("a file")
    with pytest.raises(Unsent) as caught:
        desk.send(exchange_of(queue="q"))
    assert caught.value.code == "partner_unreachable"
    assert desk.keys(exchange_of(queue="q")) == []
