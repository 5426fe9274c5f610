"""Reads a body off the socket within its limits of size and time, and throws away what was refused."""

from __future__ import annotations

from collections.abc import Mapping

import anyio
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from hub.gateway.codes import refusal
from hub.gateway.settings import GatewaySettings


async def read_body(headers: Mapping[str, str], receive: Receive, settings: GatewaySettings) -> bytes:
    """The whole body.

    Raises:
        hub.errors.Refused: ``too_large`` (at once where Content-Length says so) or ``body_timeout``.
        starlette.requests.ClientDisconnect: the sender went away.
    """
    if declared_length(headers) > settings.max_body_bytes:
        raise refusal("too_large")
    found = bytearray()
    with anyio.move_on_after(settings.body_timeout_s):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            found += message.get("body", b"")
            if len(found) > settings.max_body_bytes:
                raise refusal("too_large")
            if not message.get("more_body", False):
                return bytes(found)
    raise refusal("body_timeout")


async def discard(receive: Receive, settings: GatewaySettings) -> None:
    """Throw away the rest of a refused body: a sender that is still writing would else meet a reset, not the answer."""
    thrown = 0
    with anyio.move_on_after(settings.body_timeout_s):
        while thrown <= settings.discard_bytes:
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
            thrown += len(message.get("body", b""))


def must_close(headers: Mapping[str, str], settings: GatewaySettings) -> bool:
    """Whether the connection ends after a refused body: its end is not known, or farther than we read."""
    length = declared_length(headers)
    return "expect" in headers or length < 0 or length > settings.discard_bytes


def declared_length(headers: Mapping[str, str]) -> int:
    """Content-Length, or -1 where there is none (the server has already refused one that is no number)."""
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else -1
