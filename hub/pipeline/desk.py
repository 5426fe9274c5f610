"""The desk behind the gateway: what a caller may ask of the pipeline."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

from hub.errors import Refused, Transient
from hub.model.call import Call, Caller, Receipt
from hub.model.views import CaseView, MessageView, TimelineRow
from hub.pipeline.accept import Reception
from hub.pipeline.parts import Parts
from hub.pipeline.reading import Reading
from hub.store import cases, ledger, messages, signs


class PipelineDesk:
    """Implements the gateway's ``Desk`` on the ledger."""

    def __init__(self, parts: Parts, reception: Reception, reading: Reading) -> None:
        self._parts = parts
        self._reception = reception
        self._reading = reading
        self._refusals: Counter[str] = Counter()
        self._counting = threading.Lock()

    def serve(self, call: Call) -> Receipt:
        """Take one call on a ``serve`` exchange; it is durable when this returns."""
        return self._reception.serve(call)

    def reject(self, call: Call, refusal: Refused) -> None:
        """Keep a call that the gateway had to refuse itself."""
        self._reception.reject(call, refusal)

    def case_state(self, caller: Caller, no: str) -> str:
        """The state of a case, by YWH or unified number."""
        return self._reading.case(no, caller.tenants).state

    def case(self, caller: Caller, no: str) -> CaseView:
        """One case of the caller's tenants."""
        return self._reading.case(no, caller.tenants)

    def timeline(self, caller: Caller, no: str) -> list[TimelineRow]:
        """What happened in a case, oldest first."""
        return self._reading.timeline(no, caller.tenants)

    def message(self, caller: Caller, message_id: str) -> MessageView:
        """One message of the caller's own traffic."""
        return self._reading.message(message_id, caller)

    def search(self, caller: Caller, criteria: Mapping[str, object]) -> list[MessageView]:
        """The caller's own traffic that meets the criteria."""
        return self._reading.search(caller, criteria)

    def refused(self, code: str, caller: str) -> None:
        """Count a refusal that is not ledgered. By code alone: a stranger's name must not become a metric."""
        del caller
        with self._counting:
            self._refusals[code] += 1

    def metrics(self) -> Mapping[str, float]:
        """Figures by Prometheus sample name."""
        rows, states, health = self._parts.ledger.read(
            lambda c: (messages.counts(c), cases.by_state(c), signs.partners(c))
        )
        found: dict[str, float] = {}
        for row in rows:
            labels = ",".join(f'{name}="{row[name]}"' for name in ("partner", "exchange", "direction", "state"))
            found[f"dukou_messages{{{labels}}}"] = row["n"]
        found.update({f'dukou_cases{{state="{state}"}}': n for state, n in states.items()})
        found.update({f'dukou_partner_up{{partner="{row["partner"]}"}}': row["up"] for row in health})
        with self._counting:
            found.update({f'dukou_refused_unledgered_total{{code="{code}"}}': n for code, n in self._refusals.items()})
        return found

    def ready(self) -> bool:
        """Whether the ledger can be written now."""
        try:
            self._parts.ledger.write(ledger.now)
        except Transient:
            return False
        return True

    def known(self) -> Mapping[str, tuple[str, ...]]:
        """Partner to the names of its ``serve`` exchanges."""
        found: dict[str, tuple[str, ...]] = {}
        for exchange in self._parts.declarations.exchanges():
            if exchange.direction == "serve":
                found[exchange.partner] = (*found.get(exchange.partner, ()), exchange.name)
        return found
