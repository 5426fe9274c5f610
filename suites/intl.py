"""The international suite: SHA-256 (FIPS 180-4), HMAC-SHA-256 (RFC 2104), AES-256-GCM (NIST SP 800-38D)."""

from __future__ import annotations

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from suites.suite import NONCE_BYTES, TAG_BYTES, KeySizeWrong, Randomness, SealBroken


class Intl:
    """See `suites.suite.Suite`."""

    name = "intl"
    key_bytes = 32

    def digest(self, data: bytes) -> bytes:
        """SHA-256."""
        return hashlib.sha256(data).digest()

    def mac(self, key: bytes, data: bytes) -> bytes:
        """HMAC-SHA-256."""
        return hmac.digest(key, data, "sha256")

    def new_key(self, random: Randomness) -> bytes:
        """256 bits."""
        return random(self.key_bytes)

    def seal(self, key: bytes, plaintext: bytes, aad: bytes, random: Randomness = os.urandom) -> bytes:
        """AES-256-GCM under a random nonce."""
        nonce = random(NONCE_BYTES)
        return nonce + self._cipher(key).encrypt(nonce, plaintext, aad)

    def open(self, key: bytes, sealed: bytes, aad: bytes) -> bytes:
        """The plaintext, if every byte is as sealed."""
        if len(sealed) < NONCE_BYTES + TAG_BYTES:
            raise SealBroken
        try:
            return self._cipher(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], aad)
        except InvalidTag:
            raise SealBroken from None

    def _cipher(self, key: bytes) -> AESGCM:
        # AESGCM itself would take 16 bytes too and quietly give AES-128.
        if len(key) != self.key_bytes:
            raise KeySizeWrong(self.name, self.key_bytes)
        return AESGCM(key)
