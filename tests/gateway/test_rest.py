import gzip
import http.client
import re

import pytest

from hub.errors import Broken, Fault, Misconfigured, Refused, Transient, Unknown
from tests.gateway.conftest import CALLERS, signature, until

APPLICATION = {
    "matter": "clf_transfer",
    "tenant": "510199",
    "channel": "hall",
    "BDCDYH": "510199001001GB00001F00010001",
    "BDCQZH": "川(2026)测试市不动产权第0000001号",
    "HTBH": "HT1",
    "ZL": "测试路1号",
    "QLR": [{"QLRMC": "测试甲", "ZJZL": "1", "ZJH": "510100190001010012", "GYFS": "0"}],
    "YWR": [{"QLRMC": "测试乙", "ZJZL": "1", "ZJH": "510100190001010012", "GYFS": "0"}],
    "SJ": [{"SJMC": "合同", "SJLX": "1", "sha256": "0" * 64}],
}


def apply(gateway, body=None, **more):
    return gateway.call("hall", "cases", "POST", "/api/v1/cases", APPLICATION if body is None else body, **more)


def test_an_application_is_accepted_and_its_repeat_is_marked(gateway):
    first = apply(gateway)
    assert first.status == 202
    assert set(first.json) == {"case", "message", "state", "missing", "status_url"}
    assert first.json["state"] == "accepted"
    assert first.headers["location"] == first.json["status_url"] == f"/api/v1/cases/{first.json['case']}"
    assert "idempotent-replayed" not in first.headers
    again = apply(gateway)
    assert again.json == first.json
    assert again.headers["idempotent-replayed"] == "true"
    (call,) = gateway.desk.calls
    assert (call.partner, call.exchange, call.caller.name, call.path_case) == ("hall", "application", "hall", "")


def test_the_same_key_with_another_body_conflicts(gateway):
    headers = {"Idempotency-Key": "k-1"}
    assert apply(gateway, headers=headers).status == 202
    assert gateway.desk.calls[0].key == "k-1"
    assert apply(gateway, {**APPLICATION, "HTBH": "HT2"}, headers=headers).code == "idempotency_conflict"


@pytest.mark.parametrize("key", ["", " ", "x" * 129, "a b", "\xfc"])
def test_an_odd_idempotency_key_is_refused(gateway, key):
    answer = apply(gateway, headers={"Idempotency-Key": key})
    assert (answer.status, answer.code) == (400, "idempotency_key_invalid")


def test_correction_withdrawal_case_and_timeline(gateway):
    case = apply(gateway, {**APPLICATION, "SJ": []}).json
    assert (case["state"], case["missing"]) == ("correction", ["01"])
    where = case["status_url"]
    corrected = gateway.call("hall", "cases", "POST", f"{where}/corrections", {"SJ": APPLICATION["SJ"]})
    assert (corrected.status, corrected.json["case"], corrected.json["state"]) == (202, case["case"], "accepted")
    withdrawn = gateway.call("hall", "cases", "POST", f"{where}/withdrawal")
    assert (withdrawn.status, withdrawn.json["state"]) == (202, "withdrawn")
    assert [call.path_case for call in gateway.desk.calls] == ["", case["case"], case["case"]]
    assert gateway.desk.calls[-1].raw == b"{}"
    found = gateway.call("hall", "cases", "GET", where)
    assert found.status == 200
    assert list(found.json) == (
        [
            "case",
            "unified_no",
            "matter",
            "matter_version",
            "tenant",
            "state",
            "step",
            "waiting_for",
            "reason",
            "updated",
        ]
    )
    assert found.json["state"] == "withdrawn"
    rows = gateway.call("hall", "cases", "GET", f"{where}/timeline").json
    assert [list(row) for row in rows] == [["at", "step", "partner", "exchange", "message", "state"]] * 3


