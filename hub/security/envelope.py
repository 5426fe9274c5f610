"""Bodies at rest: compressed, sealed with a data key per case, which is wrapped by the tenant's key."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import zstandard

import suites
from hub.errors import Broken, Misconfigured
from hub.security.keys import Keyring

LONGEST_BODY: Final = 32 * 1024 * 1024
CACHED_KEYS: Final = 4096

_LEVEL: Final = 3
_PLAIN: Final = "plain"
_ZSTD: Final = "zstd"


@dataclass(frozen=True, slots=True)
class CaseKey:
    """The data key of one case.

    Attributes:
        plain: the key itself; stays in memory.
        wrapped: the key under the tenant's key; what the ledger keeps, beside ``key_id``.
        key_id: which of the tenant's keys wraps it.
    """

    plain: bytes = field(repr=False)
    wrapped: bytes = field(repr=False)
    key_id: str

    @property
    def suite(self) -> str:
        """Name of the crypto suite that this key is for; it stands before the wrapped key."""
        return self.wrapped.partition(b":")[0].decode("ascii", "replace")


@dataclass(frozen=True, slots=True)
class Sealed:
    """A body at rest; ``encoding`` says how it was made (``intl+zstd``) and is itself authenticated."""

    ciphertext: bytes = field(repr=False)
    encoding: str


class Envelope:
    """Seals and opens bodies. Safe between threads; one per process.

    Args:
        keyring: tenants' keys and the digest key.
        suite: for what is made now; what was made under another suite still opens.
        random: gives that many unpredictable bytes.
        cached_keys: how many unwrapped case keys to remember.
    """

    def __init__(
        self,
        keyring: Keyring,
        suite: suites.Suite,
        random: Callable[[int], bytes],
        cached_keys: int = CACHED_KEYS,
    ) -> None:
        self._keyring = keyring
        self._suite = suite
        self._random = random
        self._cached = cached_keys
        self._cache: OrderedDict[tuple[str, str, bytes], CaseKey] = OrderedDict()
        self._lock = threading.Lock()
        self._local = threading.local()

    def new_case_key(self, tenant: str) -> CaseKey:
        """A fresh data key, wrapped by the tenant's current key.

        Raises:
            Misconfigured: ``tenant_key_missing``.
        """
        key_id = self._keyring.tenants[tenant].current if tenant in self._keyring.tenants else ""
        plain = self._suite.new_key(self._random)
        wrapping = self._wrapping_key(self._suite, tenant, key_id)
        sealed = self._suite.seal(wrapping, plain, _wrap_aad(tenant, key_id), self._random)
        case_key = CaseKey(plain, self._suite.name.encode() + b":" + sealed, key_id)
        self._remember((tenant, key_id, case_key.wrapped), case_key)
        return case_key

    def unwrap(self, tenant: str, key_id: str, wrapped: bytes) -> CaseKey:
        """The data key behind what the ledger keeps.

        Raises:
            Misconfigured: ``tenant_key_missing``.
            Broken: ``case_key_broken``: it was not wrapped for this tenant with this key, or it was changed.
        """
        at = (tenant, key_id, wrapped)
        with self._lock:
            found = self._cache.get(at)
            if found is not None:
                self._cache.move_to_end(at)
                return found
        name, _, sealed = wrapped.partition(b":")
        suite = _suite_of(name.decode("ascii", "replace"), "case_key_broken")
        try:
            plain = suite.open(self._wrapping_key(suite, tenant, key_id), sealed, _wrap_aad(tenant, key_id))
        except suites.SealBroken:
            raise Broken("case_key_broken", "A case key does not open.", "案件密钥无法打开。") from None
        case_key = CaseKey(plain, wrapped, key_id)
        self._remember(at, case_key)
        return case_key

    def seal(self, case_key: CaseKey, plaintext: bytes, aad: bytes) -> Sealed:
        """Compress where that helps, then encrypt.

        Args:
            case_key: from `new_case_key` or `unwrap`.
            plaintext: at most `LONGEST_BODY` bytes.
            aad: `binding` of the tenant, case and body that this is.
        """
        suite = suites.get(case_key.suite)
        packed = self._compressor().compress(plaintext)
        packing, content = (_ZSTD, packed) if len(packed) < len(plaintext) else (_PLAIN, plaintext)
        encoding = f"{suite.name}+{packing}"
        return Sealed(suite.seal(case_key.plain, content, _body_aad(encoding, aad), self._random), encoding)

    def open(self, case_key: CaseKey, sealed: Sealed, aad: bytes, limit: int = LONGEST_BODY) -> bytes:
        """The plaintext of what `seal` gave.

        Raises:
            Broken: ``body_broken``: another key, another place, changed bytes, or longer than ``limit``.
        """
        name, _, packing = sealed.encoding.partition("+")
        suite = _suite_of(name, "body_broken")
        try:
            content = suite.open(case_key.plain, sealed.ciphertext, _body_aad(sealed.encoding, aad))
        except suites.SuiteError:
            raise _body_broken() from None
        return _unpacked(content, packing, limit)

    def address(self, plaintext: bytes, tenant: str = "") -> str:
        """The keyed digest under which a body is known, 64 hex characters; another tenant's is unlike it."""
        return self._suite.mac(self._keyring.digest, binding("address", tenant) + plaintext).hex()

    def _compressor(self) -> zstandard.ZstdCompressor:
        # A compressor belongs to one thread at a time, and making one costs more than a small body.
        found: zstandard.ZstdCompressor | None = getattr(self._local, "compressor", None)
        if found is None:
            found = self._local.compressor = zstandard.ZstdCompressor(level=_LEVEL)
        return found

    def _wrapping_key(self, suite: suites.Suite, tenant: str, key_id: str) -> bytes:
        key_set = self._keyring.tenants.get(tenant)
        if key_set is None or key_id not in key_set.keys:
            raise Misconfigured("tenant_key_missing", "The tenant has no such key.", "该租户没有此密钥。")
        # Derived, because the suites' ciphers take keys of different lengths, and so that the tenant's key does one thing.
        return suite.mac(key_set.keys[key_id], b"dukou/wrap")[: suite.key_bytes]

    def _remember(self, at: tuple[str, str, bytes], case_key: CaseKey) -> None:
        with self._lock:
            self._cache[at] = case_key
            self._cache.move_to_end(at)
            while len(self._cache) > self._cached:
                self._cache.popitem(last=False)


