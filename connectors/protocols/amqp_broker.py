"""A partner's message broker: where it is, what an exchange declares there, and what its complaints mean."""
# kombu carries no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from kombu.connection import Connection
from kombu.exceptions import KombuError

from hub.errors import HubError, Misconfigured, Unsent
from hub.model.declarations import Exchange, Partner

_LOST: Final = (OSError, KombuError, AttributeError, StopIteration)


@dataclass(frozen=True, slots=True)
class Broker:
    """Where a partner's broker is. ``folder`` is set where messages are files of this host (kombu's ``filesystem://``)."""

    url: str = field(repr=False)
    user: str = field(repr=False)
    password: str = field(repr=False)
    ca_file: str = ""
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """The options of an exchange, as ``schemas/declarations/options_amqp.json`` allows them."""

    queue: str = ""
    exchange: str = ""
    exchange_type: str = "direct"
    routing_key: str = ""
    declare: bool = False
    dead_exchange: str = ""
    dead_queue: str = ""
    content_type: str = "application/json"
    prefetch: int = 50
    at_most: int = 5000
    idle_s: float = 0.5


def broker_of(base: str, secrets: Mapping[str, str]) -> Broker:
    """The broker at an address.

    Args:
        base: ``amqp://host:port/vhost``, ``amqps://…`` or ``filesystem:///absolute/folder``.
        secrets: ``user``, ``password`` (they win over the address) and ``ca_file`` of the key file.

    Raises:
        Misconfigured: ``endpoint_invalid``.
    """
    parts = _parts(base)
    if parts is None or parts.scheme not in ("amqp", "amqps", "filesystem"):
        raise endpoint_invalid()
    if parts.scheme == "filesystem":
        folder = Path(unquote(parts.path))
        if parts.netloc or not folder.is_absolute() or folder == Path("/"):
            raise endpoint_invalid()
        return Broker(base, "", "", folder=folder)
    user = secrets.get("user") or unquote(parts.username or "")
    password = secrets.get("password") or unquote(parts.password or "")
    return Broker(base, user, password, secrets.get("ca_file", ""))


def route_of(exchange: Exchange) -> Route:
    """The route that an exchange declares.

    Raises:
        Misconfigured: ``options_invalid``.
    """
    given = dict(exchange.options)
    dead = given.pop("dead_letter", None)
    if isinstance(dead, Mapping):
        given |= {"dead_exchange": dead.get("exchange"), "dead_queue": dead.get("queue")}
    route = None
    with contextlib.suppress(TypeError):
        route = Route(**given)  # type: ignore[arg-type] # checked by the schema, and below
    if route is None or not (route.queue or (route.exchange and route.routing_key and not route.declare)):
        raise Misconfigured(
            "options_invalid",
            f"Exchange {exchange.key}: its options do not fit options_amqp.json.",
            f"{exchange.key} 的 options 不符合 options_amqp.json。",
        )
    return route


def connect(broker: Broker, partner: Partner, heartbeat_s: int = 0) -> Any:  # noqa: ANN401 - py-amqp's, without types
    """A new connection to a broker (not to a folder); nothing on it waits longer than the partner's ``read_s``.

    It is py-amqp's own: kombu's would connect again by itself, and what was open on the old one would be forgotten.

    Raises:
        HubError: as `meaning` says.
    """
    connection = Connection(
        broker.url,
        userid=broker.user or None,
        password=broker.password or None,
        ssl=_tls(broker) if broker.url.startswith("amqps") else None,
        connect_timeout=partner.connect_s,
        heartbeat=heartbeat_s,
        transport_options={"client_properties": {"product": "dukou"}},
    )
    try:
        raw = connection.transport.establish_connection()
        # Without it an answer of the broker that never comes is waited for without end.
        raw.transport.sock.settimeout(partner.read_s)
    except lost_by(connection.transport) as error:
        trouble = meaning(error)
    else:
        return raw
    raise trouble


def lost_by(connection: Any) -> tuple[type[Exception], ...]:  # noqa: ANN401 - py-amqp's, without types
    """Everything that a connection raises when it or its broker is in trouble."""
    return (*_LOST, *connection.connection_errors, *connection.channel_errors)


def let_go(connection: Any) -> None:  # noqa: ANN401 - py-amqp's, without types
    """Close a connection so that the broker has read what was sent before, whatever state it is in."""
    try:
        connection.close()
    except lost_by(connection):
        connection.collect()


def declare(channel: Any, route: Route) -> None:  # noqa: ANN401 - kombu's channels have no common type
    """Declare what the route names, all durable; what exists with the same properties stays as it is."""
    arguments = {}
    if route.dead_queue:
        channel.exchange_declare(exchange=route.dead_exchange, type="direct", durable=True, auto_delete=False)
        channel.queue_declare(queue=route.dead_queue, durable=True, auto_delete=False)
        channel.queue_bind(queue=route.dead_queue, exchange=route.dead_exchange, routing_key=route.dead_queue)
        arguments = {"x-dead-letter-exchange": route.dead_exchange, "x-dead-letter-routing-key": route.dead_queue}
    channel.queue_declare(queue=route.queue, durable=True, auto_delete=False, arguments=arguments)
    if route.exchange:
        channel.exchange_declare(exchange=route.exchange, type=route.exchange_type, durable=True, auto_delete=False)
        key = route.routing_key or route.queue
        channel.queue_bind(queue=route.queue, exchange=route.exchange, routing_key=key)


def meaning(error: BaseException) -> HubError:
    """What trouble means that came before anything was published."""
    code = getattr(error, "reply_code", 0)
    if isinstance(error, ssl.SSLCertVerificationError):
        return Misconfigured(
            "certificate_untrusted", "The broker's certificate is not trusted.", "消息中间件证书不受信任。"
        )
    if code == 404:
        return queue_missing()
    if code == 406:
        return Misconfigured(
            "queue_mismatch",
            "The queue or exchange exists with other properties than those declared.",
            "队列或交换机已存在，且属性与声明不一致。",
        )
    if code == 403:
        return Misconfigured("credentials_refused", "The broker refuses our credentials.", "消息中间件拒绝我方凭据。")
    if code == 530:
        return endpoint_invalid()
    return unreachable()


def queue_missing() -> Misconfigured:
    """There is no such queue, or nothing routes to one."""
    return Misconfigured(
        "queue_missing", "The broker has no queue for this exchange.", "消息中间件没有该交换对应的队列。"
    )


def unreachable() -> Unsent:
    """The broker is away; nothing was published."""
    return Unsent("partner_unreachable", "The partner's broker cannot be reached.", "无法连接对方消息中间件。")


def endpoint_invalid() -> Misconfigured:
    """The address is none."""
    return Misconfigured(
        "endpoint_invalid",
        "The broker's address cannot be used; amqp://, amqps:// and filesystem:///folder can.",
        "消息中间件地址不可用；可用 amqp://、amqps:// 或 filesystem:///目录。",
    )


def _parts(base: str) -> SplitResult | None:
    try:
        parts = urlsplit(base)
        usable = parts.scheme == "filesystem" or (bool(parts.hostname) and (parts.port or 1) > 0)
    except ValueError:
        return None
    return parts if usable else None


def _tls(broker: Broker) -> dict[str, object]:
    host = urlsplit(broker.url).hostname
    own = {"ca_certs": broker.ca_file} if broker.ca_file else {}
    return {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": host, **own}
