"""The ledger as a state machine: any order of arrivals, deliveries, crashes and operators, and what holds after each step."""

from __future__ import annotations

import atexit
import json
import shutil
import sqlite3
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dukou.build import assemble
from dukou.settings import Settings
from hub.errors import Refused, Unknown, Unsent
from hub.model.identity import wire_id
from hub.model.states import BLOCKING, CASE_ENDS, OPEN
from hub.ports import Incoming, Outgoing
from hub.store.ledger import Ledger
from hub.store.messages import PROJECTED
from tests.pipeline.scripted import ANSWERS, ROOT, Stage, Wire, application

PARTNERS = ("platform", "tax", "registry", "hall")
MOODS = ("done", "strange", "lost", "refused", "unheard", "garbage", "retry", "busy", "down")
REFUSALS = {"tax/taxable_case": "3001", "registry/case": "2001", "registry/clearance": "2001"}
WORK = (
    "SELECT c.no AS case_no, count(m.id) AS n FROM cases c LEFT JOIN messages m"
    " ON m.case_no = c.no AND m.direction IN ('deliver', 'ask') AND m.step NOT LIKE 'announce.%' GROUP BY c.no"
)
ANY = st.integers(0, 999)
ACT = st.sampled_from(("deliver", "deliver", "keep", "crash", "wake"))
MOOD = ANY.map(lambda n: MOODS[n % len(MOODS)])


