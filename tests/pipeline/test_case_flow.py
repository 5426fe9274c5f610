"""A case from application to its end, on a real ledger with scripted partners."""

from __future__ import annotations

import pytest

from hub.errors import Refused
from hub.ports import Incoming
from hub.store.messages import Filter
from tests.pipeline.scripted import Stage, application, unreachable


def states(stage: Stage, case: str) -> dict[str, str]:
    """Exchange → state of the newest message of a case."""
    rows = stage.hub.reading.messages(Filter(case_no=case))
    return {f"{row.partner}/{row.exchange}": row.state for row in reversed(rows)}


def test_whole_case(stage: Stage) -> None:
    receipt = stage.apply()
    assert (receipt.case_state, receipt.missing) == ("accepted", ())
    stage.drain()
    assert stage.view(receipt.case).waiting_for == "tax"
    assert stage.view(receipt.case).unified_no == "TY" + receipt.case
    stage.clear(receipt.case)
    stage.drain()
    assert stage.view(receipt.case).waiting_for == "registry"
    stage.register(receipt.case)
    assert stage.view(receipt.case).state == "finished"
    stage.drain()
    assert stage.hub.reading.open_messages() == 0
    assert len(stage.wire.of("platform/identity_check")) == 2
    assert stage.wire.of("registry/clearance") == [{"ywh": receipt.case, "wszt": "1", "sphm": ["SP1"]}]
    assert [d["nodename"] for d in stage.wire.of("platform/progress")] == ["受理", "核验", "税务", "登簿"] or len(
        stage.wire.of("platform/progress")
    ) == 4
    assert stage.hub.seal()["events"] > 0
    assert stage.hub.verify().ok, stage.hub.verify().found


def test_replay_gives_the_first_answer_and_creates_nothing(stage: Stage) -> None:
    first = stage.apply()
    again = stage.apply()
    assert again.replayed
    assert (again.message, again.case) == (first.message, first.case)
    assert len(stage.hub.reading.cases(None, "", 10)) == 1


def test_same_key_other_body_conflicts(stage: Stage) -> None:
    stage.call("hall/application", application(1), key="k")
    with pytest.raises(Refused) as caught:
        stage.call("hall/application", application(2), key="k")
    assert (caught.value.code, caught.value.status) == ("idempotency_conflict", 409)
    assert len(stage.hub.reading.cases(None, "", 10)) == 1


def test_correction(stage: Stage) -> None:
    body = application()
    missing = body["SJ"].pop()
    receipt = stage.call("hall/application", body)
    assert (receipt.case_state, receipt.missing) == ("correction", ("身份证明",))
    stage.drain()
    assert not stage.wire.of("platform/identity_check")
    assert stage.wire.of("hall/notice")[0]["missing"] == ["身份证明"]
    corrected = stage.call("hall/correction", {"SJ": [missing]}, case=receipt.case)
    assert corrected.case_state == "accepted"
    stage.drain()
    assert stage.view(receipt.case).waiting_for == "tax"
    assert len(stage.wire.of("registry/case")[0]["sj"]) == 4
    with pytest.raises(Refused) as caught:
        stage.call("hall/correction", {"SJ": [{**missing, "sha256": "1" * 64}]}, case=receipt.case)
    assert caught.value.code == "state_conflict"


def test_withdrawal_tells_only_those_who_were_told(stage: Stage) -> None:
    early = stage.apply(1)
    stage.call("hall/withdrawal", {}, case=early.case)
    stage.drain()
    assert stage.view(early.case).state == "withdrawn"
    assert not stage.wire.of("tax/taxable_case")
    assert not stage.wire.of("tax/withdrawal")
    late = stage.apply(2)
    stage.drain()
    stage.call("hall/withdrawal", {"reason": "不卖了"}, case=late.case)
    stage.drain()
    assert [d["body"]["ywsldh"] for d in stage.wire.of("tax/withdrawal")] == [late.case]
    assert [d["ywh"] for d in stage.wire.of("registry/withdrawal")] == [late.case]
    assert stage.hub.reading.open_messages() == 0


def test_seized_unit_stops_the_case(stage: Stage) -> None:
    stage.wire.rules["registry/case"] = lambda _: Incoming(200, {"code": "2001"})
    receipt = stage.apply()
    stage.drain()
    view = stage.view(receipt.case)
    assert (view.state, view.reason) == ("stopped", "unit_seized")
    assert len(stage.wire.of("tax/withdrawal")) == len(stage.wire.of("tax/taxable_case"))
    assert not stage.wire.of("registry/withdrawal") or states(stage, receipt.case)["registry/withdrawal"] == "delivered"


def test_identity_mismatch_refuses(stage: Stage) -> None:
    stage.wire.rules["platform/identity_check"] = lambda _: Incoming(200, {"code": "0", "data": {"CheckCode": "2"}})
    receipt = stage.apply()
    stage.drain()
    view = stage.view(receipt.case)
    assert (view.state, view.reason) == ("refused", "identity_mismatch")
    assert not stage.wire.of("registry/case")


def test_duplicate_and_corrected_clearance(stage: Stage) -> None:
    receipt = stage.apply()
    stage.drain()
    negative = stage.clear(receipt.case, wszt="0")
    assert stage.view(receipt.case).reason == "clearance_negative"
    positive = stage.clear(receipt.case)
    assert positive.message != negative.message
    assert stage.clear(receipt.case).replayed
    # The late repeat of the first revision changes nothing.
    assert stage.clear(receipt.case, wszt="0").replayed
    stage.drain()
    assert stage.view(receipt.case).waiting_for == "registry"