def binding(*parts: str) -> bytes:
    """Associated data that says what something is, unambiguously: ``binding(tenant, case, body_id)``."""
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def _wrap_aad(tenant: str, key_id: str) -> bytes:
    return binding("case key", tenant, key_id)


def _body_aad(encoding: str, aad: bytes) -> bytes:
    return binding("body", encoding) + aad


def _suite_of(name: str, code: str) -> suites.Suite:
    try:
        return suites.get(name)
    except suites.SuiteUnknown:
        raise Broken(code, "Sealed with an unknown crypto suite.", "所用密码套件不可识别。") from None


def _unpacked(content: bytes, packing: str, limit: int) -> bytes:
    if packing == _PLAIN:
        plaintext = content
    elif packing == _ZSTD:
        plaintext = _decompressed(content, limit)
    else:
        raise _body_broken()
    if len(plaintext) > limit:
        raise _body_broken()
    return plaintext


def _decompressed(content: bytes, limit: int) -> bytes:
    try:
        # Our frames state their size: look before room is made for it.
        if not 0 <= zstandard.frame_content_size(content) <= limit:
            raise _body_broken()
        return bytes(zstandard.ZstdDecompressor().decompress(content))
    except zstandard.ZstdError:
        raise _body_broken() from None


def _body_broken() -> Broken:
    return Broken("body_broken", "A stored body does not open.", "存储的报文无法打开。")
