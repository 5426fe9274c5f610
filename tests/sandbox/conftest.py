"""A sandbox process on free ports, against a tiny fake gateway that records what it is called with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]

YWH = "510199202601010001"
UNIT = "510199001001GB00001F00010001"
APPKEY = "demo-appkey-0001"
SECRETS = {"hall": "demo-secret-0001", "tax": "demo-secret-0002", "registry": "demo-secret-0003"}
PARTNERS = ("platform", "tax", "registry", "hall")

CREDENTIALS = {
    "gateway": "http://127.0.0.1:1",
    "callers": {
        "hall": {"rid": "hall-rid", "secret": SECRETS["hall"], "sids": {"cases": "s_cases"}, "profile": "dukou"},
        "tax": {
            "rid": "tax-rid",
            "secret": SECRETS["tax"],
            "sids": {"submitClearance": "s_clearance", "queryCase": "s_query"},
            "profile": "dukou",
        },
        "registry": {
            "rid": "registry-rid",
            "secret": SECRETS["registry"],
            "sids": {"progress": "s_progress", "result": "s_result"},
            "profile": "dukou",
        },
        "hall_national": {
            "rid": "hall-rid", "secret": SECRETS["hall"], "sids": {"cases": "s_cases"}, "profile": "national",
        },
    },
    "partners": {
        "platform": {"rid": "dukou-hub", "appkey": APPKEY},
        "tax": {"token": "token-tax"},
        "registry": {"token": "token-registry"},
        "hall": {"token": "token-hall"},
    },
}  # fmt: skip


def delivery(number: int) -> str:
    """A delivery id."""
    return f"{number:032x}"


def head(method: str) -> dict[str, str]:
    """A tax request's head."""
    return {"channel_id": "dukou", "tran_date": "20260101", "tran_id": method, "tran_seq": "0" * 32}


def taxable_case(ywsldh: str = YWH, unit: str = UNIT) -> dict[str, Any]:
    """A taxable case with one party on each side."""
    person = {"xm": "测试甲", "zjlx": "201", "zjhm": "510100190001010012"}
    return {
        "head": head("pushTaxableCase"),
        "body": {
            "ywsldh": ywsldh, "htbh": "HT-0001", "bdcdyh": unit, "fcbm": "川(2026)测试市不动产权第0000001号",
            "fwwzdz": "测试市测试路1号", "xzqh": "510199", "qszyfs": "01",
            "crfxxlb": [person], "srfxxlb": [{**person, "xm": "测试乙"}],
        },
    }  # fmt: skip


def registry_case(ywh: str = YWH, unit: str = UNIT) -> dict[str, Any]:
    """A case for the registration system."""
    person = {"qlrmc": "测试甲", "zjzl": "1", "zjh": "510100190001010012", "gyfs": "0"}
    return {
        "ywh": ywh, "djlx": "200", "djxl": "2000402", "qxdm": "510199", "bdcdyh": unit,
        "bdcqzh": "川(2026)测试市不动产权第0000001号", "zl": "测试市测试路1号", "htbh": "HT-0001",
        "slsj": "2026-01-01T09:00:00+08:00", "qlr": [person], "ywr": [person], "sj": [],
    }  # fmt: skip


def notice(at: str = "2026-01-01T09:00:00+08:00") -> dict[str, str]:
    """A notice to the hall."""
    return {"ywh": YWH, "kind": "01", "kind_zh": "受理通知", "at": at}


def hmac64(secret: str, message: str) -> str:
    """Base64 of HMAC-SHA256, written once more so that the sandbox does not check itself."""
    return base64.b64encode(hmac.new(secret.encode(), message.encode(), hashlib.sha256).digest()).decode()


