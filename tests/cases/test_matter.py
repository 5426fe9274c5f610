"""A matter is checked before any case runs on it: everything wrong at once, with the right names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hub.cases.matter import Announcement, Matter, Step, check_matter

EXCHANGES = {
    "platform/identity_check": "ask",
    "platform/unified_number": "ask",
    "platform/progress": "deliver",
    "platform/evaluation_invite": "deliver",
    "tax/taxable_case": "deliver",
    "tax/clearance_query": "fetch",
    "tax/result": "deliver",
    "tax/withdrawal": "deliver",
    "registry/case": "deliver",
    "registry/clearance": "deliver",
    "registry/withdrawal": "deliver",
    "registry/result_query": "fetch",
    "hall/notice": "deliver",
}


def test_the_shipped_matter_is_sound(matter: Matter) -> None:
    assert check_matter(matter, EXCHANGES) == []


@pytest.mark.parametrize("missing", sorted(EXCHANGES))
def test_every_exchange_that_it_names_must_exist(matter: Matter, missing: str) -> None:
    less = {name: kind for name, kind in EXCHANGES.items() if name != missing}
    faults = check_matter(matter, less)
    assert faults
    assert all(missing in fault.en and missing in fault.zh for fault in faults)


def test_everything_wrong_is_said_at_once(matter: Matter) -> None:
    steps = dict(matter.steps)
    steps["number"] = replace(steps["number"], needs=("tax",), guard="no_such")
    steps["extra"] = Step("extra", "send", exchange="tax/clearance_query", query="tax/result")
    wrong = replace(
        matter,
        steps=steps,
        finish="nowhere",
        withdraw_until="never",
        announce={"some_day": (Announcement("tax/nothing", told="tax/clearance_query"),)},
    )
    faults = check_matter(wrong, EXCHANGES)
    text = "\n".join(f"{fault.path} {fault.en}" for fault in faults)
    for word in ("tax", "no_such", "identity_matches", "tax/result", "nowhere", "never", "some_day", "tax/nothing"):
        assert word in text
    assert {fault.code for fault in faults} == {"matter_invalid"}
    assert len(faults) == 9


def test_the_checklist_says_what_is_missing(matter: Matter) -> None:
    assert matter.missing([]) == matter.required
    assert matter.missing(matter.required) == ()
    assert matter.missing([*matter.required[1:], "别的"]) == matter.required[:1]
