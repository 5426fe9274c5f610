"""Loads every mapping of ``mappings/``, compiles it once, and checks it against the contracts of its two sides."""

from __future__ import annotations

from collections.abc import Mapping as ReadOnly
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from hub.errors import Fault, Misconfigured
from hub.mapping.compiled import compile_rules
from hub.mapping.coverage import CodeTable, Coverage, rule_arguments
from hub.mapping.faults import MappingFault, Slip
from hub.mapping.inverse import inverse_spec
from hub.mapping.specs import Rule, Spec, read_spec
from hub.model.strict_yaml import load_yaml

if TYPE_CHECKING:
    from pathlib import Path

    from hub.model.shapes import Shape


class Documents(Protocol):
    """What mappings need of the contracts: shapes, and the schema of mapping files."""

    def shape(self, path: str) -> Shape:
        """The shape of a document."""
        ...

    def declared(self, name: str, document: object) -> tuple[Fault, ...]:
        """What is wrong with a declaration of the kind ``name``."""
        ...


class Dictionary(Protocol):
    """What mappings need of one code list."""

    @property
    def entries(self) -> ReadOnly[str, tuple[str, str]]:
        """Code → (Chinese, English)."""
        ...

    def label(self) -> dict[str, str]:
        """Code → Chinese name."""
        ...


class Dictionaries(Protocol):
    """What mappings need of the code lists."""

    @property
    def lists(self) -> ReadOnly[str, Dictionary]:
        """Lists by name."""
        ...

    @property
    def maps(self) -> ReadOnly[str, CodeTable]:
        """Partner maps by name."""
        ...


class _Tables:
    """The code tables as the compiler wants them; a name that does not exist gives a table that knows no code.

    ``Mapping.check`` reports such a name; until then every value is a fault, never a default.
    """

    def __init__(self, codes: Dictionaries) -> None:
        self._codes = codes

    def outward(self, name: str) -> ReadOnly[str, str]:
        table = self._codes.maps.get(name)
        return {} if table is None else table.out

    def inward(self, name: str) -> ReadOnly[str, str]:
        table = self._codes.maps.get(name)
        return {} if table is None or table.back is None else table.back

    def labels(self, name: str) -> ReadOnly[str, str]:
        listed = self._codes.lists.get(name)
        return {} if listed is None else listed.label()


class Mapping:
    """One mapping, ready to be applied.

    Attributes:
        spec: what its file says.
    """

    def __init__(self, spec: Spec, contracts: Documents, codes: Dictionaries) -> None:
        self.spec = spec
        self._contracts = contracts
        self._codes = codes
        self._build = compile_rules(spec.rules, _Tables(codes))

    def apply(self, document: dict[str, Any]) -> dict[str, Any]:
        """The target document for a source document.

        Raises:
            MappingFault: with every fault (``mapping_missing``, ``mapping_type``, ``code_unknown``): the source path as
                ``path``, rule and target path in the text, no value anywhere.
        """
        slips: list[Slip] = []
        made = self._build(document, slips)
        if slips:
            raise MappingFault(self.spec.name, slips)
        return made

    def source_of(self, pointer: str) -> str:
        """The JSON Pointer in the source document behind one in the target; the pointer itself where a rule has no source.

        What is found wrong in a mapped document is told to its sender in the sender's own words.
        """
        parts = pointer.strip("/").split("/")
        found = _source_parts(self.spec.rules, parts)
        return pointer if found is None else "/" + "/".join(found)

    def check(self) -> tuple[Fault, ...]:
        """What is wrong with the mapping itself: see ``hub.mapping.coverage``."""
        try:
            source, target = self._contracts.shape(self.spec.source), self._contracts.shape(self.spec.target)
        except Misconfigured as error:
            return (Fault(self.spec.name, "mapping_invalid", error.en, error.zh),)
        lists = {name: tuple(one.entries) for name, one in self._codes.lists.items()}
        return Coverage(self.spec, source, target, self._codes.maps, lists).check()

    def inverse(self) -> tuple[Mapping | None, str]:
        """The mapping back, or ``None`` and the reason why there is none."""
        spec, why = inverse_spec(self.spec, {name: one.back is not None for name, one in self._codes.maps.items()})
        return (None, why) if spec is None else (Mapping(spec, self._contracts, self._codes), "")

    def maps_used(self) -> set[str]:
        """Names of the code maps that its rules use."""
        return set(rule_arguments(self.spec.rules, ("code", "code_in")))

    def lists_used(self) -> set[str]:
        """Names of the code lists whose labels its rules use."""
        return set(rule_arguments(self.spec.rules, ("label",)))


def _source_parts(rules: Sequence[Rule], parts: list[str]) -> list[str] | None:
    for rule in rules:
        target = rule.target.removesuffix("[]").split(".")
        if not rule.sources or parts[: len(target)] != target:
            continue
        source, rest = rule.sources[0].removesuffix("[]").split("."), parts[len(target) :]
        if rule.verb == "each" and rest:
            within = _source_parts(rule.rules, rest[1:]) if rest[1:] else []
            return None if within is None else [*source, rest[0], *within]
        return [*source, *rest]
    return None


class Mappings:
    """Every mapping file below ``mappings/``.

    Args:
        root: the project's folder.
        contracts: shapes of documents, and the schema of mapping files.
        codes: code lists and maps.

    Raises:
        hub.errors.Misconfigured: ``mapping_invalid``: a file cannot be read or says what the language does not know.
    """

    def __init__(self, root: Path, contracts: Documents, codes: Dictionaries) -> None:
        self._found: dict[str, Mapping] = {}
        faults: list[Fault] = []
        for path in sorted((root / "mappings").rglob("*.yaml")):
            name = path.relative_to(root).as_posix()
            try:
                document = load_yaml(path, name)
            except Misconfigured as error:
                faults += error.faults
                continue
            wrong = contracts.declared("mapping", document)
            faults += [Fault(f"{name}#{one.path}", "mapping_invalid", one.en, one.zh) for one in wrong]
            if not wrong and isinstance(document, dict):
                self._found[name] = Mapping(read_spec(name, document), contracts, codes)
        if faults:
            raise Misconfigured(
                "mapping_invalid",
                f"{faults[0].path}: {faults[0].en}",
                f"{faults[0].path}：{faults[0].zh}",
                tuple(faults),
            )

    def get(self, path: str) -> Mapping:
        """The mapping of a file such as ``mappings/tax/clearance.yaml``.

        Raises:
            hub.errors.Misconfigured: ``mapping_unknown``.
        """
        found = self._found.get(path)
        if found is None:
            raise Misconfigured("mapping_unknown", f"there is no mapping {path}", f"没有映射 {path}")
        return found

    def names(self) -> tuple[str, ...]:
        """The files of all mappings."""
        return tuple(self._found)
