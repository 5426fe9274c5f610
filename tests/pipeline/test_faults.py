"""What goes wrong between us and a partner, and what each redelivery policy makes of it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

import hub.store.ledger as ledger_module
from hub.errors import Misconfigured, Refused, Transient, Unknown, Unsent
from hub.ports import Incoming, Outgoing
from hub.store import ledger, messages
from hub.store.messages import Filter
from tests.pipeline.scripted import Stage, application, fast, unreachable


def lost(_: Outgoing) -> Incoming:
    """The request went out; no answer came."""
    raise Unknown("answer_lost", "lost", "应答丢失")


def answers(*steps: Callable[[Outgoing], Incoming] | Incoming) -> Callable[[Outgoing], Incoming]:
    """One step per call; the last one goes on."""
    left, lock = list(steps), threading.Lock()

    def rule(outgoing: Outgoing) -> Incoming:
        with lock:
            step = left.pop(0) if len(left) > 1 else left[0]
        return step if isinstance(step, Incoming) else step(outgoing)

    return rule


OK = Incoming(200, {"code": "0000"})
ARRIVED, MISSING = Incoming(200, {"code": "0000"}), Incoming(404, {"code": "4004"})


def row(stage: Stage, exchange: str) -> Any:
    """The newest message of an exchange."""
    return stage.hub.reading.messages(Filter(exchange=exchange))[0]


def crash(stage: Stage, partner: str) -> list[Any]:
    """A worker claims and is never heard of again; its lease runs out."""
    claimed = stage.hub.deliverer.claim(stage.hub.rule("courier", partner), 10)
    stage.hub.parts.ledger.write(
        lambda c: c.execute(text("UPDATE messages SET lease_until = 1 WHERE state = 'leased'"))
    )
    return claimed


def up_to(stage: Stage, exchange: str) -> str:
    """Bring a case so far that this exchange's message is due and nothing else moves; its case."""
    receipt = stage.apply()
    partner, _, name = exchange.partition("/")
    if name == "evaluation_invite":
        stage.drain()
        stage.clear(receipt.case)
        stage.drain()
        stage.register(receipt.case)
        # The progress stands before the invitation.
        (progress,) = stage.hub.deliverer.claim(stage.hub.rule("airflow", "platform"), 10)
        stage.hub.deliverer.attempt(progress)
        return receipt.case
    for _ in range(4):
        stage.hub.drain("platform", "airflow", 5)
    assert row(stage, name).state == "ready", partner
    return receipt.case


def sent(stage: Stage, key: str) -> list[str]:
    return [delivery for name, delivery, _ in stage.wire.sent if name == key]


# The three policies ---------------------------------------------------------------------------------------------------


def test_a_lost_worker_idempotent_is_sent_again_under_the_same_delivery_id(stage: Stage) -> None:
    up_to(stage, "tax/taxable_case")
    (claimed,) = crash(stage, "tax")
    stage.drain(2)
    assert sent(stage, "tax/taxable_case") == [claimed["id"].replace("-", "")]
    assert row(stage, "taxable_case").attempts == 2
    assert stage.hub.verify().ok


@pytest.mark.parametrize(("answer", "sends"), [(ARRIVED, 0), (MISSING, 1)])
def test_a_lost_worker_query_first_asks(stage: Stage, answer: Incoming, sends: int) -> None:
    up_to(stage, "registry/case")
    crash(stage, "registry")
    stage.wire.rules["registry/case?"] = answers(answer)
    stage.drain(2)
    assert row(stage, "case").state == "delivered"
    assert len(sent(stage, "registry/case")) == sends
    assert len(sent(stage, "registry/case?")) == 1


def test_a_lost_worker_manual_is_for_people(stage: Stage) -> None:
    up_to(stage, "platform/evaluation_invite")
    crash(stage, "platform")
    stage.drain()
    found = row(stage, "evaluation_invite")
    assert (found.state, found.reason) == ("dead", "outcome_unknown")
    assert not sent(stage, "platform/evaluation_invite")
    assert [item["owner"] for item in stage.hub.reading.dead_letters("platform", 10)] == ["operator"]
    assert stage.hub.mending.replay(found.id) == "ready"
    stage.drain()
    assert row(stage, "evaluation_invite").state == "delivered"
    assert len(sent(stage, "platform/evaluation_invite")) == 1
    assert stage.hub.verify().ok


