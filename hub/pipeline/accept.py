"""Accepts what arrives: check, map, decide, then one transaction, then the answer.

The life of an arrival (DESIGN §4.1): everything that costs time (parsing, checking, mapping, opening and sealing) happens
before the transaction; the transaction takes the idempotency key, writes the message with its body and event, moves the
case and writes the messages that follow. Only then is the sender answered, and a hint wakes the courier.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hub.cases.machine import Arrived, Corrected, Event, Opened, Withdrawn
from hub.errors import Fault, Faults, Refused
from hub.model.call import Call, Caller, Receipt
from hub.model.declarations import Exchange
from hub.model.documents import compact, pointed
from hub.pipeline.casework import CaseFile, Casework, Move, materials, parties
from hub.pipeline.parts import Parts, Vault, local_day
from hub.store import bodies, cases, idempotency, ledger, messages
from hub.store.cases import CaseRow
from hub.store.idempotency import Entry, Scope
from hub.store.ledger import Connection
from hub.validation.documents import parse_json

TRIES = 12
NUMBERS_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class Arrival:
    """A checked arrival: its canonical document, whose it is and under which key."""

    exchange: Exchange
    caller: str
    tenants: tuple[str, ...]
    raw: bytes
    document: Mapping[str, object]
    key: str

    @property
    def case_no(self) -> str:
        """The case that it speaks of; empty for an application."""
        return str(self.document.get("YWH", ""))


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knows under the arrival's key."""

    replay: Receipt | None
    revision: int


