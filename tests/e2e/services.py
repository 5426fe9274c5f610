"""The whole hub as real processes on ports and a folder of their own, and an outsider's client for it."""

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
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).resolve().parents[2]
TENANT = "510199"
MATERIALS = ("不动产登记申请书", "不动产权属证书", "存量房买卖合同", "身份证明")
ENDS = ("finished", "refused", "stopped", "withdrawn")


def free_ports(count: int) -> int:
    """The first of ``count`` free neighbouring ports."""
    for first in range(21000 + os.getpid() % 5000, 60000, count + 3):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


class Services:
    """A hub of its own; ``only`` picks the services as ``make up ONLY=`` does."""

    def __init__(self, place: Path, only: str = "", **environment: str) -> None:
        self.var = place / "var"
        first = free_ports(8)
        self.gateway = f"http://127.0.0.1:{first}"
        self.control = f"http://127.0.0.1:{first + 2}"
        self.only = only
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DUKOU_", "AIRFLOW"))},
            "DUKOU_VAR": str(self.var),
            "DUKOU_GATEWAY_PORT": str(first),
            "DUKOU_AIRFLOW_PORT": str(first + 1),
            "DUKOU_SANDBOX_PORT": str(first + 2),
            "DUKOU_RETRY_SCALE": "10",
            "PYTHONPATH": str(ROOT),
            **environment,
        }
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.session = requests.Session()
        self.session.trust_env = False

    def dukou(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a ``dukou`` command."""
        command = [sys.executable, "-m", "dukou", *arguments]
        done = subprocess.run(
            command, check=False, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=280
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def up(self) -> None:
        """Set up and start."""
        self.dukou("setup")
        # The supervisor outlives this call: its output must not hold our pipe open.
        with (self.var / "up.log").open("w") as log:
            command = [sys.executable, "-m", "dukou", "supervise", "up", "--only", self.only]
            done = subprocess.run(
                command, check=False, cwd=ROOT, env=self.environment, stdout=log, stderr=log, timeout=280
            )
        assert done.returncode == 0, (self.var / "up.log").read_text()

    def down(self) -> None:
        """Stop everything."""
        self.dukou("supervise", "down", check=False)

    def pid(self, name: str) -> int:
        """The real process id of a service."""
        return int((self.var / "run" / f"{name}.pid").read_text())

    def kill(self, name: str) -> None:
        """kill -9."""
        try:
            os.kill(self.pid(name), signal.SIGKILL)
        except (ProcessLookupError, FileNotFoundError):
            return  # between its death and its restart

    def answers(self, url: str) -> bool:
        """Whether something answers there."""
        try:
            return self.session.get(url, timeout=5).ok
        except requests.RequestException:
            return False

    # The outsider's client -----------------------------------------------------------------------------------------

    def credentials(self) -> dict[str, Any]:
        """What outsiders are given."""
        return json.loads((self.var / "demo" / "credentials.json").read_text())

    def headers(
        self, caller: str, service: str, method: str, target: str, body: bytes, rtime: int | None = None
    ) -> dict[str, str]:
        """Signed headers, computed from the published rule and nothing else."""
        who = self.credentials()["callers"][caller]
        sid, rid = who["sids"].get(service, service), who["rid"]
        at = str(int(time.time() * 1000) if rtime is None else rtime)
        text = f"{sid}{rid}{at}\n{method}\n{target}\n{hashlib.sha256(body).hexdigest()}"
        sign = base64.b64encode(hmac.new(who["secret"].encode(), text.encode(), hashlib.sha256).digest()).decode()
        return {"gjgxjhpt_rid": rid, "gjgxjhpt_sid": sid, "gjgxjhpt_rtime": at, "gjgxjhpt_sign": sign}

    def call(
        self,
        method: str,
        target: str,
        body: bytes | object = b"",
        *,
        caller: str = "hall",
        service: str = "cases",
        **extra: str,
    ) -> requests.Response:
        """One signed call."""
        raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json", **self.headers(caller, service, method, target, raw), **extra}
        return self.session.request(method, self.gateway + target, data=raw, headers=headers, timeout=30)

    def apply(self, body: object, **extra: str) -> requests.Response:
        """POST /api/v1/cases."""
        return self.call("POST", "/api/v1/cases", body, **extra)

    def apply_surely(self, body: object, limit_s: float = 60) -> dict[str, Any]:
        """Apply until an answer comes, as a careful client would: the same body again after every failure."""
        until = time.monotonic() + limit_s
        while True:
            try:
                answer = self.apply(body)
                if answer.status_code < 500:
                    assert answer.status_code == 202, answer.text
                    return answer.json()
            except requests.RequestException:
                pass
            assert time.monotonic() < until, "the gateway does not come back"
            time.sleep(0.3)

    def states(self) -> dict[str, dict[str, Any]]:
        """Case number → its line of ``dukou cases --json``."""
        lines = self.dukou("cases", "--json", "--limit", "1000").stdout.splitlines()
        return {row["case"]: row for row in map(json.loads, lines)}

    def messages(self, *arguments: str) -> list[dict[str, Any]]:
        """Lines of ``dukou messages --json``."""
        return [
            json.loads(line)
            for line in self.dukou("messages", "--json", "--limit", "100000", *arguments).stdout.splitlines()
        ]

    def effects(self) -> dict[str, dict[str, int]]:
        """What took effect at the stand-ins."""
        return dict(self.session.get(f"{self.control}/_effects", timeout=20).json())

    def received(self, partner: str, exchange: str = "") -> list[dict[str, Any]]:
        """What a stand-in received."""
        return list(
            self.session.get(f"{self.control}/_received/{partner}", params={"exchange": exchange}, timeout=20).json()
        )

    def mood(self, partner: str, **settings: object) -> None:
        """How a stand-in behaves."""
        self.session.put(f"{self.control}/_control/{partner}", json=settings, timeout=20).raise_for_status()


def application(n: int, **changes: Any) -> dict[str, Any]:
    """A complete application of the ``n``-th flat; sentinel names that are easy to search for."""
    digits = f"51010019000101{n % 1000:03d}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    number = digits + "10X98765432"[sum(int(d) * w for d, w in zip(digits, weights, strict=True)) % 11]
    body = {
        "matter": "clf_transfer",
        "tenant": TENANT,
        "channel": "hall",
        "BDCDYH": f"{TENANT}001001GB00001F{n:08d}",
        "BDCQZH": f"川(2026)测试市不动产权第{n:07d}号",
        "HTBH": f"HT-2026-{n:05d}",
        "ZL": f"测试市测试路{n}号",
        "QLR": [{"QLRMC": f"哨兵受让{n:04d}", "ZJZL": "1", "ZJH": number, "GYFS": "0", "DH": "19900001234"}],
        "YWR": [{"QLRMC": f"哨兵出让{n:04d}", "ZJZL": "1", "ZJH": number, "GYFS": "0"}],
        "SJ": [{"SJMC": name, "SJLX": "1", "sha256": f"{n:064x}"} for name in MATERIALS],
    }
    return {**body, **changes}


def wait_for(done: Callable[[], bool], limit_s: float) -> bool:
    """Poll until something is so."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if done():
            return True
        time.sleep(0.5)
    return False