def test_a_lost_answer_manual_is_no_second_effect(stage: Stage) -> None:
    stage.wire.rules["platform/evaluation_invite"] = lost
    up_to(stage, "platform/evaluation_invite")
    stage.drain()
    assert row(stage, "evaluation_invite").reason == "outcome_unknown"
    assert len(sent(stage, "platform/evaluation_invite")) == 1


@pytest.mark.parametrize("between", [unreachable, lost])
def test_what_may_have_arrived_is_asked_after_until_it_is_known(
    stage: Stage, between: Callable[[Outgoing], Incoming]
) -> None:
    """The question itself fails once: the next attempt must ask again, not send."""
    stage.wire.rules["registry/case"] = answers(lost, OK)
    stage.wire.rules["registry/case?"] = answers(between, ARRIVED)
    up_to(stage, "registry/case")
    stage.drain()
    assert row(stage, "case").state == "delivered"
    assert len(sent(stage, "registry/case")) == 1
    assert len(sent(stage, "registry/case?")) == 2


def test_a_busy_answer_to_the_question_is_no_answer(stage: Stage) -> None:
    stage.wire.rules["registry/case"] = answers(lost, OK)
    stage.wire.rules["registry/case?"] = answers(Incoming(200, {"code": "9999"}), ARRIVED)
    up_to(stage, "registry/case")
    stage.drain()
    assert len(sent(stage, "registry/case")) == 1
    assert row(stage, "case").state == "delivered"


def test_a_question_that_is_refused_is_for_people(stage: Stage) -> None:
    stage.wire.rules["registry/case"] = lost
    stage.wire.rules["registry/case?"] = answers(Incoming(422, {}))
    up_to(stage, "registry/case")
    stage.drain()
    assert (row(stage, "case").state, row(stage, "case").reason) == ("dead", "query_refused")


def test_a_stale_worker_changes_nothing(stage: Stage) -> None:
    up_to(stage, "tax/taxable_case")
    (claimed,) = crash(stage, "tax")
    stage.hub.deliverer.recover("tax")
    before = row(stage, "taxable_case")
    verdict = stage.hub.deliverer.attempt(claimed)
    assert verdict.code == "lease_lost" or verdict.kind == "lost"
    assert row(stage, "taxable_case") == before
    stage.drain()
    assert len(set(sent(stage, "tax/taxable_case"))) <= 1


def test_a_worker_that_slept_does_not_send(stage: Stage) -> None:
    up_to(stage, "tax/taxable_case")
    (claimed,) = crash(stage, "tax")
    stage.hub.deliverer.attempt({**claimed, "lease_until": 1})  # type: ignore[arg-type]
    assert not sent(stage, "tax/taxable_case")
    stage.drain()
    assert len(sent(stage, "tax/taxable_case")) == 1


def test_two_hubs_drain_at_once(stage: Stage) -> None:
    other = stage.build()
    cases = [stage.apply(n).case for n in range(1, 9)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            futures = [
                pool.submit(found.drain, partner, "airflow", 10)
                for partner in ("platform", "tax", "registry", "hall")
                for found in (stage.hub, other)
            ]
            for future in futures:
                future.result(60)
    assert {stage.view(case).waiting_for for case in cases} == {"tax"}
    for key in ("tax/taxable_case", "registry/case"):
        assert len(sent(stage, key)) == len(set(sent(stage, key))) == len(cases)
    other.close()
    assert stage.hub.verify().ok


# Answers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "state", "reason"),
    [
        (Incoming(200, {"head": {"rtn_code": "7777"}}), "dead", "answer_code_unknown"),
        (Incoming(422, {"head": {"rtn_code": "7777"}}), "dead", "partner_rejected"),
        (Incoming(409, None), "dead", "partner_rejected"),
        (Incoming(200, None), "waiting", "answer_invalid"),
        (Incoming(200, [1, 2]), "waiting", "answer_invalid"),
        (Incoming(200, {"head": {"rtn_code": 0}}), "waiting", "answer_invalid"),
        (Incoming(200, {"head": {"rtn_code": "0000"}, "surprise": 1}), "waiting", "answer_invalid"),
        (Incoming(200, {"head": {"rtn_code": "9999"}}), "waiting", "partner:9999"),
        (Incoming(200, {"head": {"rtn_code": "3001"}}), "refused", "partner_refused"),
    ],
)
def test_answers(stage: Stage, answer: Incoming, state: str, reason: str) -> None:
    stage.wire.rules["tax/taxable_case"] = answers(answer)
    case = up_to(stage, "tax/taxable_case")
    stage.drain(1)
    found = row(stage, "taxable_case")
    assert (found.state, found.reason) == (state, reason)
    if state == "dead":
        assert stage.view(case).reason == reason
    if state == "refused":
        assert (stage.view(case).state, stage.view(case).reason) == ("stopped", "tax_refused")
    assert stage.hub.verify().ok


