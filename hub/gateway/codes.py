"""The stable codes that a caller may meet, each with its status and both titles: one table for code and documents."""

from __future__ import annotations

from dataclasses import dataclass

from hub.errors import Fault, Refused


@dataclass(frozen=True, slots=True)
class Code:
    """A stable code, the HTTP status that it travels with, and its titles."""

    status: int
    en: str
    zh: str


CODES: dict[str, Code] = {
    "malformed": Code(400, "The body cannot be read.", "报文无法解析"),
    "xml_doctype": Code(400, "A DOCTYPE is not accepted.", "不接受带有 DOCTYPE 的 XML"),
    "idempotency_key_invalid": Code(
        400,
        "Idempotency-Key must be 1 to 128 visible ASCII characters.",
        "Idempotency-Key 应为 1 至 128 个可见 ASCII 字符",
    ),
    "soap_version_mismatch": Code(
        400, "The envelope is neither SOAP 1.1 nor SOAP 1.2.", "信封既不是 SOAP 1.1 也不是 SOAP 1.2"
    ),
    "soap_must_understand": Code(
        400, "A header block that must be understood is not understood.", "存在必须理解但无法理解的 SOAP 头"
    ),
    "signature_invalid": Code(401, "The signature does not hold.", "签名无效"),
    "rtime_expired": Code(401, "rtime is outside of the accepted window.", "请求时间超出允许范围"),
    "caller_unknown": Code(401, "The caller is not known.", "调用方未登记"),
    "service_forbidden": Code(403, "The sid does not cover this service.", "该 sid 无权调用此服务"),
    "not_found": Code(404, "There is nothing at this address.", "地址不存在"),
    "tenant_forbidden": Code(404, "The tenant is not one of the caller's.", "区县不在调用方范围内"),
    "case_unknown": Code(404, "No such case.", "办件不存在"),
    "message_unknown": Code(404, "No such message.", "消息不存在"),
    "partner_unknown": Code(404, "No such partner.", "接入方不存在"),
    "exchange_unknown": Code(404, "No such exchange.", "交换不存在"),
    "method_not_allowed": Code(405, "This method is not offered here.", "不支持该请求方法"),
    "body_timeout": Code(408, "The body did not arrive in time.", "报文未在规定时间内传完"),
    "idempotency_conflict": Code(409, "The same key was used with another content.", "同一幂等键对应的内容不一致"),
    "state_conflict": Code(409, "The case's state does not allow this.", "办件当前状态不允许该操作"),
    "too_large": Code(413, "The body is too large.", "报文过大"),
    "encoding_unsupported": Code(
        415,
        "This Content-Encoding is not supported; send the body as it is.",
        "不支持该 Content-Encoding，请直接发送原文",
    ),
    "media_type_unsupported": Code(
        415, "SOAP is taken as text/xml or application/soap+xml.", "SOAP 报文应为 text/xml 或 application/soap+xml"
    ),
    "field_unknown": Code(422, "A field is not known.", "存在未定义的字段"),
    "field_missing": Code(422, "A field is missing.", "缺少必填字段"),
    "field_type": Code(422, "A field has the wrong form.", "字段格式不符合要求"),
    "code_unknown": Code(422, "A code is not in its list.", "代码不在字典中"),
    "unit_code_invalid": Code(422, "The unit code is not valid.", "不动产单元号无效"),
    "citizen_id_invalid": Code(422, "The citizen id is not valid.", "公民身份号码无效"),
    "credit_code_invalid": Code(422, "The credit code is not valid.", "统一社会信用代码无效"),
    "certificate_no_invalid": Code(422, "The certificate number is not valid.", "不动产权证号无效"),
    "quota_exceeded": Code(429, "Too many calls.", "调用次数超出限额"),
    "internal": Code(500, "Something went wrong on our side.", "系统内部错误"),
    "busy": Code(503, "Busy; please come again.", "系统繁忙，请稍后重试"),
}


def refusal(code: str, *, en: str = "", zh: str = "", faults: tuple[Fault, ...] = ()) -> Refused:
    """A refusal of the table, its titles extended where there is more to say (names of ours, never a value of theirs)."""
    entry = CODES[code]
    return Refused(code, f"{entry.en}{en}", f"{entry.zh}{zh}", entry.status, faults)


def by_status() -> dict[int, list[str]]:
    """Every code under the status that it travels with."""
    found: dict[int, list[str]] = {}
    for code, entry in CODES.items():
        found.setdefault(entry.status, []).append(code)
    return found
