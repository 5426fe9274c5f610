"""Delivers what is due: claim under a lease, send with the delivery id, record the outcome under the fencing token."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from hub.cases.machine import Delivered, Died, Event, RefusedBy
from hub.errors import Broken, Misconfigured, Refused, Transient, Unsent
from hub.model.declarations import AnswerRule, Exchange, Partner
from hub.model.documents import pointed
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
LEASE_TOO_SHORT = "lease_too_short"


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
            try:
                self._record(row, Verdict("lost", "worker_lost"))
            except ledger.StaleLease:
                continue  # its worker came back, or another process was quicker
            except (Broken, Misconfigured, Refused) as error:
                # One row that cannot be taken back must not keep the others.
                log.warning("message %s cannot be taken back: %s", row["id"], error.code)
        return len(rows)

    def attempt(self, row: RowMapping) -> Verdict:
        """Make the attempt that this lease stands for and record how it ended."""
        try:
            verdict = self._send(row)
            self._record(row, verdict)
        except ledger.StaleLease:
            # Somebody else holds the message: what we did is known to the partner under the same delivery id.
            log.warning("lease lost: message %s", row["id"])
            return Verdict("lost", "lease_lost")
        return verdict

    # Sending -----------------------------------------------------------------------------------------------------

    def _send(self, row: RowMapping) -> Verdict:
        try:
            exchange = self._parts.declarations.exchange(row["partner"], row["exchange"])
            partner = self._parts.declarations.partner(row["partner"])
            document = self._vault.open_json(row["body_id"])
            asks_first = exchange.redelivery == "query_first" and self._may_have_arrived(row)
            until = self._until(row)
        except Transient as error:
            # Our own database, not the partner: nothing has been sent.
            return Verdict("retry", error.code, wait_ms=_asked_wait(error))
        except (Broken, Refused) as error:
            return Verdict("dead", error.code, error.code)
        return self._call(
            partner, Outgoing(partner, exchange, wire_id(row["id"]), document, until=until), asks_first=asks_first
        )

    def _call(self, partner: Partner, outgoing: Outgoing, *, asks_first: bool) -> Verdict:
        exchange = outgoing.exchange
        try:
            if asks_first:
                _lease_holds(outgoing)
                arrived = self._ask_first(outgoing)
                if arrived is not None:
                    return arrived
            _lease_holds(outgoing)
            incoming = self._wire(exchange)(outgoing)
        except Unsent as error:
            if error.code != LEASE_TOO_SHORT:
                self._note_health(partner.slug, up=False, code=error.code)
            return Verdict("retry", error.code, wait_ms=_asked_wait(error))
        except Transient as error:
            self._note_health(partner.slug, up=False, code=error.code)
            return Verdict("unknown", error.code, wait_ms=_asked_wait(error))
        except (Misconfigured, Broken) as error:
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

    def _until(self, row: RowMapping) -> float:
        """When the lease ends, on this process's monotonic clock: the database's clock says how much of it is left."""
        left_ms = int(row["lease_until"]) - self._parts.ledger.read(ledger.now)
        return time.monotonic() + left_ms / 1000

    def _may_have_arrived(self, row: RowMapping) -> bool:
        """Whether any attempt left it open: a question that failed since does not close it."""
        return self._parts.ledger.read(lambda c: messages.ever_ended(c, row["id"], ("unknown", "lost")))

    def _ask_first(self, outgoing: Outgoing) -> Verdict | None:
        """Ask whether an earlier attempt arrived: the answer to it, or ``None`` when it did not."""
        exchange = outgoing.exchange
        incoming = self._wire(exchange)(replace(outgoing, purpose="query"))
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

    def _record(self, row: RowMapping, verdict: Verdict) -> None:
        result = self._outcome(row, verdict)
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
            # Who stands behind a message that is over may go now; nobody else has news.
            freed = {row["partner"]} if result.state not in ("waiting", "dead") else set()
            for partner in freed | (move.partners if move else frozenset()):
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

    def _outcome(self, row: RowMapping, verdict: Verdict) -> Outcome:
        asks = row["direction"] == "ask"
        if verdict.kind == "done":
            return Outcome("done", verdict.code, "answered" if asks else "delivered")
        if verdict.kind == "refused":
            return Outcome(
                "refused", verdict.code, "failed" if asks else "refused", verdict.reason or "partner_refused"
            )
        reason = self._end(row, verdict)
        if reason:
            return Outcome(verdict.kind, verdict.code, "dead", reason)
        outcome = verdict.kind if verdict.kind in ("unknown", "lost") else "unsent"
        wait_ms = 0 if verdict.kind == "lost" else self._wait(row, verdict)
        return Outcome(outcome, verdict.code, "waiting", verdict.code, wait_ms)

    def _end(self, row: RowMapping, verdict: Verdict) -> str:
        """Why the message becomes a dead letter now, or empty while it may be tried again."""
        if verdict.kind == "dead":
            return verdict.reason
        if verdict.kind in ("unknown", "lost") and row["redelivery"] == "manual":
            return "outcome_unknown"
        too_old = self._parts.clock() - int(row["created"]) > self._parts.pace.give_up
        return "retries_exhausted" if too_old else ""

    def _wait(self, row: RowMapping, verdict: Verdict) -> int:
        """Backoff with jitter, or what the partner asked for (``Retry-After``) when that is longer."""
        pace = self._parts.pace
        doubled = min(pace.first_wait * 2 ** min(int(row["attempts"]) - 1, 20), pace.longest_wait)
        own = int(doubled * (0.75 + self._parts.chance.random() / 2))
        # What the partner asked for comes first, but "at once" is no reason to call it in a loop.
        return min(max(verdict.wait_ms, own), pace.longest_wait)

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


def _lease_holds(outgoing: Outgoing) -> None:
    """A worker that slept must not send on another's time: the lease has to outlive the slowest answer."""
    if time.monotonic() + outgoing.partner.longest_s > outgoing.until:
        raise Unsent(LEASE_TOO_SHORT, "the lease is nearly over", "租约即将到期")


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