def test_an_answer_that_cannot_be_mapped_is_a_dead_letter(stage: Stage) -> None:
    stage.wire.rules["platform/identity_check"] = answers(Incoming(200, {"code": "0", "data": {"CheckCode": "8"}}))
    case = stage.apply().case
    stage.drain(2)
    found = {(m.state, m.reason) for m in stage.hub.reading.messages(Filter(exchange="identity_check")) if m.attempts}
    assert found in ({("dead", "answer_code_unknown")}, {("waiting", "answer_invalid")})
    assert stage.view(case).state == "running"
    assert len(stage.wire.of("platform/unified_number")) == 0  # behind it in the order of the partner


def test_a_dead_letter_blocks_only_its_own_case(stage: Stage) -> None:
    stage.wire.rules["tax/taxable_case"] = answers(Incoming(200, {"head": {"rtn_code": "7777"}}))
    blocked = up_to(stage, "tax/taxable_case")
    stage.drain(1)
    del stage.wire.rules["tax/taxable_case"]
    free = stage.apply(2).case
    stage.drain()
    assert stage.view(free).waiting_for == "tax"
    assert stage.view(free).step == "clearance"
    assert stage.view(blocked).step == "tax"
    (dead,) = stage.hub.reading.dead_letters("", 10)
    assert stage.hub.mending.replay(dead["id"]) == "ready"
    with pytest.raises(Refused):
        stage.hub.mending.replay(dead["id"])
    stage.drain()
    assert stage.view(blocked).step == "clearance"
    assert stage.view(blocked).reason == ""


def test_a_skipped_dead_letter_lets_the_next_go(stage: Stage) -> None:
    stage.wire.rules["tax/taxable_case"] = answers(Incoming(200, {"head": {"rtn_code": "7777"}}))
    case = up_to(stage, "tax/taxable_case")
    stage.drain(1)
    stage.call("hall/withdrawal", {}, case=case)
    stage.drain()
    (dead,) = stage.hub.reading.dead_letters("tax", 10)
    assert stage.hub.mending.skip(dead["id"]) == "skipped"
    stage.drain()
    assert stage.hub.reading.open_messages() == 0
    assert len(stage.wire.of("tax/withdrawal")) == 1
    assert stage.hub.verify().ok


# Retries --------------------------------------------------------------------------------------------------------------


def test_what_the_partner_asks_for_comes_first(tmp_path: Path) -> None:
    stage = Stage(tmp_path, pace=fast(longest_wait=60_000))

    def busy(_: Outgoing) -> Incoming:
        raise Unsent("partner_busy", "busy", "繁忙", 30)

    stage.wire.rules["tax/taxable_case"] = busy
    up_to(stage, "tax/taxable_case")
    stage.drain(2)
    (found,) = stage.hub.parts.ledger.read(lambda c: messages.listing(c, Filter(exchange="taxable_case")))
    at = stage.hub.parts.ledger.read(ledger.now)
    assert 20_000 < found["due_at"] - at <= 30_000
    assert found["attempts"] == 1
    stage.close()


def test_waits_grow_and_end(tmp_path: Path) -> None:
    stage = Stage(tmp_path, pace=fast(first_wait=1_000, longest_wait=8_000))
    stage.wire.rules["tax/taxable_case"] = lost
    up_to(stage, "tax/taxable_case")
    waits = []
    for _ in range(6):
        stage.hub.drain("tax", "airflow", 5)
        (found,) = stage.hub.parts.ledger.read(lambda c: messages.listing(c, Filter(exchange="taxable_case")))
        waits.append(found["due_at"] - found["updated"])
        stage.hub.parts.ledger.write(lambda c: c.execute(text("UPDATE messages SET due_at = 0 WHERE state='waiting'")))
    for n, wait in enumerate(waits):
        doubled = min(1_000 * 2**n, 8_000)
        assert 0.75 * doubled <= wait <= 1.25 * doubled
    stage.clock.ahead = stage.pace.give_up + 60_000
    stage.hub.drain("tax", "airflow", 5)
    assert (row(stage, "taxable_case").state, row(stage, "taxable_case").reason) == ("dead", "retries_exhausted")
    stage.close()


