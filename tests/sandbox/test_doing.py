"""``/_do``: the partners act when told to, signed as who they are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lxml import etree

from tests.sandbox.conftest import SECRETS, YWH, hmac64, taxable_case

if TYPE_CHECKING:
    from tests.sandbox.conftest import FakeGateway, Sandbox

ANSWER = (
    b'<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Body>'
    b'<r xmlns="urn:dukou:tax:1"><ticket>T1</ticket><code>0000</code></r></s:Body></s:Envelope>'
)


def test_the_hall_applies_corrects_withdraws_and_asks(sandbox: Sandbox, gateway: FakeGateway) -> None:
    answer = sandbox.do("hall", "apply", body={"ZL": "测试路"}, key="k-1").json()
    assert (answer["status"], answer["body"]) == (202, {"state": "accepted"})
    assert answer["headers"]["Idempotent-Replayed"] == "true"
    sandbox.do("hall", "correct", case=YWH, body={"SJ": []})
    sandbox.do("hall", "withdraw", case=YWH)
    sandbox.do("hall", "case", case="a/b")
    sandbox.do("hall", "timeline", case=YWH)
    assert [(call.method, call.path) for call in gateway.calls] == [
        ("POST", "/api/v1/cases"),
        ("POST", f"/api/v1/cases/{YWH}/corrections"),
        ("POST", f"/api/v1/cases/{YWH}/withdrawal"),
        ("GET", "/api/v1/cases/a%2Fb"),
        ("GET", f"/api/v1/cases/{YWH}/timeline"),
    ]
    assert all(call.signature_holds(SECRETS["hall"]) for call in gateway.calls)
    assert gateway.calls[0].headers["idempotency-key"] == "k-1"
    assert json.loads(gateway.calls[0].body) == {"ZL": "测试路"}
    assert "idempotency-key" not in gateway.calls[1].headers


def test_another_caller_signs_in_its_own_profile(sandbox: Sandbox, gateway: FakeGateway) -> None:
    sandbox.do("hall", "apply", body={}, caller="hall_national")
    headers = gateway.calls[0].headers
    assert headers["gjgxjhpt_sign"] == hmac64(SECRETS["hall"], "s_caseshall-rid" + headers["gjgxjhpt_rtime"])
    unknown = sandbox.do("hall", "apply", body={}, caller="nobody")
    assert unknown.status_code == 404
    assert "hall_national" in unknown.json()["message"]


def test_tax_sends_a_clearance_and_from_then_on_answers_it(sandbox: Sandbox, gateway: FakeGateway) -> None:
    sandbox.set("tax", callback_delay_ms=60_000)
    sandbox.post("tax", "/tax/taxable-cases", taxable_case())
    gateway.answers.append((200, ANSWER))
    answer = sandbox.do("tax", "clearance", ywsldh=YWH, wszt="0", thyy="材料不全", soap="1.2").json()
    assert answer["values"] == {"ticket": "T1", "code": "0000"}
    assert answer["fault"] is False
    assert gateway.calls[0].headers["content-type"].startswith("application/soap+xml")
    operation = etree.fromstring(gateway.calls[0].body)[0][0]
    assert operation.findtext("{urn:dukou:tax:1}wszt") == "0"
    assert sandbox.pending() == 0
    query = {"head": taxable_case()["head"], "body": {"ywsldh": YWH}}
    asked = sandbox.post("tax", "/tax/clearance-queries", query, 2).json()["body"]
    assert (asked["wszt"], asked["thyy"]) == ("0", "材料不全")


def test_tax_asks_and_the_registry_tells(sandbox: Sandbox, gateway: FakeGateway) -> None:
    sandbox.do("tax", "query", ywsldh=YWH, soap="1.1")
    sandbox.do("registry", "progress", ywh=YWH, jdmc="FS", sj="2026-01-01T09:00:00+08:00")
    sandbox.do("registry", "result", ywh=YWH, bdcdyh="u", bdcqzh="c")
    assert [call.headers["gjgxjhpt_sid"] for call in gateway.calls] == ["s_query", "s_progress", "s_result"]
    assert json.loads(gateway.calls[1].body) == {"ywh": YWH, "jdmc": "FS", "sj": "2026-01-01T09:00:00+08:00"}
    assert json.loads(gateway.calls[2].body)["bdcqzh"] == "c"
    assert sandbox.do("tax", "clearance", ywsldh=YWH, soap="2").status_code == 422
