"""The REST wire against a real HTTP server: every way in which a call can end, and what may be said of it."""

from __future__ import annotations

import gzip
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest

from connectors.opening import open_wires
from connectors.protocols.rest import ANSWER_LIMIT, RestWire
from hub.errors import HubError, Misconfigured, Unknown, Unsent
from hub.model.declarations import Exchange, Partner, RequestLine
from hub.ports import Outgoing
from hub.security.signing import Request, aes128_ecb_secret, sign

NOW = 1_700_000_000_000
DELIVERY = "0197f0a0000070008000000000000001"
PERSONAL = "测试甲"
TOKEN = "token-of-the-test"


@dataclass
class Seen:
    """One request as the server read it; ``connection`` numbers the connections."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int


Script = Callable[[socket.socket, Seen], bool]
"""Answers one request; whether the connection stays open."""


@dataclass
class Server:
    """A partner on a raw socket, so that it can misbehave at any byte."""

    script: Script
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # A shutdown wakes the accepting thread; a close alone leaves it waiting.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with connection, connection.makefile("rb") as reader:
            while True:
                try:
                    seen = _request(reader, number)
                    if seen is None:
                        return
                    self.seen.append(seen)
                    if not self.script(connection, seen):
                        return
                except OSError:
                    return


def _request(reader: Any, number: int) -> Seen | None:
    first = reader.readline().decode()
    if not first:
        return None
    method, target, _ = first.split(" ", 2)
    headers = {}
    while (line := reader.readline().decode().strip()) != "":
        name, value = line.split(":", 1)
        headers[name.lower()] = value.strip()
    return Seen(method, target, headers, reader.read(int(headers.get("content-length", 0))), number)


def say(status: int, document: object = None, headers: str = "", raw: bytes | None = None) -> Script:
    body = raw if raw is not None else (b"" if document is None else orjson.dumps(document))

    def script(connection: socket.socket, _seen: Seen) -> bool:
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode()
        connection.sendall(head + body)
        return True

    return script


def send_raw(*parts: bytes | float) -> Script:
    """Sends bytes, waits where a number stands, and closes."""

    def script(connection: socket.socket, _seen: Seen) -> bool:
        for part in parts:
            if isinstance(part, bytes):
                connection.sendall(part)
            else:
                time.sleep(part)
        return False

    return script


def reset(connection: socket.socket, _seen: Seen) -> bool:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


@pytest.fixture
def serve() -> Iterator[Callable[[Script], Server]]:
    servers: list[Server] = []

    def start(script: Script) -> Server:
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def open_wire() -> Iterator[Callable[..., RestWire]]:
    wires: list[RestWire] = []

    def make(url: str, clock: Callable[[], int] = lambda: NOW) -> RestWire:
        secrets = {"registry": {"token": TOKEN}, "platform": {"rid": "dukou-hub", "appkey": "demo-appkey-0001"}}
        wires.append(RestWire(lambda _: url, secrets, clock))
        return wires[-1]

    yield make
    for wire in wires:
        wire.close()


def outgoing(auth: dict[str, object] | None = None, **changes: Any) -> Outgoing:
    exchange = Exchange(
        partner="registry",
        name="case",
        title_zh="业务分发",
        direction="deliver",
        lane="live",
        protocol="rest",
        contract="",
        zones=("extranet",),
        source="ours",
        redelivery="query_first",
        request=RequestLine("POST", "/registry/cases", "s_case"),
        query=RequestLine("GET", "/registry/deliveries/{delivery_id}"),
    )
    purpose = changes.pop("purpose", "send")
    exchange = replace(exchange, **changes)
    slug = "platform" if auth and auth["scheme"] == "national_two_step" else "registry"
    partner = Partner(slug, "登记", "Registry", {}, 0.5, 0.5, 4, auth or {"scheme": "bearer"}, {})
    return Outgoing(partner, exchange, DELIVERY, {"QLRMC": PERSONAL}, purpose)


def trouble(wire: RestWire, sent: Outgoing | None = None) -> HubError:
    with pytest.raises(HubError) as caught:
        wire(sent or outgoing())
    said = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    for secret in (PERSONAL, TOKEN, "/registry/cases", "127.0.0.1:", DELIVERY):
        assert secret not in said
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value


def test_a_document_arrives_and_is_answered(serve: Any, open_wire: Any) -> None:
    server = serve(say(200, {"code": "0000"}, "X-Trace: 7\r\nSet-Cookie: a=b\r\n"))
    incoming = open_wire(server.url + "/")(outgoing())
    assert (incoming.status, incoming.document) == (200, {"code": "0000"})
    assert incoming.headers["x-trace"] == "7"
    assert "set-cookie" not in incoming.headers
    (seen,) = server.seen
    assert (seen.method, seen.target) == ("POST", "/registry/cases")
    assert orjson.loads(seen.body) == {"QLRMC": PERSONAL}
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["x-delivery-id"] == DELIVERY
    assert seen.headers["authorization"] == f"Bearer {TOKEN}"


def test_a_query_asks_for_the_delivery(serve: Any, open_wire: Any) -> None:
    server = serve(say(404, {"code": "4004"}))
    incoming = open_wire(server.url)(outgoing(purpose="query"))
    assert (incoming.status, incoming.document) == (404, {"code": "4004"})
    (seen,) = server.seen
    assert (seen.method, seen.target, seen.body) == ("GET", f"/registry/deliveries/{DELIVERY}", b"")


def test_one_connection_serves_many_calls_and_no_cookie_returns(serve: Any, open_wire: Any) -> None:
    server = serve(say(200, {}, "Set-Cookie: session=1; Path=/\r\n"))
    wire = open_wire(server.url)
    for _ in range(3):
        wire(outgoing())
    assert server.connections == 1
    assert all("cookie" not in seen.headers for seen in server.seen)


def test_a_manual_exchange_has_a_connection_of_its_own(serve: Any, open_wire: Any) -> None:
    server = serve(say(200, {}))
    wire = open_wire(server.url)
    for redelivery in ("idempotent", "manual", "manual", "idempotent"):
        wire(outgoing(redelivery=redelivery))
    assert [seen.connection for seen in server.seen] == [1, 2, 3, 1]


def test_threads_do_not_share_connections(serve: Any, open_wire: Any) -> None:
    server = serve(say(200, {}))
    wire = open_wire(server.url)
    threads = [threading.Thread(target=wire, args=(outgoing(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {seen.connection for seen in server.seen} == {1, 2, 3}


def test_the_environment_has_no_say(serve: Any, open_wire: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server = serve(say(200, {}))
    assert open_wire(server.url)(outgoing({"scheme": "none"})).status == 200
    assert "authorization" not in server.seen[0].headers


@pytest.mark.parametrize("status", [400, 404, 409, 422])
def test_refusals_are_given_back(serve: Any, open_wire: Any, status: int) -> None:
    assert open_wire(serve(say(status, {"code": "x"})).url)(outgoing()).document == {"code": "x"}
    assert open_wire(serve(say(status, raw=b"<html>")).url)(outgoing()).document is None


def test_nobody_listens(open_wire: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = trouble(open_wire(f"http://127.0.0.1:{port}"))
    assert (type(error), error.code) == (Unsent, "partner_unreachable")


def test_a_name_that_does_not_resolve(open_wire: Any) -> None:
    error = trouble(open_wire("http://registry.invalid"))
    assert (type(error), error.code) == (Unsent, "partner_unreachable")


def test_a_connection_that_is_not_taken(open_wire: Any) -> None:
    # A full backlog leaves the next connection unanswered.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        error = trouble(open_wire(f"http://127.0.0.1:{listener.getsockname()[1]}"))
        for one in waiting:
            one.close()
    assert (type(error), error.code) == (Unsent, "partner_unreachable")


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("Retry-After: 7\r\n", 7.0),
        ("Retry-After: Tue, 14 Nov 2023 22:13:50 GMT\r\n", 30.0),
        ("Retry-After: Tue, 14 Nov 2023 22:13:10 GMT\r\n", 0.0),
        ("Retry-After: 9999999999999\r\n", None),
        ("Retry-After: 999999999\r\n", 86400.0),
        ("Retry-After: soon\r\n", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_partner(serve: Any, open_wire: Any, status: int, header: str, wait: float | None) -> None:
    error = trouble(open_wire(serve(say(status, {"x": 1}, header)).url))
    assert isinstance(error, Unsent)
    assert (error.code, error.retry_after_s) == ("partner_busy", wait)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(send_raw(2.0), id="silence"),
        pytest.param(send_raw(), id="closed without an answer"),
        pytest.param(reset, id="reset"),
        pytest.param(send_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"), id="half a body"),
        pytest.param(send_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", 2.0), id="a body that stops"),
        pytest.param(
            send_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n", *[b" ", 0.1] * 15), id="a body drop by drop"
        ),
        pytest.param(send_raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"), id="half a chunk"),
        pytest.param(send_raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"), id="no chunk"),
        pytest.param(send_raw(b"not HTTP at all\r\n\r\n"), id="not HTTP"),
        pytest.param(
            send_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}"), id="two lengths"
        ),
        pytest.param(say(500), id="500"),
        pytest.param(say(502, raw=b"<html>"), id="502"),
        pytest.param(say(504), id="504"),
        pytest.param(say(408), id="408"),
        pytest.param(say(200, raw=b" " * (ANSWER_LIMIT + 1)), id="too long"),
        pytest.param(
            say(200, raw=gzip.compress(bytes(ANSWER_LIMIT * 4)), headers="Content-Encoding: gzip\r\n"), id="unfolds"
        ),
        pytest.param(say(200, raw=b"no gzip", headers="Content-Encoding: gzip\r\n"), id="not its encoding"),
    ],
)
def test_an_answer_that_is_lost(serve: Any, open_wire: Any, script: Script) -> None:
    error = trouble(open_wire(serve(script).url))
    assert (type(error), error.code) == (Unknown, "answer_lost")


@pytest.mark.parametrize("raw", [b"", b"<html>", b"{", '{"QLRMC": "测试甲"'.encode(), b"\xff", b"NaN", b"[" * 5000])
def test_an_answer_that_cannot_be_read(serve: Any, open_wire: Any, raw: bytes) -> None:
    error = trouble(open_wire(serve(say(200, raw=raw)).url))
    assert (type(error), error.code) == (Unknown, "answer_unreadable")


@pytest.mark.parametrize(
    "script",
    [
        say(200, raw=b"\xef\xbb\xbf{}"),
        send_raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"),
        send_raw(b"HTTP/1.0 200 OK\r\n\r\n{}"),
        say(200, raw=gzip.compress(b"{}"), headers="Content-Encoding: gzip\r\n"),
    ],
)
def test_answers_of_other_shapes(serve: Any, open_wire: Any, script: Script) -> None:
    assert open_wire(serve(script).url)(outgoing()).document == {}


def test_a_broken_head_is_unknown_and_not_logged(serve: Any, open_wire: Any, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(send_raw("HTTP/1.1 200 OK\r\nX: 1\r\n测试甲".encode()))
    assert isinstance(trouble(open_wire(server.url)), Unknown)
    assert caplog.text == ""


def test_a_kept_connection_that_breaks_is_unknown(serve: Any, open_wire: Any) -> None:
    def once(connection: socket.socket, seen: Seen) -> bool:
        return say(200, {})(connection, seen) if len(server.seen) == 1 else reset(connection, seen)

    server = serve(once)
    wire = open_wire(server.url)
    wire(outgoing())
    error = trouble(wire)
    assert [seen.connection for seen in server.seen] == [1, 1]
    assert (type(error), error.code) == (Unknown, "answer_lost")


def test_a_kept_connection_that_the_partner_closed_is_not_used(serve: Any, open_wire: Any) -> None:
    server = serve(send_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"))
    wire = open_wire(server.url)
    for _ in range(3):
        wire(outgoing())
        time.sleep(0.05)
    assert server.connections == 3


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials(serve: Any, open_wire: Any, status: int) -> None:
    server = serve(say(status, {"code": "4010"}))
    error = trouble(open_wire(server.url))
    assert (type(error), error.code) == (Misconfigured, "credentials_refused")
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("status", "headers"),
    [(302, "Location: http://127.0.0.1:1/\r\n"), (307, "Location: http://[\r\n"), (405, ""), (413, "")],
)
def test_an_interface_that_does_not_fit(serve: Any, open_wire: Any, status: int, headers: str) -> None:
    server = serve(say(status, {}, headers))
    error = trouble(open_wire(server.url))
    assert (type(error), error.code) == (Misconfigured, "request_unsupported")
    assert len(server.seen) == 1


@pytest.mark.parametrize("url", ["", "ftp://127.0.0.1", "http://", "http://[", "127.0.0.1:1"])
def test_an_address_that_is_none(open_wire: Any, url: str) -> None:
    assert trouble(open_wire(url)).code == "endpoint_invalid"


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "令牌"])
def test_a_token_that_is_no_header(serve: Any, token: str) -> None:
    server = serve(say(200, {}))
    wire = RestWire(lambda _: server.url, {"registry": {"token": token}}, lambda: NOW)
    assert trouble(wire).code == "endpoint_invalid"
    assert server.seen == []
    wire.close()


def test_what_is_not_declared(open_wire: Any) -> None:
    wire = open_wire("http://127.0.0.1:1")
    assert trouble(wire, outgoing(purpose="query", query=None)).code == "query_undeclared"
    assert trouble(wire, outgoing(request=None)).code == "request_undeclared"
    assert trouble(wire, replace(outgoing(), document={"a": object()})).code == "document_unsendable"
    with pytest.raises(Misconfigured, match="none, bearer, national_two_step"):
        open_wire("http://127.0.0.1:1")(outgoing({"scheme": "basic"}))


def test_missing_credentials_are_named() -> None:
    wire = RestWire(lambda _: "http://127.0.0.1:1", {}, lambda: NOW)
    with pytest.raises(Misconfigured, match=r"partners\.registry\.token"):
        wire(outgoing())
    with pytest.raises(Misconfigured, match=r"partners\.platform\.rid, partners\.platform\.appkey"):
        wire(outgoing(dict(NATIONAL)))


def test_no_endpoint_in_this_environment() -> None:
    def nowhere(_partner: Partner) -> str:
        raise Misconfigured("endpoint_missing", "x", "x")

    wires = open_wires(nowhere, {"registry": {"token": TOKEN}}, lambda: NOW)
    assert set(wires) == {"rest"}
    with pytest.raises(Misconfigured, match="endpoint_missing"):
        wires["rest"](outgoing())


NATIONAL = {
    "scheme": "national_two_step",
    "prefix": "gjgxjhpt_",
    "refresh_path": "/sysapi/auth/refreshappsecret",
    "secret_minutes": 30,
    "resign": True,
}


@dataclass
class National:
    """The platform of domain.md §3.1: hands out working secrets, knows which is good."""

    good: str = ""
    refreshed: int = 0
    refresh_answer: Script | None = None

    def __call__(self, connection: socket.socket, seen: Seen) -> bool:
        if seen.target == NATIONAL["refresh_path"]:
            self.refreshed += 1
            if self.refresh_answer is not None:
                return self.refresh_answer(connection, seen)
            asked = orjson.loads(seen.body)
            ids = (asked["gjgxjhpt_rid"], asked["gjgxjhpt_sid"], asked["gjgxjhpt_rtime"])
            assert asked["gjgxjhpt_sign"] == sign("national", "demo-appkey-0001", ids, Request())
            self.good = f"secret-{self.refreshed}"
            text = aes128_ecb_secret("demo-appkey-0001", self.good)
            return say(200, {"code": "0", "data": {"secret": text}})(connection, seen)
        ids = (seen.headers["gjgxjhpt_rid"], seen.headers["gjgxjhpt_sid"], seen.headers["gjgxjhpt_rtime"])
        fits = seen.headers["gjgxjhpt_sign"] in (sign("national", self.good, ids, Request()), self.good)
        return say(200 if fits else 401, {"code": "0" if fits else "4010"})(connection, seen)


def test_two_steps_and_one_secret_for_many_calls(serve: Any, open_wire: Any) -> None:
    platform = National()
    server = serve(platform)
    wire = open_wire(server.url)
    for _ in range(3):
        assert wire(outgoing(dict(NATIONAL))).status == 200
    assert platform.refreshed == 1
    assert server.seen[1].headers["gjgxjhpt_sid"] == "s_case"
    assert "x-delivery-id" not in server.seen[0].headers


def test_a_secret_that_the_platform_forgot_is_renewed_once(serve: Any, open_wire: Any) -> None:
    platform = National()
    server = serve(platform)
    wire = open_wire(server.url)
    wire(outgoing(dict(NATIONAL)))
    platform.good = "another"
    assert wire(outgoing(dict(NATIONAL))).status == 200
    assert platform.refreshed == 2
    assert [seen.headers.get("x-delivery-id") for seen in server.seen] == [None, DELIVERY, DELIVERY, None, DELIVERY]


def test_a_platform_that_refuses_again_is_not_asked_for_ever(serve: Any, open_wire: Any) -> None:
    def refuse(connection: socket.socket, seen: Seen) -> bool:
        if seen.target == NATIONAL["refresh_path"]:
            return platform(connection, seen)
        return say(401, {"code": "4010"})(connection, seen)

    platform = National()
    server = serve(refuse)
    error = trouble(open_wire(server.url), outgoing(dict(NATIONAL)))
    assert (type(error), error.code) == (Misconfigured, "credentials_refused")
    assert len(server.seen) == 4


def test_a_secret_is_renewed_before_its_end(serve: Any, open_wire: Any) -> None:
    now = [NOW]
    platform = National()
    wire = open_wire(serve(platform).url, lambda: now[0])
    wire(outgoing(dict(NATIONAL)))
    now[0] += 26 * 60_000
    wire(outgoing(dict(NATIONAL)))
    assert platform.refreshed == 1
    now[0] += 2 * 60_000
    wire(outgoing(dict(NATIONAL)))
    assert platform.refreshed == 2


def test_without_resigning_the_secret_itself_travels(serve: Any, open_wire: Any) -> None:
    server = serve(National())
    open_wire(server.url)(outgoing({**NATIONAL, "resign": False}))
    assert server.seen[1].headers["gjgxjhpt_sign"] == "secret-1"


def test_many_threads_ask_for_one_secret(serve: Any, open_wire: Any) -> None:
    platform = National()
    wire = open_wire(serve(platform).url)
    threads = [threading.Thread(target=wire, args=(outgoing(dict(NATIONAL)),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert platform.refreshed == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(reset, id="reset"),
        pytest.param(send_raw(2.0), id="silence"),
        pytest.param(say(500), id="500"),
        pytest.param(say(503, headers="Retry-After: 5\r\n"), id="busy"),
        pytest.param(say(404), id="404"),
        pytest.param(say(200, raw=b"<html>"), id="no JSON"),
        pytest.param(say(200, {"code": "9"}), id="no secret"),
        pytest.param(say(200, {"data": {"secret": "%%"}}), id="no Base64"),
        pytest.param(
            say(200, {"data": {"secret": "RKN9tvYDwkS+vB3ZIrO580JOyePDXsQWkBtZ17VIgHQ="}}), id="another appkey"
        ),
    ],
)
def test_while_no_secret_can_be_had_nothing_is_sent(serve: Any, open_wire: Any, answer: Script) -> None:
    server = serve(National(refresh_answer=answer))
    error = trouble(open_wire(server.url), outgoing(dict(NATIONAL)))
    assert isinstance(error, Unsent)
    assert len(server.seen) == 1
    assert error.retry_after_s == (5.0 if error.code == "partner_busy" else None)


def test_an_appkey_that_is_refused(serve: Any, open_wire: Any) -> None:
    error = trouble(open_wire(serve(National(refresh_answer=say(401))).url), outgoing(dict(NATIONAL)))
    assert (type(error), error.code) == (Misconfigured, "credentials_refused")


@pytest.mark.parametrize(
    "wrong", [{"prefix": "x_"}, {"refresh_path": None}, {"secret_minutes": "30"}, {"resign": "yes"}]
)
def test_a_wrong_declaration(open_wire: Any, wrong: dict[str, object]) -> None:
    assert trouble(open_wire("http://127.0.0.1:1"), outgoing({**NATIONAL, **wrong})).code == "auth_invalid"
