"""The REST wire: one JSON document to a partner over HTTP, and what became of it, said as safely as can be known."""

from __future__ import annotations

import codecs
import contextlib
import email.utils
import logging
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import Final
from urllib.parse import quote

import orjson
import requests
import urllib3

from connectors.protocols.schemes import Scheme, scheme_of
from hub.errors import HubError, Misconfigured, Unknown, Unsent
from hub.model.declarations import Partner, RequestLine
from hub.ports import Clock, Incoming, Outgoing

ANSWER_LIMIT: Final = 8 * 1024 * 1024

_CHUNK: Final = 64 * 1024
_LONGEST_WAIT_S: Final = 24 * 3600.0
_CREDENTIALS: Final = (401, 403)
_BUSY: Final = (429, 503)
_GIVEN_BACK: Final = (400, 404, 409, 422)


@dataclass(frozen=True, slots=True)
class _Call:
    """One HTTP request; nothing of it may reach a log or an exception."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    timeouts: tuple[float, float]
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came back; ``body`` is ``None`` where it was not wanted, too long or broken off."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)


class RestWire:
    """`hub.ports.Transport` over HTTP and JSON.

    A connection that was kept alive and breaks before an answer is `Unknown`: whether the partner had read the
    request cannot be known. Exchanges with ``redelivery: manual`` therefore get a connection of their own.

    Args:
        base_of: where a partner lives in this environment; raises Misconfigured when it lives nowhere.
        secrets: slug → what the key file holds for that partner.
        clock: wall clock, for signatures and ``Retry-After`` dates.
    """

    def __init__(
        self, base_of: Callable[[Partner], str], secrets: Mapping[str, Mapping[str, str]], clock: Clock
    ) -> None:
        self._base_of = base_of
        self._secrets = secrets
        self._clock = clock
        self._schemes: dict[str, Scheme] = {}
        self._lock = threading.Lock()
        self._sessions = _Sessions()
        # It warns of a broken header with the bytes that it could not read: those may be anything, also personal.
        logging.getLogger("urllib3.connection").setLevel(logging.ERROR)

    def __call__(self, outgoing: Outgoing) -> Incoming:
        """Send and give the answer; see `hub.ports.Transport` for what is raised.

        Raises:
            Unsent: ``partner_unreachable``, ``partner_busy``, ``secret_not_given``.
            Unknown: ``answer_lost``, ``answer_unreadable``.
            Misconfigured: ``credentials_refused``, ``endpoint_invalid``, ``certificate_untrusted``,
                ``request_unsupported``, ``query_undeclared``, ``document_unsendable`` and those of `scheme_of`.
        """
        line = _line(outgoing)
        scheme = self._scheme(outgoing.partner)
        presented = scheme.present(line.sid)
        _in_time(outgoing)
        answer = self._send(self._call(outgoing, line, presented.headers))
        if answer.status == 401 and scheme.outdated(presented):
            presented = scheme.present(line.sid)
            _in_time(outgoing)
            answer = self._send(self._call(outgoing, line, presented.headers))
        return self._understood(answer)

    def close(self) -> None:
        """Close every connection that is kept alive."""
        self._sessions.close()

    def _scheme(self, partner: Partner) -> Scheme:
        with self._lock:
            found = self._schemes.get(partner.slug)
            if found is None:
                secrets = self._secrets.get(partner.slug, {})
                found = scheme_of(
                    partner, secrets, lambda path, document: self._ask(partner, path, document), self._clock
                )
                self._schemes[partner.slug] = found
            return found

    def _call(self, outgoing: Outgoing, line: RequestLine, credentials: Mapping[str, str]) -> _Call:
        partner = outgoing.partner
        path = line.path.replace("{delivery_id}", quote(outgoing.delivery_id, safe=""))
        own = {"Content-Type": "application/json", "X-Delivery-Id": outgoing.delivery_id}
        return _Call(
            line.method,
            self._base_of(partner).rstrip("/") + path,
            {**own, **credentials},
            None if line.method == "GET" else _encoded(outgoing.document),
            (partner.connect_s, partner.read_s),
            outgoing.exchange.redelivery == "manual",
        )

    def _ask(self, partner: Partner, path: str, document: object) -> object:
        """Ask for a working secret. Nothing of the business call has been sent yet, so every fault is Unsent."""
        url = self._base_of(partner).rstrip("/") + path
        json = {"Content-Type": "application/json"}
        timeouts = (partner.connect_s, partner.read_s)
        trouble = None
        try:
            return self._understood(self._send(_Call("POST", url, json, _encoded(document), timeouts))).document
        except Unknown as error:
            trouble = Unsent(error.code, error.en, error.zh, error.retry_after_s)
        raise trouble

    def _send(self, call: _Call) -> _Answer:
        """One request, one answer. What requests raises names addresses and is therefore never chained to ours."""
        session = self._sessions.mine(fresh=call.fresh)
        trouble: HubError
        try:
            prepared = session.prepare_request(
                requests.Request(call.method, call.url, headers=dict(call.headers), data=call.body)
            )
        except (requests.RequestException, ValueError):
            trouble = _endpoint_invalid()
        else:
            try:
                response = session.send(prepared, stream=True, timeout=call.timeouts, allow_redirects=False)
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                trouble = _trouble(error)
            else:
                with response, self._sessions.spent(session, fresh=call.fresh):
                    return _Answer(response.status_code, _plain_headers(response), _read(response, call.timeouts[1]))
        raise trouble

    def _understood(self, answer: _Answer) -> Incoming:
        """An answer that the pipeline can read, or the error that the status means."""
        status = answer.status
        if 200 <= status < 300:
            return Incoming(status, _parsed(answer.body), answer.headers)
        if status in _GIVEN_BACK:
            return Incoming(status, _parsed_if_any(answer.body), answer.headers)
        if status in _BUSY:
            wait = _retry_after_s(answer.headers.get("retry-after", ""), self._clock())
            raise Unsent("partner_busy", "The partner is busy.", "对方繁忙。", wait)
        if status in _CREDENTIALS:
            raise Misconfigured("credentials_refused", "The partner refuses our credentials.", "对方拒绝我方凭据。")
        if status >= 500 or status == 408:
            raise _answer_lost()
        raise Misconfigured(
            "request_unsupported",
            f"The partner answers with HTTP {status}, which its interface does not provide for.",
            f"对方以 HTTP {status} 应答，超出接口约定。",
        )


class _Session(requests.Session):
    """A session that follows nothing: requests would read a redirect's whole body just to offer the next request."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        del resp
        return None


