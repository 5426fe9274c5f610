"""Turns what the case machine decides into rows: maps, checks and seals every message that follows, then writes all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from hub.cases.machine import CaseMemory, Died, Event, Outcome, Send, StepMemory, advance
from hub.cases.matter import Matter
from hub.errors import Fault, Refused
from hub.model.declarations import Exchange
from hub.model.documents import compact
from hub.model.identity import wire_id
from hub.pipeline.parts import Parts, Vault, local_time
from hub.security.envelope import CaseKey
from hub.store import bodies, cases, events, ledger, messages
from hub.store.cases import CaseRow
from hub.store.ledger import Connection, RowMapping

TRIES = 12


@dataclass(frozen=True, slots=True)
class Prepared:
    """A message that follows, ready to be written; ``told`` limits it to partners that were told of the case."""

    message: messages.NewMessage
    body: bodies.NewBody
    told: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    """Everything that one event does to a case, to be written in one transaction."""

    row: CaseRow
    from_version: int
    changed: bool
    cancel: tuple[str, ...] = ()
    follow: tuple[Prepared, ...] = ()
    key: bodies.NewKey | None = None
    keep: tuple[bodies.NewBody, ...] = ()
    tokens: tuple[tuple[str, str, str], ...] = ()

    @property
    def partners(self) -> frozenset[str]:
        """Who gets something from this move: whom to send a hint."""
        return frozenset(item.message.partner for item in self.follow)


@dataclass(frozen=True, slots=True)
class CaseFile:
    """A case with its opened documents (role → canonical document) and its key."""

    row: CaseRow
    matter: Matter
    key: CaseKey
    documents: Mapping[str, object]
    new_key: bodies.NewKey | None = None
    keep: tuple[bodies.NewBody, ...] = ()
    tokens: tuple[tuple[str, str, str], ...] = field(default=())


class Casework:
    """Plans and writes moves of cases."""

    def __init__(self, parts: Parts, vault: Vault) -> None:
        self._parts = parts
        self._vault = vault

    def load(self, row: CaseRow, *, opened: Mapping[str, object] | None = None) -> CaseFile:
        """Open a case's documents. ``opened`` gives those that the caller has in hand already."""
        key = self._vault.key(row.no)
        documents = dict(opened or {})
        for role, body_id in _documents(row).items():
            if role not in documents:
                documents[role] = self._vault.open_json(body_id)
        return CaseFile(row, self._parts.matters.version(row.matter, row.matter_version), key, documents)

    def with_document(
        self, file: CaseFile, role: str, document: object, body: bodies.NewBody | None = None
    ) -> CaseFile:
        """The case file with one document added or replaced; ``body`` when it is stored already."""
        stored = body or self.seal(file, document)
        data = {**file.row.data, "documents": {**_documents(file.row), role: stored.id}}
        keep = file.keep if body is not None else (*file.keep, stored)
        return replace(file, row=replace(file.row, data=data), documents={**file.documents, role: document}, keep=keep)

    def seal(self, file: CaseFile, document: object) -> bodies.NewBody:
        """A document as a body under the case's key."""
        return self._vault.seal(file.key, file.row.no, file.row.tenant, compact(document).encode())

    def plan(self, file: CaseFile, event: Event, at: int) -> Move:
        """What the event does to the case.

        Raises:
            Refused: ``state_conflict``.
        """
        opening = file.row.version == 0
        memory = None if opening else memory_of(file.row)
        outcome = advance(file.matter, memory, event, at)
        changed, cancel_steps = outcome.changed or bool(file.keep), outcome.cancel
        row = _row_after(file.row, outcome, at)
        file = replace(file, row=row)
        follow = tuple(self._prepare(file, send, at) for send in outcome.sends)
        for item in follow:
            if item.message.state == "dead" and item.message.step in file.matter.steps:
                # Born dead, its document could not be made: the case says so from the start.
                outcome = advance(file.matter, memory_of(row), Died(item.message.step, item.message.reason), at)
                row = replace(_row_after(row, outcome, at), version=row.version)
        cancel = tuple(file.matter.steps) if cancel_steps else ()
        return Move(row, row.version - 1, changed, cancel, follow, file.new_key, file.keep, file.tokens)

    def write(self, connection: Connection, at: int, move: Move) -> None:
        """Write a move. The caller's transaction holds whatever caused it.

        Raises:
            Collision: the case moved meanwhile; plan again.
        """
        if not move.changed:
            return
        if move.key is not None:
            bodies.add_key(connection, at, move.key)
        bodies.add(connection, at, move.keep)
        _remember_bodies(connection, at, move)
        if move.from_version == 0:
            cases.open_case(connection, at, move.row)
            cases.index(connection, move.row.tenant, move.row.no, move.tokens)
        else:
            cases.move(connection, at, move.row, move.from_version)
        if move.cancel:
            messages.cancel_unsent(connection, at, move.row.no, move.cancel)
        follow = [item for item in move.follow if _wanted(connection, move.row.no, item)]
        bodies.add(connection, at, [item.body for item in follow])
        messages.add(connection, at, [item.message for item in follow])

    def tell(self, case_no: str, event: Event) -> None:
        """Move a case by an event that comes with no message of its own."""
        for _ in range(TRIES):
            row = self._parts.ledger.read(partial(cases.get, no=case_no))
            if row is None:
                return
            move = self.plan(self.load(row), event, self._parts.clock())
            try:
                self._parts.ledger.write(partial(self._write_alone, move=move))
            except ledger.Collision:
                continue
            for partner in move.partners:
                self._parts.hints("courier", partner)
            return
        raise ledger.busy()

    def _write_alone(self, connection: Connection, move: Move) -> None:
        self.write(connection, ledger.now(connection), move)

    def remake(self, row: RowMapping) -> bodies.NewBody:
        """The document of a message that could not be made before, from the view that was kept in its place.

        Raises:
            Refused: ``mapping_fault`` or ``contract_fault``, with every fault: it still cannot be made.
        """
        exchange = self._parts.declarations.exchange(row["partner"], row["exchange"])
        document = self._made(exchange, self._vault.open_json(row["body_id"]))
        return self._vault.seal(
            self._vault.key(row["case_no"]), row["case_no"], row["tenant"], compact(document).encode()
        )

    def _made(self, exchange: Exchange, view: object) -> object:
        """The partner's document, mapped and checked."""
        try:
            document = self._parts.mappings.get(exchange.mapping).apply(view)  # type: ignore[arg-type]
        except Refused as error:
            raise _unmade("mapping_fault", error.faults) from error
        faults = self._parts.contracts.get(exchange.contract).check(document)
        if faults:
            raise _unmade("contract_fault", tuple(faults))
        return document

    def request(self, file: CaseFile, exchange_key: str, at: int) -> object:
        """The partner's document for a question about a case (``fetch``)."""
        partner, _, name = exchange_key.partition("/")
        exchange = self._parts.declarations.exchange(partner, name)
        view = self._view(file, Send(exchange_key), self._parts.new_id(), at)
        return self._parts.mappings.get(exchange.mapping).apply(view)

    def _prepare(self, file: CaseFile, send: Send, at: int) -> Prepared:
        """Map, check and seal one message. A document that cannot be made becomes a dead letter, not a lost one."""
        partner, _, name = send.exchange.partition("/")
        exchange = self._parts.declarations.exchange(partner, name)
        message_id = self._parts.new_id()
        state, reason = ("asked" if exchange.direction == "ask" else "ready"), ""
        view = self._view(file, send, message_id, at)
        try:
            document = self._made(exchange, view)
        except Refused as error:
            # The view is kept in the place of the document: a replay makes the document from it, and sends no other.
            document, state, reason = view, "dead", error.code
        body = self._vault.seal(file.key, file.row.no, file.row.tenant, compact(document).encode())
        message = messages.NewMessage(
            id=message_id,
            tenant=file.row.tenant,
            partner=partner,
            exchange=name,
            direction=exchange.direction,
            lane=exchange.lane,
            redelivery=exchange.redelivery,
            case_no=file.row.no,
            state=state,
            step=send.step or f"announce.{send.node or send.notice or name}",
            reason=reason,
            body_id=body.id,
            body_digest=body.digest,
        )
        return Prepared(message, body, send.told)

    def _view(self, file: CaseFile, send: Send, message_id: str, at: int) -> dict[str, object]:
        """The ``canonical/case_file`` that outgoing mappings read."""
        row, application = file.row, file.documents["application"]
        event: dict[str, object] = {"state": row.state}
        event.update(
            {
                name: value
                for name, value in (("node", send.node), ("notice", send.notice), ("reason", row.reason))
                if value
            }
        )
        missing = row.data.get("missing")
        if missing:
            event["missing"] = missing
        view: dict[str, object] = {
            "YWH": row.no,
            "tenant": row.tenant,
            "matter": row.matter,
            "matter_name": file.matter.name_zh,
            "DJLX": file.matter.djlx,
            "SLSJ": local_time(row.created or at),
            "application": application,
            "delivery": {"id": wire_id(message_id), "at": local_time(at)},
            "event": event,
        }
        if row.unified_no:
            view["TYBM"] = row.unified_no
        for role in ("clearance", "registration"):
            if role in file.documents:
                view[role] = file.documents[role]
        if send.party >= 0:
            view["party"] = parties(application)[send.party]
        return view


