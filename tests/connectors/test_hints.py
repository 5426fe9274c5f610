"""Hints on a real filesystem queue and on a real RabbitMQ: what arrives, what is coalesced, what survives."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
from kombu import Connection

from connectors import hints
from connectors.hints import HintListener, KombuHints, prune_hints
from hub.errors import Misconfigured

AMQP = os.environ.get("DUKOU_TEST_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672//")


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _amqp_answers() -> bool:
    parts = urlsplit(AMQP)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 5672), 1).close()
    except OSError:
        return False
    return True


class Broker:
    """One broker, with everything that was opened on it."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.url, self.options = url, options
        self._opened: list[Any] = []

    def hints(self, clock: Callable[[], int] = wall_ms) -> KombuHints:
        self._opened.append(KombuHints(self.url, self.options, clock))
        return self._opened[-1]

    def listener(self, audience: Any = "courier") -> HintListener:
        self._opened.append(HintListener(self.url, self.options, audience))
        return self._opened[-1]

    def close(self) -> None:
        for one in self._opened:
            one.close()


def _filesystem(tmp_path: Path) -> Broker:
    return Broker(
        "filesystem://", {"data_folder_in": str(tmp_path / "hints"), "data_folder_out": str(tmp_path / "hints")}
    )


def _rabbit(monkeypatch: pytest.MonkeyPatch) -> Broker:
    if not _amqp_answers():
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail("RabbitMQ does not answer and REQUIRE_SERVICES=1")
        pytest.skip("RabbitMQ does not answer: hints are NOT tested on it")
    # Queues of this test alone: a hub may be running on the same broker.
    mark = f"test.{os.getpid()}.{time.monotonic_ns()}"
    monkeypatch.setattr(hints, "QUEUES", {audience: f"{name}.{mark}" for audience, name in hints.QUEUES.items()})
    return Broker(AMQP, {})


@pytest.fixture(params=["filesystem", pytest.param("amqp", marks=[pytest.mark.amqp, pytest.mark.integration])])
def broker(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    made = _filesystem(tmp_path) if request.param == "filesystem" else _rabbit(monkeypatch)
    yield made
    made.close()
    if request.param == "amqp":
        with Connection(AMQP) as connection:
            for name in hints.QUEUES.values():
                connection.channel().queue_delete(name)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Broker]:
    made = _filesystem(tmp_path)
    yield made
    made.close()


def collect(listener: HintListener, wanted: set[str], within_s: float = 5.0) -> set[str]:
    found: set[str] = set()
    until = time.monotonic() + within_s
    while not wanted <= found and time.monotonic() < until:
        found |= listener.wait(0.2)
    return found


def test_each_audience_gets_its_own(broker: Broker) -> None:
    say = broker.hints()
    courier, airflow = broker.listener("courier"), broker.listener("airflow")
    say("courier", "tax")
    say("courier", "registry")
    say("airflow", "platform")
    assert collect(courier, {"tax", "registry"}) == {"tax", "registry"}
    assert collect(airflow, {"platform"}) == {"platform"}
    assert courier.wait(0.05) == set()


def test_hints_that_came_before_the_listener(broker: Broker) -> None:
    say = broker.hints()
    say("courier", "tax")
    say("courier", "hall")
    say.close()
    assert collect(broker.listener(), {"tax", "hall"}) == {"tax", "hall"}


def test_a_waiting_listener_is_woken_quickly(broker: Broker) -> None:
    say, listener = broker.hints(), broker.listener()
    say("courier", "warm")
    collect(listener, {"warm"})
    began = time.monotonic()
    threading.Timer(0.1, say, ("courier", "tax")).start()
    assert listener.wait(5.0) == {"tax"}
    assert time.monotonic() - began < 1.0


