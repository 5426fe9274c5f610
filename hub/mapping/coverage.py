"""The static check of a mapping: every leaf of both documents is spoken for, and what is said can be true.

So a line that is removed is noticed: a rule, because its target is then neither written nor listed as absent (or its
source neither read nor listed as ignored); an entry of ``ignored`` or ``absent``, because nothing else covers it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from hub.errors import Fault
from hub.mapping.specs import Rule, Spec, Verb
from hub.model.shapes import Shape, steps

# What kinds of value a verb can read, and what it writes; the others keep the source's kind.
_READS: Mapping[Verb, tuple[str, ...]] = {
    "code": ("text",),
    "code_in": ("text",),
    "label": ("text",),
    "decimal": ("number", "integer"),
    "date": ("text",),
    "suffix": ("text",),
}


class CodeTable(Protocol):
    """One partner's map of one list."""

    @property
    def code_list(self) -> str:
        """The list's name."""
        ...

    @property
    def out(self) -> Mapping[str, str]:
        """Canonical → partner."""
        ...

    @property
    def back(self) -> Mapping[str, str] | None:
        """Partner → canonical, where it is one to one."""
        ...


class Coverage:
    """Checks one mapping between two shapes.

    Args:
        spec: the mapping.
        source: shape of what it reads.
        target: shape of what it writes.
        maps: code maps by name.
        lists: the codes of each list.
    """

    def __init__(
        self,
        spec: Spec,
        source: Shape,
        target: Shape,
        maps: Mapping[str, CodeTable],
        lists: Mapping[str, tuple[str, ...]],
    ) -> None:
        self._spec = spec
        self._source = source
        self._target = target
        self._maps = maps
        self._lists = lists
        self._faults: list[Fault] = []
        self._read: set[str] = set()
        self._written: dict[str, bool] = {}

    def check(self) -> tuple[Fault, ...]:
        """Everything that is wrong; empty if nothing is."""
        self._rules(self._spec.rules, "", "")
        sources = dict(self._source.leaves())
        targets = dict(self._target.leaves())
        self._listed("ignored", self._spec.ignored, sources, self._read)
        self._listed("absent", self._spec.absent, targets, set(self._written))
        for path in sources:
            if path not in self._read and not _covered(path, self._spec.ignored):
                self._fault(
                    path, "source is neither mapped nor listed under ignored", "来源字段既未映射也未列入 ignored"
                )
        for path in targets:
            if path not in self._written and not _covered(path, self._spec.absent):
                self._fault(
                    path, "target is neither produced nor listed under absent", "目标字段既未生成也未列入 absent"
                )
        self._required(self._target, "", given=True)
        return tuple(self._faults)

    def _rules(self, rules: tuple[Rule, ...], source: str, target: str) -> None:
        for rule in rules:
            written = f"{target}{rule.target}"
            node = self._target.at(written)
            if rule.verb == "each":
                self._each(rule, source, written, node)
                continue
            if node is None or not node.is_leaf or _enters_list(rule.target):
                self._fault(f"rules/{rule.number}", f"{written} is no field of the target", f"{written} 不是目标字段")
                continue
            if written in self._written:
                self._fault(f"rules/{rule.number}", f"{written} is written twice", f"{written} 被重复赋值")
            self._written[written] = not rule.optional
            self._reads(rule, source, node)
            if rule.verb not in ("const", "collect", "first"):
                self._conditional(rule, source, written)

    def _each(self, rule: Rule, source: str, written: str, node: Shape | None) -> None:
        read = f"{source}{rule.sources[0]}"
        items = self._source.at(read)
        if node is None or node.kind != "object":
            self._fault(
                f"rules/{rule.number}",
                f"{written} is no list of objects of the target",
                f"{written} 不是目标的对象列表",
            )
        elif items is None or items.kind != "object":
            self._fault(
                f"rules/{rule.number}", f"{read} is no list of objects of the source", f"{read} 不是来源的对象列表"
            )
        else:
            self._written[written] = not rule.optional
            self._conditional(rule, source, written)
            self._rules(rule.rules, f"{read}.", f"{written}.")

    def _reads(self, rule: Rule, prefix: str, target: Shape) -> None:
        constant = rule.argument if rule.verb in ("const", "first_present") else None
        if constant is not None and not target.accepts(constant):
            self._fault(f"rules/{rule.number}", "the target does not accept the constant", "目标字段不接受该常量")
        for path in rule.sources:
            read = f"{prefix}{path}"
            node = self._source.at(read)
            if node is None or not node.is_leaf:
                self._fault(f"rules/{rule.number}", f"{read} is no field of the source", f"{read} 不是来源字段")
                continue
            self._read.add(read)
            self._fits(rule, node, target)

    def _conditional(self, rule: Rule, source: str, written: str) -> None:
        """``when: present`` is said exactly where a source may be missing and the target may be left out."""
        has_fallback = rule.verb == "first_present" and rule.argument is not None
        certain = has_fallback or any(self._always(source, path) for path in rule.sources)
        if rule.optional and certain:
            self._fault(
                f"rules/{rule.number}", "when: present, but there is always a value", "必有值，不应声明 when: present"
            )
        elif not rule.optional and not certain and not self._demanded(written):
            self._fault(
                f"rules/{rule.number}",
                "the source may be missing: say when: present",
                "来源可能缺失，应声明 when: present",
            )

    def _always(self, prefix: str, path: str) -> bool:
        """Whether a document that fits the source's contract has this field, seen from the item at ``prefix``."""
        node = self._source.at(prefix.removesuffix("."))
        for name, _ in steps(path):
            if node is None or name not in node.required:
                return False
            node = node.fields[name]
        return True

    def _demanded(self, written: str) -> bool:
        """Whether the object that this field is in must have it."""
        parent, _, name = written.removesuffix("[]").rpartition(".")
        node = self._target.at(parent)
        return node is not None and name in node.required

    def _fits(self, rule: Rule, source: Shape, target: Shape) -> None:
        wanted = _READS.get(rule.verb)
        written = Shape("list", item=source) if rule.verb == "collect" else source
        if wanted is not None and source.kind not in wanted:
            self._fault(
                f"rules/{rule.number}",
                f"{rule.verb} reads {'/'.join(wanted)}",
                f"{rule.verb} 只能读取 {'/'.join(wanted)}",
            )
        elif wanted is None and not _same_kind(written, target):
            self._fault(
                f"rules/{rule.number}",
                f"{source.kind} does not fit {target.kind}",
                f"{source.kind} 与 {target.kind} 不符",
            )
        elif wanted is not None and target.kind != ("number" if rule.verb == "decimal" else "text"):
            self._fault(
                f"rules/{rule.number}", f"{rule.verb} does not fit {target.kind}", f"{rule.verb} 与 {target.kind} 不符"
            )
        elif rule.verb in ("code", "code_in", "label"):
            self._codes(rule, source, target)
        elif target.values and rule.verb in ("copy", "first", "first_present"):
            self._within(rule, self._values(source), target)

    def _codes(self, rule: Rule, source: Shape, target: Shape) -> None:
        name = str(rule.argument)
        if rule.verb == "label":
            if source.codes != name or name not in self._lists:
                self._fault(f"rules/{rule.number}", f"the source is not of list {name}", f"来源不属于字典 {name}")
            return
        table = self._maps.get(name)
        if table is None:
            self._fault(f"rules/{rule.number}", f"code map {name} does not exist", f"代码映射 {name} 不存在")
            return
        canonical = source if rule.verb == "code" else target
        if canonical.codes != table.code_list:
            self._fault(f"rules/{rule.number}", f"{name} does not map the list of the field", f"{name} 与字段字典不符")
        if rule.verb == "code":
            self._within(rule, tuple(table.out.values()), target)
        elif table.back is None:
            self._fault(f"rules/{rule.number}", f"{name} cannot be read backwards", f"{name} 不可逆")
        elif source.values and set(source.values) - table.back.keys():
            self._fault(
                f"rules/{rule.number}", f"{name} misses codes that the source may hold", f"{name} 缺少来源可能的代码"
            )

    def _values(self, source: Shape) -> tuple[str, ...] | None:
        return self._lists.get(source.codes) or source.values or None

    def _within(self, rule: Rule, values: tuple[str, ...] | None, target: Shape) -> None:
        if values is None:
            if target.values:
                self._fault(
                    f"rules/{rule.number}",
                    "the source may hold codes that the target does not know",
                    "来源可能出现目标未知的代码",
                )
        elif not all(target.accepts(value) for value in values):
            self._fault(f"rules/{rule.number}", "gives codes that the target does not accept", "产生目标不接受的代码")

    def _listed(self, name: str, listed: tuple[str, ...], leaves: Mapping[str, Shape], used: set[str]) -> None:
        for entry in listed:
            under = [path for path in leaves if _covered(path, (entry,))]
            if not under:
                self._fault(f"{name}/{entry}", "does not exist", "不存在")
            for path in used:
                if _covered(path, (entry,)):
                    self._fault(f"{name}/{entry}", f"{path} is mapped after all", f"{path} 实际已映射")
            if any(other != entry and _covered(entry, (other,)) for other in listed):
                self._fault(f"{name}/{entry}", "is covered by another entry", "已被其他条目覆盖")

    def _required(self, node: Shape, prefix: str, *, given: bool) -> None:
        """Each required field is written, unconditionally; below an optional object only where that is written."""
        for name, one in node.fields.items():
            path = f"{prefix}{name}"
            must = given and name in node.required
            if one.is_leaf:
                if must and not self._written.get(path, False):
                    self._fault(
                        path, "required target may not be absent or conditional", "必填目标字段不得缺省或有条件"
                    )
            elif one.kind == "list" and one.item is not None:
                entered = f"{path}[]"
                if must and not self._written.get(entered, False):
                    self._fault(
                        path, "required target may not be absent or conditional", "必填目标字段不得缺省或有条件"
                    )
                self._required(one.item, f"{entered}.", given=entered in self._written)
            else:
                inside = any(written.startswith(f"{path}.") for written in self._written)
                self._required(one, f"{path}.", given=must or inside)

    def _fault(self, where: str, en: str, zh: str) -> None:
        self._faults.append(Fault(f"{self._spec.name}#/{where}", "mapping_invalid", en, zh))


def _same_kind(source: Shape, target: Shape) -> bool:
    if source.kind == "list" and target.kind == "list":
        return source.item is not None and target.item is not None and _same_kind(source.item, target.item)
    return source.kind == target.kind or (source.kind == "integer" and target.kind == "number")


def _enters_list(path: str) -> bool:
    return any(many for _, many in steps(path))


def _covered(path: str, entries: tuple[str, ...]) -> bool:
    names = _names(path)
    return any(names[: len(entry)] == entry for entry in map(_names, entries))


def _names(path: str) -> tuple[str, ...]:
    return tuple(name for name, _ in steps(path))


def rule_arguments(rules: tuple[Rule, ...], verbs: tuple[Verb, ...]) -> Iterator[str]:
    """The names (of maps or lists) that the rules with these verbs use, nested ones included."""
    for rule in rules:
        if rule.verb in verbs:
            yield str(rule.argument)
        yield from rule_arguments(rule.rules, verbs)
