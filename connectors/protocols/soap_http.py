"""Posts one SOAP envelope over HTTP, and says as safely as can be known what became of it."""

from __future__ import annotations

import email.utils
import logging
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import Final

import requests
import urllib3

from hub.errors import HubError, Misconfigured, Unknown, Unsent

ANSWER_LIMIT: Final = 8 * 1024 * 1024

_CHUNK: Final = 64 * 1024
_LONGEST_WAIT_S: Final = 24 * 3600.0
_SPEAKS_SOAP: Final = (200, 202, 204, 400, 500)


@dataclass(frozen=True, slots=True)
class Posting:
    """One envelope on its way; nothing of it may reach a log or an exception."""

    url: str = field(repr=False)
    message: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    timeouts: tuple[float, float]
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: a status that SOAP uses, and the whole body."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Line:
    """One HTTP session; it serves one caller at a time."""

    def __init__(self) -> None:
        session = _Session()
        # Neither proxies nor passwords from the environment of whoever started us.
        session.trust_env = False
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.headers.clear()
        session.headers.update({"User-Agent": "dukou", "Accept": "*/*", "Accept-Encoding": "identity"})
        self._session = session
        # It warns of a broken header with the bytes that it could not read: those may be anything, also personal.
        logging.getLogger("urllib3.connection").setLevel(logging.ERROR)

    def post(self, posting: Posting, now_ms: int) -> Reply:
        """Send and read the answer. What requests raises names addresses and is therefore never chained to ours.

        Raises:
            Unsent: ``partner_unreachable``, ``partner_busy``.
            Unknown: ``answer_lost``.
            Misconfigured: ``endpoint_invalid``, ``certificate_untrusted``, ``credentials_refused``, ``request_unsupported``.
        """
        trouble: HubError
        try:
            prepared = self._session.prepare_request(
                requests.Request("POST", posting.url, headers=_headers(posting), data=posting.message)
            )
        except (requests.RequestException, ValueError):
            trouble = _endpoint_invalid()
        else:
            try:
                response = self._session.send(prepared, stream=True, timeout=posting.timeouts, allow_redirects=False)
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                trouble = _trouble(error)
            else:
                with response:
                    reply = self._understood(response, posting, now_ms)
                if posting.fresh:
                    # Whatever the partner thinks of "Connection: close".
                    self.close()
                return reply
        raise trouble

    def close(self) -> None:
        """Close what is kept alive; the line may be used again."""
        self._session.close()

    def _understood(self, response: requests.Response, posting: Posting, now_ms: int) -> Reply:
        status = response.status_code
        if status in _SPEAKS_SOAP:
            body = _read(response, posting.timeouts[1])
            if body is None:
                self.close()
                raise answer_lost()
            return Reply(status, {name.lower(): value for name, value in response.headers.items()}, body)
        # What is not read must not be met by the next request on this connection.
        self.close()
        if status in (429, 503):
            wait = _retry_after_s(response.headers.get("retry-after", ""), now_ms)
            raise Unsent("partner_busy", "The partner is busy.", "对方繁忙。", wait)
        if status in (401, 403):
            raise credentials_refused()
        if status > 500 or status == 408:
            raise answer_lost()
        raise request_unsupported(status)


class _Session(requests.Session):
    """A session that follows nothing: requests would read a redirect's whole body just to offer the next request."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        del resp
        return None


def _headers(posting: Posting) -> dict[str, str]:
    return {**posting.headers, **({"Connection": "close"} if posting.fresh else {})}


def _read(response: requests.Response, within_s: float) -> bytes | None:
    """The body; never more than the limit, and not for ever from one who sends drop by drop."""
    deadline, body = time.monotonic() + within_s, bytearray()
    try:
        while chunk := response.raw.read1(_CHUNK, decode_content=True):
            body += chunk
            if len(body) > ANSWER_LIMIT or time.monotonic() > deadline:
                return None
    except (urllib3.exceptions.HTTPError, OSError):
        return None
    return bytes(body)


def _trouble(error: Exception) -> HubError:
    """What a failed exchange means. Whatever is not certainly before the request went out is Unknown."""
    if isinstance(error, requests.ConnectTimeout) or _never_connected(error):
        return Unsent("partner_unreachable", "The partner cannot be reached.", "无法连接对方。")
    if _untrusted(error):
        return Misconfigured("certificate_untrusted", "The partner's certificate is not trusted.", "对方证书不受信任。")
    if isinstance(error, requests.exceptions.InvalidSchema | requests.exceptions.InvalidURL | UnicodeError):
        return _endpoint_invalid()
    return answer_lost()


def _never_connected(error: Exception) -> bool:
    inner = error.args[0] if isinstance(error, requests.ConnectionError) and error.args else None
    return isinstance(inner, urllib3.exceptions.MaxRetryError) and isinstance(
        inner.reason, urllib3.exceptions.NewConnectionError
    )


def _untrusted(error: BaseException | None) -> bool:
    for _ in range(8):
        if error is None or isinstance(error, ssl.SSLCertVerificationError):
            break
        error = error.__cause__ or error.__context__
    return isinstance(error, ssl.SSLCertVerificationError)


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


def credentials_refused() -> Misconfigured:
    """The partner does not accept who we say we are."""
    return Misconfigured("credentials_refused", "The partner refuses our credentials.", "对方拒绝我方凭据。")


def request_unsupported(status: int) -> Misconfigured:
    """The partner's HTTP server does not want this request at all: a wrong path, a redirect, a media type."""
    return Misconfigured(
        "request_unsupported",
        f"The partner answers with HTTP {status}, which its interface does not provide for.",
        f"对方以 HTTP {status} 应答，超出接口约定。",
    )


def answer_lost() -> Unknown:
    """The partner may have acted; its answer did not arrive."""
    return Unknown("answer_lost", "The partner's answer did not arrive.", "未收到对方应答。")


def _endpoint_invalid() -> Misconfigured:
    return Misconfigured(
        "endpoint_invalid", "The partner's address or credentials cannot be used.", "对方地址或凭据不可用。"
    )