class Reception:
    """Accepts arrivals of ``serve`` exchanges, whether they were called in or fetched."""

    def __init__(self, parts: Parts, vault: Vault, casework: Casework) -> None:
        self._parts = parts
        self._vault = vault
        self._casework = casework
        self._numbers: dict[tuple[str, str], list[int]] = {}
        self._drawing = threading.Lock()

    def serve(self, call: Call) -> Receipt:
        """Accept one call.

        Raises:
            Refused: with every fault; the refusal is in the ledger by then.
            Transient: ``busy``; nothing was written.
        """
        exchange = self._parts.declarations.exchange(call.partner, call.exchange)
        if exchange.direction != "serve" or exchange.query_kind:
            raise Refused("exchange_unknown", "this exchange takes no messages", "该交换不接收报文", 404)
        tenant = call.caller.tenants[0]
        try:
            arrival = self._arrival(exchange, call)
            tenant = self._tenant(arrival, call.caller)
            return self.take(arrival, tenant)
        except Refused as refusal:
            self._record_refusal(exchange, call, tenant, refusal)
            raise

    def reject(self, call: Call, refusal: Refused) -> None:
        """Keep a call whose document was found wrong before it came here."""
        exchange = self._parts.declarations.exchange(call.partner, call.exchange)
        self._record_refusal(exchange, call, call.caller.tenants[0], refusal)

    def take(self, arrival: Arrival, tenant: str) -> Receipt:
        """Accept a checked arrival for a tenant, trying again while other transactions are in the way."""
        scope, digest = self._scope(arrival, tenant)
        for _ in range(TRIES):
            known = self._known(arrival.exchange, scope, digest)
            if known.replay is not None:
                return known.replay
            file, event = self._case(arrival, tenant)
            move = self._casework.plan(file, event, self._parts.clock())
            try:
                receipt = self._write(arrival, move, scope, digest, known.revision)
            except ledger.Collision:
                continue
            for partner in move.partners:
                self._parts.hints("courier", partner)
            return receipt
        raise ledger.busy()

    # What arrives ------------------------------------------------------------------------------------------------

    def _arrival(self, exchange: Exchange, call: Call) -> Arrival:
        document = call.document
        if document is None:
            if exchange.contract.endswith(".xsd"):
                raise Refused("malformed", "this exchange takes XML", "该交换应为 XML", 400)
            document = parse_json(call.raw or b"{}")
        if call.path_case:
            document = _with_path_case(document, call.path_case)
        contract = self._parts.contracts.get(exchange.contract)
        # A SOAP document was checked against its XSD by the gateway, which had the element in hand.
        if call.document is None:
            _refuse(contract.check(document))
        if exchange.mapping:
            mapping = self._parts.mappings.get(exchange.mapping)
            document = mapping.apply(document)  # type: ignore[arg-type]
            found = self._parts.contracts.get(exchange.canonical).check(document)
            _refuse([replace(fault, path=mapping.source_of(fault.path)) for fault in found])
        if not isinstance(document, Mapping):
            raise _one_fault("", "field_type", "an object is expected", "应为对象")
        return Arrival(exchange, call.caller.name, call.caller.tenants, call.raw, document, call.key)

    def _tenant(self, arrival: Arrival, caller: Caller) -> str:
        """Whose arrival this is; what belongs to another district is not even said to exist."""
        if arrival.exchange.event == "application":
            tenant = str(arrival.document["tenant"])
            if tenant not in caller.tenants:
                raise Refused(
                    "tenant_forbidden", "this caller does not serve that tenant", "该调用方无权办理此区县业务", 404
                )
            _refuse(_same_county(arrival.document))
            return tenant
        return self._row(arrival.case_no, caller.tenants).tenant

    def _row(self, no: str, tenants: Sequence[str]) -> CaseRow:
        row = self._parts.ledger.read(lambda c: cases.get(c, no))
        if row is None or row.tenant not in tenants:
            raise Refused("case_unknown", "no such case", "无此办件", 404)
        return row

    # The key -----------------------------------------------------------------------------------------------------

    def _scope(self, arrival: Arrival, tenant: str) -> tuple[Scope, str]:
        exchange, address = arrival.exchange, self._parts.envelope.address
        digest = address(compact(arrival.document).encode(), tenant)
        # A declared identity belongs to the partner, whichever of its callers brings it and also when it was fetched; a key
        # belongs to the caller who chose it.
        owner = f"partner:{exchange.partner}"
        if arrival.key:
            owner, chosen = arrival.caller, f"key:{arrival.key}"
        elif exchange.identity == "body":
            chosen = f"body:{digest}"
        else:
            chosen = "identity:" + compact([pointed(arrival.document, pointer) for pointer in exchange.identity])
        return Scope(tenant, owner, exchange.key, address(chosen.encode(), tenant)), digest

    def _known(self, exchange: Exchange, scope: Scope, digest: str) -> Known:
        rows = self._parts.ledger.read(lambda c: idempotency.known(c, scope))
        for row in rows:
            if row["digest"] == digest:
                self._count("duplicates", exchange.key)
                return Known(replace(_receipt(row["answer"]), replayed=True), 0)
        if rows and not exchange.revision:
            raise Refused(
                "idempotency_conflict",
                "this key was used for another content; send what is new under a new Idempotency-Key",
                "该幂等键已用于其他内容; 新的内容请使用新的 Idempotency-Key",
                409,
            )
        return Known(None, len(rows) + 1)

    def _count(self, what: str, name: str) -> None:
        def work(connection: Connection) -> None:
            cases.draw(connection, f"{what}:{name}")

        self._parts.ledger.write(work)

    # The case ----------------------------------------------------------------------------------------------------

    def _case(self, arrival: Arrival, tenant: str) -> tuple[CaseFile, Event]:
        if arrival.exchange.event == "application":
            return self._new_case(arrival, tenant)
        file = self._casework.load(self._row(arrival.case_no, (tenant,)))
        document = arrival.document
        if arrival.exchange.event == "withdrawal":
            return file, Withdrawn()
        if arrival.exchange.event == "correction":
            application = _with_materials(file.documents["application"], document)
            file = self._casework.with_document(file, "application", application)
            return file, Corrected(file.matter.missing(materials(application)))
        file = self._casework.with_document(file, arrival.exchange.event, document)
        return file, Arrived(arrival.exchange.event, document)

    def _new_case(self, arrival: Arrival, tenant: str) -> tuple[CaseFile, Event]:
        application = arrival.document
        matter = self._parts.matters.latest(str(application["matter"]))
        no = self._number(tenant)
        key, new_key = self._vault.new_key(no, tenant)
        row = CaseRow(no, "", tenant, matter.name, matter.version, "", "", "", "", 0, {}, 0, 0)
        file = CaseFile(row, matter, key, {}, new_key, tokens=self._tokens(application))
        file = self._casework.with_document(file, "application", application)
        missing = matter.missing(materials(application))
        return file, Opened(len(parties(application)), missing)

    def _tokens(self, application: Mapping[str, object]) -> tuple[tuple[str, str, str], ...]:
        tokens, found = self._parts.blind.tokens, list[tuple[str, str, str]]()
        for party in parties(application):
            found.extend(("name", *pair) for pair in tokens("name", str(party["QLRMC"])))
            found.extend(("number", *pair) for pair in tokens("number", str(party["ZJH"])))
        return tuple(found)

    def _number(self, tenant: str) -> str:
        """The next YWH: day, county and six digits, 20 characters. Numbers are drawn in blocks; a crash leaves a gap."""
        day = local_day(self._parts.clock())
        with self._drawing:
            block = self._numbers.setdefault((tenant, day), [])
            if not block:
                last = self._parts.ledger.write(lambda c: cases.draw(c, f"ywh:{tenant}:{day}", NUMBERS_AT_ONCE))
                block.extend(range(last, last - NUMBERS_AT_ONCE, -1))
            return f"{day}{tenant}{block.pop():06d}"

    # The transaction ---------------------------------------------------------------------------------------------

    def _write(self, arrival: Arrival, move: Move, scope: Scope, digest: str, revision: int) -> Receipt:
        exchange, row = arrival.exchange, move.row
        file_key = self._vault.key(row.no) if move.key is None else None
        body = self._raw_body(arrival, move, file_key)
        message = messages.NewMessage(
            id=self._parts.new_id(),
            tenant=row.tenant,
            partner=exchange.partner,
            exchange=exchange.name,
            direction="serve",
            lane=exchange.lane,
            redelivery=exchange.redelivery,
            case_no=row.no,
            state="applied",
            step=exchange.event,
            caller=arrival.caller,
            body_id=body.id,
            body_digest=body.digest,
        )
        receipt = Receipt(message.id, "applied", "0000", row.no, *_case_answer(exchange, row))
        answer = compact(
            [receipt.message, receipt.state, receipt.code, receipt.case, receipt.case_state, list(receipt.missing)]
        )

        entry = Entry(revision, digest, message.id, answer)

        def work(connection: Connection) -> Receipt:
            at = ledger.now(connection)
            idempotency.remember(connection, at, scope, entry)
            self._casework.write(connection, at, move)
            bodies.add(connection, at, [body])
            messages.add(connection, at, [message])
            return receipt

        return self._parts.ledger.write(work)

    def _raw_body(self, arrival: Arrival, move: Move, key: object) -> bodies.NewBody:
        """The body as it came, sealed with the case's key: this is the evidence."""
        row = move.row
        if move.key is not None:
            case_key = self._parts.envelope.unwrap(row.tenant, move.key.key_id, move.key.wrapped)
        else:
            case_key = key  # type: ignore[assignment]
        return self._vault.seal(case_key, row.no, row.tenant, arrival.raw)

    def _record_refusal(self, exchange: Exchange, call: Call, tenant: str, refusal: Refused) -> None:
        """Keep the refused message; a refusal does not consume the key and leaves no case."""
        owner = f"u:{tenant}:{local_day(self._parts.clock())}"
        try:
            key, new_key = self._refusal_key(owner, tenant)
            body = self._vault.seal(key, owner, tenant, call.raw)  # type: ignore[arg-type]
            message = messages.NewMessage(
                id=self._parts.new_id(),
                tenant=tenant,
                partner=exchange.partner,
                exchange=exchange.name,
                direction="serve",
                lane=exchange.lane,
                redelivery=exchange.redelivery,
                case_no="",
                state="refused",
                step=exchange.event,
                caller=call.caller.name,
                reason=refusal.code,
                body_id=body.id,
                body_digest=body.digest,
            )

            def work(connection: Connection) -> None:
                at = ledger.now(connection)
                if new_key is not None and bodies.get_key(connection, owner) is None:
                    bodies.add_key(connection, at, new_key)
                bodies.add(connection, at, [body])
                messages.add(connection, at, [message])

            self._parts.ledger.write(work)
        except ledger.Collision:
            raise ledger.busy() from refusal

    def _refusal_key(self, owner: str, tenant: str) -> tuple[object, bodies.NewKey | None]:
        row = self._parts.ledger.read(lambda c: bodies.get_key(c, owner))
        if row is not None:
            return self._parts.envelope.unwrap(row["tenant"], row["key_id"], row["wrapped"]), None
        key, new_key = self._vault.new_key(owner, tenant)
        # Written on its own: two refusals at once must not seal with two keys.
        try:
            self._parts.ledger.write(lambda c: bodies.add_key(c, ledger.now(c), new_key))
        except ledger.Collision:
            return self._vault.key(owner), None
        return key, None


