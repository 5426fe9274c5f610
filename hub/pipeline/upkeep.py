"""Keeps the house: overdue steps, lost workers, seals and anchors, old keys, replays by operators."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hub.cases.machine import Overdue
from hub.pipeline.casework import Casework, memory_of
from hub.pipeline.deliver import Deliverer
from hub.pipeline.parts import Parts
from hub.store import cases, idempotency, ledger, messages, seals, signs
from hub.store.cases import CaseRow
from hub.store.ledger import Connection
from hub.store.seals import Discrepancy, Seal

KEEP_KEYS_MS = 400 * 24 * 3_600_000
COURIER = "courier"
ANCHORING_S = 1.0


class Upkeep:
    """What runs by timetable or by an operator's hand."""

    def __init__(self, parts: Parts, casework: Casework, deliverer: Deliverer, anchors: Path) -> None:
        self._parts = parts
        self._casework = casework
        self._deliverer = deliverer
        self._anchors = anchors / "anchors.jsonl"

    def reconcile(self, partner: str) -> dict[str, int]:
        """Take back lost leases of the partner and mark cases that wait for it longer than their deadline."""
        recovered = self._deliverer.recover(partner)
        now = self._parts.clock()
        rows = self._parts.ledger.read(
            partial(cases.overdue_candidates, partner=partner, before=now - self._parts.pace.hour)
        )
        overdue = sum(self._mark_overdue(row) for row in rows)
        counted = {
            state: self._parts.ledger.read(partial(messages.in_state, partner=partner, state=state))
            for state in ("dead", "waiting")
        }
        return {"recovered": recovered, "overdue": overdue, **counted}

    def sweep(self) -> dict[str, int]:
        """Take back lost leases of everyone and wake whoever has work: a hint may have been lost."""
        recovered = self._deliverer.recover()
        hinted = 0
        for item in self._parts.ledger.read(
            lambda c: messages.backlog(c, ledger.now(c), self._parts.pace.courier_grace)
        ):
            if item.first_of_live:
                self._parts.hints("courier", item.partner)
            if item.orchestrated:
                self._parts.hints("airflow", item.partner)
            hinted += 1
        for partner in self.polled_partners():
            self._parts.hints("airflow", partner)
        return {"recovered": recovered, "hinted": hinted}

    def polled_partners(self) -> list[str]:
        """Partners that owe a result for so long that it should be fetched."""
        now = self._parts.clock()
        found = self._parts.ledger.read(partial(cases.owing, before=now - self._parts.pace.poll_after, now=now))
        fetching = {item.partner for item in self._parts.declarations.exchanges() if item.direction == "fetch"}
        return [partner for partner in found if partner in fetching]

    def prune(self) -> dict[str, int]:
        """Forget idempotency keys after four hundred days: longer than the year that logs must be kept."""

        def work(connection: Connection) -> int:
            return idempotency.prune(connection, ledger.now(connection) - KEEP_KEYS_MS)

        return {"keys": self._parts.ledger.write(work)}

    def seal(self) -> dict[str, int]:
        """Seal new events and write the anchors that are missing outside the database."""
        sealed = 0
        while (made := self._seal_next()) is not None:
            sealed += made.events
        return {"events": sealed, "anchors": self._write_anchors()}

    def _seal_next(self) -> Seal | None:
        try:
            return self._parts.ledger.write(lambda c: seals.seal_next(c, ledger.now(c)))
        except ledger.Collision:
            return None  # another sealer was quicker: it seals, we only anchor

    def _write_anchors(self) -> int:
        """Append what the file does not have: seal first, anchor after, so that a crash between is mended by the next run."""
        known = read_anchors(self._anchors)
        missing = self._parts.ledger.read(lambda c: seals.since(c, max((0, *known))))
        if not missing:
            return 0
        self._anchors.parent.mkdir(parents=True, exist_ok=True)
        self._anchors.touch(mode=0o600)
        with self._anchors.open("a", encoding="utf-8") as file:
            # One sealer at a time: another's unfinished line must not be taken for a torn one.
            fcntl.flock(file, fcntl.LOCK_EX)
            known = read_anchors(self._anchors)
            missing = [item for item in missing if item.no not in known]
            _cut_torn_line(self._anchors)
            file.writelines(item.anchor + "\n" for item in missing)
            file.flush()
            os.fsync(file.fileno())
        return len(missing)

    def verify(self) -> Report:
        """Compare everything with everything."""
        report = self._examine()
        if {(item.table, item.kind) for item in report.found} == {("anchors", "missing")}:
            # A sealer may stand between its commit and its anchor: that is over in an instant, a lost anchor stays.
            time.sleep(ANCHORING_S)
            report = self._examine()
        return report

    def _examine(self) -> Report:
        found, figures = seals.examine(self._parts.ledger, lambda: read_anchors(self._anchors))
        return Report(tuple(found), figures)

    def courier_silent(self, for_ms: int) -> bool:
        """Whether no courier gave a sign of life for so long."""
        at, last = self._parts.ledger.read(lambda c: (ledger.now(c), signs.last_beat(c, COURIER)))
        return at - last > for_ms

    def beat(self, process: str) -> None:
        """This process lives."""
        self._parts.ledger.write(lambda c: signs.beat(c, ledger.now(c), process))

    def _mark_overdue(self, row: CaseRow) -> int:
        matter = self._parts.matters.version(row.matter, row.matter_version)
        step = matter.steps[row.step]
        memory = memory_of(row).steps[row.step]
        limit = step.deadline_hours * self._parts.pace.hour
        if not limit or memory.status != "open" or memory.dead or self._parts.clock() - memory.since < limit:
            return 0
        self._casework.tell(row.no, Overdue(step.name))
        return 1


@dataclass(frozen=True, slots=True)
class Report:
    """What ``verify-ledger`` found; ``figures`` has ``events``, ``sealed`` and ``tail``."""

    found: tuple[Discrepancy, ...]
    figures: Mapping[str, int]

    @property
    def ok(self) -> bool:
        """Nothing differs."""
        return not self.found


def read_anchors(path: Path) -> dict[int, str]:
    """Seal number → its line.

    A line that says nothing, or something else than an earlier one, stands under its own number, negative. An unfinished
    last line is none: its writer died, and the next one writes it again.
    """
    if not path.exists():
        return {}
    found: dict[int, str] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines[:-1], 1):
        seal = _seal_of(line)
        found[seal if found.get(seal, line) == line and seal > 0 else -number] = line
    return found


def _seal_of(line: str) -> int:
    try:
        entry = json.loads(line)
        return int(entry["seal"])
    except (ValueError, KeyError, TypeError):
        return 0


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    whole = path.read_bytes()
    if whole and not whole.endswith(b"\n"):
        os.truncate(path, whole.rfind(b"\n") + 1)