def test_nothing_waits_no_longer_than_asked(broker: Broker) -> None:
    listener = broker.listener()
    listener.wait(0.01)
    began = time.monotonic()
    assert listener.wait(0.3) == set()
    assert 0.25 < time.monotonic() - began < 1.0
    began = time.monotonic()
    assert listener.take().partners == frozenset()
    assert time.monotonic() - began < 0.2


def test_what_was_not_acknowledged_comes_again(broker: Broker) -> None:
    say = broker.hints()
    say("airflow", "tax")
    first = broker.listener("airflow")
    taken = first.take(5.0)
    assert taken.partners == {"tax"}
    assert first.take(0.1).partners == frozenset()
    first.close()
    second = broker.listener("airflow")
    taken = second.take(5.0)
    assert taken.partners == {"tax"}
    taken.ack()
    taken.ack()
    second.close()
    assert broker.listener("airflow").take(0.2).partners == frozenset()


def test_an_acknowledgement_after_the_end_does_no_harm(broker: Broker) -> None:
    broker.hints()("courier", "tax")
    listener = broker.listener()
    taken = listener.take(5.0)
    listener.close()
    taken.ack()
    assert collect(listener, {"tax"}) == {"tax"}


def test_many_hints_become_few_and_the_last_is_not_lost(files: Broker, tmp_path: Path) -> None:
    say = files.hints()
    for _ in range(200):
        say("airflow", "tax")
        say("courier", "tax")
        time.sleep(0.001)
    folder = tmp_path / "hints"
    time.sleep(0.1)
    assert len(list((folder / "airflow").iterdir())) == 1
    assert 5 <= len(list((folder / "courier").iterdir())) <= 25
    say.close()
    assert len(list((folder / "airflow").iterdir())) == 2


def test_a_clock_that_is_set_back_silences_nobody(files: Broker) -> None:
    now = [wall_ms()]
    say, listener = files.hints(lambda: now[0]), files.listener("airflow")
    say("airflow", "tax")
    assert collect(listener, {"tax"}) == {"tax"}
    now[0] -= 3_600_000
    say("airflow", "tax")
    assert collect(listener, {"tax"}) == {"tax"}


def test_a_hint_is_cheap_for_the_caller(broker: Broker) -> None:
    say = broker.hints()
    began = time.monotonic()
    for number in range(2000):
        say("courier", f"partner{number % 50}")
    assert time.monotonic() - began < 0.5


def test_files_of_somebody_else_are_dropped(files: Broker, tmp_path: Path) -> None:
    listener = files.listener()
    listener.wait(0.01)
    folder = tmp_path / "hints" / "courier"
    for number, content in enumerate(["", "{", "5", "{}", "[]", '{"body": 1, "properties": {}}', "\ufeff"]):
        (folder / f"{number}_x.dukou.hints.courier.msg").write_text(content)
    (folder / "9_x.dukou.hints.courier.msg").write_bytes(b"\xff\xfe")
    (folder / "note.txt").write_text("not a hint")
    files.hints()("courier", "tax")
    assert collect(listener, {"tax"}) == {"tax"}
    assert [file.name for file in folder.iterdir()] == ["note.txt"]


@pytest.mark.parametrize("body", [5, {"p": 5}, {"p": ""}, {"p": "x" * 65}, {"q": "tax"}, "tax"])
def test_messages_of_somebody_else_are_dropped(broker: Broker, body: object) -> None:
    say, listener = broker.hints(), broker.listener()
    say("courier", "hall")
    collect(listener, {"hall"})
    options = hints._options_of(broker.url, broker.options, "courier")
    with Connection(broker.url, transport_options=options) as connection:
        producer = connection.Producer(connection.channel())
        producer.publish(body, routing_key=hints.QUEUES["courier"], serializer="json")
        producer.publish(
            "{", routing_key=hints.QUEUES["courier"], content_type="application/json", content_encoding="utf-8"
        )
        producer.publish("x", routing_key=hints.QUEUES["courier"], content_type="application/x-python-serialize")
    say("courier", "tax")
    assert collect(listener, {"tax"}) == {"tax"}
    listener.close()
    assert broker.listener().wait(0.2) == set()