def _receipt(answer: str) -> Receipt:
    message, state, code, case, case_state, missing = json.loads(answer)
    return Receipt(message, state, code, case, case_state, tuple(missing))


def _case_answer(exchange: Exchange, row: CaseRow) -> tuple[str, tuple[str, ...]]:
    """What the caller is told of the case: ``accepted`` or ``correction`` for an application, else its state."""
    missing: Sequence[str] = row.data.get("missing", ())  # type: ignore[assignment]
    if exchange.event in ("application", "correction"):
        return ("correction" if row.state == "correction" else "accepted"), tuple(missing)
    return row.state, ()


def _refuse(faults: Sequence[Fault]) -> None:
    Faults(list(faults)).refuse()


def _one_fault(path: str, code: str, en: str, zh: str) -> Refused:
    return Refused(code, en, zh, 422, (Fault(path, code, en, zh),))


def _with_path_case(document: object, no: str) -> object:
    if not isinstance(document, dict):
        return document
    if "YWH" in document:
        raise _one_fault("/YWH", "field_unknown", "the case number stands in the path", "业务号已在路径中")
    return {"YWH": no, **document}


def _same_county(application: Mapping[str, object]) -> list[Fault]:
    """A case belongs to the district where the unit lies."""
    if str(application["BDCDYH"])[:6] == application["tenant"]:
        return []
    text = ("the unit does not lie in this tenant's county", "不动产单元不在该区县")
    return [Fault("/BDCDYH", "unit_code_invalid", *text)]


def _with_materials(application: object, correction: Mapping[str, object]) -> dict[str, object]:
    """The application with the corrected materials: same name replaces, new name is added."""
    before: dict[str, object] = dict(application)  # type: ignore[call-overload]
    brought: list[Mapping[str, object]] = list(correction["SJ"])  # type: ignore[call-overload]
    names = {item["SJMC"] for item in brought}
    kept = [item for item in before["SJ"] if item["SJMC"] not in names]  # type: ignore[attr-defined]
    return {**before, "SJ": [*kept, *brought]}
