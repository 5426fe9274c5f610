"""The tax bureau: it takes a taxable case, works for a moment, and calls ``submitClearance`` over SOAP."""

from __future__ import annotations

from typing import Any

from sandbox import owing
from sandbox.desk import Answer, Codes, Desk, Document, Exchange, Partner, bearer, number_from, token_from

CODES = Codes(done="0000", busy="9999", invalid="1001", denied="4001", unlisted="7777")
NOT_READY = "1404"
_DONE = Answer(CODES.done, "成功 / done")


def render(answer: Answer, document: Document) -> Document:
    """The head/body envelope; the head repeats what the request named."""
    head = document.get("head") if isinstance(document.get("head"), dict) else None
    named = {key: head[key] for key in ("channel_id", "tran_date", "tran_id", "tran_seq") if head and key in head}
    body = {"body": dict(answer.data)} if answer.data is not None else {}
    return {"head": {**named, "rtn_code": answer.code, "rtn_msg": answer.message}, **body}


def clearance_of(case: Document) -> dict[str, Any]:
    """The clearance of a taxable case: always the same for the same case, by call and by query."""
    ywsldh = case["ywsldh"]
    return {
        "ywsldh": ywsldh,
        "htbh": case["htbh"],
        "jyuuid": token_from("jyuuid", ywsldh),
        "fwuuid": token_from("fwuuid", case["bdcdyh"]),
        "wszt": "1",
        "hszt": "1",
        "nsrxx": [_taxpayer(ywsldh, place, person) for place, person in enumerate(case["srfxxlb"])],
    }


def _taxpayer(ywsldh: str, place: int, person: Document) -> dict[str, Any]:
    seed = f"{ywsldh}/{place}"
    return {
        "nsrmc": person["xm"],
        "nsrsbh": person["zjhm"],
        "swjgdm": "15101990000",
        "sphm": "351" + number_from("sphm", seed, 15),
        "sjyzhj": 10_000 + int(number_from("sjyzhj", seed, 4)) + 0.25,
        "mmfbz": "1",
    }


def _take_case(desk: Desk, document: Document) -> None:
    case = document["body"]
    ywsldh, unit = case["ywsldh"], case["bdcdyh"]
    clearance = clearance_of(case)
    desk.state.put_case("tax", ywsldh, unit, case)
    desk.state.cancel_jobs("tax", ywsldh)
    due = owing.owe(desk, owing.Debt("tax", "clearance", ywsldh, unit, clearance))
    desk.state.put_result("tax", ywsldh, clearance, due)


def _case_answer(_desk: Desk, document: Document) -> Answer:
    case = document["body"]
    data = {"jyuuid": token_from("jyuuid", case["ywsldh"]), "htbh": case["htbh"], "ywsldh": case["ywsldh"]}
    return Answer(CODES.done, "成功 / done", data)


def _query(desk: Desk, document: Document) -> Answer:
    result = desk.state.result("tax", document["body"]["ywsldh"], desk.clock())
    if result is None:
        return Answer(NOT_READY, "尚无完税结果 / no clearance yet")
    return Answer(CODES.done, "成功 / done", result)


def _withdraw(desk: Desk, document: Document) -> None:
    desk.state.forget_case("tax", document["body"]["ywsldh"])


def _thanks(_desk: Desk, _document: Document) -> Answer:
    return _DONE


def revise(desk: Desk, ywsldh: str, changes: Document) -> dict[str, Any]:
    """The clearance that an operator sends now; from here on the query answers the same.

    A case that the stand-in does not know gets a bare clearance, so that an unexpected call can be tried.
    """
    known = desk.state.case("tax", ywsldh)
    clearance = {**(clearance_of(known) if known else {"ywsldh": ywsldh, "wszt": "1"}), **changes}
    with desk.state.transaction():
        desk.state.cancel_jobs("tax", ywsldh)
        if known:
            desk.state.put_result("tax", ywsldh, clearance, desk.clock())
    return clearance


_CASE_NO = ("/body/ywsldh",)

PARTNER = Partner(
    name="tax",
    exchanges=(
        Exchange(
            name="taxable_case",
            path="/tax/taxable-cases",
            identity=_CASE_NO,
            answer=_case_answer,
            contract="tax/taxable_case.json",
            apply=_take_case,
        ),
        Exchange(
            name="clearance_query",
            path="/tax/clearance-queries",
            identity=_CASE_NO,
            answer=_query,
            contract="tax/clearance_query.json",
            effect=False,
        ),
        Exchange(
            name="result",
            path="/tax/registration-results",
            identity=_CASE_NO,
            answer=_thanks,
            contract="tax/result.json",
        ),
        Exchange(
            name="withdrawal",
            path="/tax/withdrawals",
            identity=_CASE_NO,
            answer=_thanks,
            contract="tax/withdrawal.json",
            apply=_withdraw,
        ),
    ),
    codes=CODES,
    render=render,
    authenticate=bearer("tax", CODES.denied),
)
