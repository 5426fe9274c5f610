"""Any order of events: nothing but a person's conflict is refused, ends absorb, no step begins twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.cases.guards import GUARDS
from hub.cases.machine import (
    Arrived,
    CaseMemory,
    Corrected,
    Delivered,
    Died,
    Event,
    Opened,
    Overdue,
    RefusedBy,
    Revived,
    Withdrawn,
    advance,
)
from hub.cases.matter import Matter
from hub.errors import Refused
from hub.model.states import CASE_ENDS

PACE = settings(
    max_examples=250, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
STEPS = st.sampled_from(
    ["materials", "identity", "number", "tax", "distribution", "clearance", "forwarding", "registration", "unknown"]
)
FLAG = st.sampled_from(["1", "0", "2", ""])
DOCUMENTS = st.fixed_dictionaries({}, optional={"HYJG": FLAG, "TYBM": st.just("TY1"), "WSZT": FLAG, "QSZT": FLAG})
MISSING = st.lists(st.sampled_from(["a", "b"]), unique=True).map(tuple)
PEOPLE = (Opened, Corrected, Withdrawn)
# Good news is frequent, so that random walks also reach the end.
GOOD = st.sampled_from(
    [
        Delivered("identity", {"HYJG": "1"}),
        Delivered("identity", {"HYJG": "1"}),
        Delivered("number", {"TYBM": "TY1"}),
        Delivered("tax"),
        Delivered("distribution"),
        Delivered("forwarding"),
        Arrived("clearance", {"WSZT": "1"}),
        Arrived("registration", {"QSZT": "1"}),
    ]
)
BAD = st.one_of(
    st.builds(Opened, st.integers(1, 4), MISSING),
    st.builds(Corrected, MISSING),
    st.just(Withdrawn()),
    st.builds(Delivered, STEPS, DOCUMENTS),
    st.builds(RefusedBy, STEPS, st.sampled_from(["", "unit_seized"])),
    st.builds(Died, STEPS, st.just("answer_invalid")),
    st.builds(Revived, STEPS),
    st.builds(Overdue, STEPS),
    st.builds(Arrived, st.sampled_from(["clearance", "registration", "progress", "unknown"]), DOCUMENTS),
)
EVENTS = st.lists(st.one_of(GOOD, GOOD, GOOD, BAD), max_size=40)


def check(matter: Matter, before: CaseMemory, after: CaseMemory, begun: Counter[tuple[str, int]]) -> None:
    """What holds after every event."""
    assert all(count == 1 for count in begun.values()), begun
    if before.state in CASE_ENDS:
        assert after == before
    for name, memory in after.steps.items():
        step = matter.steps[name]
        was = before.steps[name].status
        assert (was, memory.status) not in {("done", "open"), ("done", "todo"), ("open", "todo")}
        assert memory.out >= 0
        if memory.status == "open":
            assert all(after.steps[need].status == "done" for need in step.needs)
            assert (memory.out > 0) == (step.kind == "send")
    assert (after.state == "finished") <= (after.steps[matter.finish].status == "done")
    assert (after.waiting_for == "") == (after.state in CASE_ENDS)
    assert (after.state == "correction") == bool(after.missing) or after.state in CASE_ENDS


@PACE
@given(parties=st.integers(1, 4), missing=MISSING, events=EVENTS)
def test_any_order(matter: Matter, parties: int, missing: tuple[str, ...], events: list[Event]) -> None:
    outcome = advance(matter, None, Opened(parties, missing), 0)
    case, begun = outcome.case, Counter((s.step, s.party) for s in outcome.sends if s.step)
    for at, event in enumerate(events, 1):
        try:
            outcome = advance(matter, case, event, at)
        except Refused as refusal:
            if refusal.code != "state_conflict" or not isinstance(event, PEOPLE):
                raise
            continue
        begun.update((s.step, s.party) for s in outcome.sends if s.step)
        if not outcome.changed:
            assert outcome.case == case
            assert outcome.sends == ()
        check(matter, case, outcome.case, begun)
        case = outcome.case


@PACE
@given(parties=st.integers(1, 3), data=st.data())
def test_whatever_the_order_of_good_news_a_case_finishes(matter: Matter, parties: int, data: st.DataObject) -> None:
    """Every step's message is delivered when it has been sent; reports come at any time; nothing is lost."""
    outcome = advance(matter, None, Opened(parties, ()), 0)
    case, out = outcome.case, [s for s in outcome.sends if s.step]
    begun = Counter((s.step, s.party) for s in out)
    reports = [Arrived("clearance", {"WSZT": "1"}), Arrived("registration", {"QSZT": "1"})]
    answers = {"identity": {"HYJG": "1"}, "number": {"TYBM": "TY1"}}
    at = 0
    while out or reports:
        at += 1
        # A registration comes only from a registry that has the case.
        choices: list[Event] = [Delivered(s.step, answers.get(s.step, {})) for s in out]
        choices += reports[:1]
        event = data.draw(st.sampled_from(choices))
        if isinstance(event, Arrived):
            reports.pop(0)
        else:
            out.pop(choices.index(event))
        outcome = advance(matter, case, event, at)
        fresh = [s for s in outcome.sends if s.step]
        begun.update((s.step, s.party) for s in fresh)
        check(matter, case, outcome.case, begun)
        case = outcome.case
        if case.state == "finished":
            break
        out += fresh
    assert case.state == "finished"


@given(st.dictionaries(st.sampled_from(["HYJG", "WSZT", "QSZT", "x"]), st.one_of(st.none(), st.text(), st.integers())))
@settings(derandomize=True, deadline=None)
def test_guards_answer_yes_or_no(document: dict[str, object]) -> None:
    for name, guard in GUARDS.items():
        assert guard(document) is (True if not name else guard(dict(document)))


def test_replace_keeps_memory_comparable(matter: Matter) -> None:
    case = advance(matter, None, Opened(1, ()), 0).case
    assert replace(case) == case
