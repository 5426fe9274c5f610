"""The national suite (国密): SM3 (GB/T 32905), HMAC-SM3, SM4-GCM (GB/T 32907, RFC 8998)."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from suites.suite import NONCE_BYTES, TAG_BYTES, KeySizeWrong, Randomness, SealBroken


class Gm:
    """See `suites.suite.Suite`."""

    name = "gm"
    key_bytes = 16

    def digest(self, data: bytes) -> bytes:
        """SM3."""
        state = hashes.Hash(hashes.SM3())
        state.update(data)
        return state.finalize()

    def mac(self, key: bytes, data: bytes) -> bytes:
        """HMAC-SM3."""
        state = hmac.HMAC(key, hashes.SM3())
        state.update(data)
        return state.finalize()

    def new_key(self, random: Randomness) -> bytes:
        """128 bits: SM4 knows no other length."""
        return random(self.key_bytes)

    def seal(self, key: bytes, plaintext: bytes, aad: bytes, random: Randomness = os.urandom) -> bytes:
        """SM4-GCM under a random nonce."""
        nonce = random(NONCE_BYTES)
        encryptor = Cipher(self._block(key), modes.GCM(nonce)).encryptor()
        encryptor.authenticate_additional_data(aad)
        return nonce + encryptor.update(plaintext) + encryptor.finalize() + encryptor.tag

    def open(self, key: bytes, sealed: bytes, aad: bytes) -> bytes:
        """The plaintext, if every byte is as sealed."""
        if len(sealed) < NONCE_BYTES + TAG_BYTES:
            raise SealBroken
        nonce, tag = sealed[:NONCE_BYTES], sealed[-TAG_BYTES:]
        decryptor = Cipher(self._block(key), modes.GCM(nonce, tag)).decryptor()
        decryptor.authenticate_additional_data(aad)
        try:
            return decryptor.update(sealed[NONCE_BYTES:-TAG_BYTES]) + decryptor.finalize()
        except InvalidTag:
            raise SealBroken from None

    def _block(self, key: bytes) -> algorithms.SM4:
        if len(key) != self.key_bytes:
            raise KeySizeWrong(self.name, self.key_bytes)
        return algorithms.SM4(key)
