"""The key file: tenants' keys, index keys, the digest key, and the secrets of callers and partners."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from hub.errors import Faults, Misconfigured
from hub.model.call import Caller
from hub.security.signing import PROFILES

Randomness = Callable[[int], bytes]

KEY_BYTES: Final = 32
LIVE_INDEX_KEYS: Final = 2

_VERSION: Final = 1
_SCHEME: Final = "file:"
_TENANTS: Final = ("510199", "510198")
_CITY: Final = "510100"


@dataclass(frozen=True, slots=True)
class KeySet:
    """Keys by id, and the id of the one that new work uses."""

    current: str
    keys: Mapping[str, bytes] = field(repr=False)

    @property
    def key(self) -> bytes:
        """The current key."""
        return self.keys[self.current]


@dataclass(frozen=True, slots=True)
class Keyring:
    """Everything secret that the hub was given; its ``repr`` shows none of it.

    Attributes:
        tenants: county code → keys that wrap the case keys.
        index: blind index keys, at most two while rotating.
        digest: key of body addresses and idempotency digests.
        callers: name → who may call.
        partners: slug → what we present to that partner (``token``, or ``rid`` and ``appkey``).
    """

    tenants: Mapping[str, KeySet] = field(repr=False)
    index: KeySet = field(repr=False)
    digest: bytes = field(repr=False)
    callers: Mapping[str, Caller] = field(repr=False)
    partners: Mapping[str, Mapping[str, str]] = field(repr=False)

    @property
    def by_rid(self) -> dict[str, Caller]:
        """The callers as `hub.security.signing.Verifier` wants them."""
        return {caller.rid: caller for caller in self.callers.values()}

    @classmethod
    def load(cls, path: Path) -> Keyring:
        """Read a key file.

        Raises:
            Misconfigured: ``keys_missing``, ``keys_unreadable``, ``keys_exposed`` (not mode 0600), or ``keys_incomplete`` with everything that is wrong.
        """
        try:
            if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise Misconfigured(
                    "keys_exposed",
                    f"Others may read or write {path}: chmod 600 it.",
                    f"密钥文件 {path} 对他人可读或可写，请执行 chmod 600。",
                )
            document = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            raise Misconfigured("keys_missing", f"There is no key file at {path}.", f"没有密钥文件 {path}。") from None
        except (OSError, orjson.JSONDecodeError):
            raise Misconfigured(
                "keys_unreadable", f"The key file {path} cannot be read.", f"无法读取密钥文件 {path}。"
            ) from None
        return _Reading().keyring(document)


def key_path(setting: str) -> Path:
    """The file that ``DUKOU_KEYS`` names, as ``file:<path>``.

    Raises:
        Misconfigured: ``keys_source_unknown``; the known form is in the text.
    """
    if not setting.startswith(_SCHEME) or setting == _SCHEME:
        raise Misconfigured(
            "keys_source_unknown",
            "DUKOU_KEYS names no known source of keys; known forms: file:<path>.",
            "DUKOU_KEYS 的密钥来源不可识别；可用形式：file:<路径>。",
        )
    return Path(setting.removeprefix(_SCHEME))


class _Reading:
    """One pass over a key document that notes every fault and only then gives up."""

    def __init__(self) -> None:
        self._faults = Faults()

    def keyring(self, document: object) -> Keyring:
        root = self._mapping(document, "")
        if root.get("version") != _VERSION:
            self._note("/version", "must be 1", "必须为 1")
        tenants = {
            tenant: self._key_set(value, f"/tenants/{tenant}")
            for tenant, value in self._mapping(root.get("tenants"), "/tenants").items()
        }
        index = self._key_set(root.get("index"), "/index")
        if len(index.keys) > LIVE_INDEX_KEYS:
            self._note("/index/keys", "has more than two live keys", "有效密钥多于两个")
        digest = self._key(root.get("digest"), "/digest")
        callers = {
            name: self._caller(name, value) for name, value in self._mapping(root.get("callers"), "/callers").items()
        }
        if len({caller.rid for caller in callers.values()}) != len(callers):
            self._note("/callers", "has a rid twice", "存在重复的 rid")
        partners = {
            slug: self._texts(value, f"/partners/{slug}")
            for slug, value in self._mapping(root.get("partners"), "/partners").items()
        }
        self._give_up_if_faulty()
        return Keyring(tenants, index, digest, callers, partners)

    def _give_up_if_faulty(self) -> None:
        found = tuple(self._faults.found)
        if found:
            listed = "; ".join(f"{fault.path or '/'} {fault.en}" for fault in found)
            raise Misconfigured("keys_incomplete", f"The key file: {listed}.", "密钥文件不完整。", found)

    def _note(self, path: str, en: str, zh: str) -> None:
        self._faults.add(path, "keys_incomplete", en, zh)

    def _mapping(self, value: object, path: str) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        self._note(path, "is missing", "缺少")
        return {}

    def _text(self, value: object, path: str) -> str:
        if isinstance(value, str) and value:
            return value
        self._note(path, "is missing", "缺少")
        return ""

    def _texts(self, value: object, path: str) -> dict[str, str]:
        return {key: self._text(item, f"{path}/{key}") for key, item in self._mapping(value, path).items()}

    def _key(self, value: object, path: str) -> bytes:
        try:
            key = base64.b64decode(self._text(value, path), validate=True)
        except binascii.Error:
            key = b""
        if len(key) != KEY_BYTES:
            self._note(path, "is not 32 bytes in Base64", "不是 32 字节的 Base64")
        return key

    def _key_set(self, value: object, path: str) -> KeySet:
        root = self._mapping(value, path)
        keys = {
            key_id: self._key(item, f"{path}/keys/{key_id}")
            for key_id, item in self._mapping(root.get("keys"), f"{path}/keys").items()
        }
        current = self._text(root.get("current"), f"{path}/current")
        if current and current not in keys:
            self._note(f"{path}/current", "names no key of the file", "所指密钥不在文件中")
        return KeySet(current, keys)

    def _caller(self, name: str, value: object) -> Caller:
        path = f"/callers/{name}"
        root = self._mapping(value, path)
        partner = root.get("partner", "")
        tenants = root.get("tenants")
        profile = root.get("profile", PROFILES[0])
        if profile not in PROFILES:
            self._note(f"{path}/profile", "is neither dukou nor national", "既非 dukou 也非 national")
        if not isinstance(tenants, list) or not tenants or not all(isinstance(item, str) for item in tenants):
            self._note(f"{path}/tenants", "is missing", "缺少")
            tenants = []
        return Caller(
            name,
            partner if isinstance(partner, str) else "",
            self._text(root.get("rid"), f"{path}/rid"),
            self._text(root.get("secret"), f"{path}/secret"),
            tuple(tenants),
            self._texts(root.get("sids"), f"{path}/sids"),
            str(profile),
        )


@dataclass(frozen=True, slots=True)
class _Declared:
    """One caller of a fresh key file; each group of service keys shares one sid."""

    name: str
    partner: str
    tenants: tuple[str, ...]
    services: tuple[tuple[str, ...], ...]
    profile: Literal["dukou", "national"] = "dukou"

    @property
    def area(self) -> str:
        return self.tenants[0] if len(self.tenants) == 1 else _CITY


# A SOAP operation's name is an alias of its exchange: both keys carry one sid.
_TAX_SERVICES: Final = (("submitClearance", "clearance"), ("queryCase", "case_query"), ("messages",))
_CALLERS: Final = (
    _Declared("hall", "hall", ("510199",), (("cases",), ("messages",))),
    _Declared("hall_510198", "hall", ("510198",), (("cases",), ("messages",))),
    _Declared("tax", "tax", _TENANTS, _TAX_SERVICES),
    _Declared("tax_national", "tax", _TENANTS, _TAX_SERVICES, "national"),
    _Declared("registry", "registry", _TENANTS, (("progress",), ("result",), ("messages",))),
    _Declared("operator", "", _TENANTS, (("admin",),)),
)


def create(path: Path, random: Randomness) -> Keyring:
    """Write a fresh key file, mode 0600, whole or not at all; a file that is there already is kept and loaded.

    Args:
        path: where; missing folders are made, for the owner alone.
        random: gives that many unpredictable bytes.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        # Another process may make it between the look and the link: then its keys are the ones in use.
        with contextlib.suppress(FileExistsError):
            _write_new(path, orjson.dumps(_fresh(random), option=orjson.OPT_INDENT_2), random(8).hex())
    return Keyring.load(path)


