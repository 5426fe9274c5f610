"""The control interface: each setting does what INTERFACES says, and what is unknown is refused with the known names."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import requests

from tests.sandbox.conftest import UNIT, YWH, notice, registry_case, taxable_case

if TYPE_CHECKING:
    from tests.sandbox.conftest import Sandbox

NOTICES = "/hall/notices"


def test_it_starts_within_two_seconds(sandbox: Sandbox) -> None:
    sandbox.kill()
    assert sandbox.start() < 2


def test_unknown_names_are_answered_with_the_known_ones(sandbox: Sandbox) -> None:
    wrong = sandbox.set("tax", latency=5, status="x")
    assert wrong.status_code == 422
    assert wrong.json()["faults"].keys() == {"latency", "status"}
    assert "latency_ms" in wrong.json()["known"]
    unknown = requests.get(sandbox.at("/_control/police"), timeout=5)
    assert (unknown.status_code, unknown.json()["known"]) == (404, ["platform", "tax", "registry", "hall"])
    assert sandbox.do("tax", "audit").status_code == 404
    assert sandbox.do("tax", "clearance").status_code == 422


def test_put_replaces_and_delete_resets(sandbox: Sandbox) -> None:
    sandbox.set("tax", latency_ms=1, times=3)
    assert sandbox.set("tax", garbage=True, down=False, status=None).json() == {"garbage": True}
    assert requests.delete(sandbox.at("/_control/tax"), timeout=5).json() == {}
    assert requests.get(sandbox.at("/_control/tax"), timeout=5).json() == {}


def test_status_and_closed_office_do_no_work_and_reset_after_their_times(sandbox: Sandbox) -> None:
    sandbox.set("hall", status=500, times=2)
    assert [sandbox.post("hall", NOTICES, notice(), 1).status_code for _ in range(3)] == [500, 500, 200]
    assert requests.get(sandbox.at("/_control/hall"), timeout=5).json() == {}
    sandbox.set("hall", office_closed=True, times=1)
    closed = sandbox.post("hall", NOTICES, notice(), 2)
    assert (closed.status_code, closed.json()["code"], closed.headers["Retry-After"]) == (503, "9", "1")
    assert len(sandbox.received("hall")) == 1


def test_garbage_and_wrong_code_have_done_the_work(sandbox: Sandbox) -> None:
    sandbox.set("hall", garbage=True, times=1)
    with pytest.raises(ValueError, match=r"Expecting value|codec|char"):
        sandbox.post("hall", NOTICES, notice("a"), 1).json()
    sandbox.set("hall", code_wrong=True, times=1)
    assert sandbox.post("hall", NOTICES, notice("b"), 2).json()["code"] == "77"
    sandbox.set("hall", code_wrong="55", times=1)
    assert sandbox.post("hall", NOTICES, notice("c"), 3).json()["code"] == "55"
    assert len(sandbox.effects()["hall/notice"]) == 3


def test_down_refuses_connections_until_it_is_up_and_stays_down_over_a_restart(sandbox: Sandbox) -> None:
    session = requests.Session()
    headers = {"Authorization": "Bearer token-hall"}
    with session:
        assert session.post(sandbox.of("hall", NOTICES), json=notice(), headers=headers, timeout=5).status_code == 200
        sandbox.set("hall", down=True)
        for client in (session, requests):
            with pytest.raises(requests.ConnectionError):
                client.post(sandbox.of("hall", NOTICES), json=notice(), headers=headers, timeout=5)
        sandbox.kill()
        sandbox.start()
        with pytest.raises(requests.ConnectionError, match="refused"):
            sandbox.post("hall", NOTICES, notice())
        sandbox.set("hall")
        assert sandbox.post("hall", NOTICES, notice()).status_code == 200
    assert len(sandbox.received("hall")) == 2


def test_down_for_some_requests_closes_their_connections(sandbox: Sandbox) -> None:
    sandbox.set("hall", down=True, times=2)
    for _ in range(2):
        with pytest.raises(requests.ConnectionError):
            sandbox.post("hall", NOTICES, notice())
    assert sandbox.post("hall", NOTICES, notice()).status_code == 200
    assert len(sandbox.received("hall")) == 1


def test_latency_comes_after_the_receipt(sandbox: Sandbox) -> None:
    sandbox.set("hall", latency_ms=400, times=1)
    began = time.monotonic()
    with pytest.raises(requests.ReadTimeout):
        sandbox.post("hall", NOTICES, notice(), 1, timeout=0.2)
    assert [row["applied"] for row in sandbox.received("hall")] == [True]
    assert time.monotonic() - began < 0.4


def test_seized_units_stop_a_case_and_later_its_clearance(sandbox: Sandbox) -> None:
    other = UNIT[:-1] + "2"
    sandbox.set("registry", seized_units=[UNIT])
    refused = sandbox.post("registry", "/registry/cases", registry_case(), 1)
    assert (refused.status_code, refused.json()["code"]) == (200, "2001")
    assert sandbox.effects() == {}
    assert [(row["applied"], row["code"]) for row in sandbox.received("registry")] == [(None, "2001")]
    assert sandbox.post("registry", "/registry/cases", registry_case("other", other), 2).json()["code"] == "0000"
    sandbox.set("registry", seized_units=[other], times=1)
    clearance = {"ywh": "other", "wszt": "1", "sphm": ["351000000000000000"]}
    assert sandbox.post("registry", "/registry/clearances", clearance, 3).json()["code"] == "2001"
    assert sandbox.post("registry", "/registry/clearances", clearance, 3).json()["code"] == "0000"


def test_invalid_documents_and_wrong_tokens(sandbox: Sandbox) -> None:
    bad = taxable_case()
    bad["body"]["crfxxlb"][0]["xm"] = 5
    del bad["body"]["htbh"]
    answer = sandbox.post("tax", "/tax/taxable-cases", bad)
    assert (answer.status_code, answer.json()["head"]["rtn_code"]) == (422, "1001")
    assert "/body/crfxxlb/0/xm: type" in answer.json()["head"]["rtn_msg"]
    assert sandbox.effects() == {}
    denied = requests.post(sandbox.of("tax", "/tax/taxable-cases"), json=taxable_case(), timeout=5)
    assert denied.status_code == 401
    raw = {"Authorization": "Bearer token-registry"}
    assert requests.post(sandbox.of("registry", "/registry/cases"), data=b"{", headers=raw, timeout=5).json() == {
        "code": "1001", "msg": "报文不是 JSON / the body is no JSON",
    }  # fmt: skip


def test_received_by_exchange_and_after(sandbox: Sandbox) -> None:
    sandbox.set("tax", skip_callback=True)
    sandbox.post("tax", "/tax/taxable-cases", taxable_case(), 1)
    query = {"head": taxable_case()["head"], "body": {"ywsldh": YWH}}
    sandbox.post("tax", "/tax/clearance-queries", query, 2)
    assert [row["exchange"] for row in sandbox.received("tax")] == ["taxable_case", "clearance_query"]
    assert [row["n"] for row in sandbox.received("tax", "?exchange=clearance_query&after=0")] == [2]
    assert [row["n"] for row in sandbox.received("tax", "?exchange=tax/taxable_case")] == [1]
    assert [row["exchange"] for row in sandbox.received("tax", "?after=1")] == ["clearance_query"]
    assert sandbox.effects() == {"tax/taxable_case": {YWH: 1}}
    row = sandbox.received("tax")[0]
    assert row.keys() == {"n", "at", "exchange", "delivery_id", "identity", "sha256", "applied", "code"}
