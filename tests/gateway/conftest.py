"""A real gateway on a free port, a memory desk behind it, and clients that sign by their own code."""

import base64
import hashlib
import hmac
import http.client
import logging
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import orjson
import pytest
import uvicorn

from hub.errors import Faults
from hub.gateway.app import create_app
from hub.gateway.memory_desk import MemoryDesk
from hub.gateway.settings import GatewaySettings
from hub.gateway.soap_port import SoapOperation, SoapPort
from hub.model.call import Caller
from hub.security.signing import Verifier
from hub.validation.xsd_contract import XsdContract

ROOT = Path(__file__).parents[2]
NAMESPACE = "urn:dukou:tax:1"
EXCHANGES = {
    "hall": ("application", "correction", "withdrawal"),
    "registry": ("progress", "result"),
    "tax": ("clearance", "case_query"),
}
CALLERS = {
    "hall": Caller("hall", "hall", "hall-rid-1", "hall-secret", ("510199",), {"cases": "s_c", "messages": "s_m"}),
    "registry": Caller(
        "registry", "registry", "reg-rid-1", "reg-secret", ("510199",), {"progress": "s_p", "result": "s_r"}
    ),
    "tax": Caller(
        "tax",
        "tax",
        "tax-rid-1",
        "tax-secret",
        ("510199", "510198"),
        {"submitClearance": "s_s", "clearance": "s_s", "queryCase": "s_q"},
    ),
    "tax_national": Caller(
        "tax_national", "tax", "tax-rid-2", "tax-secret-2", ("510199",), {"submitClearance": "s_s"}, "national"
    ),
}


def until(holds, seconds=5):
    """Waits for what happens just after an answer: the access line, the count."""
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert holds()


def now_ms():
    return int(time.time() * 1000)


def signature(caller, sid, method, target, body, rtime=None):
    """INTERFACES "Signing", written again on purpose: the hub's own code must agree with it."""
    rtime = str(now_ms() if rtime is None else rtime)
    text = sid + caller.rid + rtime
    if caller.profile == "dukou":
        text += "\n" + method + "\n" + target + "\n" + hashlib.sha256(body).hexdigest()
    mac = hmac.new(caller.secret.encode(), text.encode("latin-1"), hashlib.sha256).digest()
    return {
        "gjgxjhpt_rid": caller.rid,
        "gjgxjhpt_sid": sid,
        "gjgxjhpt_rtime": rtime,
        "gjgxjhpt_sign": base64.b64encode(mac).decode(),
    }


@dataclass
class Reply:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return orjson.loads(self.body)

    @property
    def code(self):
        assert self.headers["content-type"] == "application/problem+json", (self.status, self.body[:200])
        assert self.json["status"] == self.status
        assert self.json["type"] == f"urn:dukou:problem:{self.json['code']}"
        assert self.json["title"]
        assert self.json["title_zh"]
        return self.json["code"]


@dataclass
class Served:
    port: int
    desk: MemoryDesk
    settings: GatewaySettings
    described: dict = field(repr=False)

    def raw(self, method, target, body=b"", headers=None):
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            line.putrequest(method, target, skip_accept_encoding=True, skip_host="Host" in (headers or {}))
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                line.putheader(name, value)
            line.endheaders(body)
            answer = line.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            line.close()

    def call(self, who, key, method, target, body=b"", headers=None, **signing):
        caller = CALLERS[who]
        if not isinstance(body, bytes):
            body = orjson.dumps(body)
        signed = signature(caller, caller.sids.get(key, key), method, target, body, **signing)
        return self.raw(method, target, body, {**signed, **(headers or {})})

    def soap(self, operation, inner, version="1.1", who="tax", headers=None, soap_headers=""):
        body = envelope(inner, version, soap_headers)
        media = "text/xml" if version == "1.1" else "application/soap+xml"
        return self.call(who, operation, "POST", "/soap/tax", body, {"Content-Type": media, **(headers or {})})

    def url(self, path, **query):
        return f"http://127.0.0.1:{self.port}{path}" + (f"?{urlencode(query)}" if query else "")


ENVELOPES = {
    "1.1": "http://schemas.xmlsoap.org/soap/envelope/",
    "1.2": "http://www.w3.org/2003/05/soap-envelope",
}


def envelope(inner, version="1.1", headers=""):
    namespace = ENVELOPES.get(version, version)
    head = f"<e:Header>{headers}</e:Header>" if headers else ""
    return f'<e:Envelope xmlns:e="{namespace}">{head}<e:Body>{inner}</e:Body></e:Envelope>'.encode()


def tax_port():
    contract = XsdContract("schemas/tax/tax.xsd", (ROOT / "schemas/tax/tax.xsd").read_bytes())

    def read(element):
        faults = Faults(list(contract.check(element)))
        faults.refuse()
        return contract.to_document(element)

    return SoapPort(
        partner="tax",
        namespace=NAMESPACE,
        wsdl_bytes=(ROOT / "schemas/tax/tax.wsdl").read_bytes(),
        xsd_files={"tax.xsd": (ROOT / "schemas/tax/tax.xsd").read_bytes()},
        operations={
            "submitClearance": SoapOperation("clearance", "submitClearanceResponse", read),
            "queryCase": SoapOperation(
                "case_query", "queryCaseResponse", read, query="case_state", fields={"state": "state"}
            ),
        },
    )


def schemas():
    names = ("application", "correction", "withdrawal")
    return {name: orjson.loads((ROOT / f"schemas/canonical/{name}.json").read_bytes()) for name in names}


def started():
    """Starts gateways and, at its end, stops them."""
    running = []

    def start(**changes):
        settings = GatewaySettings(
            **{"body_timeout_s": 3, "max_body_bytes": 256 * 1024, "schemas": schemas(), **changes}
        )
        desk = MemoryDesk(EXCHANGES)
        verifier = Verifier({caller.rid: caller for caller in CALLERS.values()}, 300_000, now_ms)
        app = create_app(desk, verifier, {"tax": tax_port()}, settings)
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        running.append((server, thread, listener))
        return Served(listener.getsockname()[1], desk, settings, app.openapi())

    yield start
    for server, thread, listener in running:
        server.should_exit = True
        thread.join(10)
        listener.close()


@pytest.fixture
def serving():
    """Starts gateways with settings of the test's own; each ends with the test."""
    yield from started()


@pytest.fixture(scope="session")
def long_lived():
    for start in started():
        yield start()


@pytest.fixture
def gateway(long_lived):
    """The gateway that all tests share, with an empty desk."""
    long_lived.desk.__init__(EXCHANGES)
    return long_lived


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, logger="dukou.gateway")
    return caplog
