"""Results that were not reported: everyone is asked for, rarely, and one case's trouble stays its own."""

from __future__ import annotations

from hub.ports import Incoming
from tests.pipeline.scripted import Stage, fast

HOUR = 3_600_000


def _waiting(stage: Stage, count: int) -> list[str]:
    cases = [stage.apply(n).case for n in range(1, count + 1)]
    stage.drain(3)
    assert all(stage.view(case).waiting_for == "tax" for case in cases)
    return cases


def _asked(stage: Stage) -> list[str]:
    return [document["body"]["ywsldh"] for document in stage.wire.of("tax/clearance_query")]


def test_every_case_has_its_turn_however_many_wait(tmp_path, monkeypatch) -> None:
    from hub.store import cases as rows

    stage = Stage(tmp_path, pace=fast(poll_after=60_000))
    found = _waiting(stage, 7)
    # Three at a time stand for the five hundred that one collection looks at.
    whole = rows.owed
    monkeypatch.setattr(rows, "owed", lambda c, partner, before, now, limit=3: whole(c, partner, before, now, limit))
    for _ in range(3):
        stage.clock.ahead += 61_000
        stage.hub.collect("tax", 5)
    assert set(_asked(stage)) == set(found)
    stage.close()


def test_asking_backs_off_and_wakes_nobody_in_between(tmp_path) -> None:
    stage = Stage(tmp_path, pace=fast(poll_after=60_000))
    _waiting(stage, 1)
    woken = 0
    for _ in range(120):
        stage.clock.ahead += 60_000
        woken += "tax" in stage.hub.upkeep.polled_partners()
        stage.hub.collect("tax", 5)
    # Two hours of minutes: after 1, 2, 4, 8, 16, 32 and 60 minutes.
    assert 6 <= len(_asked(stage)) <= 9
    assert woken == len(_asked(stage))
    stage.close()


def test_one_unreadable_case_does_not_keep_the_others_from_being_asked_for(stage: Stage) -> None:
    from sqlalchemy import delete

    from hub.store.tables import body_keys

    broken, fine = _waiting(stage, 2)
    stage.hub.parts.ledger.write(lambda c: c.execute(delete(body_keys).where(body_keys.c.owner == broken)))
    body = {"ywsldh": fine, "wszt": "1", "nsrxx": [{"sphm": "SP1"}]}
    stage.wire.rules["tax/clearance_query"] = lambda _: Incoming(200, {"head": {"rtn_code": "0000"}, "body": body})
    report = stage.hub.collect("tax", 5)
    assert (report.dead, report.collected) == (1, 1)
    assert stage.view(fine).waiting_for == "registry"
