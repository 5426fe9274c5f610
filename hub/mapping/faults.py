"""What is wrong when a document cannot be mapped: where it was read, what should have been written, by which rule."""

from __future__ import annotations

from typing import NamedTuple

from hub.errors import Fault, Refused

_TEXTS = {
    "mapping_missing": ("the source has no value", "来源无值"),
    "mapping_type": ("the source has not the form that the rule needs", "来源值不符合规则要求"),
    "code_unknown": ("the code map does not know this code", "代码映射中没有该代码"),
}


class Slip(NamedTuple):
    """One fault while mapping, before it has its texts; ``pointer`` is relative to the object being mapped."""

    pointer: str
    code: str
    rule: str
    source: str
    target: str


class MappingFault(Refused):
    """A document that a mapping cannot carry; ``faults`` name source path (``path``), target path and rule."""

    def __init__(self, name: str, slips: list[Slip]) -> None:
        faults = tuple(_fault(name, slip) for slip in slips)
        super().__init__(faults[0].code, faults[0].en, faults[0].zh, 422, faults)


def _fault(name: str, slip: Slip) -> Fault:
    en, zh = _TEXTS[slip.code]
    where = f"{name} rule {slip.rule}, {slip.source} -> {slip.target}"
    return Fault(slip.pointer, slip.code, f"{en} ({where})", f"{zh}（{where}）")
