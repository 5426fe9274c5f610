"""Turns the rules of a mapping into closures: one for each object that is written, with a fast way and a careful way.

The fast way reads all fields that come from one place of the source together. When anything is not as expected, the
careful way does the same rules one by one and says exactly which of them failed, where and why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from math import isfinite
from operator import itemgetter
from typing import Any, Protocol

from hub.mapping.faults import Slip
from hub.mapping.specs import Rule

Document = dict[str, Any]
Build = Callable[[Document, list[Slip]], Document]
Step = Callable[[Document, Document, list[Slip]], None]
Convert = Callable[[Any], Any]

_ODD = (KeyError, TypeError, ValueError, AttributeError)


class Tables(Protocol):
    """Where the code tables of a mapping come from."""

    def outward(self, name: str) -> Mapping[str, str]:
        """Canonical → partner."""
        ...

    def inward(self, name: str) -> Mapping[str, str]:
        """Partner → canonical."""
        ...

    def labels(self, name: str) -> Mapping[str, str]:
        """Code → Chinese name."""
        ...


@dataclass(slots=True)
class _Node:
    """One object of the target while its rules are being sorted."""

    leaves: list[tuple[str, Rule]] = field(default_factory=list)
    children: dict[str, _Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Read:
    """One field that is read and written as a single value."""

    name: str
    path: tuple[str, ...]
    convert: Convert | None
    rule: Rule


def compile_rules(rules: tuple[Rule, ...], tables: Tables) -> Build:
    """A function ``(source, slips) -> target`` that does all ``rules``."""
    root = _Node()
    for rule in rules:
        *parents, name = rule.target.removesuffix("[]").split(".")
        node = root
        for parent in parents:
            node = node.children.setdefault(parent, _Node())
        node.leaves.append((name, rule))
    return _object(root, tables)


def _object(node: _Node, tables: Tables) -> Build:
    constants = {name: rule.argument for name, rule in node.leaves if rule.verb == "const"}
    places: dict[tuple[str, ...], list[_Read]] = {}
    steps: list[Step] = []
    for name, rule in node.leaves:
        if rule.verb in _GATHERING:
            steps.append(_GATHERING[rule.verb](name, rule, tables))
        elif rule.verb != "const":
            path = tuple(rule.sources[0].split("."))
            places.setdefault(path[:-1], []).append(_Read(name, path, _convert(rule, tables), rule))
    for place, reads in places.items():
        steps.append(_optional(place, reads) if all(read.rule.optional for read in reads) else _required(place, reads))
    steps += [_child(name, _object(child, tables)) for name, child in node.children.items()]
    if len(steps) == 1 and not constants:
        return _single(steps[0])
    all_steps = tuple(steps)

    def build(source: Document, slips: list[Slip]) -> Document:
        target = constants.copy()
        for step in all_steps:
            step(source, target, slips)
        return target

    return build


def _single(step: Step) -> Build:
    def build(source: Document, slips: list[Slip]) -> Document:
        target: Document = {}
        step(source, target, slips)
        return target

    return build


def _child(name: str, build: Build) -> Step:
    def step(source: Document, target: Document, slips: list[Slip]) -> None:
        inner = build(source, slips)
        if inner:
            target[name] = inner

    return step


def _required(place: tuple[str, ...], reads: list[_Read]) -> Step:
    """Reads all that comes from one object of the source, where at least one field must be there."""
    plain = [read for read in reads if read.convert is None and not read.rule.optional]
    names, pick = tuple(read.name for read in plain), _picker([read.path[-1] for read in plain])
    converted = tuple((r.name, r.path[-1], r.convert) for r in reads if r.convert is not None and not r.rule.optional)
    optional = tuple((read.name, read.path[-1], read.convert) for read in reads if read.rule.optional)

    def step(source: Document, target: Document, slips: list[Slip]) -> None:
        try:
            here = source
            for part in place:
                here = here[part]
            values = pick(here)
            if None in values:
                _carefully(reads, source, target, slips)
                return
            target.update(zip(names, values))  # noqa: B905  # one name for each key by construction; strict costs time
            for name, key, convert in converted:
                target[name] = convert(here[key])
            for name, key, maybe in optional:
                value = here.get(key)
                if value is not None:
                    target[name] = value if maybe is None else maybe(value)
        except _ODD:
            _carefully(reads, source, target, slips)

    return step


def _picker(keys: list[str]) -> Callable[[Document], tuple[Any, ...]]:
    """Reads several keys at once; ``itemgetter`` does that in C, but gives no tuple for a single key."""
    if len(keys) > 1:
        return itemgetter(*keys)
    if keys:
        key = keys[0]
        return lambda here: (here[key],)
    return lambda _here: ()


def _optional(place: tuple[str, ...], reads: list[_Read]) -> Step:
    pairs = tuple((read.name, read.path[-1], read.convert) for read in reads)

    def step(source: Document, target: Document, slips: list[Slip]) -> None:
        try:
            here = source
            for part in place:
                inner = here.get(part)
                if inner is None:
                    return
                here = inner
            for name, key, convert in pairs:
                value = here.get(key)
                if value is not None:
                    target[name] = value if convert is None else convert(value)
        except _ODD:
            _carefully(reads, source, target, slips)

    return step


def _carefully(reads: list[_Read], source: Document, target: Document, slips: list[Slip]) -> None:
    """The same reads one by one: writes what can be written and notes each that cannot, with its reason."""
    for read in reads:
        pointer, value, code = _locate(source, read.path)
        if not code and read.convert is not None:
            value, code = _converted(read.convert, value)
        if not code:
            target[read.name] = value
        elif not (code == "mapping_missing" and read.rule.optional):
            slips.append(_slip(pointer, code, read.rule))


def _locate(source: object, path: tuple[str, ...]) -> tuple[str, Any, str]:
    """Pointer and value of a path, and a fault's code if there is none."""
    value: Any = source
    pointer = ""
    for part in path:
        if not isinstance(value, dict):
            return pointer, None, "mapping_type"
        pointer += f"/{part}"
        value = value.get(part)
        if value is None:
            return "".join(f"/{one}" for one in path), None, "mapping_missing"
    return pointer, value, ""


