"""Identifiers: UUIDv7 (RFC 9562), so that ids sort by time of birth. The one place where they are made."""

from __future__ import annotations

import os
import time


def new_id(now_ms: int | None = None, random: bytes | None = None) -> str:
    """A UUIDv7 in its canonical 36-character form.

    Args:
        now_ms: milliseconds since the epoch; the system clock when absent.
        random: ten random bytes; the operating system's when absent.
    """
    ms = int(time.time() * 1000) if now_ms is None else now_ms
    tail = os.urandom(10) if random is None else random
    raw = bytearray(ms.to_bytes(6, "big") + tail)
    raw[6] = (raw[6] & 0x0F) | 0x70
    raw[8] = (raw[8] & 0x3F) | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def wire_id(message_id: str) -> str:
    """The delivery id that travels on the wire: the message's id as 32 hex characters.

    One message has one delivery id whatever the number of attempts, so that a partner can recognise a repeat.
    """
    return message_id.replace("-", "")
