"""The case as a pure state machine: ``(matter, case, event) → (case', messages to send)``. It reads no clock and no database.

The memory of a case is small and holds nothing personal: for every step whether it is ``todo``, ``open`` or ``done``, when
it began, how many of its messages are still out, and a flag when one of them is a dead letter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from hub.cases.guards import GUARDS
from hub.cases.matter import Announcement, End, Matter, Step
from hub.errors import Refused
from hub.model.states import CASE_ENDS, CaseState

Status = Literal["todo", "open", "done"]
# Reasons of a running case, after the event's name: it came, but not as hoped; it was changed after others had been told.
NEGATIVE = "_negative"
REVISED = "_revised"


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Where one step stands. ``since`` is milliseconds since the epoch; ``dead`` the reason of its dead letter."""

    status: Status = "todo"
    since: int = 0
    out: int = 0
    dead: str = ""


@dataclass(frozen=True, slots=True)
class CaseMemory:
    """What the machine remembers of a case."""

    state: CaseState
    steps: Mapping[str, StepMemory]
    parties: int
    missing: tuple[str, ...] = ()
    unified_no: str = ""
    reason: str = ""
    step: str = ""
    waiting_for: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """An application was accepted: how many parties it names and what is missing."""

    parties: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Corrected:
    """Materials came; this is still missing."""

    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The applicant takes the application back."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """One message of a step arrived; for an ask with the answer's canonical document."""

    step: str
    document: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RefusedBy:
    """The partner refused one message of a step, with a stable reason if it declared one."""

    step: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Died:
    """One message of a step became a dead letter."""

    step: str
    reason: str


@dataclass(frozen=True, slots=True)
class Revived:
    """An operator replays the dead letter of a step."""

    step: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """A partner reported something: the event's name and its canonical document."""

    event: str
    document: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Overdue:
    """A step has waited longer than its deadline."""

    step: str


Event = Opened | Corrected | Withdrawn | Delivered | RefusedBy | Died | Revived | Arrived | Overdue


