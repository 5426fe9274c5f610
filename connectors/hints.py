"""Hints over kombu: "there is work for this partner", to the courier and to Airflow, on two queues; they only wake.

A hint may be lost or come twice; what must happen is in the ledger. Messages go through the default exchange, whose
routing needs none of the shared ``.exchange`` files of kombu's filesystem transport.
"""
# kombu carries no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.exceptions import KombuError
from kombu.message import Message
from kombu.messaging import Consumer, Producer

from connectors import hint_files
from hub.errors import Misconfigured
from hub.ports import Clock

Audience = Literal["courier", "airflow"]

QUEUES: Final[Mapping[Audience, str]] = {"courier": "dukou.hints.courier", "airflow": "dukou.hints.airflow"}
INTERVAL_MS: Final[Mapping[Audience, int]] = {"courier": 20, "airflow": 2000}
LIFE_S: Final = 600
"""A hint that nobody took for so long wakes nobody: the timetables have found its work."""

_POLLING_S: Final[Mapping[Audience, float]] = {"courier": 0.02, "airflow": 0.2}
_LONGEST_QUEUE: Final = 10_000
_AT_ONCE: Final = 500
_PENDING_LIMIT: Final = 1_000
_CONNECT_S: Final = 3
_WRITE_S: Final = 5
_REST_S: Final = 1.0
_COMPLAIN_S: Final = 60.0
_PRUNE_S: Final = 60.0
_SLUG_LIMIT: Final = 64
_DAY_MS: Final = 24 * 3600 * 1000
# What a message of somebody else makes kombu raise.
_UNREADABLE: Final[tuple[type[Exception], ...]] = (ValueError, TypeError, LookupError, AttributeError)

log = logging.getLogger(__name__)


