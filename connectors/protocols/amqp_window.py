"""Publishing with confirms in windows: concurrent callers share a channel, each learns what became of its own message.

A confirm per message costs a round trip and a write to disk each; a window of many pays once (shared/facts/performance.md).
"""
# kombu carries no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from connectors.protocols.amqp_broker import (
    Broker,
    Route,
    connect,
    declare,
    let_go,
    lost_by,
    meaning,
    queue_missing,
    unreachable,
)
from hub.errors import HubError, Unknown, Unsent
from hub.model.declarations import Partner

WINDOW: Final = 100
"""How many messages may wait for their confirms together."""

_IDLE_S: Final = 20.0


@dataclass(eq=False, slots=True)
class Letter:
    """One message on its way. It is either withdrawn by its caller or claimed by the publisher, never both."""

    id: str
    route: Route
    body: bytes = field(repr=False)
    properties: dict[str, Any]
    returned: bool = False
    outcome: HubError | None = None
    moved: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    _state: Literal["waiting", "withdrawn", "out"] = "waiting"
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def claim(self) -> bool:
        """The publisher is about to write it."""
        return self._leave("out")

    def withdraw(self) -> bool:
        """The caller waits no longer; true when nothing was written and nothing will be."""
        return self._leave("withdrawn")

    def end(self, outcome: HubError | None) -> None:
        """What became of it; ``None`` is confirmed."""
        self.outcome = outcome
        self.ended.set()
        self.moved.set()

    def _leave(self, state: Literal["withdrawn", "out"]) -> bool:
        with self._lock:
            if self._state != "waiting":
                return False
            self._state = state
        self.moved.set()
        return True


