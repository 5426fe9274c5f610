"""A hub on a real SQLite ledger whose partners are a scripted wire: shipped with the tests, used by many of them."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import suites
from dukou.build import Hub, assemble
from dukou.settings import Settings
from hub.errors import Unsent
from hub.mapping import Mappings
from hub.model.call import Call, Receipt
from hub.model.identity import new_id
from hub.pipeline.parts import Pace, Parts
from hub.ports import Incoming, Outgoing
from hub.registry.declarations import Declarations
from hub.registry.matters import Matters
from hub.security.blind import BlindIndex
from hub.security.envelope import Envelope
from hub.security.keys import create
from hub.store.ledger import Ledger
from hub.store.migrate import upgrade
from hub.validation.codes import Codes
from hub.validation.contracts import Contracts

ROOT = Path(__file__).resolve().parents[2]
TENANT = "510199"
MATERIALS = ("不动产登记申请书", "不动产权属证书", "存量房买卖合同", "身份证明")


def application(n: int = 1, **changes: Any) -> dict[str, Any]:
    """A complete application with the synthetic values of the domain reference."""
    body = {
        "matter": "clf_transfer",
        "tenant": TENANT,
        "channel": "hall",
        "BDCDYH": f"510199001001GB00001F0001{n:04d}",
        "BDCQZH": "川(2026)测试市不动产权第0000001号",
        "HTBH": f"HT-{n}",
        "ZL": "测试市测试路1号",
        "QLR": [{"QLRMC": "测试甲", "ZJZL": "1", "ZJH": "510100190001010012", "GYFS": "0"}],
        "YWR": [{"QLRMC": "测试乙", "ZJZL": "1", "ZJH": "510100190001010020", "GYFS": "0"}],
        "SJ": [{"SJMC": name, "SJLX": "1", "sha256": "0" * 64} for name in MATERIALS],
    }
    return {**body, **changes}


class Wire:
    """Partners as a script: every send is written down and answered by the exchange's rule."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Any]] = []
        self.rules: dict[str, Callable[[Outgoing], Incoming]] = {}
        self._lock = threading.Lock()

    def __call__(self, outgoing: Outgoing) -> Incoming:
        with self._lock:
            key = outgoing.exchange.key if outgoing.purpose == "send" else f"{outgoing.exchange.key}?"
            self.sent.append((key, outgoing.delivery_id, outgoing.document))
        rule = self.rules.get(key)
        return rule(outgoing) if rule else Incoming(200, ANSWERS[outgoing.exchange.key](outgoing.document))

    def of(self, key: str) -> list[Any]:
        """What was sent on an exchange."""
        return [document for name, _, document in self.sent if name == key]


def _tax(_: Any) -> dict[str, Any]:
    return {"head": {"rtn_code": "0000"}}


def _code(code: str) -> Callable[[Any], dict[str, Any]]:
    return lambda _: {"code": code}


ANSWERS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "platform/identity_check": lambda _: {"code": "0", "data": {"CheckCode": "1"}},
    "platform/unified_number": lambda d: {"code": "0", "data": {"caseno": "TY" + d["ywh"]}},
    "platform/progress": _code("0"),
    "platform/evaluation_invite": _code("0"),
    "tax/taxable_case": _tax,
    "tax/clearance_query": lambda _: {"head": {"rtn_code": "1404"}},
    "tax/result": _tax,
    "tax/withdrawal": _tax,
    "registry/case": _code("0000"),
    "registry/clearance": _code("0000"),
    "registry/withdrawal": _code("0000"),
    "registry/result_query": _code("1404"),
    "hall/notice": _code("0"),
}


def unreachable(_: Outgoing) -> Incoming:
    """A partner that is down."""
    raise Unsent("partner_unreachable", "unreachable", "无法连接")


class Clock:
    """A clock that a test moves; leases use the database's own."""

    def __init__(self) -> None:
        import time

        self.ahead = 0
        self._time = time.time

    def __call__(self) -> int:
        return int(self._time() * 1000) + self.ahead


FAST = Pace(first_wait=1, longest_wait=5, courier_grace=0, poll_after=0, probe=1)


class Stage:
    """A built hub with its wire."""

    def __init__(self, place: Path, url: str = "", pace: Pace = FAST) -> None:
        self.place = place
        environment = {"DUKOU_VAR": str(place), "DUKOU_ROOT": str(ROOT)}
        if url:
            environment["DUKOU_DATABASE_URL"] = url
        self.settings = Settings.from_env(environment)
        upgrade(self.settings.database_url)
        self.keyring = create(place / "keys.json", os.urandom)
        self.wire = Wire()
        self.clock = Clock()
        self.hints: list[tuple[str, str]] = []
        self.pace = pace
        self.hub = self.build()

    def build(self) -> Hub:
        """A hub of its own on the same ledger: what another process would have."""
        codes = Codes.load(ROOT)
        contracts = Contracts(ROOT, codes)
        declarations = Declarations.load(ROOT)
        suite = suites.get("intl")
        parts = Parts(
            ledger=Ledger(self.settings.database_url),
            declarations=declarations,
            matters=Matters.load(ROOT, declarations),
            contracts=contracts,
            mappings=Mappings(ROOT, contracts, codes),
            envelope=Envelope(self.keyring, suite, os.urandom),
            blind=BlindIndex(self.keyring.index, suite),
            wires={"rest": self.wire},
            hints=lambda audience, partner: self.hints.append((audience, partner)),
            clock=self.clock,
            new_id=new_id,
            chance=random.Random(1),
            pace=self.pace,
        )
        return assemble(self.settings, self.keyring, parts)

    def call(self, exchange: str, document: object, *, caller: str = "", key: str = "", case: str = "") -> Receipt:
        """Call a serve exchange as its partner."""
        partner, _, name = exchange.partition("/")
        raw = document if isinstance(document, bytes) else json.dumps(document, ensure_ascii=False).encode()
        who = self.keyring.callers[caller or partner]
        is_soap = self.hub.parts.declarations.exchange(partner, name).protocol == "soap"
        parsed = document if is_soap else None
        return self.hub.desk.serve(Call(who, partner, name, raw, parsed, key, case))

    def apply(self, n: int = 1, **changes: Any) -> Receipt:
        """Apply as the hall."""
        return self.call("hall/application", application(n, **changes))

    def drain(self, rounds: int = 6) -> None:
        """Let everyone deliver until nothing moves."""
        for _ in range(rounds):
            for partner in ("platform", "tax", "registry", "hall"):
                self.hub.drain(partner, "airflow", 5)

    def clear(self, case: str, **more: Any) -> Receipt:
        """Tax reports a clearance."""
        return self.call("tax/clearance", {"ywsldh": case, "wszt": "1", "nsrxx": [{"sphm": "SP1"}], **more})

    def register(self, case: str, n: int = 1, **more: Any) -> Receipt:
        """The registry reports 登簿."""
        result = {
            "ywh": case,
            "bdcdyh": f"510199001001GB00001F0001{n:04d}",
            "bdcqzh": "川(2026)测试市不动产权第0000002号",
            "djsj": "2026-03-15T10:30:18+08:00",
            "qszt": "1",
        }
        return self.call("registry/result", {**result, **more})

    def view(self, case: str) -> Any:
        """The case as operators see it."""
        return self.hub.reading.case(case, None)

    def close(self) -> None:
        """Close the ledger."""
        self.hub.close()


def fast(**changes: int) -> Pace:
    """The fast pace with changes."""
    return replace(FAST, **changes)