def test_messages_are_read_and_searched(gateway):
    message = apply(gateway).json["message"]
    assert gateway.call("hall", "messages", "GET", f"/api/v1/messages/{message}").json["id"] == message
    found = gateway.call("hall", "messages", "POST", "/api/v1/messages/search", {"exchange": "application"})
    assert [row["id"] for row in found.json["messages"]] == [message]
    assert gateway.call("hall", "messages", "POST", "/api/v1/messages/search", []).code == "malformed"
    assert gateway.call("hall", "messages", "POST", "/api/v1/messages/search", b'{"a":NaN}').code == "malformed"
    assert gateway.call("hall", "messages", "GET", "/api/v1/messages/none").code == "message_unknown"


def test_an_exchange_answers_message_state_code(gateway):
    answer = gateway.call("registry", "progress", "POST", "/api/v1/exchanges/registry/progress", {"ywh": "1"})
    assert answer.status == 200
    assert list(answer.json) == ["message", "state", "code"]
    (call,) = gateway.desk.calls
    assert (call.partner, call.exchange, call.document, call.raw) == ("registry", "progress", None, b'{"ywh":"1"}')


def test_an_exchange_whose_contract_is_an_xsd_takes_xml(gateway):
    target = "/api/v1/exchanges/tax/clearance"
    good = b'<submitClearance xmlns="urn:dukou:tax:1"><ywsldh>1</ywsldh><wszt>1</wszt></submitClearance>'
    assert gateway.call("tax", "clearance", "POST", target, good).status == 200
    assert gateway.desk.calls[0].document == {"ywsldh": "1", "wszt": "1"}
    missing = b'<submitClearance xmlns="urn:dukou:tax:1"><ywsldh>1</ywsldh></submitClearance>'
    answer = gateway.call("tax", "clearance", "POST", target, missing)
    assert (answer.status, answer.code) == (422, "field_missing")
    assert gateway.call("tax", "clearance", "POST", target, b"<other/>").code == "malformed"
    assert gateway.call("tax", "clearance", "POST", target, b"<!DOCTYPE a><a/>").code == "xml_doctype"
    xml_for_json = gateway.call("registry", "progress", "POST", "/api/v1/exchanges/registry/progress", b"<a/>")
    assert (xml_for_json.status, xml_for_json.code) == (400, "malformed")


def test_wrong_names_are_answered_with_the_right_ones(gateway):
    partner = gateway.call("registry", "progress", "POST", "/api/v1/exchanges/regi/progress", {})
    assert (partner.status, partner.code) == (404, "partner_unknown")
    assert "hall, registry, tax" in partner.json["title"]
    assert "registry" in partner.json["title_zh"]
    exchange = gateway.call("registry", "progress", "POST", "/api/v1/exchanges/registry/progres", {})
    assert (exchange.status, exchange.code) == (404, "exchange_unknown")
    assert "progress, result" in exchange.json["title"]


@pytest.mark.parametrize(
    ("who", "key", "method", "target"),
    [
        ("hall", "messages", "POST", "/api/v1/cases"),
        ("hall", "messages", "GET", "/api/v1/cases/1"),
        ("hall", "messages", "GET", "/api/v1/cases/1/timeline"),
        ("hall", "messages", "POST", "/api/v1/cases/1/corrections"),
        ("hall", "messages", "POST", "/api/v1/cases/1/withdrawal"),
        ("hall", "cases", "GET", "/api/v1/messages/1"),
        ("hall", "cases", "POST", "/api/v1/messages/search"),
        ("hall", "no-such-sid", "POST", "/api/v1/cases"),
        ("registry", "result", "POST", "/api/v1/exchanges/registry/progress"),
        ("registry", "progress", "POST", "/api/v1/exchanges/tax/clearance"),
        ("registry", "progress", "POST", "/api/v1/exchanges/tax/nothing"),
        ("registry", "progress", "POST", "/api/v1/cases"),
    ],
)
def test_a_sid_that_does_not_cover_the_call_is_forbidden(gateway, who, key, method, target):
    answer = gateway.call(who, key, method, target, {})
    assert (answer.status, answer.code) == (403, "service_forbidden")
    assert gateway.desk.calls == []
    assert gateway.desk.refusals == [("service_forbidden", who)]


