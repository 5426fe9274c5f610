"""Delivers what is due: claim under a lease, send with the delivery id, record the outcome under the fencing token."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from hub.cases.machine import Delivered, Died, Event, RefusedBy
from hub.errors import Broken, Misconfigured, Refused, Transient, Unsent
from hub.model.declarations import AnswerRule, Exchange, Partner
from hub.model.identity import wire_id
from hub.model.views import DrainReport
from hub.pipeline.casework import Casework, Move
from hub.pipeline.parts import Parts, Vault
from hub.ports import Incoming, Outgoing, Transport
from hub.store import bodies, cases, events, ledger, messages, signs
from hub.store.ledger import Connection, RowMapping
from hub.store.messages import ClaimRule, Outcome

log = logging.getLogger(__name__)
OK = range(200, 300)
MISSING = 404
TRIES = 12
SENDING_MARGIN_MS = 1_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attempt came to. ``kind``: done, refused, pending, retry (not done, try again), unknown, dead."""

    kind: str
    code: str
    reason: str = ""
    document: Mapping[str, object] = field(default_factory=dict)
    raw: object = None
    wait_ms: int = -1


class Deliverer:
    """Makes attempts. Safe to run in any number of threads and processes at once."""

    def __init__(self, parts: Parts, vault: Vault, casework: Casework) -> None:
        self._parts = parts
        self._vault = vault
        self._casework = casework
        self._health: dict[str, tuple[bool, int]] = {}

    def drain(self, rule: ClaimRule, seconds: float, workers: int) -> DrainReport:
        """Deliver what the rule allows until nothing is left, time is up or the partner is down."""
        until = time.monotonic() + seconds
        tally = {"claimed": 0, "delivered": 0, "refused": 0, "waiting": 0, "dead": 0}
        down = False
        with ThreadPoolExecutor(workers, thread_name_prefix="deliver") as pool:
            running: set[Future[Verdict]] = set()
            exhausted = False
            while running or not exhausted:
                if not exhausted and not down and len(running) < workers and time.monotonic() < until:
                    rows = self.claim(rule, workers - len(running))
                    tally["claimed"] += len(rows)
                    running |= {pool.submit(self.attempt, row) for row in rows}
                    # Later messages of a case come free as the earlier ones arrive, so an empty claim is final only
                    # when nothing is under way.
                    exhausted = not rows and not running
                else:
                    exhausted = not running
                if running:
                    done, running = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                    for item in done:
                        verdict = item.result()
                        tally[_TALLY.get(verdict.kind, "waiting")] += 1
                        down = down or verdict.code == "partner_unreachable"
        return DrainReport(rule.partner, **tally, down=down)

    def claim(self, rule: ClaimRule, limit: int) -> list[RowMapping]:
        """Take due messages under leases, each with its attempt recorded."""
        return self._parts.ledger.write(lambda c: messages.claim(c, ledger.now(c), rule, limit))

    def recover(self, partner: str = "") -> int:
        """Take back messages whose lease ran out: nobody knows what their worker did. Returns how many."""
        rows = self._parts.ledger.read(lambda c: messages.expired(c, ledger.now(c), partner))
        for row in rows:
            exchange = self._parts.declarations.exchange(row["partner"], row["exchange"])
            try:
                self._record(exchange, row, Verdict("lost", "worker_lost"))
            except ledger.StaleLease:
                continue  # its worker came back, or another process was quicker
        return len(rows)

    def attempt(self, row: RowMapping) -> Verdict:
        """Make the attempt that this lease stands for and record how it ended."""
        exchange = self._parts.declarations.exchange(row["partner"], row["exchange"])
        partner = self._parts.declarations.partner(row["partner"])
        try:
            verdict = self._send(partner, exchange, row)
            self._record(exchange, row, verdict)
        except ledger.StaleLease:
            # Somebody else holds the message: what we did is known to the partner under the same delivery id.
            log.warning("lease lost: message %s", row["id"])
            return Verdict("lost", "lease_lost")
        return verdict

    # Sending -----------------------------------------------------------------------------------------------------

    def _send(self, partner: Partner, exchange: Exchange, row: RowMapping) -> Verdict:
        try:
            document = self._vault.open_json(row["body_id"])
            asks_first = exchange.redelivery == "query_first" and self._may_have_arrived(row)
            if not asks_first and not self._time_left(partner, row):
                return Verdict("retry", "lease_too_short", wait_ms=0)
        except Transient as error:
            # Our own database, not the partner: nothing has been sent.
            return Verdict("retry", error.code, wait_ms=_asked_wait(error))
        except Broken as error:
            return Verdict("dead", error.code, error.code)
        return self._call(partner, exchange, row, document, asks_first=asks_first)

    def _call(
        self, partner: Partner, exchange: Exchange, row: RowMapping, document: object, *, asks_first: bool
    ) -> Verdict:
        try:
            if asks_first:
                arrived = self._ask_first(partner, exchange, row, document)
                if arrived is not None:
                    return arrived
                if not self._time_left(partner, row):
                    return Verdict("retry", "lease_too_short", wait_ms=0)
            incoming = self._wire(exchange)(Outgoing(partner, exchange, wire_id(row["id"]), document))
        except Unsent as error:
            self._note_health(partner.slug, up=False, code=error.code)
            return Verdict("retry", error.code, wait_ms=_asked_wait(error))
        except Transient as error:
            self._note_health(partner.slug, up=False, code=error.code)
            return Verdict("unknown", error.code, wait_ms=_asked_wait(error))
        except Misconfigured as error:
            return Verdict("dead", error.code, error.code)
        self._note_health(partner.slug, up=True, code="")
        return self.read_answer(exchange, incoming)

    def _wire(self, exchange: Exchange) -> Transport:
        wire = self._parts.wires.get(exchange.protocol)
        if wire is None:
            raise Misconfigured(
                "protocol_missing", f"no wire speaks {exchange.protocol}", f"没有支持 {exchange.protocol} 的连接"
            )
        return wire

    def _time_left(self, partner: Partner, row: RowMapping) -> bool:
        """Whether the lease outlives the slowest answer: a worker that slept must not send on another's time."""
        at = self._parts.ledger.read(ledger.now)
        needed = int((partner.connect_s + partner.read_s) * 1000) + SENDING_MARGIN_MS
        return int(row["lease_until"]) - at >= needed

    def _may_have_arrived(self, row: RowMapping) -> bool:
        """Whether any attempt left it open: a question that failed since does not close it."""
        return self._parts.ledger.read(lambda c: messages.ever_ended(c, row["id"], ("unknown", "lost")))

    def _ask_first(self, partner: Partner, exchange: Exchange, row: RowMapping, document: object) -> Verdict | None:
        """Ask whether an earlier attempt arrived: the answer to it, or ``None`` when it did not."""
        incoming = self._wire(exchange)(Outgoing(partner, exchange, wire_id(row["id"]), document, "query"))
        if incoming.status == MISSING:
            return None
        if incoming.status not in OK:
            return Verdict("dead", "query_refused", "query_refused")
        return self.read_answer(exchange, incoming)

    def read_answer(self, exchange: Exchange, incoming: Incoming) -> Verdict:
        """Read a partner's answer by its declaration. A code that is not declared is a fault, never a default."""
        rule = exchange.answer
        arrived = incoming.status in OK
        if rule is None:
            return Verdict("done", "") if arrived else Verdict("dead", "partner_rejected", "partner_rejected")
        code = pointed(incoming.document, rule.code_at)
        if not isinstance(code, str):
            return (
                Verdict("unknown", "answer_invalid")
                if arrived
                else Verdict("dead", "partner_rejected", "partner_rejected")
            )
        kind = rule.codes.get(code)
        if kind == "done":
            return self._done(rule, code, incoming)
        if kind is None:
            reason = "answer_code_unknown" if arrived else "partner_rejected"
            return Verdict("dead", reason, reason)
        return Verdict(kind, f"partner:{code}", rule.reasons.get(code, ""), raw=incoming.document)

    def _done(self, rule: AnswerRule, code: str, incoming: Incoming) -> Verdict:
        if self._parts.contracts.get(rule.contract).check(incoming.document):
            return Verdict("unknown", "answer_invalid")
        document: Mapping[str, object] = {}
        if rule.mapping:
            try:
                document = self._parts.mappings.get(rule.mapping).apply(incoming.document)  # type: ignore[arg-type]
            except Refused as error:
                return Verdict("dead", error.code, "answer_code_unknown")
            if self._parts.contracts.get(rule.canonical).check(document):
                return Verdict("dead", "answer_invalid", "answer_invalid")
        return Verdict("done", f"partner:{code}", document=document, raw=incoming.document)

    # Recording ---------------------------------------------------------------------------------------------------

    def _record(self, exchange: Exchange, row: RowMapping, verdict: Verdict) -> None:
        result = self._outcome(exchange, row, verdict)
        event = _case_event(row, verdict, result)
        for _ in range(TRIES):
            move, answer = self._plan(row, event, verdict)

            def work(connection: Connection, move: Move | None = move, answer: bodies.NewBody | None = answer) -> None:
                at = ledger.now(connection)
                held = messages.held(connection, row["id"], row["fence"])
                messages.settle(connection, at, held, result)
                if answer is not None:
                    bodies.add(connection, at, [answer])
                    kept = events.NewEvent(
                        "body.kept", row["tenant"], row["id"], row["case_no"], {}, answer.id, answer.digest
                    )
                    events.append(connection, at, [kept])
                if move is not None:
                    self._casework.write(connection, at, move)

            try:
                self._parts.ledger.write(work)
            except ledger.Collision:
                continue
            for partner in {row["partner"], *(move.partners if move else ())}:
                self._parts.hints("courier", partner)
            return
        raise ledger.busy()

    def _plan(
        self, row: RowMapping, event: Event | None, verdict: Verdict
    ) -> tuple[Move | None, bodies.NewBody | None]:
        """The case's move and the sealed answer of an ask, both made before the transaction."""
        if not row["case_no"]:
            return None, None
        answer = None
        if verdict.raw is not None and row["direction"] == "ask":
            key = self._vault.key(row["case_no"])
            raw = json.dumps(verdict.raw, ensure_ascii=False).encode()
            answer = self._vault.seal(key, row["case_no"], row["tenant"], raw)
        if event is None:
            return None, answer
        case = self._parts.ledger.read(lambda c: cases.get(c, row["case_no"]))
        if case is None:
            return None, answer
        return self._casework.plan(self._casework.load(case), event, self._parts.clock()), answer

    def _outcome(self, exchange: Exchange, row: RowMapping, verdict: Verdict) -> Outcome:
        asks = row["direction"] == "ask"
        if verdict.kind == "done":
            return Outcome("done", verdict.code, "answered" if asks else "delivered")
        if verdict.kind == "refused":
            return Outcome(
                "refused", verdict.code, "failed" if asks else "refused", verdict.reason or "partner_refused"
            )
        reason = self._end(exchange, row, verdict)
        if reason:
            return Outcome(verdict.kind, verdict.code, "dead", reason)
        outcome = verdict.kind if verdict.kind in ("unknown", "lost") else "unsent"
        wait_ms = 0 if verdict.kind == "lost" else self._wait(row, verdict)
        return Outcome(outcome, verdict.code, "waiting", verdict.code, wait_ms)

    def _end(self, exchange: Exchange, row: RowMapping, verdict: Verdict) -> str:
        """Why the message becomes a dead letter now, or empty while it may be tried again."""
        if verdict.kind == "dead":
            return verdict.reason
        if verdict.kind in ("unknown", "lost") and exchange.redelivery == "manual":
            return "outcome_unknown"
        too_old = self._parts.clock() - int(row["created"]) > self._parts.pace.give_up
        return "retries_exhausted" if too_old else ""

    def _wait(self, row: RowMapping, verdict: Verdict) -> int:
        """Backoff with jitter; what the partner asked for (``Retry-After``) comes first."""
        pace = self._parts.pace
        if verdict.wait_ms >= 0:
            return min(verdict.wait_ms, pace.longest_wait)
        doubled = min(pace.first_wait * 2 ** min(int(row["attempts"]) - 1, 20), pace.longest_wait)
        return int(doubled * (0.75 + self._parts.chance.random() / 2))

    def _note_health(self, partner: str, *, up: bool, code: str) -> None:
        """Write a partner's health when it changes, and every ten seconds while it does not."""
        now = self._parts.clock()
        known = self._health.get(partner)
        if known is not None and known[0] == up and now - known[1] < 10_000:
            return
        try:
            self._parts.ledger.write(lambda c: signs.note_health(c, ledger.now(c), partner, up=up, code=code))
        except (Transient, ledger.Collision):
            # A sign of life that could not be written must not cost the attempt its outcome; the next one writes it.
            log.warning("health of %s not noted", partner)
            return
        self._health[partner] = (up, now)


_TALLY = {"done": "delivered", "refused": "refused", "dead": "dead"}


def _asked_wait(error: Transient) -> int:
    return -1 if error.retry_after_s is None else int(error.retry_after_s * 1000)


def _case_event(row: RowMapping, verdict: Verdict, result: Outcome) -> Event | None:
    """What the case is told; announcements are no steps and tell it nothing."""
    if not row["case_no"] or row["step"].startswith("announce."):
        return None
    if verdict.kind == "done":
        return Delivered(row["step"], verdict.document)
    if verdict.kind == "refused":
        return RefusedBy(row["step"], verdict.reason)
    if result.state == "dead":
        return Died(row["step"], result.reason)
    return None


def pointed(document: object, pointer: str) -> object:
    """The value at a JSON Pointer, or ``None``."""
    for part in pointer.strip("/").split("/"):
        document = document.get(part) if isinstance(document, Mapping) else None
    return document