class _Sessions:
    """Two sessions per thread, because requests' sessions are not safe between threads: kept alive, and fresh."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._all: weakref.WeakSet[requests.Session] = weakref.WeakSet()
        self._lock = threading.Lock()

    def mine(self, *, fresh: bool) -> requests.Session:
        """This thread's session; ``fresh`` never speaks twice on one connection."""
        name = "fresh" if fresh else "kept"
        found: requests.Session | None = getattr(self._local, name, None)
        if found is None:
            found = _new_session(fresh=fresh)
            setattr(self._local, name, found)
            with self._lock:
                self._all.add(found)
        return found

    @contextlib.contextmanager
    def spent(self, session: requests.Session, *, fresh: bool) -> Iterator[None]:
        """Afterwards a fresh session holds no connection, whatever the partner thinks of ``Connection: close``."""
        try:
            yield
        finally:
            if fresh:
                session.close()

    def close(self) -> None:
        with self._lock:
            sessions = list(self._all)
        for session in sessions:
            session.close()


def _new_session(*, fresh: bool) -> requests.Session:
    session = _Session()
    # Neither proxies nor passwords from the environment of whoever started us.
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.clear()
    session.headers.update({"User-Agent": "dukou", "Accept": "application/json", "Accept-Encoding": "identity"})
    if fresh:
        session.headers["Connection"] = "close"
    return session