@dataclass(frozen=True, slots=True)
class Send:
    """A message to make. ``party`` is the index of the party it is about, or -1."""

    exchange: str
    step: str = ""
    party: int = -1
    node: str = ""
    notice: str = ""
    told: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The case after the event, what to send, and whether unsent messages of its steps are to be cancelled."""

    case: CaseMemory
    sends: tuple[Send, ...] = ()
    cancel: bool = False
    changed: bool = True


def advance(matter: Matter, case: CaseMemory | None, event: Event, at: int) -> Outcome:
    """Move a case by one event.

    Args:
        matter: the version of the matter with which the case began.
        case: the case, or ``None`` for ``Opened``.
        event: what happened.
        at: when, in milliseconds: only written into the memory, never compared.

    Raises:
        Refused: ``state_conflict`` when a person asks for what the case's state does not allow. What machines report
            late (a clearance after a withdrawal) changes nothing and is not an error.
    """
    if case is None:
        if not isinstance(event, Opened):
            raise _conflict()
        return _opened(matter, event, at)
    if isinstance(event, Corrected):
        return _corrected(matter, case, event, at)
    if isinstance(event, Withdrawn):
        return _withdrawn(matter, case)
    if isinstance(event, Opened):
        raise _conflict()
    if case.state in CASE_ENDS or case.state == "correction":
        return Outcome(case, changed=False)
    return _machine_event(matter, case, event, at)


def _machine_event(  # noqa: PLR0911 - one line per kind of event
    matter: Matter, case: CaseMemory, event: Delivered | RefusedBy | Died | Revived | Arrived | Overdue, at: int
) -> Outcome:
    if isinstance(event, Arrived):
        return _arrived(matter, case, event, at)
    step = matter.steps.get(event.step)
    if step is None:
        return Outcome(case, changed=False)
    memory = case.steps[step.name]
    if isinstance(event, Delivered):
        return _delivered(matter, case, step, event, at)
    if isinstance(event, RefusedBy):
        end = step.refused or End("stopped", "partner_refused")
        return _ended(matter, case, end.state, event.reason or end.reason)
    if isinstance(event, Died):
        return _standing(matter, _with_step(case, step.name, replace(memory, dead=event.reason)), ())
    if isinstance(event, Revived):
        return _standing(matter, _with_step(case, step.name, replace(memory, dead="")), ())
    return _standing(matter, _with_step(case, step.name, replace(memory, dead="overdue")), ())


def _conflict() -> Refused:
    return Refused("state_conflict", "the case's state does not allow this", "办件当前状态不允许此操作", 409)


def _opened(matter: Matter, event: Opened, at: int) -> Outcome:
    steps = {name: StepMemory() for name in matter.steps}
    case = CaseMemory("accepted", steps, event.parties, event.missing)
    return _gate(matter, case, at)


def _corrected(matter: Matter, case: CaseMemory, event: Corrected, at: int) -> Outcome:
    if case.state != "correction":
        raise _conflict()
    return _gate(matter, replace(case, missing=event.missing), at)


def _gate(matter: Matter, case: CaseMemory, at: int) -> Outcome:
    """Let the case through its gates, or hold it for correction."""
    if case.missing:
        sends = () if case.state == "correction" else _announced(matter, "correction")
        return _standing(matter, replace(case, state="correction", reason="materials_missing"), sends)
    case = replace(case, state="running", reason="")
    for step in matter.steps.values():
        if step.kind == "gate":
            case = _with_step(case, step.name, StepMemory("done", at))
    return _begin_steps(matter, case, at, [])


def _withdrawn(matter: Matter, case: CaseMemory) -> Outcome:
    if case.state in CASE_ENDS or case.steps[matter.withdraw_until].status == "done":
        raise _conflict()
    return _ended(matter, case, "withdrawn", "withdrawn_by_applicant")


def _ended(matter: Matter, case: CaseMemory, state: CaseState, reason: str) -> Outcome:
    ended = replace(case, state=state, reason=reason, waiting_for="")
    return Outcome(ended, _announced(matter, state), cancel=True)


def _delivered(matter: Matter, case: CaseMemory, step: Step, event: Delivered, at: int) -> Outcome:
    memory = case.steps[step.name]
    if memory.status != "open":
        return Outcome(case, changed=False)
    if not GUARDS[step.guard](event.document):
        end = step.otherwise or End("stopped", "guard_failed")
        return _ended(matter, case, end.state, end.reason)
    if step.keeps:
        case = replace(case, unified_no=str(event.document.get(step.keeps, "")))
    left = replace(memory, out=memory.out - 1, dead="")
    if left.out > 0:
        return _standing(matter, _with_step(case, step.name, left), ())
    return _done(matter, case, step, at)


def _arrived(matter: Matter, case: CaseMemory, event: Arrived, at: int) -> Outcome:
    waiting = [step for step in matter.steps.values() if step.kind == "await" and step.event == event.event]
    for step in waiting:
        good = GUARDS[step.guard](event.document)
        if case.steps[step.name].status == "done":
            return _revised(matter, case, step, good=good)
        # A partner may report before our own record says that it was told: what it says is taken as it comes.
        if not good:
            return _standing(matter, replace(case, reason=f"{step.event}{NEGATIVE}"), ())
        return _done(matter, case, step, at)
    return Outcome(case, changed=False)


def _revised(matter: Matter, case: CaseMemory, step: Step, *, good: bool) -> Outcome:
    """A partner changes what it reported before. Taken back in time, the case waits again; too late, people have to see it."""
    behind = [other for other in matter.steps.values() if step.name in other.needs]
    if all(case.steps[other.name].status == "todo" for other in behind):
        if good:
            return Outcome(case, changed=False)
        again = _with_step(case, step.name, replace(case.steps[step.name], status="open"))
        return _standing(matter, replace(again, reason=f"{step.event}{NEGATIVE}"), ())
    return _standing(matter, replace(case, reason=f"{step.event}{REVISED}"), ())


def _done(matter: Matter, case: CaseMemory, step: Step, at: int) -> Outcome:
    memory = case.steps[step.name]
    # What another partner reported still stands; this step's own trouble is over.
    others = case.reason.endswith((NEGATIVE, REVISED)) and case.reason != f"{step.event}{NEGATIVE}"
    kept = case.reason if others and step.name != matter.finish else ""
    case = _with_step(replace(case, reason=kept), step.name, StepMemory("done", memory.since or at))
    sends = list(_announced(matter, step.name))
    if step.name == matter.finish:
        finished = replace(case, state="finished", waiting_for="", step=step.name)
        return Outcome(finished, (*sends, *_announced(matter, "finished")))
    return _begin_steps(matter, case, at, sends)


def _begin_steps(matter: Matter, case: CaseMemory, at: int, sends: list[Send]) -> Outcome:
    """Begin every step whose needs are met."""
    for step in matter.steps.values():
        if case.steps[step.name].status != "todo" or any(case.steps[need].status != "done" for need in step.needs):
            continue
        count = case.parties if step.each == "parties" else 1
        case = _with_step(case, step.name, StepMemory("open", at, count if step.kind == "send" else 0))
        if step.kind == "send":
            sends.extend(Send(step.exchange, step.name, party if step.each else -1) for party in range(count))
    return _standing(matter, case, tuple(sends))


def _announced(matter: Matter, when: str) -> tuple[Send, ...]:
    return tuple(_from(item) for item in matter.announce.get(when, ()))


def _from(item: Announcement) -> Send:
    return Send(item.exchange, node=item.node, notice=item.notice, told=item.told)


def _with_step(case: CaseMemory, name: str, memory: StepMemory) -> CaseMemory:
    return replace(case, steps={**case.steps, name: memory})


def _standing(matter: Matter, case: CaseMemory, sends: tuple[Send, ...]) -> Outcome:
    """Say where the case stands: the first step that is not done, and who moves it on."""
    for step in matter.steps.values():
        memory = case.steps[step.name]
        if memory.status != "done":
            waiting = "applicant" if step.kind == "gate" else step.waits_for
            reason = memory.dead or (case.reason if not _was_dead(case) else "")
            return Outcome(replace(case, step=step.name, waiting_for=waiting, reason=reason), sends)
    return Outcome(case, sends)


def _was_dead(case: CaseMemory) -> bool:
    """Whether the reason shown came from a dead letter that is gone now."""
    return bool(case.reason) and not case.reason.endswith((NEGATIVE, REVISED)) and case.reason != "materials_missing"