def _converted(convert: Convert, value: object) -> tuple[Any, str]:
    try:
        return convert(value), ""
    except KeyError:
        return None, "code_unknown"
    except (TypeError, ValueError, AttributeError):
        return None, "mapping_type"


def _slip(pointer: str, code: str, rule: Rule) -> Slip:
    return Slip(pointer, code, rule.number, " | ".join(rule.sources), rule.target)


def _convert(rule: Rule, tables: Tables) -> Convert | None:
    maker = _CONVERTING.get(rule.verb)
    return None if maker is None else maker(rule.argument, tables)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _unsuffixed(value: str, suffix: str) -> str:
    if not value.endswith(suffix):
        raise ValueError
    return value.removesuffix(suffix)


def _day(value: object) -> str:
    day = _text(value)[:10]
    date.fromisoformat(day)
    # It also reads other forms of ISO 8601; a time of ours has its second hyphen here.
    if day[7:8] != "-":
        raise ValueError
    return day


def _compact_day(value: object) -> str:
    return _day(value).replace("-", "")


def _decimal(places: int) -> Convert:
    step = Decimal(1).scaleb(-places)

    def convert(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError
        rounded = float(round(value, places))
        if rounded == value and isfinite(rounded):
            return rounded
        try:
            # Through the shortest text of the number, so that 0.125 is halved where people halve it.
            return float(Decimal(repr(value)).quantize(step, ROUND_HALF_UP))
        except InvalidOperation as error:
            raise ValueError from error

    return convert


def _first_present(name: str, rule: Rule, _tables: Tables) -> Step:
    paths = tuple(tuple(source.split(".")) for source in rule.sources)

    def step(source: Document, target: Document, slips: list[Slip]) -> None:
        wrong = ""
        for path in paths:
            pointer, value, code = _locate(source, path)
            if not code:
                target[name] = value
                return
            wrong = pointer if code == "mapping_type" else wrong
        if wrong:
            slips.append(_slip(wrong, "mapping_type", rule))
        elif rule.argument is not None:
            target[name] = rule.argument
        elif not rule.optional:
            slips.append(_slip("".join(f"/{part}" for part in paths[0]), "mapping_missing", rule))

    return step


def _gathered(source: Document, rule: Rule) -> tuple[str, list[Any], str]:
    """What a path through a list finds: the list's pointer, the values in order, a fault's code if it is no list."""
    outer, _, inner = rule.sources[0].partition("[].")
    pointer, items, code = _locate(source, tuple(outer.split(".")))
    if code == "mapping_missing":
        return pointer, [], ""
    if code or not isinstance(items, list):
        return pointer, [], "mapping_type"
    path = tuple(inner.split("."))
    found = [_locate(item, path) for item in items]
    if any(code == "mapping_type" for _, _, code in found):
        return pointer, [], "mapping_type"
    return pointer, [value for _, value, code in found if not code], ""


def _collect(name: str, rule: Rule, _tables: Tables) -> Step:
    def step(source: Document, target: Document, slips: list[Slip]) -> None:
        pointer, values, code = _gathered(source, rule)
        if code:
            slips.append(_slip(pointer, code, rule))
        elif values or not rule.optional:
            target[name] = values

    return step


def _first(name: str, rule: Rule, _tables: Tables) -> Step:
    def step(source: Document, target: Document, slips: list[Slip]) -> None:
        pointer, values, code = _gathered(source, rule)
        if values:
            target[name] = values[0]
        elif code or not rule.optional:
            slips.append(_slip(pointer, code or "mapping_missing", rule))

    return step


def _each(name: str, rule: Rule, tables: Tables) -> Step:
    path = tuple(rule.sources[0].removesuffix("[]").split("."))
    build = compile_rules(rule.rules, tables)

    def step(source: Document, target: Document, slips: list[Slip]) -> None:
        try:
            items: Any = source
            for part in path:
                items = items[part]
        except (KeyError, TypeError):
            items = None
        if not isinstance(items, list):
            _no_list(path, rule, source, slips)
            return
        inner: list[Slip] = []
        target[name] = [build(item, inner) for item in items]
        if inner:
            slips += _inner_slips(build, items, path, rule)

    return step


def _no_list(path: tuple[str, ...], rule: Rule, source: Document, slips: list[Slip]) -> None:
    pointer, _, code = _locate(source, path)
    if not (code == "mapping_missing" and rule.optional):
        slips.append(_slip(pointer, code or "mapping_type", rule))


def _inner_slips(build: Build, items: list[Any], path: tuple[str, ...], rule: Rule) -> list[Slip]:
    """The faults of a list's items once more, now with the place of each item."""
    found: list[Slip] = []
    outer = "".join(f"/{part}" for part in path)
    for index, item in enumerate(items):
        inner: list[Slip] = []
        build(item, inner)
        found += [
            Slip(
                f"{outer}/{index}{one.pointer}",
                one.code,
                one.rule,
                f"{rule.sources[0]}.{one.source}",
                f"{rule.target}.{one.target}",
            )
            for one in inner
        ]
    return found


_CONVERTING: Mapping[str, Callable[[Any, Tables], Convert]] = {
    "code": lambda name, tables: tables.outward(name).__getitem__,
    "code_in": lambda name, tables: tables.inward(name).__getitem__,
    "label": lambda name, tables: tables.labels(name).__getitem__,
    "decimal": lambda places, _tables: _decimal(places),
    "date": lambda pattern, _tables: _day if pattern == "yyyy-MM-dd" else _compact_day,
    "suffix": lambda suffix, _tables: lambda value: _text(value) + suffix,
    "unsuffix": lambda suffix, _tables: lambda value: _unsuffixed(_text(value), suffix),
}
_GATHERING: Mapping[str, Callable[[str, Rule, Tables], Step]] = {
    "first_present": _first_present,
    "first": _first,
    "collect": _collect,
    "each": _each,
}