def test_signatures(gateway):
    unsigned = gateway.raw("POST", "/api/v1/cases", b"{}")
    assert (unsigned.status, unsigned.code) == (401, "signature_invalid")
    stale = apply(gateway, rtime=1_700_000_000_000)
    assert (stale.status, stale.code) == (401, "rtime_expired")
    wrong = apply(gateway, headers={"gjgxjhpt_sign": "AAAA"})
    assert (wrong.status, wrong.code) == (401, "signature_invalid")
    stranger = apply(gateway, headers={"gjgxjhpt_rid": "nobody"})
    assert (stranger.status, stranger.code) == (401, "caller_unknown")
    assert [code for code, _ in gateway.desk.refusals] == [
        "signature_invalid",
        "rtime_expired",
        "signature_invalid",
        "caller_unknown",
    ]
    assert {caller for _, caller in gateway.desk.refusals} == {""}


def test_a_second_signature_header_does_not_replace_the_first(gateway):
    signed = signature(CALLERS["hall"], "s_c", "GET", "/api/v1/cases/1", b"")
    line = http.client.HTTPConnection("127.0.0.1", gateway.port)
    line.putrequest("GET", "/api/v1/cases/1")
    line.putheader("gjgxjhpt_sign", "AAAA")
    for name, value in signed.items():
        line.putheader(name, value)
    line.endheaders()
    assert line.getresponse().status == 401
    line.close()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "malformed"),
        (b'{"a":1,"a":2}', "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"[" * 2000, "malformed"),
        (b"", "malformed"),
        (b"<a/>", "malformed"),
        (b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "xml_doctype"),
        (b"\xef\xbb\xbf \n<!doctype html><a/>", "xml_doctype"),
    ],
)
def test_bodies_that_cannot_be_read(gateway, body, code):
    answer = apply(gateway, body, headers={"Content-Type": "application/xml"})
    assert (answer.status, answer.code) == (400, code)


def test_an_encoded_body_is_refused(gateway):
    answer = apply(gateway, gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"})
    assert (answer.status, answer.code) == (415, "encoding_unsupported")
    assert apply(gateway, headers={"Content-Encoding": "identity"}).status == 202


def test_every_fault_is_listed(gateway):
    faults = (
        Fault("/QLR/0/ZJH", "citizen_id_invalid", "not valid", "无效"),
        Fault("/BDCDYH", "unit_code_invalid", "not valid", "无效"),
    )
    gateway.desk.failure = Refused("citizen_id_invalid", "not valid", "无效", 422, faults)
    answer = apply(gateway)
    assert (answer.status, answer.code) == (422, "citizen_id_invalid")
    assert answer.json["faults"] == [
        {"path": "/QLR/0/ZJH", "code": "citizen_id_invalid", "en": "not valid", "zh": "无效"},
        {"path": "/BDCDYH", "code": "unit_code_invalid", "en": "not valid", "zh": "无效"},
    ]
    assert gateway.desk.refusals == []  # the desk ledgers what it refuses


def test_a_delay_is_busy_with_retry_after(gateway):
    gateway.desk.failure = Transient("locked", "locked", "锁", 2.2)
    answer = apply(gateway)
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "busy", "3")
    gateway.desk.failure = Unknown("locked", "locked", "锁")
    assert apply(gateway).headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "failure",
    [RuntimeError("测试甲 510100190001010012"), Misconfigured("x", "测试甲", "测试甲"), Broken("y", "测试甲", "")],
)
def test_an_unexpected_error_says_its_class_and_place_only(gateway, logged, failure):
    gateway.desk.failure = failure
    answer = apply(gateway)
    assert (answer.status, answer.code) == (500, "internal")
    assert type(failure).__name__ in logged.text
    assert "memory_desk.py" in logged.text
    for text in (answer.body.decode(), logged.text):
        assert "测试甲" not in text
        assert "510100190001010012" not in text


def test_a_count_that_fails_changes_nothing(gateway, monkeypatch):
    def broken(_code, _caller):
        raise RuntimeError

    monkeypatch.setattr(type(gateway.desk), "refused", lambda *_: broken("", ""))
    assert gateway.raw("GET", "/api/v1/cases/1").code == "signature_invalid"