class Departments(dict[str, Any]):
    """The partners' own memory: what has arrived there. Stands in the place of the wire's rules."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.moods: list[str] = []
        self._one_at_a_time = threading.Lock()
        self.arrived: Counter[str] = Counter()
        self.clearances: dict[str, dict[str, Any]] = {}
        self.unrecorded: list[str] = []
        self._file = stage.settings.database_url.removeprefix("sqlite:///")

    def get(self, key: str, default: Any = None) -> Callable[[Outgoing], Incoming]:
        del key, default
        return self.answer

    def answer(self, outgoing: Outgoing) -> Incoming:
        with self._one_at_a_time:
            mood = self.moods.pop() if self.moods else "done"
            return self._in_this(mood, outgoing)

    def _in_this(self, mood: str, outgoing: Outgoing) -> Incoming:  # noqa: PLR0911 - one line per mood
        key = outgoing.exchange.key
        if outgoing.exchange.direction != "fetch":
            self._must_be_recorded(outgoing.delivery_id)
        no_answer(mood)
        if outgoing.purpose == "query":
            return Incoming(200, {"code": "0000"}) if self.arrived[outgoing.delivery_id] else Incoming(404, {})
        if mood == "retry":
            return Incoming(200, coded(key, "9" if key.startswith(("platform", "hall")) else "9999"))
        if mood == "refused" and key in REFUSALS:
            return Incoming(200, coded(key, REFUSALS[key]))
        self.arrived[outgoing.delivery_id] += 1
        if mood == "lost":
            raise Unknown("answer_lost", "lost", "丢失")
        if mood == "garbage":
            return Incoming(200, None)
        if mood == "strange":
            return Incoming(200, coded(key, "7777"))
        if key == "tax/clearance_query" and outgoing.document["body"]["ywsldh"] in self.clearances:  # type: ignore[index]
            body = self.clearances[outgoing.document["body"]["ywsldh"]]  # type: ignore[index]
            return Incoming(200, {"head": {"rtn_code": "0000"}, "body": body})
        return Incoming(200, ANSWERS[key](outgoing.document))

    def _must_be_recorded(self, delivery: str) -> None:
        """Before anything is sent its attempt is in the ledger, for everyone to see."""
        connection = sqlite3.connect(self._file)
        found = connection.execute(
            "SELECT count(*) FROM attempts a JOIN messages m ON m.id = a.message_id"
            " WHERE a.delivery_id = ? AND a.outcome = '' AND m.state = 'leased'",
            (delivery,),
        ).fetchone()
        connection.close()
        if found[0] != 1:
            self.unrecorded.append(delivery)


def no_answer(mood: str) -> None:
    if mood == "down":
        raise Unsent("partner_unreachable", "down", "无法连接")
    if mood == "busy":
        raise Unsent("partner_busy", "busy", "繁忙", 0)
    if mood == "unheard":
        raise Unknown("answer_lost", "lost on the way there", "丢失")


def coded(key: str, code: str) -> dict[str, Any]:
    return {"head": {"rtn_code": code}} if key.startswith("tax") else {"code": code}


@cache
def template() -> Stage:
    """What every example shares: declarations, contracts, mappings, keys, and an empty migrated ledger."""
    place = Path(tempfile.mkdtemp(prefix="dukou-machine-template-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return Stage(place)


def fresh_stage(place: Path) -> Stage:
    """A stage with an empty ledger of its own."""
    stage = copy(template())
    stage.place, stage.wire, stage.hints = place, Wire(), []
    empty = Path(stage.settings.database_url.removeprefix("sqlite:///"))
    shutil.copy(empty, place / empty.name)
    stage.settings = Settings.from_env({"DUKOU_VAR": str(place), "DUKOU_ROOT": str(ROOT)})
    parts = replace(stage.hub.parts, ledger=Ledger(stage.settings.database_url), wires={"rest": stage.wire})
    stage.hub = assemble(stage.settings, stage.keyring, parts)
    return stage


class LedgerMachine(RuleBasedStateMachine):
    """Two hubs on one ledger, four departments, an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="dukou-machine-"))
        self.stage = fresh_stage(self.place)
        # Another process: its own ledger connections and pipeline, the same declarations.
        own = replace(self.stage.hub.parts, ledger=Ledger(self.stage.settings.database_url))
        self.hubs = [self.stage.hub, assemble(self.stage.settings, self.stage.keyring, own)]
        self.departments = Departments(self.stage)
        self.stage.wire.rules = self.departments
        self.bodies: list[tuple[dict[str, Any], str]] = []
        self.cases: list[str] = []
        self.receipts: dict[str, tuple[str, str]] = {}
        self.leases: list[Any] = []
        self.sleepers: list[Any] = []
        self.ended: dict[str, tuple[str, int]] = {}
        self.over: dict[str, tuple[str, int]] = {}
        self.steps = 0
        self.replays: Counter[str] = Counter()
        self.file = self.stage.settings.database_url.removeprefix("sqlite:///")
        self.reader = sqlite3.connect(self.file)
        self.reader.row_factory = sqlite3.Row

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        return self.reader.execute(sql, values).fetchall()

    def case(self, pick: int) -> str:
        return self.cases[pick % len(self.cases)]

    def busy_partner(self, pick: int) -> str:
        """A department for which something is to be done, if there is one."""
        found = self.rows(
            "SELECT DISTINCT partner FROM messages WHERE state IN ('ready', 'asked', 'waiting') ORDER BY 1"
        )
        return str(found[pick % len(found)]["partner"]) if found else "tax"

    def called(self, exchange: str, document: Any, **more: Any) -> Any:
        """A call that people may be refused."""
        try:
            return self.stage.call(exchange, document, **more)
        except Refused as refusal:
            if refusal.code != "state_conflict":
                raise
            return None

    # Arrivals ------------------------------------------------------------------------------------------------------

    @initialize()
    def first(self) -> None:
        """One case waits for the registry when everything begins, one has just come."""
        self.accept(False)
        self.a_good_day(0, 0, 1)
        self.accept(False)

    @precondition(lambda self: len(self.cases) < 4)
    @rule(lacking=st.booleans())
    def accept(self, lacking: bool) -> None:
        body = application(len(self.bodies) + 1)
        if lacking:
            body["SJ"] = body["SJ"][:2]
        key = f"key-{len(self.bodies)}" if len(self.bodies) % 2 else ""
        receipt = self.stage.call("hall/application", body, key=key)
        assert receipt.case_state == ("correction" if lacking else "accepted")
        assert not receipt.replayed
        self.bodies.append((body, key))
        self.cases.append(receipt.case)
        self.receipts[receipt.case] = (receipt.message, receipt.case_state)

    @rule(pick=ANY)
    def repeat(self, pick: int) -> None:
        body, key = self.bodies[pick % len(self.bodies)]
        again = self.stage.call("hall/application", body, key=key)
        assert again.replayed
        assert (again.message, again.case_state) == self.receipts[again.case]

    @rule(pick=ANY)
    def conflicting_repeat(self, pick: int) -> None:
        body, key = self.bodies[pick % len(self.bodies)]
        with pytest.raises(Refused) as caught:
            self.stage.call("hall/application", {**body, "ZL": "测试市测试路2号"}, key=key)
        assert caught.value.code == "idempotency_conflict"

    @rule(pick=ANY, whole=st.booleans())
    def correct(self, pick: int, whole: bool) -> None:
        names = application()["SJ"][2 if whole else 3 :]
        self.called("hall/correction", {"SJ": names}, case=self.case(pick))

    @precondition(lambda self: self.steps % 4 == 3)
    @rule(pick=ANY)
    def withdraw(self, pick: int) -> None:
        self.called("hall/withdrawal", {}, case=self.case(pick))

    @rule(pick=ANY, paid=st.booleans(), calls=st.booleans(), ticket=st.sampled_from(["SP1", "SP2"]))
    def tax_decides(self, pick: int, paid: bool, calls: bool, ticket: str) -> None:
        case = self.case(pick)
        body = {"ywsldh": case, "wszt": "1" if paid else "0", "nsrxx": [{"sphm": ticket}]}
        self.departments.clearances[case] = body
        if calls:
            receipt = self.stage.call("tax/clearance", body)
            again = self.stage.call("tax/clearance", body)
            assert again.replayed
            assert again.message == receipt.message

    @rule(pick=ANY)
    def registry_reports(self, pick: int) -> None:
        case = self.case(pick)
        if self.rows(
            "SELECT 1 FROM messages WHERE case_no = ? AND exchange = 'clearance' AND partner = 'registry'", case
        ):
            assert self.stage.register(case).case == case

    # Deliveries ----------------------------------------------------------------------------------------------------

    @rule(hub=ANY, pick=ANY, first=st.booleans(), acts=st.lists(st.tuples(ACT, MOOD), min_size=1, max_size=4))
    def work(self, hub: int, pick: int, first: bool, acts: list[tuple[str, str]]) -> None:
        """A worker claims, and then it delivers, dies, sleeps too long or takes its time."""
        found, partner = self.hubs[hub % 2], self.busy_partner(pick)
        for act, mood in acts:
            wanted = found.rule("courier" if first else "airflow", partner, first_of_live=first)
            self.leases += [(found, row) for row in found.deliverer.claim(wanted, 1)]
            if not self.leases or act == "keep":
                continue
            if act == "deliver":
                self.attempt(-1, mood)
            else:
                self.crash(-1, partner)
                if act == "wake":
                    self.wake(-1)

    @precondition(lambda self: self.leases)
    @rule(pick=ANY, mood=MOOD)
    def attempt(self, pick: int, mood: str) -> None:
        found, row = self.leases.pop(pick % len(self.leases))
        self.departments.moods = [mood]
        found.deliverer.attempt(row)
        time.sleep(0.002)

    @precondition(lambda self: self.leases)
    @rule(pick=ANY, partner=st.sampled_from(("", *PARTNERS)))
    def crash(self, pick: int, partner: str) -> None:
        """A worker dies or sleeps, and its lease runs out."""
        found, row = self.leases.pop(pick % len(self.leases))
        self.expire("id = ? AND fence = ?", row["id"], row["fence"])
        self.hubs[0].deliverer.recover(partner)
        self.sleepers.append((found, {**row, "lease_until": 1}))

    @precondition(lambda self: self.sleepers)
    @rule(pick=ANY)
    def wake(self, pick: int) -> None:
        """A worker wakes up after its lease: it sends nothing and, once somebody took the message, writes nothing."""
        found, row = self.sleepers.pop(pick % len(self.sleepers))
        sent, fence = (
            len(self.stage.wire.sent),
            self.rows("SELECT fence, state FROM messages WHERE id = ?", row["id"])[0],
        )
        verdict = found.deliverer.attempt(row)
        assert len(self.stage.wire.sent) == sent
        if tuple(fence) != (row["fence"], "leased"):
            assert verdict.kind == "lost"
        time.sleep(0.002)

    def expire(self, where: str, *values: Any) -> None:
        connection = sqlite3.connect(self.file, timeout=10)
        with connection:
            connection.execute(f"UPDATE messages SET lease_until = 1 WHERE {where}", values)
        connection.close()

    @rule(hub=ANY, pick=ANY, moods=st.lists(MOOD, min_size=1, max_size=6))
    def drain(self, hub: int, pick: int, moods: list[str]) -> None:
        self.departments.moods = moods
        self.hubs[hub % 2].drain(self.busy_partner(pick), "airflow", 0.05)

    @precondition(lambda self: self.steps % 3 == 0)
    @rule(hub=ANY, pick=ANY, reach=st.sampled_from((2, 1, 0)))
    def a_good_day(self, hub: int, pick: int, reach: int) -> None:
        """Now and then all goes well, so that cases come far."""
        self.departments.moods = []
        self._everyone_works(hub)
        if reach > 0:
            self.tax_decides(pick, True, True, "SP1")
            self._everyone_works(hub)
        if reach > 1:
            self.registry_reports(pick)

    def _everyone_works(self, hub: int) -> None:
        for partner in PARTNERS * 2:
            self.hubs[hub % 2].drain(partner, "airflow", 2)

    @rule(hub=ANY, partner=st.sampled_from(("tax", "registry")), mood=MOOD)
    def collect(self, hub: int, partner: str, mood: str) -> None:
        self.departments.moods = [mood]
        self.hubs[hub % 2].collect(partner, 1)

    # Upkeep --------------------------------------------------------------------------------------------------------

    @rule(hub=ANY, pick=ANY, skip=st.booleans())
    def operate(self, hub: int, pick: int, skip: bool) -> None:
        """An operator replays a dead letter, or vouches that the department knows."""
        dead = self.rows("SELECT id, direction FROM messages WHERE state = 'dead' ORDER BY id")
        if not dead:
            return
        row, mending = dead[pick % len(dead)], self.hubs[hub % 2].mending
        if skip and row["direction"] == "ask":
            with pytest.raises(Refused):
                mending.skip(row["id"])
        elif skip:
            assert mending.skip(row["id"]) == "skipped"
        else:
            mending.replay(row["id"])
            self.replays[wire_id(row["id"])] += 1

    @rule(hub=ANY)
    def seal(self, hub: int) -> None:
        self.hubs[hub % 2].seal()
        assert self.hubs[0].verify().figures["tail"] == 0

    @rule(partner=st.sampled_from(PARTNERS))
    def reconcile(self, partner: str) -> None:
        self.hubs[1].reconcile(partner)

    # What always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def time_goes_on(self) -> None:
        self.steps += 1

    @invariant()
    def the_ledger_agrees_with_itself(self) -> None:
        report = self.hubs[1].verify()
        assert report.ok, report.found

    @invariant()
    def order_is_kept(self) -> None:
        lanes: dict[tuple[str, str], list[sqlite3.Row]] = defaultdict(list)
        for row in self.rows("SELECT * FROM messages WHERE seq > 0 ORDER BY seq"):
            lanes[row["partner"], row["case_no"]].append(row)
        for lane in lanes.values():
            assert [row["seq"] for row in lane] == list(range(1, len(lane) + 1))
            unfinished = False
            for row in lane:
                assert not (unfinished and row["attempts"]), (row["exchange"], row["state"])
                unfinished = unfinished or row["state"] in BLOCKING

    @invariant()
    def attempts_are_recorded_first_and_keep_their_delivery_id(self) -> None:
        assert self.departments.unrecorded == []
        for row in self.rows("SELECT message_id, n, delivery_id FROM attempts"):
            assert row["delivery_id"] == wire_id(row["message_id"])
        for row in self.rows(
            "SELECT m.id, m.attempts, count(a.n) AS n, max(a.n) AS last, sum(a.outcome = '') AS open, m.state"
            " FROM messages m LEFT JOIN attempts a ON a.message_id = m.id GROUP BY m.id"
        ):
            assert row["attempts"] == row["n"] == (row["last"] or 0)
            assert (row["open"] or 0) == (row["state"] == "leased")

    @invariant()
    def no_second_effect(self) -> None:
        """What must not be repeated reached its department once, and once more for every replay by an operator."""
        ids = {
            wire_id(row["id"]): row["exchange"]
            for row in self.rows("SELECT id, exchange FROM messages WHERE redelivery IN ('manual', 'query_first')")
        }
        for delivery, exchange in ids.items():
            assert self.departments.arrived[delivery] <= 1 + self.replays[delivery], exchange

    @invariant()
    def a_key_makes_one_message(self) -> None:
        keys = [row["message_id"] for row in self.rows("SELECT message_id FROM idempotency")]
        applied = [row["id"] for row in self.rows("SELECT id FROM messages WHERE state = 'applied'")]
        assert sorted(keys) == sorted(applied)
        assert len(self.rows("SELECT 1 FROM cases")) == len(self.cases)

    @invariant()
    def ends_absorb(self) -> None:
        """An ended case keeps its state and begins no further step; an ended message never moves again."""
        work = {row["case_no"]: row["n"] for row in self.rows(WORK)}
        for row in self.rows("SELECT no, state FROM cases"):
            if row["state"] in CASE_ENDS or row["no"] in self.ended:
                now = (row["state"], work[row["no"]])
                assert self.ended.setdefault(row["no"], now) == now
        for row in self.rows("SELECT id, state, updated FROM messages"):
            if row["state"] not in (*OPEN, "dead") or row["id"] in self.over:
                assert self.over.setdefault(row["id"], (row["state"], row["updated"])) == (row["state"], row["updated"])

    @invariant()
    def messages_can_be_rebuilt(self) -> None:
        said: dict[str, dict[str, Any]] = {}
        for row in self.rows("SELECT message_id, content FROM events WHERE kind LIKE 'message.%' ORDER BY pos"):
            said[row["message_id"]] = json.loads(row["content"])
        rows = self.rows("SELECT * FROM messages")
        assert {row["id"] for row in rows} == set(said)
        for row in rows:
            assert {name: row[name] for name in PROJECTED} == {name: said[row["id"]][name] for name in PROJECTED}

    # The end -------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            self._all_is_well()
        finally:
            self.reader.close()
            self.hubs[1].close()
            self.stage.close()
            shutil.rmtree(self.place, ignore_errors=True)

    def _all_is_well(self) -> None:
        """With every department well and every dead letter replayed, nothing stays open."""
        self.departments.moods = []
        self.expire("state = 'leased'")
        for _ in range(12):
            for row in self.rows("SELECT id FROM messages WHERE state = 'dead'"):
                self.stage.hub.mending.replay(row["id"])
                self.replays[wire_id(row["id"])] += 1
            time.sleep(0.006)
            self.stage.drain(2)
            left = self.rows(
                "SELECT exchange, state, reason FROM messages WHERE state IN ('dead', 'leased', 'waiting', 'ready', 'asked')"
            )
            if not left:
                break
        assert not [tuple(row) for row in left]
        for check in (self.the_ledger_agrees_with_itself, self.order_is_kept, self.no_second_effect, self.ends_absorb):
            check()
        # Every case stands where people or departments have the next word.
        for row in self.rows(
            "SELECT state, waiting_for, step FROM cases WHERE state NOT IN ('finished', 'refused', 'stopped', 'withdrawn')"
        ):
            assert row["step"] in ("materials", "clearance", "registration") or self.replays, tuple(row)


LedgerMachine.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=35,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestLedger = LedgerMachine.TestCase
