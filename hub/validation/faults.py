"""The stable codes of what can be wrong with a document, each with its text in both languages."""

from __future__ import annotations

from hub.errors import Fault

_TEXTS = {
    "malformed": ("the body is not well-formed", "报文格式错误"),
    "xml_doctype": ("a document type declaration is not accepted", "不接受 DOCTYPE 声明"),
    "field_unknown": ("the contract does not know this field", "契约中没有该字段"),
    "field_missing": ("a required field is missing", "缺少必填字段"),
    "field_type": ("the value has not the required form", "字段值不符合要求"),
    "code_unknown": ("the value is not in the code list", "代码不在字典中"),
    "unit_code_invalid": ("not a valid real-estate unit code (GB/T 37346)", "不动产单元代码无效（GB/T 37346）"),
    "citizen_id_invalid": ("not a valid citizen identity number (GB 11643)", "公民身份号码无效（GB 11643）"),
    "credit_code_invalid": ("not a valid unified social credit code (GB 32100)", "统一社会信用代码无效（GB 32100）"),
    "certificate_no_invalid": ("not a valid certificate number", "不动产权证号无效"),
}


def fault(path: str, code: str, en: str = "", zh: str = "") -> Fault:
    """A fault of a known code; ``en`` and ``zh`` say more about it where there is more to say (never the value)."""
    text_en, text_zh = _TEXTS[code]
    return Fault(path, code, f"{text_en}: {en}" if en else text_en, f"{text_zh}：{zh}" if zh else text_zh)


def known_codes() -> dict[str, tuple[str, str]]:
    """Every code that a check of a document may report, with its English and Chinese text."""
    return dict(_TEXTS)
