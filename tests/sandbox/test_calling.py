"""The calls that stand-ins make: content, signature, order, repeats, and that they survive kill -9."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import requests
from lxml import etree

from sandbox import soap
from sandbox.gateway import Reply, verdict
from tests.sandbox.conftest import ROOT, SECRETS, UNIT, YWH, eventually, head, registry_case, taxable_case

if TYPE_CHECKING:
    from tests.sandbox.conftest import FakeGateway, Sandbox

SOAP = "/soap/tax"
PROGRESS = "/api/v1/exchanges/registry/progress"
RESULT = "/api/v1/exchanges/registry/result"
CLEARANCE = {"ywh": YWH, "wszt": "1", "sphm": ["351000000000000000"]}


def _fault(version: str, code: str) -> bytes:
    namespace = soap.ENVELOPES[version]
    inner = f"<faultcode>s:{code}</faultcode>" if version == "1.1" else f"<s:Code><s:Value>s:{code}</s:Value></s:Code>"
    return f'<s:Envelope xmlns:s="{namespace}"><s:Body><s:Fault>{inner}</s:Fault></s:Body></s:Envelope>'.encode()


def _operation(body: bytes) -> etree._Element:
    return etree.fromstring(body)[0][0]


def _texts(element: etree._Element) -> dict[str, str]:
    return {etree.QName(child).localname: child.text or "" for child in element if len(child) == 0}


def _query(sandbox: Sandbox, ywsldh: str = YWH) -> dict[str, Any]:
    document = {"head": head("queryClearance"), "body": {"ywsldh": ywsldh}}
    answer: dict[str, Any] = sandbox.post("tax", "/tax/clearance-queries", document, 999).json()
    return answer


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (202, b"{}", "done"), (404, b"{}", "final"), (409, b"{}", "final"), (429, b"{}", "again"),
        (503, b"{}", "again"), (500, b"oops", "again"), (500, _fault("1.1", "Client"), "final"),
        (500, _fault("1.1", "Server"), "again"), (400, _fault("1.2", "Sender"), "final"),
        (500, _fault("1.2", "Receiver"), "again"), (301, b"", "final"),
    ],
)  # fmt: skip
def test_what_an_answer_means(status: int, body: bytes, expected: str) -> None:
    assert verdict(Reply(status, {}, body)) == expected


def test_half_of_the_cases_speak_each_soap_version() -> None:
    versions = [soap.version_for(f"5101992026{number:08d}") for number in range(200)]
    assert 60 < versions.count("1.1") < 140


def test_clearance_by_call_and_by_query_is_the_same(sandbox: Sandbox, gateway: FakeGateway) -> None:
    schema = etree.XMLSchema(etree.parse(ROOT / "schemas" / "tax" / "tax.xsd"))
    for number, ywsldh in enumerate(("a1", "a2", "a3", "a4")):
        sandbox.post("tax", "/tax/taxable-cases", taxable_case(ywsldh), number)
    assert _query(sandbox, "a1")["head"]["rtn_code"] == "1404"
    eventually(lambda: len(gateway.to(SOAP)) == 4)
    for call in gateway.to(SOAP):
        operation = _operation(call.body)
        assert schema.validate(operation), schema.error_log
        assert call.signature_holds(SECRETS["tax"])
        assert call.headers["gjgxjhpt_sid"] == "s_clearance"
        called = _texts(operation)
        answered = _query(sandbox, called["ywsldh"])["body"]
        assert {key: value for key, value in answered.items() if key != "nsrxx"} == called
        assert [{key: str(value) for key, value in one.items()} for one in answered["nsrxx"]] == [
            _texts(one) for one in operation if len(one)
        ]
        versioned = "1.2" if "action=" in call.headers["content-type"] else "1.1"
        assert versioned == soap.version_for(called["ywsldh"])
        assert (versioned == "1.1") == ("soapaction" in call.headers)


def test_a_lost_callback_is_found_by_the_query_only(sandbox: Sandbox, gateway: FakeGateway) -> None:
    sandbox.set("tax", skip_callback=True, times=1)
    sandbox.post("tax", "/tax/taxable-cases", taxable_case())
    eventually(lambda: _query(sandbox)["head"]["rtn_code"] == "0000")
    assert sandbox.pending() == 0
    assert gateway.calls == []
    assert requests.get(sandbox.at("/_control/tax"), timeout=5).json() == {}


def test_settings_made_while_a_callback_waits_still_work(sandbox: Sandbox, gateway: FakeGateway) -> None:
    sandbox.set("tax", callback_delay_ms=400, times=1)
    sandbox.post("tax", "/tax/taxable-cases", taxable_case("late"))
    sandbox.post("tax", "/tax/taxable-cases", taxable_case("soon"), 2)
    eventually(lambda: gateway.calls)
    assert _texts(_operation(gateway.calls[0].body))["ywsldh"] == "soon"
    sandbox.set("tax", skip_callback=[UNIT])
    sandbox.post("tax", "/tax/taxable-cases", taxable_case("skipped"), 3)
    sandbox.post("tax", "/tax/taxable-cases", taxable_case("other", UNIT[:-1] + "2"), 4)
    eventually(lambda: sandbox.pending() == 0)
    assert sorted(_texts(_operation(call.body))["ywsldh"] for call in gateway.calls) == ["late", "other", "soon"]


def test_duplicates_carry_the_same_bytes(sandbox: Sandbox, gateway: FakeGateway) -> None:
    sandbox.set("tax", duplicate_callbacks=True)
    sandbox.post("tax", "/tax/taxable-cases", taxable_case())
    eventually(lambda: sandbox.pending() == 0)
    first, second = gateway.to(SOAP)
    assert first.body == second.body
    assert first.signature_holds(SECRETS["tax"])
    assert second.signature_holds(SECRETS["tax"])


def test_a_wrong_code_is_told_by_the_tax_office(sandbox: Sandbox, gateway: FakeGateway) -> None:
    sandbox.set("tax", code_wrong=True, times=1)
    assert sandbox.post("tax", "/tax/taxable-cases", taxable_case()).json()["head"]["rtn_code"] == "7777"
    eventually(lambda: gateway.calls)
    assert _texts(_operation(gateway.calls[0].body))["wszt"] == "9"


def test_withdrawal_cancels_what_is_owed(sandbox: Sandbox, gateway: FakeGateway) -> None:
    sandbox.set("tax", callback_delay_ms=300)
    sandbox.post("tax", "/tax/taxable-cases", taxable_case())
    assert sandbox.pending() == 1
    withdrawal = {"head": head("withdraw"), "body": {"ywsldh": YWH, "yy": "withdrawn"}}
    assert sandbox.post("tax", "/tax/withdrawals", withdrawal, 2).json()["head"]["rtn_code"] == "0000"
    assert sandbox.pending() == 0
    assert _query(sandbox)["head"]["rtn_code"] == "1404"
    assert gateway.calls == []


def test_calls_are_repeated_until_taken_and_given_up_when_refused(sandbox: Sandbox, gateway: FakeGateway) -> None:
    gateway.answers += [(503, b"{}"), (500, _fault("1.1", "Server")), (202, b"{}")]
    sandbox.post("tax", "/tax/taxable-cases", taxable_case("again"))
    eventually(lambda: sandbox.pending() == 0)
    assert len(gateway.calls) == 3
    assert len({call.body for call in gateway.calls}) == 1
    gateway.answers += [(500, _fault("1.1", "Client"))]
    sandbox.post("tax", "/tax/taxable-cases", taxable_case("never"), 2)
    eventually(lambda: sandbox.pending() == 0)
    assert len(gateway.calls) == 4


def test_owed_calls_survive_a_kill(sandbox: Sandbox, gateway: FakeGateway) -> None:
    sandbox.set("tax", callback_delay_ms=500)
    sandbox.post("tax", "/tax/taxable-cases", taxable_case())
    sandbox.kill()
    assert gateway.calls == []
    sandbox.start()
    eventually(lambda: gateway.to(SOAP))
    assert _query(sandbox)["head"]["rtn_code"] == "0000"


def test_a_dead_office_calls_nobody(sandbox: Sandbox, gateway: FakeGateway) -> None:
    sandbox.post("tax", "/tax/taxable-cases", taxable_case())
    sandbox.set("tax", down=True)
    sandbox.post("registry", "/registry/cases", registry_case())
    eventually(lambda: gateway.to(PROGRESS))
    assert sandbox.pending() == 1
    requests.delete(sandbox.at("/_control/tax"), timeout=5)
    eventually(lambda: gateway.to(SOAP))


def test_the_registry_calls_in_order_and_answers_the_same_when_asked(sandbox: Sandbox, gateway: FakeGateway) -> None:
    sandbox.post("registry", "/registry/cases", registry_case())
    assert sandbox.post("registry", "/registry/result-queries", {"ywh": YWH}, 50).json()["code"] == "1404"
    gateway.answers += [(503, b"{}")]
    sandbox.post("registry", "/registry/clearances", CLEARANCE, 2)
    eventually(lambda: gateway.to(RESULT))
    stages = [json.loads(call.body)["jdmc"] for call in gateway.to(PROGRESS)]
    assert stages == ["SL", "SL", "HD", "DB"]
    assert gateway.calls[-1].path == RESULT
    assert all(call.signature_holds(SECRETS["registry"]) for call in gateway.calls)
    told = json.loads(gateway.to(RESULT)[0].body)
    asked = sandbox.post("registry", "/registry/result-queries", {"ywh": YWH}, 51).json()["data"]
    assert told == asked
    assert told["bdcqzh"].startswith("川(2026)测试市不动产权第")
    # A second clearance is a second effect, but nobody registers twice.
    sandbox.post("registry", "/registry/clearances", CLEARANCE, 3)
    assert sandbox.pending() == 0
    assert sandbox.effects()["registry/clearance"] == {YWH: 2}


def test_a_lost_result_is_found_by_the_query(sandbox: Sandbox, gateway: FakeGateway) -> None:
    sandbox.set("registry", skip_callback=True)
    sandbox.post("registry", "/registry/cases", registry_case())
    sandbox.post("registry", "/registry/clearances", CLEARANCE, 2)
    eventually(lambda: len(gateway.to(PROGRESS)) == 3 and sandbox.pending() == 0)
    assert gateway.to(RESULT) == []
    eventually(lambda: sandbox.post("registry", "/registry/result-queries", {"ywh": YWH}, 9).json()["code"] == "0000")
