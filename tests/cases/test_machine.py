"""The case machine, step by step: pure, so that every move can be written down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hub.cases.machine import (
    Arrived,
    CaseMemory,
    Corrected,
    Delivered,
    Died,
    Event,
    Opened,
    Outcome,
    Overdue,
    RefusedBy,
    Revived,
    Withdrawn,
    advance,
)
from hub.cases.matter import Matter
from hub.errors import Refused

SAME, UNLIKE = {"HYJG": "1"}, {"HYJG": "2"}
NUMBER = {"TYBM": "TY1"}
PAID, UNPAID = {"WSZT": "1"}, {"WSZT": "0"}
ENTERED, HISTORIC = {"QSZT": "1"}, {"QSZT": "2"}

READY: tuple[Event, ...] = (
    Opened(2, ()),
    Delivered("identity", SAME),
    Delivered("identity", SAME),
    Delivered("number", NUMBER),
)
TOLD: tuple[Event, ...] = (*READY, Delivered("tax"), Delivered("distribution"))
CLEARED: tuple[Event, ...] = (*TOLD, Arrived("clearance", PAID), Delivered("forwarding"))


def play(matter: Matter, *events: Event) -> Outcome:
    """The outcome of the last event."""
    case: CaseMemory | None = None
    outcome: Outcome | None = None
    for at, event in enumerate(events, 1):
        outcome = advance(matter, case, event, at)
        case = outcome.case
    assert outcome is not None
    return outcome


def sends(outcome: Outcome) -> list[str]:
    return [send.exchange for send in outcome.sends]


def test_opening_begins_what_needs_nothing_else(matter: Matter) -> None:
    outcome = play(matter, Opened(3, ()))
    assert (outcome.case.state, outcome.case.step, outcome.case.waiting_for) == ("running", "identity", "platform")
    assert [(s.exchange, s.party) for s in outcome.sends] == [
        ("platform/identity_check", 0),
        ("platform/identity_check", 1),
        ("platform/identity_check", 2),
        ("platform/unified_number", -1),
    ]


def test_every_party_must_be_checked(matter: Matter) -> None:
    half = play(matter, *READY[:2])
    assert half.sends == ()
    assert half.case.steps["identity"].out == 1
    done = play(matter, *READY[:3])
    assert done.case.steps["identity"].status == "done"
    assert sends(done) == ["platform/progress"]


def test_both_branches_begin_together_and_wait_for_the_first_open_step(matter: Matter) -> None:
    outcome = play(matter, *READY)
    assert {"tax/taxable_case", "registry/case"} <= set(sends(outcome))
    assert outcome.case.unified_no == "TY1"
    assert (outcome.case.step, outcome.case.waiting_for) == ("tax", "tax")
    assert play(matter, *READY, Delivered("tax")).case.step == "distribution"
    assert play(matter, *TOLD).case.waiting_for == "tax"


def test_clearance_goes_on_and_registration_finishes(matter: Matter) -> None:
    cleared = play(matter, *TOLD, Arrived("clearance", PAID))
    assert {"platform/progress", "registry/clearance"} == set(sends(cleared))
    finished = play(matter, *CLEARED, Arrived("registration", ENTERED))
    assert (finished.case.state, finished.case.waiting_for) == ("finished", "")
    assert sends(finished) == ["tax/result", "platform/progress", "platform/evaluation_invite", "hall/notice"]


@pytest.mark.parametrize("events", [READY, (*READY, Delivered("distribution")), (*READY, Delivered("tax"))])
def test_an_early_clearance_is_taken(matter: Matter, events: tuple[Event, ...]) -> None:
    early = play(matter, *events, Arrived("clearance", PAID))
    assert early.case.steps["clearance"].status == "done"
    rest = [e for e in (Delivered("tax"), Delivered("distribution")) if e not in events]
    outcome = play(matter, *events, Arrived("clearance", PAID), *rest)
    if rest == [Delivered("tax")]:
        assert "registry/clearance" in sends(early) + sends(outcome)
    assert outcome.case.steps["forwarding"].status == "open"
    assert outcome.case.step == "forwarding"


def test_an_early_registration_finishes_too(matter: Matter) -> None:
    outcome = play(matter, *TOLD, Arrived("clearance", PAID), Arrived("registration", ENTERED))
    assert outcome.case.state == "finished"


def test_a_negative_report_waits_for_the_next(matter: Matter) -> None:
    negative = play(matter, *TOLD, Arrived("clearance", UNPAID))
    assert (negative.case.state, negative.case.reason) == ("running", "clearance_negative")
    assert negative.sends == ()
    positive = play(matter, *TOLD, Arrived("clearance", UNPAID), Arrived("clearance", PAID))
    assert (positive.case.reason, positive.case.step) == ("", "forwarding")


def test_a_report_after_others_were_told_sends_nothing_and_is_shown(matter: Matter) -> None:
    # The same content never comes here, idempotency absorbs it: whatever does is a change.
    again = play(matter, *CLEARED, Arrived("clearance", PAID))
    assert (again.case.state, again.case.reason, again.sends) == ("running", "clearance_revised", ())
    unknown = play(matter, *TOLD, Arrived("something", {}))
    assert (unknown.changed, unknown.sends) == (False, ())


def test_materials_missing(matter: Matter) -> None:
    held = play(matter, Opened(2, ("身份证明",)))
    assert (held.case.state, held.case.reason, held.case.waiting_for) == (
        "correction",
        "materials_missing",
        "applicant",
    )
    assert sends(held) == ["platform/progress", "hall/notice"]
    still = play(matter, Opened(2, ("a", "b")), Corrected(("b",)))
    assert (still.case.state, still.case.missing, still.sends) == ("correction", ("b",), ())
    free = play(matter, Opened(2, ("a",)), Corrected(()))
    assert (free.case.state, free.case.reason) == ("running", "")
    assert len(sends(free)) == 3


def test_withdrawing_until_the_register_is_written(matter: Matter) -> None:
    for events in (READY[:1], READY, TOLD, CLEARED, (Opened(2, ("x",)),)):
        gone = play(matter, *events, Withdrawn())
        assert (gone.case.state, gone.case.reason, gone.case.waiting_for) == (
            "withdrawn",
            "withdrawn_by_applicant",
            "",
        )
        assert gone.cancel
        assert [(s.exchange, s.told) for s in gone.sends][:2] == [
            ("tax/withdrawal", "tax/taxable_case"),
            ("registry/withdrawal", "registry/case"),
        ]
    with pytest.raises(Refused) as caught:
        play(matter, *CLEARED, Arrived("registration", ENTERED), Withdrawn())
    assert (caught.value.code, caught.value.status) == ("state_conflict", 409)


@pytest.mark.parametrize(
    "events",
    [
        (Withdrawn(),),
        (Corrected(()),),
        (Delivered("tax"),),
        (*READY, Corrected(())),
        (*READY, Opened(1, ())),
        (*READY, Withdrawn(), Withdrawn()),
        (*READY, Withdrawn(), Corrected(())),
    ],
)
def test_what_people_may_not_ask(matter: Matter, events: tuple[Event, ...]) -> None:
    with pytest.raises(Refused) as caught:
        play(matter, *events)
    assert caught.value.code == "state_conflict"


@pytest.mark.parametrize(
    ("events", "state", "reason"),
    [
        ((*READY[:1], Delivered("identity", UNLIKE)), "refused", "identity_mismatch"),
        ((*READY[:1], Delivered("identity", {})), "refused", "identity_mismatch"),
        ((*READY, RefusedBy("tax")), "stopped", "tax_refused"),
        ((*READY, RefusedBy("distribution", "unit_seized")), "stopped", "unit_seized"),
        ((*READY[:1], RefusedBy("number")), "stopped", "partner_refused"),
        ((*TOLD, Arrived("clearance", PAID), RefusedBy("forwarding")), "stopped", "registry_refused"),
    ],
)
def test_ends(matter: Matter, events: tuple[Event, ...], state: str, reason: str) -> None:
    outcome = play(matter, *events)
    assert (outcome.case.state, outcome.case.reason, outcome.cancel) == (state, reason, True)
    late: tuple[Event, ...] = (Delivered("tax"), Arrived("clearance", PAID), Died("tax", "x"), Overdue("tax"))
    for event in late:
        after = advance(matter, outcome.case, event, 99)
        assert (after.case, after.sends, after.changed) == (outcome.case, (), False)


def test_dead_letters_show_and_go(matter: Matter) -> None:
    dead = play(matter, *READY, Died("tax", "answer_invalid"))
    assert (dead.case.state, dead.case.reason) == ("running", "answer_invalid")
    assert play(matter, *READY, Died("tax", "x"), Revived("tax")).case.reason == ""
    assert play(matter, *READY, Died("tax", "x"), Delivered("tax")).case.reason == ""
    hidden = play(matter, *READY, Died("distribution", "x"))
    assert hidden.case.reason == ""  # the step shown is tax
    assert play(matter, *READY, Died("distribution", "x"), Delivered("tax")).case.reason == "x"
    assert play(matter, *TOLD, Overdue("clearance")).case.reason == "overdue"
    assert play(matter, *TOLD, Overdue("clearance"), Arrived("clearance", PAID)).case.reason == ""
    assert not play(matter, *TOLD, Died("announce.x", "x")).changed


def test_the_memory_is_a_value(matter: Matter) -> None:
    """Nothing is changed in place: two workers may plan from the same memory."""
    case = play(matter, *READY).case
    before = replace(case, steps=dict(case.steps))
    advance(matter, case, Delivered("tax"), 9)
    assert case == before


def test_times_are_written_not_compared(matter: Matter) -> None:
    def steps(at: int) -> dict[str, Any]:
        case = None
        for event in CLEARED:
            case = advance(matter, case, event, at).case
        assert case is not None
        return {name: (memory.status, memory.out) for name, memory in case.steps.items()}

    assert steps(0) == steps(2**40)
