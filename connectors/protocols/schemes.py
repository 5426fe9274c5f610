"""How a REST partner wants to know who we are: the schemes that a ``connector.yaml`` may declare under ``auth``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from hub.errors import Misconfigured, Unsent
from hub.model.declarations import Partner
from hub.ports import Clock
from hub.security.signing import PREFIXES, Request, aes128_ecb_plain, sign

Ask = Callable[[str, object], object]
"""Posts a JSON document to a path of the partner, without credentials, and gives the parsed answer.

Raises Unsent for every fault that may pass, Misconfigured when an operator must act.
"""

_MINUTE_MS: Final = 60_000
# A secret is renewed a little before its end, so that a call does not arrive after it.
_USED_SHARE: Final = 0.9


@dataclass(frozen=True, slots=True)
class Presented:
    """Headers that say who we are; ``generation`` tells which working secret they were made with."""

    headers: Mapping[str, str] = field(repr=False)
    generation: int = 0


class Scheme(Protocol):
    """Makes the headers of one partner's calls. Safe between threads."""

    def present(self, sid: str) -> Presented:
        """Headers for a call of the service ``sid``.

        Raises:
            Unsent: a working secret is needed and could not be had.
            Misconfigured: an operator must act.
        """
        ...

    def outdated(self, presented: Presented) -> bool:
        """Told that the partner refused these headers: whether fresh ones may be better."""
        ...


class Fixed:
    """Schemes ``none`` and ``bearer``: always the same headers."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._presented = Presented(headers)

    def present(self, sid: str) -> Presented:
        """The headers; the service does not matter."""
        del sid
        return self._presented

    def outdated(self, presented: Presented) -> bool:
        """Never: there are no others."""
        del presented
        return False


@dataclass(frozen=True, slots=True)
class NationalRules:
    """What is declared of a national two-step partner (domain.md §3.1).

    Attributes:
        prefix: of the header names and of the refresh document's fields.
        refresh_path: where the working secret is asked for.
        secret_minutes: how long it is good.
        resign: sign each call with the working secret; else the secret itself is what travels as ``sign``.
    """

    prefix: str
    refresh_path: str
    secret_minutes: float
    resign: bool


class NationalTwoStep:
    """Scheme ``national_two_step``: a working secret, asked for with the appkey, signs the calls.

    One working secret per process; while one thread renews it the others wait for it.
    """

    def __init__(self, rules: NationalRules, secrets: Mapping[str, str], ask: Ask, clock: Clock) -> None:
        self._rules = rules
        self._rid = secrets["rid"]
        self._appkey = secrets["appkey"]
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._secret = ""
        self._good_until_ms = 0
        self._generation = 0

    def present(self, sid: str) -> Presented:
        """The four headers, signed with the working secret."""
        with self._lock:
            if not self._secret or self._clock() >= self._good_until_ms:
                self._renew(sid)
            secret, generation = self._secret, self._generation
        rtime = str(self._clock())
        value = sign("national", secret, (self._rid, sid, rtime), Request()) if self._rules.resign else secret
        return Presented(self._four(sid, rtime, value), generation)

    def outdated(self, presented: Presented) -> bool:
        """Forget the secret, unless another thread has renewed it since."""
        with self._lock:
            if presented.generation == self._generation:
                self._secret = ""
        return True

    def _renew(self, sid: str) -> None:
        rtime = str(self._clock())
        value = sign("national", self._appkey, (self._rid, sid, rtime), Request())
        asked_ms = self._clock()
        answer = self._ask(self._rules.refresh_path, self._four(sid, rtime, value))
        self._secret = self._opened(answer)
        self._good_until_ms = asked_ms + int(self._rules.secret_minutes * _MINUTE_MS * _USED_SHARE)
        self._generation += 1

    def _opened(self, answer: object) -> str:
        data = answer.get("data") if isinstance(answer, dict) else None
        text = data.get("secret") if isinstance(data, dict) else None
        if not isinstance(text, str):
            raise Unsent("secret_not_given", "The partner gave no working secret.", "对方未返回会话密钥。")
        try:
            return aes128_ecb_plain(self._appkey, text)
        except ValueError:
            pass
        raise Unsent("secret_not_given", "The working secret cannot be decrypted.", "会话密钥无法解密。")

    def _four(self, sid: str, rtime: str, value: str) -> dict[str, str]:
        names = (f"{self._rules.prefix}{part}" for part in ("rid", "sid", "rtime", "sign"))
        return dict(zip(names, (self._rid, sid, rtime, value), strict=True))


def scheme_of(partner: Partner, secrets: Mapping[str, str], ask: Ask, clock: Clock) -> Scheme:
    """The scheme that a partner declares.

    Args:
        partner: whose ``auth`` to read.
        secrets: what the key file holds for this partner.
        ask: for schemes that must ask the partner first.
        clock: wall clock.

    Raises:
        Misconfigured: ``auth_invalid`` (a wrong name is answered with the right ones) or ``credentials_missing``.
    """
    make = _SCHEMES.get(str(partner.auth.get("scheme")))
    if make is None:
        known = ", ".join(_SCHEMES)
        raise Misconfigured(
            "auth_invalid",
            f"Partner {partner.slug} declares an unknown scheme; known schemes: {known}.",
            f"{partner.slug} 声明了未知的认证方式；可用：{known}。",
        )
    return make(partner, secrets, ask, clock)


def _none(partner: Partner, secrets: Mapping[str, str], ask: Ask, clock: Clock) -> Scheme:
    del partner, secrets, ask, clock
    return Fixed({})


def _bearer(partner: Partner, secrets: Mapping[str, str], ask: Ask, clock: Clock) -> Scheme:
    del ask, clock
    _require(partner, secrets, "token")
    return Fixed({"Authorization": f"Bearer {secrets['token']}"})


def _national_two_step(partner: Partner, secrets: Mapping[str, str], ask: Ask, clock: Clock) -> Scheme:
    _require(partner, secrets, "rid", "appkey")
    declared = partner.auth
    prefix, path = declared.get("prefix", PREFIXES[0]), declared.get("refresh_path")
    minutes, resign = declared.get("secret_minutes", 30), declared.get("resign", True)
    if (
        prefix not in PREFIXES
        or not isinstance(path, str)
        or not isinstance(minutes, int | float)
        or not isinstance(resign, bool)
    ):
        raise Misconfigured(
            "auth_invalid",
            f"Partner {partner.slug}: national_two_step takes prefix ({' or '.join(PREFIXES)}), refresh_path, "
            "secret_minutes, resign (true or false).",
            f"{partner.slug}：national_two_step 需要 prefix、refresh_path、secret_minutes、resign。",
        )
    return NationalTwoStep(NationalRules(str(prefix), path, minutes, resign), secrets, ask, clock)


def _require(partner: Partner, secrets: Mapping[str, str], *names: str) -> None:
    missing = [name for name in names if not secrets.get(name)]
    if missing:
        listed = ", ".join(f"partners.{partner.slug}.{name}" for name in missing)
        raise Misconfigured("credentials_missing", f"The key file lacks {listed}.", f"密钥文件缺少 {listed}。")


_SCHEMES: Final[Mapping[str, Callable[[Partner, Mapping[str, str], Ask, Clock], Scheme]]] = {
    "none": _none,
    "bearer": _bearer,
    "national_two_step": _national_two_step,
}