class Publisher:
    """Publishes to one broker from a thread of its own, which ends when it is idle. Safe between threads.

    Args:
        broker: where to.
        partner: whose timeouts hold for connecting and for the window.
    """

    def __init__(self, broker: Broker, partner: Partner) -> None:
        self._broker = broker
        self._partner = partner
        self._wake = threading.Condition()
        self._waiting: list[Letter] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def send(self, letter: Letter) -> None:
        """Publish and wait for the confirm: at most ``connect_s`` for its turn, then at most ``read_s``.

        Raises:
            Unsent: ``partner_unreachable``, ``partner_busy``, ``broker_refused`` (it was nacked).
            Unknown: ``confirm_lost``, ``confirm_late``.
            Misconfigured: ``queue_missing``, ``queue_mismatch``, ``credentials_refused``, ``endpoint_invalid``,
                ``certificate_untrusted``.
        """
        self._post(letter)
        if not letter.moved.wait(self._partner.connect_s) and letter.withdraw():
            raise busy()
        if not letter.ended.wait(self._partner.read_s):
            raise Unknown("confirm_late", "The broker's confirm did not come in time.", "消息中间件未及时确认。")
        if letter.outcome is not None:
            raise letter.outcome

    def close(self) -> None:
        """Publish what is waiting, then let the connection go."""
        with self._wake:
            self._closed = True
            self._wake.notify()
            thread = self._thread
        if thread is not None:
            thread.join(self._partner.connect_s + self._partner.read_s)

    def _post(self, letter: Letter) -> None:
        with self._wake:
            if self._closed:
                raise unreachable()
            self._waiting.append(letter)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dukou-amqp", daemon=True)
                self._thread.start()
            self._wake.notify()

    def _run(self) -> None:
        line = _Line(self._broker, self._partner)
        while letters := self._next():
            line.window(letters)
        line.close()

    def _next(self) -> list[Letter]:
        """The next window; none when it is time to end, and then the next letter begins a new thread."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._closed, _IDLE_S)
            letters, self._waiting = self._waiting[:WINDOW], self._waiting[WINDOW:]
            if not letters:
                self._thread = None
            return letters


class _Line:
    """The connection and its confirming channel. Belongs to one thread."""

    def __init__(self, broker: Broker, partner: Partner) -> None:
        self._broker = broker
        self._partner = partner
        self._connection: Any = None
        self._channel: Any = None
        self._lost: tuple[type[Exception], ...] = ()
        self._checked: dict[Route, None] = {}
        self._blocked = False
        self._count = 0
        self._out: dict[int, Letter] = {}

    def window(self, letters: Sequence[Letter]) -> None:
        """Publish a window and end each of its letters."""
        try:
            self._open()
        except HubError as error:
            _end(letters, error)
            return
        ready = self._checked_of(letters)
        if self._blocked:
            _end(ready, busy())
            return
        try:
            for letter in ready:
                self._publish(letter)
            self._wait()
        except self._lost:
            self._break([letter for letter in ready if not letter.ended.is_set()])

    def close(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            let_go(connection)

    def _drop(self) -> None:
        """Forget a connection that does not work: no farewell, which might wait for the broker."""
        connection, self._connection, self._channel, self._out = self._connection, None, None, {}
        if connection is not None:
            connection.collect()

    def _open(self) -> None:
        """A connection that lives: what broke while nothing was sent is found before the next message goes out."""
        if self._connection is not None:
            try:
                self._drain(0.001)
            except self._lost:
                self._drop()
        if self._connection is None:
            self._connect()

    def _connect(self) -> None:
        connection = connect(self._broker, self._partner)
        self._lost = lost_by(connection)
        self._checked, self._out, self._count, self._blocked = {}, {}, 0, False
        try:
            channel = connection.channel()
            channel.confirm_select()
        except self._lost as error:
            connection.collect()
            fault = meaning(error)
        else:
            self._listen(connection, channel)
            return
        raise fault

    def _listen(self, connection: Any, channel: Any) -> None:  # noqa: ANN401 - py-amqp's, without types
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)
        connection.on_blocked = lambda _: self._block(now=True)
        connection.on_unblocked = lambda: self._block(now=False)
        self._connection, self._channel = connection, channel

    def _checked_of(self, letters: Sequence[Letter]) -> list[Letter]:
        """The letters whose route stands. A message for a missing exchange would take its neighbours' confirms along."""
        ready: list[Letter] = []
        faults: dict[Route, HubError] = {}
        for letter in letters:
            route = letter.route
            if self._connection is not None and route not in self._checked and route not in faults:
                fault = self._check(route)
                if fault is not None:
                    faults[route] = fault
            if self._connection is None:
                letter.end(unreachable())
            elif route in faults:
                letter.end(_another(faults[route]))
            else:
                ready.append(letter)
        if self._connection is None:
            _end(ready, unreachable())
            return []
        return ready

    def _check(self, route: Route) -> HubError | None:
        """Declare a route or look whether its exchange exists, on a channel of its own."""
        try:
            channel = self._connection.channel()
            try:
                if route.declare:
                    declare(channel, route)
                elif route.exchange:
                    channel.exchange_declare(exchange=route.exchange, type=route.exchange_type, passive=True)
            finally:
                channel.close()
        except self._lost as error:
            fault = meaning(error)
            if isinstance(fault, Unsent):
                self._drop()
            return fault
        self._checked[route] = None
        return None

    def _publish(self, letter: Letter) -> None:
        if not letter.claim():
            return
        self._count += 1
        self._out[self._count] = letter
        route = letter.route
        message = self._channel.prepare_message(
            letter.body, content_type=route.content_type, content_encoding="utf-8", properties=letter.properties
        )
        key = route.routing_key or route.queue
        self._channel.basic_publish(message, exchange=route.exchange, routing_key=key, mandatory=True)

    def _wait(self) -> None:
        """Until every letter of the window is ended; a window that is not confirmed in time ends the connection."""
        until_s = time.monotonic() + self._partner.read_s
        while self._out:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._drain(left_s)

    def _drain(self, timeout_s: float) -> None:
        try:
            self._connection.drain_events(timeout=timeout_s)
        except TimeoutError:
            return

    def _break(self, letters: Sequence[Letter]) -> None:
        """The connection is lost: what was claimed may have arrived, what was not has not."""
        self._drop()
        for letter in letters:
            letter.end(unreachable() if letter.withdraw() else _lost())

    def _on_ack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 - as py-amqp calls it
        for letter in self._settled(tag, multiple=multiple):
            # A message without a queue is returned first and confirmed then.
            letter.end(queue_missing() if letter.returned else None)

    def _on_nack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 - as py-amqp calls it
        for letter in self._settled(tag, multiple=multiple):
            letter.end(Unsent("broker_refused", "The broker refused the message.", "消息中间件拒绝了该消息。"))

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:  # noqa: ANN401 - py-amqp's
        del error, exchange, routing_key
        for letter in self._out.values():
            if letter.id == message.properties.get("message_id"):
                letter.returned = True

    def _settled(self, tag: int, *, multiple: bool) -> list[Letter]:
        tags = [known for known in self._out if known <= tag] if multiple else [tag]
        return [self._out.pop(known) for known in tags if known in self._out]

    def _block(self, *, now: bool) -> None:
        self._blocked = now


def busy() -> Unsent:
    """Its turn did not come; it was not published."""
    return Unsent("partner_busy", "The partner's broker takes nothing at present.", "对方消息中间件暂不接收。")


def _lost() -> Unknown:
    return Unknown("confirm_lost", "The connection broke before the broker's confirm.", "连接在确认到达前中断。")


def _end(letters: Sequence[Letter], error: HubError) -> None:
    for letter in letters:
        letter.end(_another(error))


def _another(error: HubError) -> HubError:
    """The same again: an exception is raised in one thread only."""
    return type(error)(error.code, error.en, error.zh)
