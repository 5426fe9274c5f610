"""A matter (事项) as frozen values: what its YAML says, checked before any case runs on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from hub.cases.guards import GUARDS
from hub.errors import Fault


@dataclass(frozen=True, slots=True)
class End:
    """A case ends in this state for this reason."""

    state: Literal["refused", "stopped"]
    reason: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step. ``gate`` waits for materials, ``send`` for its messages, ``await`` for what a partner reports."""

    name: str
    kind: Literal["gate", "send", "await"]
    needs: tuple[str, ...] = ()
    exchange: str = ""
    each: str = ""
    guard: str = ""
    otherwise: End | None = None
    refused: End | None = None
    keeps: str = ""
    event: str = ""
    partner: str = ""
    query: str = ""
    deadline_hours: float = 0

    @property
    def waits_for(self) -> str:
        """The partner that moves this step on."""
        return self.partner or self.exchange.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Announcement:
    """A message that follows from a step's or a case's end."""

    exchange: str
    node: str = ""
    notice: str = ""
    told: str = ""


@dataclass(frozen=True, slots=True)
class Matter:
    """One version of one kind of business."""

    name: str
    version: int
    name_zh: str
    name_en: str
    djlx: str
    rec_type: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    steps: Mapping[str, Step]
    finish: str
    withdraw_until: str
    announce: Mapping[str, tuple[Announcement, ...]]

    def missing(self, materials: Collection[str]) -> tuple[str, ...]:
        """Required materials that are not among these names (缺件), in the order of the checklist."""
        return tuple(name for name in self.required if name not in materials)


def read_matter(spec: Mapping[str, object]) -> Matter:
    """Build a matter from YAML that its JSON Schema has already accepted."""
    data: dict[str, object] = dict(spec)
    checklist: list[dict[str, object]] = list(data["checklist"])  # type: ignore[call-overload]
    steps: dict[str, dict[str, object]] = dict(data["steps"])  # type: ignore[call-overload]
    announce: dict[str, list[dict[str, str]]] = dict(data["announce"])  # type: ignore[call-overload]
    withdraw: dict[str, str] = dict(data["withdraw"])  # type: ignore[call-overload]
    return Matter(
        name=str(data["matter"]),
        version=int(str(data["version"])),
        name_zh=str(data["name_zh"]),
        name_en=str(data["name_en"]),
        djlx=str(data["DJLX"]),
        rec_type=str(data["RecType"]),
        required=tuple(str(item["SJMC"]) for item in checklist if item["required"]),
        optional=tuple(str(item["SJMC"]) for item in checklist if not item["required"]),
        steps={name: _read_step(name, step) for name, step in steps.items()},
        finish=str(data["finish"]),
        withdraw_until=withdraw["until"],
        announce={when: tuple(Announcement(**item) for item in items) for when, items in announce.items()},
    )


def _read_step(name: str, spec: Mapping[str, object]) -> Step:
    values: dict[str, object] = dict(spec)
    values["needs"] = tuple(values.get("needs", ()))  # type: ignore[arg-type]
    for key in ("otherwise", "refused"):
        if key in values:
            values[key] = End(**values[key])  # type: ignore[arg-type]
    return Step(name=name, **values)  # type: ignore[arg-type]


STATES = ("correction", "finished", "withdrawn", "stopped", "refused")


def check_matter(matter: Matter, exchanges: Mapping[str, str]) -> list[Fault]:
    """Everything wrong with a matter, at once.

    Args:
        matter: the matter.
        exchanges: ``partner/name`` → direction of every declared exchange.
    """
    found: list[Fault] = []
    seen: set[str] = set()
    for name, step in matter.steps.items():
        path = f"/{matter.name}/steps/{name}"
        found.extend(
            _fault(path, f"needs `{need}`, which is not a step above it", f"所需步骤 `{need}` 不在其前")
            for need in step.needs
            if need not in seen
        )
        seen.add(name)
        found.extend(_check_step(path, step, exchanges))
    for when, items in matter.announce.items():
        path = f"/{matter.name}/announce/{when}"
        if when not in matter.steps and when not in STATES:
            found.append(_fault(path, "neither a step nor a state", "既不是步骤也不是状态"))
        found.extend(
            _fault(path, f"`{name}` is not a declared deliver exchange", f"`{name}` 未声明为发送")
            for item in items
            for name in filter(None, (item.exchange, item.told))
            if exchanges.get(name) not in SENT
        )
    for where, step_name in (("finish", matter.finish), ("withdraw/until", matter.withdraw_until)):
        if step_name not in matter.steps:
            found.append(_fault(f"/{matter.name}/{where}", f"`{step_name}` is not a step", f"`{step_name}` 不是步骤"))
    return found


SENT = ("deliver", "ask")


def _check_step(path: str, step: Step, exchanges: Mapping[str, str]) -> list[Fault]:
    found: list[Fault] = []
    if step.guard not in GUARDS:
        known = ", ".join(sorted(filter(None, GUARDS)))
        found.append(
            _fault(path, f"unknown guard `{step.guard}`; known: {known}", f"未知判定 `{step.guard}`; 已知: {known}")
        )
    if step.kind == "send" and exchanges.get(step.exchange) not in SENT:
        found.append(
            _fault(
                path,
                f"`{step.exchange}` is not a declared deliver or ask exchange",
                f"`{step.exchange}` 未声明为发送或询问",
            )
        )
    if step.query and exchanges.get(step.query) != "fetch":
        found.append(_fault(path, f"`{step.query}` is not a declared fetch exchange", f"`{step.query}` 未声明为补取"))
    return found


def _fault(path: str, en: str, zh: str) -> Fault:
    return Fault(path, "matter_invalid", en, zh)