def test_no_wire_and_no_endpoint_are_for_operators(stage: Stage) -> None:
    def nowhere(_: Outgoing) -> Incoming:
        raise Misconfigured("endpoint_missing", "none", "无")

    stage.wire.rules["tax/taxable_case"] = nowhere
    up_to(stage, "tax/taxable_case")
    stage.drain(1)
    assert (row(stage, "taxable_case").state, row(stage, "taxable_case").reason) == ("dead", "endpoint_missing")


# Our own database ------------------------------------------------------------------------------------------------------


class Held:
    """Somebody else holds the write lock."""

    def __init__(self, stage: Stage) -> None:
        self._connection = sqlite3.connect(
            stage.settings.database_url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False
        )
        self.held = False

    def take(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self.held = True

    def give(self) -> None:
        if self.held:
            self._connection.execute("ROLLBACK")
        self.held = False

    def close(self) -> None:
        self.give()
        self._connection.close()


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(ledger_module, "BUSY_MS", 100)
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def test_a_busy_ledger_accepts_nothing_and_the_repeat_is_taken(impatient: Stage) -> None:
    held = Held(impatient)
    held.take()
    with pytest.raises(Transient) as caught:
        impatient.apply()
    assert caught.value.code == "busy"
    held.close()
    assert impatient.hub.reading.cases(None, "", 10) == []
    assert not impatient.apply().replayed
    assert impatient.hub.verify().ok


def test_a_partners_answer_survives_that_its_health_cannot_be_written(
    impatient: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own busy database is no fault of the partner's: what it answered must count."""
    from hub.store import signs

    up_to(impatient, "platform/evaluation_invite")

    def busy(*_: object, **__: object) -> None:
        raise ledger.busy()

    monkeypatch.setattr(signs, "note_health", busy)
    impatient.hub.deliverer._health.clear()
    impatient.drain()
    assert row(impatient, "evaluation_invite").state == "delivered"
    assert len(sent(impatient, "platform/evaluation_invite")) == 1


def test_a_busy_ledger_before_the_send_is_no_unknown_outcome(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was sent, so a manual exchange may simply be tried again."""
    up_to(stage, "platform/evaluation_invite")
    vault = stage.hub.deliverer._vault
    left = [1]

    def once(body_id: str) -> object:
        if left:
            left.clear()
            raise ledger.busy()
        return type(vault).open_json(vault, body_id)

    monkeypatch.setattr(vault, "open_json", once, raising=False)
    for _ in range(4):
        stage.drain()
    assert row(stage, "evaluation_invite").state == "delivered"
    assert len(sent(stage, "platform/evaluation_invite")) == 1


def test_a_message_that_cannot_be_recorded_comes_back(impatient: Stage) -> None:
    """The answer came, the ledger was busy: the lease runs out and the same delivery id goes out again."""
    up_to(impatient, "tax/taxable_case")
    held = Held(impatient)

    def answer(_: Outgoing) -> Incoming:
        held.take()
        return Incoming(200, {"head": {"rtn_code": "0000"}})

    impatient.wire.rules["tax/taxable_case"] = answer
    with pytest.raises(Transient):
        impatient.hub.drain("tax", "airflow", 5)
    held.close()
    del impatient.wire.rules["tax/taxable_case"]
    assert row(impatient, "taxable_case").state == "leased"
    impatient.hub.parts.ledger.write(
        lambda c: c.execute(text("UPDATE messages SET lease_until = 1 WHERE state='leased'"))
    )
    impatient.drain()
    assert row(impatient, "taxable_case").state == "delivered"
    assert len(set(sent(impatient, "tax/taxable_case"))) == 1
    assert impatient.hub.verify().ok


# Arrivals ----------------------------------------------------------------------------------------------------------------


def test_the_same_application_from_many_threads_is_one_case(stage: Stage) -> None:
    other = stage.build()
    who = stage.keyring.callers["hall"]
    import json

    from hub.model.call import Call

    raw = json.dumps(application()).encode()
    with ThreadPoolExecutor(8) as pool:
        futures = [
            pool.submit((stage.hub, other)[n % 2].desk.serve, Call(who, "hall", "application", raw)) for n in range(12)
        ]
        receipts = [item.result(60) for item in futures]
    assert len({receipt.message for receipt in receipts}) == 1
    assert [receipt.replayed for receipt in receipts].count(False) == 1
    assert len(stage.hub.reading.cases(None, "", 10)) == 1
    other.close()
    assert stage.hub.verify().ok


def test_the_same_clearance_by_call_and_by_fetch_at_once_is_one_revision(stage: Stage) -> None:
    case = stage.apply().case
    stage.drain()
    body = {"ywsldh": case, "wszt": "1", "nsrxx": [{"sphm": "SP1"}]}
    stage.wire.rules["tax/clearance_query"] = answers(Incoming(200, {"head": {"rtn_code": "0000"}, "body": body}))
    with ThreadPoolExecutor(4) as pool:
        called = [pool.submit(stage.clear, case) for _ in range(2)]
        fetched = [pool.submit(stage.hub.collect, "tax", 10) for _ in range(2)]
        assert {item.result(60).case for item in called} == {case}
        assert sum(item.result(60).collected for item in fetched) <= 1
    found = [m for m in stage.hub.reading.messages(Filter(exchange="clearance", partner="tax")) if m.state == "applied"]
    assert len(found) == 1
    stage.drain()
    assert stage.view(case).waiting_for == "registry"
    assert stage.hub.verify().ok


def test_a_clearance_before_our_own_record_that_tax_was_told(stage: Stage) -> None:
    case = up_to(stage, "tax/taxable_case")
    assert stage.clear(case).case == case
    stage.drain()
    assert stage.view(case).waiting_for == "registry"


def test_late_reports_change_no_ended_case(stage: Stage) -> None:
    case = stage.apply().case
    stage.drain()
    stage.call("hall/withdrawal", {}, case=case)
    stage.drain()
    assert stage.clear(case).state == "applied"
    stage.register(case)
    stage.drain()
    assert stage.view(case).state == "withdrawn"
    assert not stage.wire.of("registry/clearance")
    assert stage.hub.verify().ok


def test_overdue_is_said_once_and_gone_when_it_moves(stage: Stage) -> None:
    case = stage.apply().case
    stage.drain()
    assert stage.hub.reconcile("tax")["overdue"] == 0
    stage.clock.ahead = 73 * stage.pace.hour
    assert stage.hub.reconcile("tax")["overdue"] == 1
    assert stage.hub.reconcile("tax")["overdue"] == 0
    assert stage.view(case).reason == "overdue"
    stage.clear(case)
    stage.drain()
    assert stage.view(case).reason == ""


def test_the_sweep_wakes_whoever_has_work(stage: Stage) -> None:
    stage.apply()
    stage.hints.clear()
    assert stage.hub.sweep()["hinted"] >= 1
    assert ("courier", "platform") in stage.hints
    stage.drain()
    stage.hints.clear()
    assert stage.hub.sweep() == {"recovered": 0, "hinted": 0}
    # Tax owes a clearance: only who fetches is woken.
    assert stage.hints == [("airflow", "tax")]


def test_polls_back_off(tmp_path: Path) -> None:
    stage = Stage(tmp_path, pace=fast(poll_after=1_000))
    stage.apply()
    stage.drain()
    asked = []
    for _ in range(64):
        stage.clock.ahead += 1_000
        stage.hub.collect("tax", 5)
        asked.append(len(sent(stage, "tax/clearance_query")))
    assert 4 <= asked[-1] <= 12
    assert stage.hub.verify().ok
    stage.close()


def test_a_dead_letter_is_mended_once_however_many_press(stage: Stage) -> None:
    stage.wire.rules["tax/taxable_case"] = answers(Incoming(200, {"head": {"rtn_code": "7777"}}))
    up_to(stage, "tax/taxable_case")
    stage.drain(1)
    (dead,) = stage.hub.reading.dead_letters("tax", 10)
    mending = stage.hub.mending
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit((mending.replay, mending.skip)[n % 2], dead["id"]) for n in range(6)]
    errors = [future.exception() for future in futures]
    assert errors.count(None) == 1, errors
    assert {getattr(error, "code", type(error).__name__) for error in errors if error} == {"state_conflict"}
    assert stage.hub.verify().ok