def _write_new(path: Path, content: bytes, mark: str) -> None:
    written = path.with_name(f".{path.name}.{mark}")
    descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, fails when the name is taken: keys that are in use are never lost.
        os.link(written, path)
    finally:
        written.unlink()


def _fresh(random: Randomness) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "tenants": {tenant: {"current": "t1", "keys": {"t1": _new(random)}} for tenant in _TENANTS},
        "index": {"current": "i1", "keys": {"i1": _new(random)}},
        "digest": _new(random),
        "callers": {declared.name: _fresh_caller(declared, random) for declared in _CALLERS},
        "partners": {
            "platform": {"rid": "dukou-hub", "appkey": random(16).hex()},
            **{slug: {"token": random(24).hex()} for slug in ("tax", "registry", "hall")},
        },
    }


def _new(random: Randomness) -> str:
    return base64.b64encode(random(KEY_BYTES)).decode()


def _fresh_caller(declared: _Declared, random: Randomness) -> dict[str, Any]:
    return {
        "partner": declared.partner,
        "rid": f"{declared.name.replace('_', '-')}-rid-{random(8).hex()}",
        "secret": random(24).hex(),
        "tenants": list(declared.tenants),
        "sids": {key: f"s_{declared.area}_{group[0]}" for group in declared.services for key in group},
        "profile": declared.profile,
    }


def credentials(keyring: Keyring, gateway_url: str, airflow: Mapping[str, str]) -> dict[str, Any]:
    """What outsiders and the sandbox need: the content of ``var/demo/credentials.json``.

    Args:
        keyring: whose callers and partners.
        gateway_url: where the gateway listens.
        airflow: ``url``, ``user``, ``password``.
    """
    return {
        "gateway": gateway_url,
        "airflow": dict(airflow),
        "callers": {
            name: {
                "rid": caller.rid,
                "secret": caller.secret,
                "tenants": list(caller.tenants),
                "sids": dict(caller.sids),
                "profile": caller.profile,
            }
            for name, caller in keyring.callers.items()
        },
        "partners": {slug: dict(values) for slug, values in keyring.partners.items()},
    }
