"""The named predicates of matters: pure functions over a canonical document. YAML names them, never spells them out.

A new guard is a function here and a line in ``GUARDS``; it sees one document and answers whether the step is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

Document = Mapping[str, object]
Guard = Callable[[Document], bool]


def always(_document: Document) -> bool:
    """A step without a guard is done as soon as its answer is there."""
    return True


def identity_matches(document: Document) -> bool:
    """公安 says that name and number belong together (核验结果 1 一致)."""
    return document.get("HYJG") == "1"


def cleared(document: Document) -> bool:
    """Taxes are paid (完税状态 1 已完税). A result of 0 leaves the case waiting for the next one."""
    return document.get("WSZT") == "1"


def registered(document: Document) -> bool:
    """The right has been entered in the register and is in force (权属状态 1 现势)."""
    return document.get("QSZT") == "1"


GUARDS: Mapping[str, Guard] = {
    "": always,
    "identity_matches": identity_matches,
    "cleared": cleared,
    "registered": registered,
}