def _in_time(outgoing: Outgoing) -> None:
    """Getting a working secret takes time too: what can no longer end within the lease is not begun."""
    if time.monotonic() + outgoing.partner.longest_s > outgoing.until:
        raise Unsent("lease_too_short", "the lease is nearly over", "租约即将到期")


def _line(outgoing: Outgoing) -> RequestLine:
    exchange = outgoing.exchange
    line = exchange.query if outgoing.purpose == "query" else exchange.request
    if line is None:
        raise Misconfigured(
            f"{'query' if outgoing.purpose == 'query' else 'request'}_undeclared",
            f"Exchange {exchange.key} declares no such request.",
            f"{exchange.key} 未声明该请求。",
        )
    return line


def _encoded(document: object) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:
        pass
    raise Misconfigured("document_unsendable", "The document is no JSON.", "报文无法表示为 JSON。")


def _read(response: requests.Response, within_s: float) -> bytes | None:
    """The body, where it matters; never more than the limit, and not for ever from one who sends drop by drop."""
    status, deadline = response.status_code, time.monotonic() + within_s
    if not (200 <= status < 300 or status in _GIVEN_BACK):
        return None
    body = bytearray()
    try:
        while chunk := response.raw.read1(_CHUNK, decode_content=True):
            body += chunk
            if len(body) > ANSWER_LIMIT or time.monotonic() > deadline:
                return None
    except (urllib3.exceptions.HTTPError, OSError):
        return None
    return bytes(body)


def _plain_headers(response: requests.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items() if name.lower() != "set-cookie"}


def _parsed(body: bytes | None) -> object:
    if body is None:
        raise _answer_lost()
    trouble = Unknown("answer_unreadable", "The partner's answer is no JSON.", "对方应答不是 JSON。")
    try:
        # Some partners begin with a byte order mark; RFC 8259 lets a reader pass over it.
        return orjson.loads(body.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError:
        pass
    raise trouble


def _parsed_if_any(body: bytes | None) -> object:
    try:
        return orjson.loads((body or b"").removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError:
        return None


def _trouble(error: Exception) -> HubError:
    """What a failed exchange means. Whatever is not certainly before the request went out is Unknown."""
    if isinstance(error, requests.ConnectTimeout) or _never_connected(error):
        return Unsent("partner_unreachable", "The partner cannot be reached.", "无法连接对方。")
    if _untrusted(error):
        return Misconfigured("certificate_untrusted", "The partner's certificate is not trusted.", "对方证书不受信任。")
    if isinstance(error, requests.exceptions.InvalidSchema | requests.exceptions.InvalidURL | UnicodeError):
        return _endpoint_invalid()
    return _answer_lost()


def _never_connected(error: Exception) -> bool:
    inner = error.args[0] if isinstance(error, requests.ConnectionError) and error.args else None
    return isinstance(inner, urllib3.exceptions.MaxRetryError) and isinstance(
        inner.reason, urllib3.exceptions.NewConnectionError
    )


def _untrusted(error: BaseException | None) -> bool:
    seen = 0
    while error is not None and seen < 8:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
        seen += 1
    return False


def _retry_after_s(text: str, now_ms: int) -> float | None:
    """Seconds to wait, from seconds or from an HTTP date (RFC 9110, section 10.2.3), at most a day."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return min(float(text), _LONGEST_WAIT_S)
    try:
        at_s = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(at_s - now_ms / 1000, 0.0), _LONGEST_WAIT_S)


def _endpoint_invalid() -> Misconfigured:
    return Misconfigured(
        "endpoint_invalid", "The partner's address or credentials cannot be used.", "对方地址或凭据不可用。"
    )


def _answer_lost() -> Unknown:
    return Unknown("answer_lost", "The partner's answer did not arrive.", "未收到对方应答。")
