"""Loads the matters: one YAML per kind of business and version, checked before any case runs on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator

from hub.cases.matter import Matter, check_matter, read_matter
from hub.errors import Fault, Misconfigured, Refused
from hub.registry.declarations import Declarations


@dataclass(frozen=True, slots=True)
class Matters:
    """Every version of every matter. New cases begin with the newest, running ones keep theirs."""

    found: Mapping[tuple[str, int], Matter]

    @classmethod
    def load(cls, root: Path, declarations: Declarations) -> Matters:
        """Read ``matters/*.yaml``.

        Raises:
            Misconfigured: with every fault of every file.
        """
        faults, found = check_matters(root, declarations)
        if faults:
            raise Misconfigured("matter_invalid", "matters do not fit together", "事项声明有误", tuple(faults))
        return cls(found)

    def latest(self, name: str) -> Matter:
        """The newest version.

        Raises:
            Refused: ``code_unknown`` at ``/matter``, with the known names.
        """
        versions = [version for matter, version in self.found if matter == name]
        if not versions:
            known = ", ".join(sorted({matter for matter, _ in self.found}))
            fault = Fault("/matter", "code_unknown", f"no such matter; known: {known}", f"无此事项; 已知: {known}")
            raise Refused("code_unknown", fault.en, fault.zh, 422, (fault,))
        return self.found[name, max(versions)]

    def version(self, name: str, version: int) -> Matter:
        """The version with which a case began.

        Raises:
            Misconfigured: the file is gone although cases still run on it.
        """
        matter = self.found.get((name, version))
        if matter is None:
            raise Misconfigured(
                "matter_missing", f"matters/: {name} version {version} is gone", f"事项 {name} 第 {version} 版缺失"
            )
        return matter


def check_matters(root: Path, declarations: Declarations) -> tuple[list[Fault], dict[tuple[str, int], Matter]]:
    """Everything wrong with the matters, and those that are right."""
    schema = yaml.safe_load((root / "schemas/declarations/matter.json").read_text(encoding="utf-8"))
    shape = Draft202012Validator(schema)
    exchanges = {exchange.key: exchange.direction for exchange in declarations.exchanges()}
    faults: list[Fault] = []
    found: dict[tuple[str, int], Matter] = {}
    for path in sorted((root / "matters").glob("*.yaml")):
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
        broken = [
            Fault(
                f"/{path.name}/{'/'.join(map(str, error.absolute_path))}",
                "declaration_invalid",
                error.message,
                f"声明有误: {error.message}",
            )
            for error in shape.iter_errors(spec)
        ]
        faults.extend(broken)
        if broken:
            continue
        matter = read_matter(spec)
        if (matter.name, matter.version) in found:
            faults.append(Fault(f"/{path.name}", "declaration_invalid", "this version exists twice", "版本重复"))
        faults.extend(check_matter(matter, exchanges))
        faults.extend(_unrevisable(matter, declarations))
        found[matter.name, matter.version] = matter
    return faults, found


def _unrevisable(matter: Matter, declarations: Declarations) -> list[Fault]:
    """A guarded report may come negative first: without ``revision`` the positive one would be a conflict for ever."""
    guarded = {step.event for step in matter.steps.values() if step.kind == "await" and step.guard}
    return [
        Fault(
            f"/{matter.name}/{exchange.key}",
            "matter_invalid",
            f"its event `{exchange.event}` is guarded, so the exchange must declare `revision: true`",
            f"事件 `{exchange.event}` 带有判定, 该交换须声明 `revision: true`",
        )
        for exchange in declarations.exchanges()
        if exchange.event in guarded and not exchange.revision
    ]
