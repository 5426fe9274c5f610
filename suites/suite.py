"""What a crypto suite is, and the errors of this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

Randomness = Callable[[int], bytes]
"""Gives that many unpredictable bytes (``os.urandom``)."""

NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16


class SuiteError(Exception):
    """Root of this package's errors; texts never contain what was hashed, sealed or opened."""


class SuiteUnknown(SuiteError):
    """No suite of that name."""

    def __init__(self, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown crypto suite; known suites: {', '.join(known)}")


class SealBroken(SuiteError):
    """A seal does not open: other key, other associated data, or changed bytes."""

    def __init__(self) -> None:
        super().__init__("the seal does not open with this key and associated data")


class KeySizeWrong(SuiteError):
    """A key has not the length that the suite's cipher takes."""

    def __init__(self, name: str, expected: int) -> None:
        super().__init__(f"suite {name} takes keys of {expected} bytes")


class Suite(Protocol):
    """Hash, authenticate and seal with one family of algorithms. Stateless and safe between threads."""

    @property
    def name(self) -> str:
        """The name that travels with what this suite made."""
        ...

    @property
    def key_bytes(self) -> int:
        """Length of a sealing key."""
        ...

    def digest(self, data: bytes) -> bytes:
        """32 bytes of hash."""
        ...

    def mac(self, key: bytes, data: bytes) -> bytes:
        """32 bytes of HMAC; the key may have any length."""
        ...

    def new_key(self, random: Randomness) -> bytes:
        """A fresh sealing key."""
        ...

    def seal(self, key: bytes, plaintext: bytes, aad: bytes, random: Randomness = ...) -> bytes:
        """Encrypt and authenticate: 12 bytes nonce, ciphertext, 16 bytes tag.

        The nonce is random: seal at most 2**32 times under one key (NIST SP 800-38D, section 8.3).

        Raises:
            KeySizeWrong: the key has not ``key_bytes`` bytes.
        """
        ...

    def open(self, key: bytes, sealed: bytes, aad: bytes) -> bytes:
        """The plaintext of what `seal` gave.

        Raises:
            SealBroken: other key, other ``aad``, or any byte changed.
            KeySizeWrong: the key has not ``key_bytes`` bytes.
        """
        ...
