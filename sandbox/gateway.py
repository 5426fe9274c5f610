"""How partners call the hub's gateway: signed over the exact bytes, and what its answer means for a repeat."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import requests

from sandbox import signing, soap
from sandbox.settings import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox.credentials import Caller

CONNECT_S = 3
READ_S = 20
_TRY_AGAIN = (408, 425, 429)
_SERVERS_FAULT = 500
_LAST_SUCCESS = 299

JSON_HEADERS: Mapping[str, str] = {"Content-Type": "application/json"}

Verdict = Literal["done", "final", "again"]


class GatewayUnreachable(Exception):
    """The gateway did not answer."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the gateway, before it is signed.

    Args:
        sids: names of the service in the caller's list, the first one that it has is used.
        method: the HTTP method.
        target: path with query exactly as it goes on the wire.
        body: the raw bytes.
        headers: headers beside the signature.
    """

    sids: tuple[str, ...]
    method: str
    target: str
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the gateway answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after_s(self) -> float:
        """What the gateway asks for, or 0."""
        value = self.headers.get("Retry-After", "")
        return float(value) if value.isascii() and value.isdigit() else 0.0

    def readable(self) -> Any:  # noqa: ANN401 - JSON is of any shape
        """The body as JSON, or as text where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return self.body.decode("utf-8", "replace")


def json_bytes(document: object) -> bytes:
    """A document as it goes on the wire; a text goes as it is, so that broken bodies can be tried."""
    if isinstance(document, str):
        return document.encode()
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


class Gateway:
    """A client of the gateway that may be used from any thread."""

    def __init__(self, port: int, clock: Callable[[], float]) -> None:
        self._address = f"http://{LOOPBACK}:{port}"
        self._clock = clock
        self._session = requests.Session()
        # A proxy of the environment has no business on loopback.
        self._session.trust_env = False

    def send(self, caller: Caller, call: Call) -> Reply:
        """Sign and send one request.

        Raises:
            CredentialsUnusable: the caller has no such service.
            GatewayUnreachable: no answer.
        """
        headers = {**call.headers, **self._signature(caller, call)}
        try:
            answer = self._session.request(
                call.method,
                self._address + call.target,
                data=call.body or None,
                headers=headers,
                timeout=(CONNECT_S, READ_S),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            message = f"the gateway does not answer: {type(error).__name__}"
            raise GatewayUnreachable(message) from error
        return Reply(answer.status_code, answer.headers, answer.content)

    def _signature(self, caller: Caller, call: Call) -> dict[str, str]:
        rtime = str(int(self._clock() * 1000))
        sid = caller.sid(*call.sids)
        if caller.profile == "national":
            sign = signing.national_sign(caller.secret, sid, caller.rid, rtime)
        else:
            request = (call.method, call.target, call.body)
            sign = signing.dukou_sign(caller.secret, sid, caller.rid, rtime, request)
        return dict(zip((f"gjgxjhpt_{part}" for part in signing.PARTS), (caller.rid, sid, rtime, sign), strict=True))


def verdict(reply: Reply) -> Verdict:
    """Whether a call has arrived, is refused for good, or must be made again.

    SOAP 1.1 says every fault with HTTP 500, so the fault itself decides whose it is.
    """
    if reply.status in _TRY_AGAIN:
        return "again"
    if reply.status == _SERVERS_FAULT:
        reading = soap.read(reply.body)
        return "final" if reading is not None and reading.senders_fault else "again"
    if reply.status > _SERVERS_FAULT:
        return "again"
    return "done" if reply.status <= _LAST_SUCCESS else "final"