@dataclass
class Called:
    """One request that reached the fake gateway."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def signature_holds(self, secret: str) -> bool:
        """Whether the signature covers exactly these bytes (profile ``dukou``)."""
        sid, rid, rtime, sign = (self.headers["gjgxjhpt_" + part] for part in ("sid", "rid", "rtime", "sign"))
        digest = hashlib.sha256(self.body).hexdigest()
        return sign == hmac64(secret, f"{sid}{rid}{rtime}\n{self.method}\n{self.path}\n{digest}")


@dataclass
class FakeGateway:
    """Records calls and answers what the test says; 202 without more ado."""

    calls: list[Called] = field(default_factory=list)
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    port: int = 0

    def to(self, path: str) -> list[Called]:
        """The calls to one path."""
        return [call for call in list(self.calls) if call.path == path]


class _Recorder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeGateway

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.fake.calls.append(Called(self.command, self.path, headers, body))
        status, answer = self.fake.answers.pop(0) if self.fake.answers else (202, b'{"state":"accepted"}')
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("Idempotent-Replayed", "true")
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST  # noqa: N815 - the library's name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@dataclass
class Sandbox:
    """One sandbox process and how to speak to it."""

    var: Path
    port: int
    gateway: FakeGateway
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it; the seconds until it is healthy."""
        environment = {
            **os.environ,
            "DUKOU_VAR": str(self.var),
            "DUKOU_SANDBOX_PORT": str(self.port),
            "DUKOU_GATEWAY_PORT": str(self.gateway.port),
            "DUKOU_RETRY_SCALE": "10",
        }
        began = time.monotonic()
        with (self.var / "sandbox.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sandbox"], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        eventually(self._healthy, 15)
        return time.monotonic() - began

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End it; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(10)

    def _healthy(self) -> bool:
        try:
            return bool(requests.get(self.at("/_health"), timeout=2).json()["ok"])
        except requests.ConnectionError:
            return False

    def at(self, path: str) -> str:
        """An address on the control port."""
        return f"http://127.0.0.1:{self.port}{path}"

    def of(self, partner: str, path: str) -> str:
        """An address on a partner's port."""
        return f"http://127.0.0.1:{self.port + 1 + PARTNERS.index(partner)}{path}"

    def set(self, partner: str, **setting: Any) -> requests.Response:
        """Steer a partner."""
        return requests.put(self.at(f"/_control/{partner}"), json=setting, timeout=5)

    def post(
        self, partner: str, path: str, document: object, number: int = 1, timeout: float = 10
    ) -> requests.Response:
        """A request as the hub makes it to a bearer partner."""
        headers = {"Authorization": f"Bearer token-{partner}", "X-Delivery-Id": delivery(number)}
        return requests.post(self.of(partner, path), json=document, headers=headers, timeout=timeout)

    def do(self, partner: str, action: str, **parameters: Any) -> requests.Response:
        """Let a partner act."""
        return requests.post(self.at(f"/_do/{partner}/{action}"), json=parameters, timeout=10)

    def received(self, partner: str, query: str = "") -> list[dict[str, Any]]:
        """What a partner received."""
        rows: list[dict[str, Any]] = requests.get(self.at(f"/_received/{partner}{query}"), timeout=5).json()
        return rows

    def effects(self) -> dict[str, dict[str, int]]:
        """What took effect."""
        found: dict[str, dict[str, int]] = requests.get(self.at("/_effects"), timeout=5).json()
        return found

    def pending(self) -> int:
        """How many callbacks are owed."""
        return int(requests.get(self.at("/_health"), timeout=5).json()["pending_callbacks"])


def eventually(condition: Callable[[], object], seconds: float = 8) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def _free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    for _ in range(50):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = probe.getsockname()[1]
        if first + count < 60000 and all(_is_free(first + offset) for offset in range(count)):
            return int(first)
    message = "no free ports in a row"
    raise RuntimeError(message)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    """The fake gateway, listening."""
    fake = FakeGateway()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Recorder", (_Recorder,), {"fake": fake}))
    fake.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def sandbox(tmp_path: Path, gateway: FakeGateway) -> Iterator[Sandbox]:
    """A running sandbox."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "credentials.json").write_text(json.dumps(CREDENTIALS))
    running = Sandbox(tmp_path, _free_ports(5), gateway)
    running.start()
    yield running
    if running.process is not None and running.process.poll() is None:
        running.kill(signal.SIGTERM)
