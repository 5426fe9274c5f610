"""Signatures and the national two-step secret, written anew from domain.md §3.1 and INTERFACES "Signing"."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIXES = ("gjgxjhpt_", "gjzwfwpt_")
PARTS = ("rid", "sid", "rtime", "sign")


def _hmac(secret: str, message: str) -> str:
    return base64.b64encode(hmac.digest(secret.encode(), message.encode(), "sha256")).decode()


def national_sign(secret: str, sid: str, rid: str, rtime: str) -> str:
    """Sign as the national platform does: the body is not covered."""
    return _hmac(secret, sid + rid + rtime)


def dukou_sign(secret: str, sid: str, rid: str, rtime: str, request: tuple[str, str, bytes]) -> str:
    """Sign as the hub's gateway asks by default.

    Args:
        secret: the caller's secret.
        sid: the service id.
        rid: the requester id.
        rtime: epoch milliseconds in decimals.
        request: method, path with query exactly as sent, and the raw bytes of the body.
    """
    method, target, body = request
    covered = "\n".join((sid + rid + rtime, method, target, hashlib.sha256(body).hexdigest()))
    return _hmac(secret, covered)


def same(expected: str, given: str) -> bool:
    """Compare two signatures in constant time."""
    return hmac.compare_digest(expected.encode(), given.encode())


def _aes(appkey: str) -> Cipher[modes.ECB]:
    # Java's SHA1PRNG seeded with the appKey; SHA-1 and ECB are the platform's choice, not ours.
    seed = hashlib.sha1(appkey.encode(), usedforsecurity=False).digest()
    key = hashlib.sha1(seed, usedforsecurity=False).digest()[:16]
    return Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305 - the platform's own cipher


def wrap_secret(appkey: str, secret: str) -> str:
    """The working secret as the platform hands it out: AES-ECB under the appKey, Base64."""
    padder = PKCS7(128).padder()
    encryptor = _aes(appkey).encryptor()
    padded = padder.update(secret.encode()) + padder.finalize()
    return base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode()


def signed_values(values: Mapping[str, str]) -> dict[str, str] | None:
    """Find rid, sid, rtime and sign under either prefix, with ``_`` or ``-``; ``None`` if one is missing."""
    lowered = {name.lower().replace("-", "_"): value for name, value in values.items()}
    for prefix in PREFIXES:
        found = {part: lowered[prefix + part] for part in PARTS if prefix + part in lowered}
        if len(found) == len(PARTS):
            return found
    return None
