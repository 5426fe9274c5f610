"""What an outsider meets at the gateway, over real HTTP, with headers computed from the published rule."""

from __future__ import annotations

import json
import time

import pytest
import requests

from tests.e2e.services import Services, application, wait_for

pytestmark = pytest.mark.e2e
SENTINEL = "哨兵受让"


def cases(hub: Services) -> int:
    """How many cases there are."""
    return len(hub.states())


def test_an_application_reaches_its_end_and_its_repeat_creates_nothing(hub: Services) -> None:
    first = hub.apply(application(1))
    assert first.status_code == 202
    answer = first.json()
    assert answer["state"] == "accepted"
    assert answer["missing"] == []
    before = cases(hub)
    again = hub.apply(application(1))
    assert again.json() == answer
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert cases(hub) == before
    url = answer["status_url"]
    assert wait_for(lambda: hub.call("GET", url).json()["state"] == "finished", 120)
    timeline = hub.call("GET", f"{url}/timeline").json()
    assert {row["exchange"] for row in timeline} >= {
        "application",
        "identity_check",
        "taxable_case",
        "clearance",
        "result",
    }
    by_unified = hub.call("GET", f"/api/v1/cases/{hub.call('GET', url).json()['unified_no']}")
    assert by_unified.json()["case"] == answer["case"]


def test_the_same_key_with_another_body_is_a_conflict(hub: Services) -> None:
    key = {"Idempotency-Key": "key-1"}
    assert hub.apply(application(2), **key).status_code == 202
    answer = hub.apply(application(3), **key)
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")


def _bad(n: int, **changes: object) -> bytes:
    return json.dumps(application(n, **changes), ensure_ascii=False).encode()


BAD: dict[str, tuple[bytes, int, str]] = {
    "unknown field": (_bad(10, colour="red"), 422, "field_unknown"),
    "wrong unit code": (_bad(11, BDCDYH="510199001001KB00001F00010001"), 422, "unit_code_invalid"),
    "certificate": (_bad(12, BDCQZH="川2026测试市不动产权第1号"), 422, "certificate_no_invalid"),
    "unknown matter": (_bad(13, matter="no_such"), 422, "code_unknown"),
    "malformed": (b'{"matter": ', 400, "malformed"),
    "duplicate key": (b'{"matter": "a", "matter": "b"}', 400, "malformed"),
    "NaN": (b'{"HTJE": NaN}', 400, "malformed"),
    "bad UTF-8": (b'{"ZL": "\xff"}', 400, "malformed"),
    "deep": (b"[" * 100 + b"]" * 100, 400, "malformed"),
    "DOCTYPE": (b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', 400, "xml_doctype"),
    "20 MB": (_bad(14, ZL="路" * 7_000_000), 413, "too_large"),
    "foreign tenant": (_bad(15, tenant="510198", BDCDYH="510198001001GB00001F00010015"), 404, "tenant_forbidden"),
    "not an object": (b"[1]", 422, "field_type"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_has_its_code_leaves_no_case_and_is_not_echoed(hub: Services, name: str) -> None:
    body, status, code = BAD[name]
    before = cases(hub)
    answer = hub.apply(body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert SENTINEL not in answer.text
    assert "510100190001" not in answer.text
    assert answer.json()["title_zh"]
    assert cases(hub) == before


def test_all_faults_at_once_with_paths(hub: Services) -> None:
    body = application(16, BDCDYH="bad", colour="red")
    body["QLR"][0]["ZJH"] = "510100190001010013"
    del body["ZL"]
    faults = {(fault["path"], fault["code"]) for fault in hub.apply(body).json()["faults"]}
    assert faults >= {
        ("/BDCDYH", "unit_code_invalid"),
        ("/colour", "field_unknown"),
        ("/QLR/0/ZJH", "citizen_id_invalid"),
        ("/ZL", "field_missing"),
    }


def _tampered(hub: Services, **changes: str) -> requests.Response:
    body = _bad(17)
    headers = hub.headers("hall", "cases", "POST", "/api/v1/cases", body)
    return hub.session.post(f"{hub.gateway}/api/v1/cases", data=body, headers={**headers, **changes}, timeout=20)


def test_signatures(hub: Services) -> None:
    before = cases(hub)
    assert _tampered(hub, gjgxjhpt_sign="AAAA").json()["code"] == "signature_invalid"
    assert _tampered(hub, gjgxjhpt_rid="nobody").json()["code"] == "caller_unknown"
    body = _bad(18)
    good = hub.headers("hall", "cases", "POST", "/api/v1/cases", body)
    altered = hub.session.post(f"{hub.gateway}/api/v1/cases", data=body + b" ", headers=good, timeout=20)
    assert (altered.status_code, altered.json()["code"]) == (401, "signature_invalid")
    old = hub.headers("hall", "cases", "POST", "/api/v1/cases", body, rtime=int(time.time() * 1000) - 400_000)
    stale = hub.session.post(f"{hub.gateway}/api/v1/cases", data=body, headers=old, timeout=20)
    assert (stale.status_code, stale.json()["code"]) == (401, "rtime_expired")
    dashed = {name.replace("_", "-").replace("gjgxjhpt", "gjzwfwpt"): value for name, value in good.items()}
    fine = hub.session.post(f"{hub.gateway}/api/v1/cases", data=body, headers=dashed, timeout=20)
    assert fine.status_code == 202
    assert cases(hub) == before + 1


def test_another_districts_case_is_not_even_said_to_exist(hub: Services) -> None:
    case = hub.apply(application(1)).json()["case"]
    answer = hub.call("GET", f"/api/v1/cases/{case}", caller="hall_510198")
    assert (answer.status_code, answer.json()["code"]) == (404, "case_unknown")
    answer = hub.call("POST", f"/api/v1/cases/{case}/withdrawal", b"", caller="hall_510198")
    assert (answer.status_code, answer.json()["code"]) == (404, "case_unknown")


def test_a_service_that_the_sid_does_not_cover(hub: Services) -> None:
    answer = hub.call(
        "POST", "/api/v1/exchanges/registry/progress", {"ywh": "1", "jdmc": "SL", "sj": "2026-01-01T00:00:00"}
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "service_forbidden")
    answer = hub.call("POST", "/api/v1/exchanges/nobody/x", {})
    assert (answer.status_code, answer.json()["code"]) == (404, "partner_unknown")


def test_withdrawal_and_correction(hub: Services) -> None:
    body = application(20)
    missing = body["SJ"].pop()
    answer = hub.apply(body).json()
    assert (answer["state"], answer["missing"]) == ("correction", ["身份证明"])
    case = answer["case"]
    corrected = hub.call("POST", f"/api/v1/cases/{case}/corrections", {"SJ": [missing]})
    assert (corrected.status_code, corrected.json()["state"]) == (202, "accepted")
    assert wait_for(lambda: hub.call("GET", f"/api/v1/cases/{case}").json()["state"] == "finished", 120)
    late = hub.call("POST", f"/api/v1/cases/{case}/withdrawal", b"")
    assert (late.status_code, late.json()["code"]) == (409, "state_conflict")
