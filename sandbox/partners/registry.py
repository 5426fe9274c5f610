"""A city's registration system: it takes a case, waits for the clearance, registers, and calls back as it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox import owing
from sandbox.desk import Answer, Codes, Desk, Document, Exchange, Partner, bearer, flat, number_from
from sandbox.state import shanghai

if TYPE_CHECKING:
    from sandbox.control import Misbehaviour

CODES = Codes(done="0000", busy="9999", invalid="1001", denied="4001", unlisted="7777")
SEIZED = "2001"
NOT_READY = "1404"
UNKNOWN_DELIVERY = "4004"

# Stages told after the clearance: 核定, 登簿. SL (受理) is told as soon as the case is here.
_AFTER_CLEARANCE = ("HD", "DB")
_SOON_S = 0.2
FOREVER = float("inf")


def progress_of(ywh: str, stage: str, at: float) -> dict[str, Any]:
    """A progress call."""
    return {"ywh": ywh, "jdmc": stage, "sj": shanghai(at)}


def registration_of(ywh: str, unit: str, at: float) -> dict[str, Any]:
    """The registration of a case; its certificate number is always the same for the same case."""
    return {
        "ywh": ywh,
        "bdcdyh": unit,
        "bdcqzh": f"川(2026)测试市不动产权第{number_from('bdcqzh', ywh, 7)}号",
        "djsj": shanghai(at),
        "qszt": "1",
        "dbr": "测试登簿员",
        "djjg": "测试市自然资源和规划局",
    }


def _take_case(desk: Desk, document: Document) -> None:
    ywh, unit = document["ywh"], document["bdcdyh"]
    known = desk.state.case("registry", ywh) is not None
    desk.state.put_case("registry", ywh, unit, document)
    if not known:
        owing.owe(desk, owing.Debt("registry", "progress", ywh, unit, progress_of(ywh, "SL", desk.clock())), _SOON_S)


def _refuse_seized(desk: Desk, unit: str, found: Misbehaviour) -> Answer | None:
    if desk.control.seizes("registry", found, unit):
        return Answer(SEIZED, "不动产单元已被查封 / the unit is seized")
    return None


def _refuse_case(desk: Desk, document: Document, found: Misbehaviour) -> Answer | None:
    return _refuse_seized(desk, document["bdcdyh"], found)


def _case_answer(_desk: Desk, document: Document) -> Answer:
    data = {"ywh": document["ywh"], "slbh": "SL" + number_from("slbh", document["ywh"], 12), "zt": "SL"}
    return Answer(CODES.done, "已受理 / accepted", data)


def _refuse_clearance(desk: Desk, document: Document, found: Misbehaviour) -> Answer | None:
    case = desk.state.case("registry", document["ywh"])
    if case is None:
        return Answer(CODES.invalid, "无此办件 / no such case", http=422)
    return _refuse_seized(desk, case["bdcdyh"], found)


def _take_clearance(desk: Desk, document: Document) -> None:
    ywh = document["ywh"]
    case = desk.state.case("registry", ywh)
    registered = desk.state.result("registry", ywh, FOREVER) is not None
    # Nobody registers twice: a second clearance counts as an effect, but its result stays the first one.
    if case is not None and document["wszt"] == "1" and not registered:
        _register(desk, ywh, case["bdcdyh"])


def _register(desk: Desk, ywh: str, unit: str) -> None:
    at = desk.clock() + desk.settings.callback_delay_s
    registration = registration_of(ywh, unit, at)
    stages = [owing.Debt("registry", "progress", ywh, unit, progress_of(ywh, stage, at)) for stage in _AFTER_CLEARANCE]
    result = owing.Debt("registry", "result", ywh, unit, registration)
    ready_at = max(owing.owe(desk, debt) for debt in (*stages, result))
    desk.state.put_result("registry", ywh, registration, ready_at)


def _query(desk: Desk, document: Document) -> Answer:
    result = desk.state.result("registry", document["ywh"], desk.clock())
    if result is None:
        return Answer(NOT_READY, "尚无登簿结果 / no result yet")
    return Answer(CODES.done, "成功 / done", result)


def _withdraw(desk: Desk, document: Document) -> None:
    desk.state.forget_case("registry", document["ywh"])


def _thanks(_desk: Desk, _document: Document) -> Answer:
    return Answer(CODES.done, "成功 / done")


def _find_delivery(desk: Desk, document: Document) -> Answer:
    if desk.state.was_applied("registry", document["delivery_id"]):
        return Answer(CODES.done, "已收到 / arrived")
    return Answer(UNKNOWN_DELIVERY, "未收到 / has not arrived", http=404)


def revise(desk: Desk, ywh: str, changes: Document) -> dict[str, Any]:
    """The result that an operator sends now; from here on the query answers the same."""
    known = desk.state.case("registry", ywh)
    unit = known["bdcdyh"] if known else changes.get("bdcdyh", "")
    kept = desk.state.result("registry", ywh, FOREVER)
    registration = {**(kept or registration_of(ywh, unit, desk.clock())), **changes}
    with desk.state.transaction():
        desk.state.cancel_jobs("registry", ywh, "result")
        if known:
            desk.state.put_result("registry", ywh, registration, desk.clock())
    return registration


_CASE_NO = ("/ywh",)

PARTNER = Partner(
    name="registry",
    exchanges=(
        Exchange(
            name="case",
            path="/registry/cases",
            identity=_CASE_NO,
            answer=_case_answer,
            contract="registry/case.json",
            refuse=_refuse_case,
            apply=_take_case,
        ),
        Exchange(
            name="clearance",
            path="/registry/clearances",
            identity=_CASE_NO,
            answer=_thanks,
            contract="registry/clearance.json",
            refuse=_refuse_clearance,
            apply=_take_clearance,
        ),
        Exchange(
            name="withdrawal",
            path="/registry/withdrawals",
            identity=_CASE_NO,
            answer=_thanks,
            contract="registry/withdrawal.json",
            apply=_withdraw,
        ),
        Exchange(
            name="result_query",
            path="/registry/result-queries",
            identity=_CASE_NO,
            answer=_query,
            contract="registry/result_query.json",
            effect=False,
        ),
        Exchange(
            name="deliveries",
            path="/registry/deliveries/{delivery_id}",
            identity=("/delivery_id",),
            answer=_find_delivery,
            effect=False,
            method="GET",
        ),
    ),
    codes=CODES,
    render=flat,
    authenticate=bearer("registry", CODES.denied),
)
