"""What people and callers may see: cases, timelines and messages of their own tenants, never a body."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial

from hub.errors import Fault, Refused
from hub.model.call import Caller
from hub.model.states import OPEN, OWNERS
from hub.model.views import CaseView, MessageView, TimelineRow
from hub.pipeline.parts import Parts, local_time
from hub.security.blind import Kind
from hub.store import cases, events, messages, signs
from hub.store.cases import CaseRow
from hub.store.ledger import RowMapping
from hub.store.messages import Filter, Totals, totals

LONGEST = 1_000
KINDS: tuple[Kind, ...] = ("name", "number")


class Reading:
    """Answers questions about the ledger."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def case(self, no: str, tenants: Sequence[str] | None) -> CaseView:
        """One case by YWH or unified number.

        Raises:
            Refused: ``case_unknown``, also for another district's case: its existence is not told.
        """
        return case_view(self._row(no, tenants))

    def timeline(self, no: str, tenants: Sequence[str] | None) -> list[TimelineRow]:
        """What happened to a case, oldest first."""
        row = self._row(no, tenants)
        found = self._parts.ledger.read(lambda c: events.of_case(c, row.no))
        return [line for line in (_line(event) for event in found) if line is not None]

    def message(self, message_id: str, caller: Caller) -> MessageView:
        """One message of the caller's own traffic."""
        row = self._parts.ledger.read(lambda c: messages.get(c, message_id))
        if row is None or row["tenant"] not in caller.tenants or not _own(row, caller):
            raise Refused("message_unknown", "no such message", "无此报文", 404)
        return message_view(row)

    def search(self, caller: Caller, criteria: Mapping[str, object]) -> list[MessageView]:
        """The caller's own traffic by ``case``, ``exchange``, ``state``, ``since`` (ms), ``limit``, ``name``, ``number``."""
        known = {"case", "exchange", "state", "since", "limit", "name", "number"}
        strangers = tuple(
            Fault(
                f"/{name}",
                "field_unknown",
                f"known: {', '.join(sorted(known))}",
                f"可用条件: {', '.join(sorted(known))}",
            )
            for name in criteria
            if name not in known
        )
        if strangers:
            raise Refused("field_unknown", strangers[0].en, strangers[0].zh, 422, strangers)
        wanted = Filter(
            tenants=caller.tenants,
            own=(caller.name, caller.partner),
            cases=self._found_by_person(caller, criteria),
            exchange=_text(criteria, "exchange"),
            state=_text(criteria, "state"),
            case_no=_text(criteria, "case"),
            since=_integer(criteria, "since", 0),
            limit=min(max(_integer(criteria, "limit", 100), 1), LONGEST),
        )
        return [message_view(row) for row in self._parts.ledger.read(lambda c: messages.listing(c, wanted))]

    def messages(self, wanted: Filter) -> list[MessageView]:
        """Messages for operators."""
        return [message_view(row) for row in self._parts.ledger.read(lambda c: messages.listing(c, wanted))]

    def cases(self, tenants: Sequence[str] | None, state: str, limit: int) -> list[CaseView]:
        """Cases for operators."""
        return [case_view(row) for row in self._parts.ledger.read(lambda c: cases.listing(c, tenants, state, limit))]

    def dead_letters(self, partner: str, limit: int) -> list[dict[str, object]]:
        """Dead letters with their reason, who has to act, and their age in seconds."""
        now = self._parts.clock()
        rows = self._parts.ledger.read(
            lambda c: messages.listing(c, Filter(partner=partner, state="dead", limit=limit))
        )
        return [
            {
                "id": row["id"],
                "partner": row["partner"],
                "exchange": row["exchange"],
                "case": row["case_no"],
                "reason": row["reason"],
                "owner": OWNERS.get(row["reason"], "operator"),
                "age_s": max(now - row["updated"], 0) // 1000,
                "attempts": row["attempts"],
            }
            for row in rows
        ]

    def partners(self) -> list[dict[str, object]]:
        """Every declared partner and whether it answered when it was last called."""
        known = {row["partner"]: row for row in self._parts.ledger.read(signs.partners)}
        found = []
        for partner in self._parts.declarations.partners():
            row = known.get(partner.slug)
            line: dict[str, object] = {"partner": partner.slug, "name_zh": partner.name_zh, "name_en": partner.name_en}
            line["up"] = None if row is None else bool(row["up"])
            line["code"] = "" if row is None else row["code"]
            line["since"] = "" if row is None else local_time(row["since"])
            found.append(line)
        return found

    def open_messages(self) -> int:
        """How many messages are not over."""
        rows = self._parts.ledger.read(messages.counts)
        return sum(int(row["n"]) for row in rows if row["state"] in OPEN)

    def totals(self, since: int) -> Totals:
        """Figures of everything since a time (ms)."""
        return self._parts.ledger.read(lambda c: totals(c, since))

    def _row(self, no: str, tenants: Sequence[str] | None) -> CaseRow:
        row = self._parts.ledger.read(lambda c: cases.get(c, no))
        if row is None or (tenants is not None and row.tenant not in tenants):
            raise Refused("case_unknown", "no such case", "无此办件", 404)
        return row

    def _found_by_person(self, caller: Caller, criteria: Mapping[str, object]) -> tuple[str, ...] | None:
        """Numbers of cases that name this person, by the blind index alone; ``None`` when no person was asked for."""
        found: frozenset[str] | None = None
        for kind in KINDS:
            value = _text(criteria, kind)
            if value:
                tokens = self._parts.blind.tokens(kind, value)
                hits = self._parts.ledger.read(partial(cases.find, tenants=caller.tenants, kind=kind, tokens=tokens))
                found = frozenset(hits) if found is None else found & frozenset(hits)
        return None if found is None else tuple(sorted(found))


def _text(criteria: Mapping[str, object], name: str) -> str:
    value = criteria.get(name, "")
    if not isinstance(value, str):
        fault = Fault(f"/{name}", "field_type", "a string is expected", "应为字符串")
        raise Refused("field_type", fault.en, fault.zh, 422, (fault,))
    return value


def _integer(criteria: Mapping[str, object], name: str, default: int) -> int:
    value = criteria.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**53:
        fault = Fault(f"/{name}", "field_type", "an integer is expected", "应为整数")
        raise Refused("field_type", fault.en, fault.zh, 422, (fault,))
    return value


def _own(row: RowMapping, caller: Caller) -> bool:
    return row["caller"] == caller.name or (bool(caller.partner) and row["partner"] == caller.partner)


def case_view(row: CaseRow) -> CaseView:
    """A case as it is shown."""
    return CaseView(
        row.no,
        row.unified_no,
        row.matter,
        row.matter_version,
        row.tenant,
        row.state,
        row.step,
        row.waiting_for,
        row.reason,
        local_time(row.updated),
    )


def message_view(row: RowMapping) -> MessageView:
    """A message as it is shown."""
    return MessageView(
        id=row["id"],
        tenant=row["tenant"],
        partner=row["partner"],
        exchange=row["exchange"],
        direction=row["direction"],
        case=row["case_no"],
        state=row["state"],
        attempts=row["attempts"],
        reason=row["reason"],
        created=local_time(row["created"]),
        updated=local_time(row["updated"]),
    )


HIDDEN = ("message.leased", "body.kept")


def _line(event: RowMapping) -> TimelineRow | None:
    if event["kind"] in HIDDEN:
        return None
    content = json.loads(event["content"])
    return TimelineRow(
        local_time(event["at"]),
        content.get("step", ""),
        content.get("partner", ""),
        content.get("exchange", ""),
        event["message_id"],
        content.get("state", ""),
    )
