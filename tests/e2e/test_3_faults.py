"""kill -9 of the hub's processes at random moments, and a partner that dies between receipt and answer."""

from __future__ import annotations

import itertools
import random
import threading

import pytest

from tests.e2e.services import ENDS, Services, application, wait_for

pytestmark = pytest.mark.e2e
CASES = 30


def _quiet(hub: Services) -> bool:
    over = all(row["state"] in ENDS for row in hub.states().values())
    return over and not [row for row in hub.messages() if row["state"] in ("ready", "asked", "waiting", "leased")]


def test_nothing_is_lost_and_nothing_done_twice_while_processes_are_killed(hub: Services) -> None:
    stop, chance = threading.Event(), random.Random(7)
    victims = ("gateway", "courier", "scheduler", "triggerer")
    killed: list[str] = []

    def kill() -> None:
        for name in itertools.chain(victims, iter(lambda: chance.choice(victims), "")):
            hub.kill(name)
            killed.append(name)
            if stop.wait(chance.uniform(1, 4)):
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        cases = [hub.apply_surely(application(n))["case"] for n in range(100, 100 + CASES)]
    finally:
        wait_for(lambda: len(killed) >= len(victims), 30)
        stop.set()
        killer.join()
    assert len(set(cases)) == CASES
    assert set(killed) >= set(victims)
    assert wait_for(lambda: _quiet(hub), 240), [row for row in hub.states().values() if row["state"] not in ENDS]
    states = hub.states()
    assert {states[case]["state"] for case in cases} == {"finished"}
    twice = {name: {k: n for k, n in found.items() if n != 1} for name, found in hub.effects().items()}
    assert not any(twice.values()), twice
    assert hub.effects()["tax/taxable_case"].keys() >= set(cases)


def test_a_repeat_carries_the_same_delivery_id_and_is_absorbed(hub: Services) -> None:
    # The work is done and the answer unreadable: the hub has to send again.
    hub.mood("tax", garbage=True, times=2)
    case = hub.apply_surely(application(190))["case"]
    # Tax reports its clearance all the same, so the case may end before the repeat is made.
    assert wait_for(lambda: hub.states()[case]["state"] == "finished" and _quiet(hub), 120)
    receipts = [row for row in hub.received("tax", "taxable_case") if case in row["identity"]]
    assert len(receipts) == 3
    assert len({row["delivery_id"] for row in receipts}) == 1
    assert [row["applied"] for row in receipts] == [True, False, False]
    assert hub.effects()["tax/taxable_case"][case] == 1
    for partner in ("platform", "tax", "registry", "hall"):
        ids: dict[tuple[str, str], set[str]] = {}
        for row in hub.received(partner):
            if "quer" not in row["exchange"]:
                ids.setdefault((row["exchange"], row["identity"]), set()).add(row["delivery_id"])
        assert ids
        assert [key for key, found in ids.items() if len(found) > 1] == []


def test_manual_redelivery_ends_as_outcome_unknown_and_never_as_a_second_effect(hub: Services) -> None:
    # The answer comes three seconds after the receipt is durable: time to die in between.
    hub.mood("platform", latency_ms=3000, redelivery="manual")
    case = hub.apply_surely(application(200))["case"]

    def invitation() -> str:
        rows = hub.messages("--case", case, "--exchange", "evaluation_invite")
        return rows[0]["id"].replace("-", "") if rows else ""

    assert wait_for(lambda: bool(invitation()), 120)
    delivery = invitation()

    def received() -> list[bool]:
        return [True for row in hub.received("platform", "evaluation_invite") if row["delivery_id"] == delivery]

    assert wait_for(lambda: bool(received()), 90)
    hub.kill("sandbox")
    assert wait_for(lambda: hub.messages("--case", case, "--exchange", "evaluation_invite")[0]["state"] == "dead", 60)
    row = hub.messages("--case", case, "--exchange", "evaluation_invite")[0]
    assert (row["reason"], row["attempts"]) == ("outcome_unknown", 1)
    assert wait_for(lambda: hub.answers(f"{hub.control}/_health"), 20)
    hub.mood("platform")
    assert wait_for(lambda: _quiet(hub), 60)
    assert len(received()) == 1
    listed = hub.dukou("dead-letters", "--json").stdout
    assert '"owner": "operator"' in listed
    twice = {name: n for name, n in hub.effects()["platform/evaluation_invite"].items() if n != 1}
    assert not twice
