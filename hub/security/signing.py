"""The signature of calls: profiles `dukou` and `national`, and the national two-step secret (domain.md §3.1)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from hub.errors import Refused
from hub.model.call import Caller
from hub.ports import Clock

PREFIXES: Final = ("gjgxjhpt_", "gjzwfwpt_")
PROFILES: Final = ("dukou", "national")

_NAMES: Final = ("rid", "sid", "rtime", "sign")
_LONGEST_RTIME: Final = 15


@dataclass(frozen=True, slots=True)
class Request:
    """What a signature covers.

    Attributes:
        method: HTTP method.
        target: raw request target, path with query, percent-encoding untouched.
        body: the exact bytes.
    """

    method: str = "POST"
    target: str | bytes = "/"
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class _Presented:
    rid: str
    sid: str
    rtime: str
    sign: str


def sign(profile: str, secret: str, ids: tuple[str, str, str], request: Request) -> str:
    """The value of the ``sign`` header.

    Args:
        profile: ``national`` signs ``sid + rid + rtime`` alone (domain.md §3.1), ``dukou`` the request as well.
        secret: the caller's secret.
        ids: rid, sid and rtime (epoch milliseconds), as they travel.
        request: what is called, with what.
    """
    rid, sid, rtime = ids
    message = (sid + rid + rtime).encode()
    if profile != "national":
        target = (
            request.target if isinstance(request.target, bytes) else request.target.encode(errors="surrogateescape")
        )
        body = hashlib.sha256(request.body).hexdigest().encode()
        message = b"\n".join((message, request.method.upper().encode(), target, body))
    return base64.b64encode(hmac.digest(secret.encode(), message, "sha256")).decode()


def headers(caller: Caller, sid: str, rtime: int, request: Request, prefix: str = PREFIXES[0]) -> dict[str, str]:
    """The four headers with which a client makes one call in the profile of ``caller``.

    Args:
        caller: whose rid, secret and profile to use.
        sid: the service called, one of ``caller.sids`` values.
        rtime: now, in milliseconds since the epoch.
        request: what is called, with what.
        prefix: one of `PREFIXES`.
    """
    value = sign(caller.profile, caller.secret, (caller.rid, sid, str(rtime)), request)
    return {
        f"{prefix}rid": caller.rid,
        f"{prefix}sid": sid,
        f"{prefix}rtime": str(rtime),
        f"{prefix}sign": value,
    }


class Verifier:
    """Says who made a call, or refuses it.

    Args:
        callers: by rid.
        window_ms: how far ``rtime`` may be from our clock, either way.
        clock: wall clock.
    """

    def __init__(self, callers: Mapping[str, Caller], window_ms: int, clock: Clock) -> None:
        self._callers = callers
        self._window_ms = window_ms
        self._clock = clock

    def verify(self, headers: Mapping[str, str], method: str, target: str | bytes, body: bytes) -> tuple[Caller, str]:
        """The caller and the sid that it presents; whether the sid covers the call is for the gateway to say.

        Args:
            headers: as they arrived; names in any case, with ``-`` or ``_``, with either prefix.
            method: HTTP method.
            target: raw request target, path with query, percent-encoding untouched.
            body: the exact bytes that arrived.

        Raises:
            Refused: 401 ``signature_invalid`` (also a missing header or an altered body), ``caller_unknown``, or
                ``rtime_expired`` for a call that was rightly signed at another time.
        """
        presented = _presented(headers.items())
        caller = self._callers.get(presented.rid)
        if caller is None:
            raise Refused("caller_unknown", "The caller is not known.", "调用方未登记。", 401)
        ids = (presented.rid, presented.sid, presented.rtime)
        expected = sign(caller.profile, caller.secret, ids, Request(method, target, body))
        if not hmac.compare_digest(expected.encode(), presented.sign.encode()):
            raise _signature_invalid()
        self._within_window(presented.rtime)
        return caller, presented.sid

    def _within_window(self, rtime: str) -> None:
        readable = rtime.isascii() and rtime.isdigit() and len(rtime) <= _LONGEST_RTIME
        if not readable or abs(self._clock() - int(rtime)) > self._window_ms:
            raise Refused(
                "rtime_expired",
                "The request time is outside the accepted window.",
                "请求时间超出允许范围。",
                401,
            )


def _presented(items: Iterable[tuple[str, str]]) -> _Presented:
    """The four values; anything missing, empty, or given twice with different values is no signature."""
    found: dict[str, str] = {}
    for name, value in items:
        part = _part(name)
        if part and found.setdefault(part, value) != value:
            raise _signature_invalid()
    if not all(found.get(name) for name in _NAMES):
        raise _signature_invalid()
    return _Presented(**found)


def _part(name: str) -> str:
    """``rid`` for ``GJGXJHPT-rid``; empty for every other header."""
    plain = name.lower().replace("-", "_")
    prefix, _, part = plain.partition("_")
    return part if f"{prefix}_" in PREFIXES and part in _NAMES else ""


def _signature_invalid() -> Refused:
    return Refused("signature_invalid", "The signature does not fit the request.", "签名与请求不符。", 401)


def aes128_ecb_secret(appkey: str, text: str) -> str:
    """Encrypt as the national platform does: AES-128/ECB/PKCS5 in Base64, the key from Java's SHA1PRNG (domain.md §3.1)."""
    padder = padding.PKCS7(128).padder()
    encryptor = _aes(appkey).encryptor()
    padded = padder.update(text.encode()) + padder.finalize()
    return base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode()


def aes128_ecb_plain(appkey: str, text: str) -> str:
    """Decrypt what the national platform encrypted for us.

    Raises:
        ValueError: it is not Base64 of AES under this appkey.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("not Base64") from None
    decryptor = _aes(appkey).decryptor()
    unpadder = padding.PKCS7(128).unpadder()
    try:
        padded = decryptor.update(raw) + decryptor.finalize()
        return (unpadder.update(padded) + unpadder.finalize()).decode()
    except ValueError:
        raise ValueError("not encrypted with this appkey") from None


def _aes(appkey: str) -> Cipher[modes.ECB]:
    # SHA-1 and ECB are the platform's choice; what they protect is a secret of half an hour inside TLS.
    seed = hashlib.sha1(hashlib.sha1(appkey.encode()).digest()).digest()  # noqa: S324
    return Cipher(algorithms.AES(seed[:16]), modes.ECB())  # noqa: S305