def test_a_folder_that_vanishes(files: Broker, tmp_path: Path) -> None:
    say, listener = files.hints(), files.listener()
    say("courier", "tax")
    assert collect(listener, {"tax"}) == {"tax"}
    (tmp_path / "hints" / "courier").rmdir()
    say("courier", "tax")
    assert listener.wait(0.1) == set()
    time.sleep(hints._REST_S)
    say("courier", "hall")
    assert "hall" in collect(listener, {"hall"})


def test_two_listeners_share_the_work(broker: Broker) -> None:
    say = broker.hints()
    one, two = broker.listener(), broker.listener()
    names = {f"partner{number}" for number in range(40)}
    for name in names:
        say("courier", name)
    found: set[str] = set()
    for _ in range(50):
        found |= one.wait(0.05) | two.wait(0.05)
        if found == names:
            break
    assert found == names


def test_a_broker_that_is_away_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"amqp://guest:secret-password@127.0.0.1:{free.getsockname()[1]}//"
    away = Broker(url, {})
    say, listener = away.hints(), away.listener()
    began = time.monotonic()
    for number in range(3000):
        say("courier", f"partner{number}")
    assert time.monotonic() - began < 1.0
    began = time.monotonic()
    for _ in range(3):
        assert listener.wait(0.1) == set()
    assert 0.2 < time.monotonic() - began < 2.0
    away.close()
    assert len([record for record in caplog.records if record.name == "connectors.hints"]) <= 3
    assert "secret-password" not in caplog.text


@pytest.mark.amqp
@pytest.mark.integration
def test_a_connection_that_breaks_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rabbit = _rabbit(monkeypatch)
    parts = urlsplit(AMQP)
    with Relay((parts.hostname or "", parts.port or 5672)) as relay:
        through = Broker(f"amqp://{parts.username}:{parts.password}@127.0.0.1:{relay.port}//", {})
        say, listener = through.hints(), through.listener()
        say("courier", "tax")
        assert collect(listener, {"tax"}) == {"tax"}
        relay.cut()
        found: set[str] = set()
        until = time.monotonic() + 10
        while "tax" not in found and time.monotonic() < until:
            say("courier", "tax")
            found = listener.wait(0.2)
        assert found == {"tax"}
        through.close()
    with Connection(rabbit.url) as connection:
        for name in hints.QUEUES.values():
            connection.channel().queue_delete(name)


class Relay:
    """Stands between us and the broker, so that a test can cut the line without stopping the broker."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        gone, self._open = self._open, []
        for one in gone:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        with warnings.catch_warnings():
            source.close()


def test_old_files_are_pruned(tmp_path: Path) -> None:
    folder = tmp_path / "hints" / "airflow"
    folder.mkdir(parents=True)
    old, young, other = folder / "1.dukou.hints.airflow.msg", folder / "2.dukou.hints.airflow.msg", folder / "x.txt"
    for file in (old, young, other):
        file.touch()
    os.utime(old, (1, 1))
    os.utime(other, (1, 1))
    assert prune_hints(tmp_path / "hints", 600, wall_ms()) == 1
    assert sorted(folder.iterdir()) == [young, other]
    assert prune_hints(tmp_path / "nothing", 600, wall_ms()) == 0


@pytest.mark.parametrize("url", ["nonsense://", "", "://", "amqp", "filesystem://"])
def test_a_broker_that_is_none(url: str) -> None:
    with pytest.raises(Misconfigured, match="broker_url_invalid"):
        KombuHints(url, {}, wall_ms)


def test_nothing_opens_before_it_is_used(tmp_path: Path) -> None:
    broker = _filesystem(tmp_path)
    broker.hints()
    broker.listener()
    assert list(tmp_path.iterdir()) == []
    broker.close()
