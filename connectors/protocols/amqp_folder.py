"""Messages as files of this host, in the format of kombu's ``filesystem://``: the embedded default's stand-in for a broker.

Nobody confirms here: what was put is on this host's disk (file and folder are synced), and that is all that may be said.
Unlike the transport as shipped a message stays where it is until it is settled, so that a crash loses none.
"""
# kombu carries no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
from kombu.connection import Connection
from kombu.exceptions import ChannelError
from kombu.transport import filesystem
from kombu.utils.json import dumps

from connectors.protocols.amqp_broker import Route, declare, queue_missing
from hub.errors import HubError, Unknown, Unsent

_WRITING_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Left:
    """A message that lies in the folder."""

    file: Path
    message_id: str
    body: bytes = field(repr=False)


def put(folder: Path, route: Route, body: bytes, properties: dict[str, Any]) -> None:
    """Put a message where the route leads, synced to disk.

    Raises:
        Unsent: ``partner_unreachable``: the folder cannot be written.
        Unknown: ``confirm_lost``: it lies there, but the disk does not say that it keeps it.
        Misconfigured: ``queue_missing``.
    """
    trouble: HubError | None = None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _channel(folder) as channel:
            if route.declare:
                declare(channel, route)
            message = channel.prepare_message(
                body, content_type=route.content_type, content_encoding="utf-8", properties=properties
            )
            channel.basic_publish(message, route.exchange, route.routing_key or route.queue)
    except _UnroutableError:
        trouble = queue_missing()
    except _UnsyncedError:
        trouble = Unknown("confirm_lost", "The disk does not say that it keeps the message.", "磁盘未确认消息已保存。")
    except (OSError, ChannelError):
        trouble = Unsent("partner_unreachable", "The folder of messages cannot be written.", "消息目录无法写入。")
    if trouble is not None:
        raise trouble


def lying(folder: Path, queue: str, now_s: float) -> Iterator[Left]:
    """The messages of a queue, oldest first.

    A file that cannot be read is passed over while it may still be written, and put aside as ``….unreadable`` after that.

    Raises:
        Unsent: ``partner_unreachable``: the folder cannot be read.
    """
    trouble = None
    files: list[tuple[int, str]] = []
    try:
        if folder.is_dir():
            with os.scandir(folder) as entries:
                # Other names are being written, or were put aside.
                found = [entry for entry in entries if entry.name.partition(".")[2] == f"{queue}.msg"]
            # Kombu's own names begin with a clock that starts anew with the host: the file's time orders better.
            files = sorted((entry.stat().st_mtime_ns, entry.name) for entry in found)
    except OSError:
        trouble = Unsent("partner_unreachable", "The folder of messages cannot be read.", "消息目录无法读取。")
    if trouble is not None:
        raise trouble
    for written_ns, name in files:
        file = folder / name
        left = _read(file)
        if left is not None:
            yield left
        elif now_s - written_ns / 1e9 > _WRITING_S:
            _rename(file, f"{name}.unreadable")


def settle(left: Left) -> None:
    """It is ours now: the file goes."""
    left.file.unlink(missing_ok=True)


def refuse(left: Left, route: Route) -> None:
    """Move it to the dead letters: the declared queue, else ``<queue>.refused``."""
    stamp = left.file.name.partition(".")[0]
    _rename(left.file, f"{stamp}.{route.dead_queue or f'{route.queue}.refused'}.msg")


def _read(file: Path) -> Left | None:
    try:
        payload = orjson.loads(file.read_bytes())
        properties = payload["properties"]
        body = payload["body"]
        coded = properties.get("body_encoding") == "base64"
        content = base64.b64decode(body, validate=True) if coded else str(body).encode()
        return Left(file, str(properties.get("message_id") or ""), content)
    except (OSError, orjson.JSONDecodeError, binascii.Error, LookupError, TypeError, AttributeError, ValueError):
        return None


def _rename(file: Path, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # another one was quicker
        file.rename(file.with_name(name))


class _UnroutableError(Exception):
    """No queue is bound."""


class _UnsyncedError(Exception):
    """The folder could not be synced after the file was in it."""


class _Channel(filesystem.Channel):
    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> Any:  # noqa: ANN401 - as kombu has it
        found = super()._lookup(exchange, routing_key, default)
        if not found:
            raise _UnroutableError
        return found

    def _put(self, queue: str, payload: object, **_: object) -> None:  # type: ignore[override] # kombu names it twice
        folder = Path(self.data_folder_out)
        name = f"{time.time_ns():020d}_{os.urandom(8).hex()}.{queue}.msg"
        written = folder / f"{name}.part"
        try:
            with written.open("xb") as file:
                file.write(dumps(payload).encode())
                file.flush()
                os.fsync(file.fileno())
            written.rename(folder / name)
        except OSError:
            written.unlink(missing_ok=True)
            raise
        _sync(folder)


class _Transport(filesystem.Transport):
    Channel = _Channel


def _sync(folder: Path) -> None:
    try:
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        raise _UnsyncedError from error


@contextlib.contextmanager
def _channel(folder: Path) -> Iterator[Any]:
    place = str(folder)
    options = {"data_folder_in": place, "data_folder_out": place, "control_folder": str(folder / "control")}
    with Connection("filesystem://", transport=_Transport, transport_options=options) as connection:
        yield connection.channel()