def test_the_access_log_knows_route_caller_and_code_but_no_path(gateway, logged):
    apply(gateway)
    gateway.call("hall", "cases", "GET", "/api/v1/cases/%E6%B5%8B%E8%AF%95?name=sentinel")
    gateway.raw("GET", "/sentinel?sentinel=1")
    until(lambda: logged.text.count("ms=") == 3)
    rows = [record.getMessage() for record in logged.records if record.name == "dukou.gateway.access"]
    assert re.fullmatch(r"method=POST route=/api/v1/cases status=202 ms=[0-9.]+ caller=hall code=-", rows[0])
    assert "route=/api/v1/cases/{no} status=404" in rows[1]
    assert rows[1].endswith("caller=hall code=case_unknown")
    assert "route=- status=404" in rows[2]
    assert "sentinel" not in logged.text
    assert "测试" not in logged.text


@pytest.mark.parametrize(
    ("method", "target", "code", "status"),
    [
        ("GET", "/", "not_found", 404),
        ("GET", "/api/v1/cases/", "method_not_allowed", 405),
        ("GET", "/api/v1/cases/1/", "not_found", 404),
        ("POST", "/api/v1/cases/a%2Fb/withdrawal", "not_found", 404),
        ("GET", "/api/v1/cases", "method_not_allowed", 405),
        ("OPTIONS", "/api/v1/cases", "method_not_allowed", 405),
        ("DELETE", "/soap/tax", "method_not_allowed", 405),
        ("PUT", "/api/v1/cases/1", "method_not_allowed", 405),
        ("TRACE", "/healthz", "method_not_allowed", 405),
        ("GET", "/soap/tax", "not_found", 404),
        ("GET", "/soap/none?wsdl", "partner_unknown", 404),
        ("GET", "/soap/tax?xsd=../tax.xsd", "not_found", 404),
    ],
)
def test_everything_else_is_a_problem(gateway, method, target, code, status):
    if target == "/api/v1/cases/":
        code, status = "not_found", 404
    answer = gateway.raw(method, target)
    assert (answer.status, answer.code) == (status, code)
    if status == 405:
        assert answer.headers["allow"]


def test_a_wrong_method_is_told_every_right_one(gateway):
    assert set(gateway.raw("PUT", "/soap/tax").headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


def test_head_is_get_without_a_body(gateway):
    where = apply(gateway).json["status_url"]
    answer = gateway.call("hall", "cases", "HEAD", where)
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 0
    assert gateway.raw("HEAD", where).status == 401


@pytest.mark.parametrize(
    "no", ["%", "%zz", "%FF", "%00", "%E6%B5%8B%E8%AF%95", "%0D%0A", "x" * 65, "..%2e", "%F0%9F%9A%A2", "a;b=c", "a+b"]
)
def test_odd_paths_are_signed_as_sent_and_unknown(gateway, no):
    for target in (f"/api/v1/cases/{no}", f"/api/v1/cases/{no}?q=%E6%B5%8B&r=%ZZ+%20"):
        answer = gateway.call("hall", "cases", "GET", target)
        assert (answer.status, answer.code) == (404, "case_unknown")
    assert gateway.call("hall", "cases", "GET", f"/api/v1/cases/{no}/timeline").code == "case_unknown"


def test_the_query_is_part_of_what_is_signed(gateway):
    signed = signature(CALLERS["hall"], "s_c", "GET", "/api/v1/cases/1?a=1", b"")
    assert gateway.raw("GET", "/api/v1/cases/1?a=2", headers=signed).code == "signature_invalid"


def test_health_readiness_metrics(serving):
    gateway = serving()
    apply(gateway)
    assert gateway.raw("GET", "/healthz").json == {"status": "alive"}
    assert gateway.raw("GET", "/readyz").json == {"status": "ready"}
    until(lambda: "hall/application" in gateway.raw("GET", "/metrics").body.decode())
    text = gateway.raw("GET", "/metrics").body.decode()
    assert 'dukou_messages{exchange="hall/application"} 1.0' in text
    assert 'dukou_gateway_requests_total{route="/api/v1/cases",method="POST",status="202"} 1.0' in text
    assert "# TYPE dukou_gateway_requests_total counter" in text
    gateway.desk.is_ready = False
    answer = gateway.raw("GET", "/readyz")
    assert (answer.status, answer.code) == (503, "busy")