def _remember_bodies(connection: Connection, at: int, move: Move) -> None:
    """A case's documents have no message of their own: an event of their own vouches for them."""
    events.append(
        connection,
        at,
        [
            events.NewEvent("body.kept", move.row.tenant, "", move.row.no, {}, body.id, body.digest)
            for body in move.keep
        ],
    )


def _unmade(code: str, faults: tuple[Fault, ...]) -> Refused:
    return Refused(code, "the partner's document cannot be made", "无法生成对方报文", 422, faults)


def _wanted(connection: Connection, case_no: str, item: Prepared) -> bool:
    if not item.told:
        return True
    partner, _, exchange = item.told.partition("/")
    return messages.told(connection, case_no, partner, exchange)


def parties(application: object) -> list[Mapping[str, object]]:
    """Everyone whom an application names: those who receive the right, then those who give it."""
    if not isinstance(application, Mapping):
        return []
    return [*application["QLR"], *application["YWR"]]


def materials(application: object) -> frozenset[str]:
    """Names of the materials that an application brings."""
    if not isinstance(application, Mapping):
        return frozenset()
    return frozenset(str(item["SJMC"]) for item in application["SJ"])


def memory_of(row: CaseRow) -> CaseMemory:
    """The machine's memory of a stored case."""
    data = row.data
    steps: Mapping[str, Mapping[str, object]] = data["steps"]  # type: ignore[assignment]
    missing: Sequence[str] = data["missing"]  # type: ignore[assignment]
    return CaseMemory(
        state=row.state,  # type: ignore[arg-type]
        steps={name: StepMemory(**memory) for name, memory in steps.items()},  # type: ignore[arg-type]
        parties=int(str(data["parties"])),
        missing=tuple(missing),
        unified_no=row.unified_no,
        reason=row.reason,
        step=row.step,
        waiting_for=row.waiting_for,
    )


def _row_after(row: CaseRow, outcome: Outcome, at: int) -> CaseRow:
    memory = outcome.case
    steps = {
        name: {"status": step.status, "since": step.since, "out": step.out, "dead": step.dead}
        for name, step in memory.steps.items()
    }
    data = {**row.data, "steps": steps, "parties": memory.parties, "missing": list(memory.missing)}
    return replace(
        row,
        unified_no=memory.unified_no,
        state=memory.state,
        step=memory.step,
        waiting_for=memory.waiting_for,
        reason=memory.reason,
        version=row.version + 1,
        data=data,
        created=row.created or at,
        updated=at,
    )


def _documents(row: CaseRow) -> dict[str, str]:
    documents = row.data.get("documents")
    return dict(documents) if isinstance(documents, Mapping) else {}
