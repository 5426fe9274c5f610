"""The integrated government platform: two-step secret, identity check, unified number, progress, evaluation."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING

from sandbox import signing
from sandbox.desk import Answer, Codes, Desk, Document, Exchange, Partner, flat, number_from

if TYPE_CHECKING:
    from starlette.requests import Request

CODES = Codes(done="0", busy="9", invalid="1", denied="4010", unlisted="77")

CLOCK_WINDOW_MS = 300_000
SECRET_LIFE_S = 30 * 60
# Several processes of the hub ask at once when a secret has run out; they may share one.
SECRET_SHARED_S = 60

_CHECK_RESULTS = {"1": "一致", "2": "不一致", "3": "库中无此人"}


def _fresh(rtime: str, now: float) -> bool:
    return rtime.isascii() and rtime.isdigit() and abs(int(rtime) - now * 1000) <= CLOCK_WINDOW_MS


def _denied(message: str, code: str = CODES.denied) -> Answer:
    return Answer(code, message, http=401)


def _refresh_secret(desk: Desk, _request: Request, raw: bytes) -> Answer:
    """Step one: whoever signs with the appKey gets a working secret for thirty minutes."""
    rid, appkey = desk.credentials.platform()
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    given = signing.signed_values({key: str(value) for key, value in body.items()}) if isinstance(body, dict) else None
    if given is None:
        return Answer(CODES.invalid, "缺少签名参数 / rid, sid, rtime or sign is missing", http=422)
    if not _fresh(given["rtime"], desk.clock()):
        return _denied("时间戳过期 / stale rtime", "4002")
    expected = signing.national_sign(appkey, given["sid"], given["rid"], given["rtime"])
    if given["rid"] != rid or not signing.same(expected, given["sign"]):
        return _denied("签名错误 / wrong signature", "4001")
    return Answer(CODES.done, "成功 / done", {"secret": signing.wrap_secret(appkey, _working_secret(desk, rid))})


def _working_secret(desk: Desk, rid: str) -> str:
    now = desk.clock()
    newest = next(iter(desk.state.live_secrets(rid, now)), None)
    if newest is not None and now - newest[1] < SECRET_SHARED_S:
        return newest[0]
    secret = secrets.token_urlsafe(24)
    desk.state.add_secret(secret, rid, now, now + SECRET_LIFE_S)
    return secret


def _authenticate(desk: Desk, request: Request) -> Answer | None:
    """Step two: the four headers, signed with a working secret that has not expired."""
    given = signing.signed_values(request.headers)
    if given is None:
        return _denied("缺少签名头 / signature headers are missing")
    if not _fresh(given["rtime"], desk.clock()):
        return _denied("时间戳过期 / stale rtime", "4002")
    for secret, _issued in desk.state.live_secrets(given["rid"], desk.clock()):
        if signing.same(signing.national_sign(secret, given["sid"], given["rid"], given["rtime"]), given["sign"]):
            return None
    return _denied("会话密钥无效或过期 / unknown or expired working secret")


def _check_identity(_desk: Desk, document: Document) -> Answer:
    name = document["xm"]
    found = "2" if "不一致" in name else "3" if "查无" in name else "1"
    return Answer(CODES.done, "成功 / done", {"CheckCode": found, "CheckCodeDesc": _CHECK_RESULTS[found]})


def _give_number(_desk: Desk, document: Document) -> Answer:
    return Answer(CODES.done, "成功 / done", {"caseno": "510000" + number_from("caseno", document["ywh"], 14)})


def _thanks(_desk: Desk, _document: Document) -> Answer:
    return Answer(CODES.done, "成功 / done")


PARTNER = Partner(
    name="platform",
    exchanges=(
        Exchange(
            name="identity_check",
            path="/httpproxy/identity",
            identity=("/MessageSequence",),
            answer=_check_identity,
            contract="platform/identity_check.json",
        ),
        Exchange(
            name="unified_number",
            path="/httpproxy/unified-number",
            identity=("/ywh",),
            answer=_give_number,
            contract="platform/unified_number.json",
        ),
        Exchange(
            name="progress",
            path="/httpproxy/progress",
            identity=("/ywh", "/nodename", "/tachestatus", "/tachestartdatetime"),
            answer=_thanks,
            contract="platform/progress.json",
        ),
        Exchange(
            name="evaluation_invite",
            path="/httpproxy/evaluation",
            identity=("/projectno",),
            answer=_thanks,
            contract="platform/evaluation_invite.json",
        ),
    ),
    codes=CODES,
    render=flat,
    authenticate=_authenticate,
    extra_routes={"/sysapi/auth/refreshappsecret": _refresh_secret},
)