def test_lost_callback_is_fetched_and_its_late_twin_absorbed(stage: Stage) -> None:
    receipt = stage.apply()
    stage.drain()
    body = {"ywsldh": receipt.case, "wszt": "1", "nsrxx": [{"sphm": "SP1"}]}
    stage.wire.rules["tax/clearance_query"] = lambda _: Incoming(200, {"head": {"rtn_code": "0000"}, "body": body})
    assert stage.hub.collect("tax", 5).collected == 1
    assert stage.clear(receipt.case).replayed
    stage.drain()
    assert stage.view(receipt.case).waiting_for == "registry"


def test_partner_down_and_back(stage: Stage) -> None:
    stage.wire.rules["tax/taxable_case"] = unreachable
    receipt = stage.apply()
    stage.drain(2)
    assert states(stage, receipt.case)["tax/taxable_case"] == "waiting"
    assert stage.hub.drain("tax", "airflow", 1).down
    del stage.wire.rules["tax/taxable_case"]
    stage.drain()
    assert states(stage, receipt.case)["tax/taxable_case"] == "delivered"
    ids = {delivery for key, delivery, _ in stage.wire.sent if key == "tax/taxable_case"}
    assert len(ids) == 1


def test_refusals_leave_no_case_and_do_not_consume_the_key(stage: Stage) -> None:
    bad = application()
    bad["QLR"][0]["ZJH"] = "510100190001010013"
    bad["BDCDYH"] = "510199001001KB00001F00010001"
    with pytest.raises(Refused) as caught:
        stage.call("hall/application", bad, key="k")
    assert {fault.code for fault in caught.value.faults} >= {"citizen_id_invalid", "unit_code_invalid"}
    assert stage.hub.reading.cases(None, "", 10) == []
    assert stage.call("hall/application", application(), key="k").case
    refused = stage.hub.reading.messages(Filter(state="refused"))
    assert [row.reason for row in refused] == [caught.value.code]
    assert stage.hub.verify().ok


def test_foreign_tenant(stage: Stage) -> None:
    with pytest.raises(Refused) as caught:
        stage.call("hall/application", application(tenant="510198"))
    assert (caught.value.code, caught.value.status) == ("tenant_forbidden", 404)
    receipt = stage.apply()
    with pytest.raises(Refused) as caught:
        stage.call("hall/withdrawal", {}, caller="hall_510198", case=receipt.case)
    assert (caught.value.code, caught.value.status) == ("case_unknown", 404)


def test_a_negative_registration_may_be_followed_by_a_positive_one(stage: Stage) -> None:
    receipt = stage.apply()
    stage.drain()
    stage.clear(receipt.case)
    stage.drain()
    stage.register(receipt.case, qszt="0")
    assert stage.view(receipt.case).reason == "registration_negative"
    stage.register(receipt.case)
    assert stage.view(receipt.case).state == "finished"


def test_nothing_leaves_after_a_withdrawal_that_had_not_left_before(stage: Stage) -> None:
    stage.wire.rules["platform/identity_check"] = unreachable
    receipt = stage.apply()
    stage.drain(2)
    before = len(stage.wire.of("platform/identity_check"))
    assert before > 0
    stage.call("hall/withdrawal", {}, case=receipt.case)
    del stage.wire.rules["platform/identity_check"]
    stage.drain()
    assert len(stage.wire.of("platform/identity_check")) == before
    assert stage.view(receipt.case).state == "withdrawn"
    assert stage.hub.reading.open_messages() == 0


def test_one_identity_whichever_of_the_partners_callers_brings_it(stage: Stage) -> None:
    receipt = stage.apply()
    stage.drain()
    first = stage.clear(receipt.case)
    body = {"ywsldh": receipt.case, "wszt": "1", "nsrxx": [{"sphm": "SP1"}]}
    again = stage.call("tax/clearance", body, caller="tax_national")
    assert again.replayed
    assert again.message == first.message


def test_search_finds_a_person_however_old_and_refuses_what_is_no_text(stage: Stage) -> None:
    first = stage.apply(1, QLR=[{"QLRMC": "测试丙", "ZJZL": "1", "ZJH": "510100190001010039", "GYFS": "0"}])
    for n in range(2, 8):
        stage.apply(n)
    hall = stage.keyring.callers["hall"]
    found = stage.hub.desk.search(hall, {"name": "测试丙", "limit": 1})
    assert [row.case for row in found] == [first.case]
    assert stage.hub.desk.search(hall, {"name": "测试丁"}) == []
    with pytest.raises(Refused) as caught:
        stage.hub.desk.search(hall, {"number": 510100190001010039})
    assert caught.value.code == "field_type"


def test_a_clearance_taken_back_in_time_holds_the_case(stage: Stage) -> None:
    stage.wire.rules["registry/case"] = unreachable
    receipt = stage.apply()
    stage.drain()
    stage.clear(receipt.case)
    stage.clear(receipt.case, wszt="0")
    del stage.wire.rules["registry/case"]
    stage.drain()
    assert not stage.wire.of("registry/clearance")
    view = stage.view(receipt.case)
    assert (view.waiting_for, view.reason) == ("tax", "clearance_negative")
    stage.clear(receipt.case, nsrxx=[{"sphm": "SP2"}])
    stage.drain()
    assert [sent["sphm"] for sent in stage.wire.of("registry/clearance")] == [["SP2"]]


def test_a_clearance_changed_too_late_is_shown(stage: Stage) -> None:
    receipt = stage.apply()
    stage.drain()
    stage.clear(receipt.case)
    stage.drain()
    stage.clear(receipt.case, wszt="0")
    assert stage.view(receipt.case).reason == "clearance_revised"
    stage.register(receipt.case)
    assert stage.view(receipt.case).state == "finished"
