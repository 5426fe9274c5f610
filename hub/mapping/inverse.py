"""Turns a mapping round where every rule can be turned, so that a test can send a document there and back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hub.mapping.specs import Rule, Spec, Verb

if TYPE_CHECKING:
    from collections.abc import Mapping

# `const` reads nothing, so going back it writes nothing.
_TURNED: Mapping[Verb, Verb] = {
    "copy": "copy",
    "code": "code_in",
    "code_in": "code",
    "decimal": "decimal",
    "suffix": "unsuffix",
    "unsuffix": "suffix",
    "each": "each",
}


def inverse_spec(spec: Spec, one_to_one: Mapping[str, bool]) -> tuple[Spec | None, str]:
    """The inverse of ``spec``, or ``None`` and the reason.

    Args:
        spec: what to turn round.
        one_to_one: for each code map, whether it can be read backwards.
    """
    why = _why_not(spec.rules, one_to_one)
    if why:
        return None, why
    return replace(
        spec,
        name=f"{spec.name} (inverse)",
        source=spec.target,
        target=spec.source,
        rules=_turned(spec.rules),
        ignored=(),
        absent=(),
    ), ""


def _why_not(rules: tuple[Rule, ...], one_to_one: Mapping[str, bool]) -> str:
    for rule in rules:
        if rule.verb == "const":
            continue
        if rule.verb not in _TURNED:
            return f"rule {rule.number}: {rule.verb} loses what it read"
        if rule.verb == "code" and not one_to_one.get(str(rule.argument), False):
            return f"rule {rule.number}: {rule.argument} gives several codes the same"
        why = _why_not(rule.rules, one_to_one)
        if why:
            return why
    return ""


def _turned(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    turned: dict[str, Rule] = {}
    for rule in rules:
        if rule.verb != "const":
            source = rule.sources[0]
            # Where two rules read one field, going back by the first is enough.
            turned.setdefault(
                source,
                Rule(
                    rule.number,
                    _TURNED[rule.verb],
                    source,
                    (rule.target,),
                    rule.argument,
                    rule.optional,
                    _turned(rule.rules),
                ),
            )
    return tuple(turned.values())
