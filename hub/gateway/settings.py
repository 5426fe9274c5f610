"""What can be set about the gateway, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Limits and names of one gateway.

    Attributes:
        max_body_bytes: a longer body gets 413 ``too_large``.
        discard_bytes: how much of a refused body is read and thrown away, so that its sender can read the answer.
        body_timeout_s: a body that has not arrived by then gets 408 ``body_timeout``.
        desk_threads: how many calls are inside the desk at once.
        max_waiting: how many more may wait for a thread; the next one gets 503 ``busy``.
        case_partner: the partner that declares ``application``, ``correction`` and ``withdrawal``.
        public_url: scheme and host for WSDL addresses; empty: the request's own ``Host``.
        version: the release, shown in ``/openapi.json``.
        schemas: request schemas for ``/openapi.json`` by name: ``application``, ``correction``, ``withdrawal``,
            ``search``; ``{partner}/{exchange}`` for what the exchanges take.
    """

    max_body_bytes: int = 2 * MIB
    discard_bytes: int = 32 * MIB
    body_timeout_s: float = 20.0
    desk_threads: int = 16
    max_waiting: int = 256
    case_partner: str = "hall"
    public_url: str = ""
    version: str = "0.1.0"
    schemas: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
