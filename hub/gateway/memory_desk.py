"""A desk that keeps everything in memory: for tests of the gateway and for measuring it without a database."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hub.errors import Refused
from hub.gateway.codes import refusal
from hub.model.call import Call, Caller, Receipt
from hub.model.views import CaseView, MessageView, TimelineRow
from hub.validation.documents import parse_json

AT = "2026-03-15T09:00:00+08:00"


@dataclass(slots=True)
class MemoryDesk:
    """Serves like the real one as far as a caller can see from outside, contracts left out.

    Attributes:
        exchanges: partner to its ``serve`` exchanges.
        failure: raised instead of serving or reading, where set.
        calls: what was served, in order.
        refusals: (code, caller) of what the gateway counted.
    """

    exchanges: Mapping[str, tuple[str, ...]]
    failure: BaseException | None = None
    is_ready: bool = True
    calls: list[Call] = field(default_factory=list)
    refusals: list[tuple[str, str]] = field(default_factory=list)
    _answers: dict[tuple[str, str, str], tuple[str, Receipt]] = field(default_factory=dict)
    _messages: dict[str, MessageView] = field(default_factory=dict)
    _states: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reject(self, call: Call, refusal: Refused) -> None:
        """Count it: this desk keeps no refused messages."""
        self.refused(refusal.code, call.caller.name)

    def serve(self, call: Call) -> Receipt:
        """Take a call; repeats get their first answer."""
        self._fail()
        document = call.document if call.document is not None else parse_json(call.raw)
        digest = hashlib.sha256(call.raw).hexdigest()
        key = (call.caller.name, f"{call.exchange}{call.path_case}", call.key or digest)
        with self._lock:
            known = self._answers.get(key)
            if known is not None:
                return self._again(known, digest)
            receipt = self._take(call, document)
            self._answers[key] = (digest, receipt)
            return receipt

    def _take(self, call: Call, document: object) -> Receipt:
        if call.path_case and call.path_case not in self._states:
            raise refusal("case_unknown")
        self.calls.append(call)
        number = f"{len(self.calls):08d}"
        case = call.path_case or f"2026{number}"
        complete = not isinstance(document, dict) or bool(document.get("SJ", True))
        state = {"withdrawal": "withdrawn"}.get(call.exchange, "accepted" if complete else "correction")
        self._states[case] = state
        tenant = call.caller.tenants[0]
        self._messages[number] = MessageView(
            number, tenant, call.partner, call.exchange, "serve", case, "applied", 0, "", AT, AT
        )
        missing = () if complete else ("01",)
        return Receipt(number, "applied", "0000", case, state, missing)

    @staticmethod
    def _again(known: tuple[str, Receipt], digest: str) -> Receipt:
        first, receipt = known
        if first != digest:
            raise refusal("idempotency_conflict")
        return Receipt(
            receipt.message,
            receipt.state,
            receipt.code,
            receipt.case,
            receipt.case_state,
            receipt.missing,
            replayed=True,
        )

    def case_state(self, caller: Caller, no: str) -> str:
        """The state of a case."""
        return self.case(caller, no).state

    def case(self, caller: Caller, no: str) -> CaseView:
        """One case."""
        self._fail()
        if no not in self._states:
            raise refusal("case_unknown")
        return CaseView(no, "", "clf_transfer", 1, caller.tenants[0], self._states[no], "application", "tax", "", AT)

    def timeline(self, caller: Caller, no: str) -> Sequence[TimelineRow]:
        """What happened in a case."""
        found = self.case(caller, no)
        return [
            TimelineRow(AT, "application", view.partner, view.exchange, view.id, view.state)
            for view in self._messages.values()
            if view.case == found.case
        ]

    def message(self, caller: Caller, message_id: str) -> MessageView:
        """One message."""
        self._fail()
        found = self._messages.get(message_id)
        if found is None or found.tenant not in caller.tenants:
            raise refusal("message_unknown")
        return found

    def search(self, caller: Caller, criteria: Mapping[str, object]) -> Sequence[MessageView]:
        """Messages whose named fields are as given."""
        self._fail()
        wrong = sorted(set(criteria) - set(MessageView.__slots__))
        if wrong:
            base = refusal("field_unknown")
            raise Refused(base.code, base.en, base.zh, base.status)
        return [
            view
            for view in self._messages.values()
            if view.tenant in caller.tenants and all(getattr(view, name) == value for name, value in criteria.items())
        ]

    def refused(self, code: str, caller: str) -> None:
        """Count."""
        self.refusals.append((code, caller))

    def metrics(self) -> Mapping[str, float]:
        """Counts by exchange."""
        found: dict[str, float] = {}
        for call in self.calls:
            name = f'dukou_messages{{exchange="{call.partner}/{call.exchange}"}}'
            found[name] = found.get(name, 0) + 1
        return found

    def ready(self) -> bool:
        """As told."""
        return self.is_ready

    def known(self) -> Mapping[str, tuple[str, ...]]:
        """As told."""
        return self.exchanges

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure
