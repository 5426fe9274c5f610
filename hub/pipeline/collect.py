"""Fetches what a partner should have reported and did not: asked for each case that has waited too long."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from functools import partial

from hub.errors import Broken, Misconfigured, Refused, Transient, Unsent
from hub.model.declarations import Exchange, Partner
from hub.model.identity import wire_id
from hub.model.views import DrainReport
from hub.pipeline.accept import Arrival, Reception
from hub.pipeline.casework import Casework, memory_of
from hub.pipeline.deliver import Deliverer, Verdict
from hub.pipeline.parts import Parts
from hub.ports import Outgoing
from hub.store import cases, ledger
from hub.store.cases import CaseRow

log = logging.getLogger(__name__)
LONGEST_POLLS = 60


class Collector:
    """Runs the ``fetch`` exchanges of a partner."""

    def __init__(self, parts: Parts, casework: Casework, reception: Reception, deliverer: Deliverer) -> None:
        self._parts = parts
        self._casework = casework
        self._reception = reception
        self._deliverer = deliverer

    def collect(self, partner_slug: str, seconds: float) -> DrainReport:
        """Ask for the result of every case that waits for the partner longer than ``pace.poll_after``."""
        partner = self._parts.declarations.partner(partner_slug)
        until = time.monotonic() + seconds
        tally = {"claimed": 0, "collected": 0, "waiting": 0, "dead": 0}
        down = False
        for owed in self._owed(partner_slug):
            query = self._open_query(owed.case)
            if query is None or down or time.monotonic() > until or not self._poll_now(owed, query):
                continue
            tally["claimed"] += 1
            verdict = self._fetch_safely(partner, query, owed.case)
            down = verdict.code == "partner_unreachable"
            tally[{"done": "collected", "dead": "dead"}.get(verdict.kind, "waiting")] += 1
        return DrainReport(partner_slug, **tally, down=down)

    def _open_query(self, row: CaseRow) -> str | None:
        """The fetch exchange that could move this case on, if it has waited long enough."""
        matter = self._parts.matters.version(row.matter, row.matter_version)
        memory = memory_of(row)
        step = matter.steps[row.step]
        waited = self._parts.clock() - memory.steps[row.step].since
        if not step.query or memory.steps[row.step].status != "open" or waited < self._parts.pace.poll_after:
            return None
        return step.query

    def _owed(self, partner: str) -> list[cases.Owed]:
        now = self._parts.clock()
        before = now - self._parts.pace.poll_after
        return self._parts.ledger.read(partial(cases.owed, partner=partner, before=before, now=now))

    def _poll_now(self, owed: cases.Owed, query: str) -> bool:
        """Note that the case is asked for now. Each time is twice as far away as the last: a clearance may rightly take days."""
        poll_after, now = self._parts.pace.poll_after, self._parts.clock()
        wait = min(poll_after * 2**owed.times, LONGEST_POLLS * poll_after)
        note = partial(cases.note_poll, case_no=owed.case.no, exchange=query, times=owed.times + 1, due_at=now + wait)
        try:
            self._parts.ledger.write(note)
        except ledger.Collision:
            return False  # another collector asks at this moment
        return True

    def _fetch_safely(self, partner: Partner, query: str, row: CaseRow) -> Verdict:
        """One case's trouble must not keep the others from being asked for."""
        try:
            exchange = self._parts.declarations.exchange(partner.slug, query.partition("/")[2])
            return self._fetch(partner, exchange, row)
        except (Broken, Misconfigured, Refused) as error:
            log.warning("case %s cannot be asked for: %s", row.no, error.code)
            return Verdict("dead", error.code)

    def _fetch(self, partner: Partner, exchange: Exchange, row: CaseRow) -> Verdict:
        file = self._casework.load(row)
        document = self._casework.request(file, exchange.key, self._parts.clock())
        wire = self._parts.wires.get(exchange.protocol)
        if wire is None:
            return Verdict("dead", "protocol_missing")
        try:
            incoming = wire(Outgoing(partner, exchange, wire_id(self._parts.new_id()), document))
        except Unsent as error:
            return Verdict("retry", error.code)
        except Transient as error:
            return Verdict("unknown", error.code)
        except Misconfigured as error:
            return Verdict("dead", error.code)
        verdict = self._deliverer.read_answer(exchange, incoming)
        if verdict.kind != "done":
            return verdict
        return self._take(partner, exchange, row, verdict)

    def _take(self, partner: Partner, exchange: Exchange, row: CaseRow, verdict: Verdict) -> Verdict:
        """Accept what was fetched exactly as if the partner had called: one identity for both ways."""
        target = self._parts.declarations.exchange(partner.slug, exchange.arrives_as)
        document: Mapping[str, object] = verdict.document
        if document.get("YWH") != row.no:
            return Verdict("dead", "answer_invalid")
        raw = json.dumps(verdict.raw, ensure_ascii=False).encode()
        arrival = Arrival(target, partner.slug, (row.tenant,), raw, document, "")
        try:
            receipt = self._reception.take(arrival, row.tenant)
        except Refused as error:
            return Verdict("dead", error.code)
        return Verdict("pending" if receipt.replayed else "done", "replayed" if receipt.replayed else "")