class KombuHints:
    """`hub.ports.Hints`: coalesces, then sends from a thread of its own; drops what it cannot send.

    The first hint for a partner goes at once; those that follow within the audience's interval become one, sent at the
    interval's end, so that work which came after the first waking is not forgotten. Build it after a fork.

    Args:
        url: ``filesystem://`` or ``amqp://…``.
        transport_options: kombu's; for the filesystem ``data_folder_in`` names the folder above those of the audiences.
        clock: wall clock.

    Raises:
        Misconfigured: ``broker_url_invalid``.
    """

    def __init__(self, url: str, transport_options: Mapping[str, Any], clock: Clock) -> None:
        self._lines = {audience: _Line(url, transport_options, audience) for audience in QUEUES}
        self._clock = clock
        self._folder = hint_folder(url, transport_options)
        self._wake = threading.Condition()
        self._due_ms: dict[tuple[Audience, str], int] = {}
        self._sent_ms: dict[tuple[Audience, str], int] = {}
        self._thread: threading.Thread | None = None
        self._closed = False
        self._complaint = _Complaint("hints are dropped")

    def __call__(self, audience: Audience, partner: str) -> None:
        """Note the hint and return."""
        with self._wake:
            key = (audience, partner)
            if self._closed or key in self._due_ms:
                return
            if len(self._due_ms) >= _PENDING_LIMIT:
                self._complaint.say("too many are waiting")
                return
            now = self._clock()
            self._due_ms[key] = max(now, self._sent_ms.get(key, now - _DAY_MS) + INTERVAL_MS[audience])
            self._ensure_thread()
            self._wake.notify()

    def close(self, timeout_s: float = 5.0) -> None:
        """Send what is waiting, then let the connections go."""
        with self._wake:
            self._closed = True
            self._wake.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _ensure_thread(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = threading.Thread(target=self._run, name="dukou-hints", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            # The process is ending or has no threads left: hints may be lost, the accepted message may not.
            self._thread = None
            self._due_ms.clear()
            self._complaint.say("no thread")

    def _run(self) -> None:
        pruned_s = 0.0
        while ready := self._next():
            for audience, partner in ready:
                self._lines[audience].send(partner, self._complaint)
            if self._folder is not None and time.monotonic() - pruned_s > _PRUNE_S:
                pruned_s = time.monotonic()
                prune_hints(self._folder, LIFE_S, self._clock())
        for line in self._lines.values():
            line.close()

    def _next(self) -> list[tuple[Audience, str]]:
        """Wait for hints that are due; none when it is time to end."""
        with self._wake:
            while True:
                now = self._clock()
                ready = [key for key, due in self._due_ms.items() if self._closed or self._is_due(key, due, now)]
                if ready or self._closed:
                    break
                first = min(self._due_ms.values(), default=now + _DAY_MS)
                self._wake.wait((first - now) / 1000)
            for key in ready:
                del self._due_ms[key]
                self._sent_ms[key] = now
            return ready

    @staticmethod
    def _is_due(key: tuple[Audience, str], due: int, now: int) -> bool:
        # A clock that was set back must not silence a partner.
        return due <= now or due - now > INTERVAL_MS[key[0]]


@dataclass(frozen=True, slots=True)
class Taken:
    """What was waiting: for whom there is work, and how to say that it was used (in the listener's thread)."""

    partners: frozenset[str]
    ack: Callable[[], None]


class HintListener:
    """Takes hints of one audience. Belongs to one thread; opens its connection when first asked, and again when it breaks.

    Args:
        url: ``filesystem://`` or ``amqp://…``.
        options: as for `KombuHints`.
        audience: whose hints.

    Raises:
        Misconfigured: ``broker_url_invalid``.
    """

    def __init__(self, url: str, options: Mapping[str, Any], audience: Audience) -> None:
        self._line = _Line(url, options, audience)
        self._arrived: list[tuple[str, Message]] = []
        self._complaint = _Complaint("hints do not arrive")
        self._open_at_s = 0.0

    def take(self, timeout_s: float = 0.0) -> Taken:
        """Everything that is waiting; waits for the first up to ``timeout_s``.

        What is not acknowledged before `close` (or the end of a connection) comes again. Never raises for a broker that
        is away: it has nothing, after the time given.
        """
        until_s = time.monotonic() + timeout_s
        if time.monotonic() >= self._open_at_s:
            try:
                self._drain(timeout_s)
            except (*self._line.trouble, *_UNREADABLE) as error:
                self._complaint.say(type(error).__name__)
                self._line.close()
                self._open_at_s = time.monotonic() + _REST_S
        if not self._arrived and self._open_at_s > time.monotonic():
            time.sleep(max(0.0, min(until_s, self._open_at_s) - time.monotonic()))
        arrived, self._arrived = self._arrived, []
        return Taken(frozenset(partner for partner, _ in arrived), lambda: self._ack(arrived))

    def wait(self, timeout_s: float) -> set[str]:
        """The partners for whom there is work, acknowledged at once; empty after ``timeout_s``."""
        taken = self.take(timeout_s)
        taken.ack()
        return set(taken.partners)

    def close(self) -> None:
        """Let the connection go; what was not acknowledged goes back."""
        self._line.close()

    def _drain(self, timeout_s: float) -> None:
        connection = self._line.consume(self._on_hint)
        wait_s = timeout_s
        for _ in range(_AT_ONCE):
            try:
                # Zero would mean "for ever" to some transports.
                connection.drain_events(timeout=max(wait_s, 0.001))
            except TimeoutError:
                return
            except _UNREADABLE as error:
                if not self._line.takes_files:
                    raise
                # The transport has taken the file away already, so that the next look finds another.
                self._complaint.say(f"an unreadable one is dropped ({type(error).__name__})")
            wait_s = 0.0

    def _on_hint(self, body: object, message: Message) -> None:
        partner = body.get("p") if isinstance(body, dict) else None
        if isinstance(partner, str) and 0 < len(partner) <= _SLUG_LIMIT:
            self._arrived.append((partner, message))
        else:
            message.ack()

    def _ack(self, arrived: list[tuple[str, Message]]) -> None:
        try:
            for _, message in arrived:
                if not message.acknowledged:
                    message.ack()
        except self._line.trouble as error:
            # They come again on the next connection, which does no harm.
            self._complaint.say(type(error).__name__)


def hint_folder(url: str, options: Mapping[str, Any]) -> Path | None:
    """The folder above those of the audiences, where hints are files; else ``None``.

    Raises:
        Misconfigured: ``broker_url_invalid``: files, but no ``data_folder_in``.
    """
    if not url.startswith("filesystem"):
        return None
    if not options.get("data_folder_in"):
        # Kombu would take a folder of the working directory.
        raise _broker_invalid()
    return Path(options["data_folder_in"])


def prune_hints(folder: Path, older_than_s: float, now_ms: int) -> int:
    """Remove hint files that nobody took.

    Args:
        folder: `hint_folder`.
        older_than_s: age from which a file goes.
        now_ms: wall clock.

    Returns:
        How many were removed.
    """
    removed = 0
    for audience in QUEUES:
        for file in (folder / audience).glob("*.msg*"):
            try:
                if now_ms / 1000 - file.stat().st_mtime > older_than_s:
                    file.unlink()
                    removed += 1
            except OSError:
                continue  # a listener was quicker
    return removed


class _Line:
    """One audience's connection: opened when needed, closed on trouble. Belongs to one thread."""

    def __init__(self, url: str, options: Mapping[str, Any], audience: Audience) -> None:
        self._url = url
        self._folder = hint_folder(url, options)
        self.takes_files = self._folder is not None
        self._options = _options_of(url, options, audience)
        self._audience = audience
        # Made once without connecting: it knows which errors its transport raises.
        self.trouble: tuple[type[Exception], ...] = self._errors()
        self._connection: Connection | None = None
        self._producer: Producer | None = None
        self._open_at_s = 0.0

    def send(self, partner: str, complaint: _Complaint) -> None:
        """Send one hint or drop it."""
        if time.monotonic() < self._open_at_s:
            return
        try:
            self._publish(partner)
        except (*self.trouble, *_UNREADABLE) as error:
            complaint.say(type(error).__name__)
            self.close()
            self._open_at_s = time.monotonic() + _REST_S

    def consume(self, on_hint: Callable[[object, Message], None]) -> Connection:
        """The connection, with a consumer on this audience's queue."""
        if self._connection is None:
            self._connection = connection = self._open()
            channel = connection.channel()
            channel.basic_qos(0, _AT_ONCE, False)  # noqa: FBT003 - AMQP's own order of arguments
            consumer = Consumer(channel, [self._queue()], callbacks=[on_hint], accept=["json"], on_decode_error=_reject)
            consumer.consume()
        return self._connection

    def close(self) -> None:
        """Let the connection go, whatever state it is in."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            try:
                connection.release()
            except (*self.trouble, *_UNREADABLE) as error:
                log.debug("a hint connection did not close: %s", type(error).__name__)

    def _publish(self, partner: str) -> None:
        if self._producer is None:
            self._connection = self._open()
            self._producer = Producer(self._connection.channel(), serializer="json")
        queue = self._queue()
        # Not persistent: a hint that outlives its broker's restart has nothing left to say.
        self._producer.publish({"p": partner}, routing_key=queue.name, declare=[queue], delivery_mode=1, retry=False)

    def _queue(self) -> Queue:
        return Queue(
            QUEUES[self._audience],
            exchange=Exchange(""),
            routing_key=QUEUES[self._audience],
            durable=True,
            message_ttl=float(LIFE_S),
            max_length=_LONGEST_QUEUE,
        )

    def _open(self) -> Connection:
        if self._folder is not None:
            (self._folder / self._audience).mkdir(mode=0o700, parents=True, exist_ok=True)
        connection = self._new()
        try:
            connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
        except BaseException:
            connection.release()
            raise
        return connection

    def _new(self) -> Connection:
        return Connection(
            self._url,
            transport=hint_files.Transport if self.takes_files else None,
            transport_options=dict(self._options),
            connect_timeout=_CONNECT_S,
        )

    def _errors(self) -> tuple[type[Exception], ...]:
        if "://" not in self._url:
            # Kombu would take RabbitMQ on this host.
            raise _broker_invalid()
        try:
            connection = self._new()
            known = (*connection.connection_errors, *connection.channel_errors)
        except (LookupError, ValueError, ImportError, AttributeError):
            known = None
        if known is None:
            raise _broker_invalid()
        return (OSError, KombuError, *known)


class _Complaint:
    """One log line per minute, however much goes wrong."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._quiet_until_s = 0.0

    def say(self, why: str) -> None:
        if time.monotonic() >= self._quiet_until_s:
            self._quiet_until_s = time.monotonic() + _COMPLAIN_S
            log.warning("%s: %s", self._what, why)


def _options_of(url: str, options: Mapping[str, Any], audience: Audience) -> dict[str, Any]:
    folder = hint_folder(url, options)
    if folder is not None:
        place = str(folder / audience)
        return {
            **options,
            "data_folder_in": place,
            "data_folder_out": place,
            "control_folder": str(folder / "control"),
            "store_processed": False,
            "polling_interval": _POLLING_S[audience],
        }
    if url.startswith(("amqp", "pyamqp")):
        return {"write_timeout": _WRITE_S, **options}
    return dict(options)


def _broker_invalid() -> Misconfigured:
    return Misconfigured(
        "broker_url_invalid",
        "DUKOU_BROKER_URL names no transport that can be used; filesystem:// (with a folder) and amqp:// are.",
        "DUKOU_BROKER_URL 指定的消息中间件不可用；可用 filesystem://（需目录）或 amqp://。",
    )


def _reject(message: Message, error: Exception) -> None:
    del error
    message.reject()
