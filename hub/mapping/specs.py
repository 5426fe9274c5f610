"""The closed language of mappings: what a rule may say, read from YAML into frozen values.

A mapping file has ``from``, ``to``, ``rules``, ``ignored`` and ``absent`` (``schemas/declarations/mapping.json``).
Each rule has one verb and writes one field, ``to``; ``when: present`` leaves it out where the source has nothing.

=================  ==================================================================================  ========
verb               writes                                                                              inverts
=================  ==================================================================================  ========
``from`` alone     the value as it is (also a list of plain values)                                    yes
``const``          a constant                                                                          yes
``code: P.LIST``   the partner's code for a canonical code (``schemas/codes/maps/P.LIST.csv``)         if 1:1
``code_in: P.LIST``  the canonical code for a partner's code; the map must be one to one               yes
``label: LIST``    the Chinese name of a code                                                          no
``decimal: n``     a number with at most n places, rounded half up                                     yes [1]_
``date: pattern``  the day of a ``yyyy-MM-dd…`` time, as ``yyyyMMdd`` or ``yyyy-MM-dd``                no
``suffix: text``   the text with a constant after it                                                   yes
``first_present``  the first of several sources that is there, or ``or_const``                         no
``first: a[].b``   the first ``b`` that an item of list ``a`` has                                      no
``collect: a[].b`` every ``b`` of list ``a`` as a list; empty if there is none                         no
``each: a[]``      a list with one object for each item of ``a``, made by the nested ``rules``         if all do
=================  ==================================================================================  ========

.. [1] on values that have no more places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Verb = Literal[
    "copy",
    "const",
    "code",
    "code_in",
    "label",
    "decimal",
    "date",
    "suffix",
    "unsuffix",
    "first_present",
    "first",
    "collect",
    "each",
]

_ARGUMENT_VERBS: tuple[Verb, ...] = ("code", "code_in", "label", "decimal", "date", "suffix")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        number: its place in the file (``3``, or ``5.2`` within the fifth).
        verb: what it does; ``unsuffix`` exists only in the inverse of a mapping.
        target: path that it writes, relative to the item within ``each``.
        sources: paths that it reads, relative likewise; none for ``const``.
        argument: what the verb is given: a constant, a map's name, places, a pattern, a suffix, a fallback.
        optional: ``when: present``.
        rules: of ``each``.
    """

    number: str
    verb: Verb
    target: str
    sources: tuple[str, ...] = ()
    argument: str | float | bool | None = None
    optional: bool = False
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Spec:
    """One mapping file."""

    name: str
    source: str
    target: str
    rules: tuple[Rule, ...]
    ignored: tuple[str, ...]
    absent: tuple[str, ...]


def read_spec(name: str, document: Mapping[str, Any]) -> Spec:
    """The mapping that a YAML document says, once it has passed ``schemas/declarations/mapping.json``."""
    return Spec(
        name,
        document["from"],
        document["to"],
        _rules(document["rules"], ""),
        tuple(document.get("ignored", ())),
        tuple(document.get("absent", ())),
    )


def _rules(found: Sequence[Mapping[str, Any]], prefix: str) -> tuple[Rule, ...]:
    return tuple(_rule(one, f"{prefix}{number}") for number, one in enumerate(found, 1))


def _rule(one: Mapping[str, Any], number: str) -> Rule:
    target, optional = one["to"], one.get("when") == "present"
    if "each" in one:
        nested = _rules(one["rules"], f"{number}.")
        return Rule(number, "each", target, (one["each"],), None, optional, nested)
    if "const" in one:
        return Rule(number, "const", target, (), one["const"])
    if "first_present" in one:
        sources = tuple(one["first_present"])
        return Rule(number, "first_present", target, sources, one.get("or_const"), optional)
    for gathering in ("first", "collect"):
        if gathering in one:
            verb: Verb = "first" if gathering == "first" else "collect"
            return Rule(number, verb, target, (one[gathering],), None, optional)
    for verb in _ARGUMENT_VERBS:
        if verb in one:
            return Rule(number, verb, target, (one["from"],), one[verb], optional)
    return Rule(number, "copy", target, (one["from"],), None, optional)
