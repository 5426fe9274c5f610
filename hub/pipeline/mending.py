"""What an operator does with dead letters: send again, or give up so that what stands behind may go."""

from __future__ import annotations

from functools import partial

from hub.cases.machine import Delivered, Event, Revived
from hub.errors import Refused
from hub.model.states import CASE_ENDS
from hub.pipeline.casework import Casework, Move
from hub.pipeline.parts import Parts
from hub.store import bodies, cases, events, ledger, messages
from hub.store.cases import CaseRow
from hub.store.ledger import Connection, RowMapping

UNMADE = ("mapping_fault", "contract_fault")
TRIES = 12


class Mending:
    """Replays and skips dead letters. Both are safe to press twice: the second press is a ``state_conflict``.

    The letter and its case change in one transaction, so that a crash leaves either both as they were or both mended.
    """

    def __init__(self, parts: Parts, casework: Casework) -> None:
        self._parts = parts
        self._casework = casework

    def replay(self, message_id: str) -> str:
        """Put a dead letter back to work under its old delivery id. Returns the new state.

        A letter whose document could not be made is made anew first, so that nothing is sent that was never mapped.

        Raises:
            Refused: ``message_unknown``, ``state_conflict``, or ``mapping_fault``/``contract_fault`` with every fault.
        """
        row = self._dead(message_id)
        body = self._casework.remake(row) if row["reason"] in UNMADE else None
        state = "asked" if row["direction"] == "ask" else "ready"
        self._mend(row, "message.replayed", state, Revived(row["step"]), body)
        return state

    def skip(self, message_id: str) -> str:
        """Give a dead letter up. The operator vouches that the partner knows: the step counts as done.

        Raises:
            Refused: ``message_unknown``, or ``state_conflict``: no dead letter, or a question of a case that still runs,
                whose answer nobody can give in the partner's place.
        """
        row = self._dead(message_id)
        case = self._case(row)
        if row["direction"] == "ask" and case is not None and case.state not in CASE_ENDS:
            raise Refused("state_conflict", "a question cannot be skipped: replay it", "询问不能跳过, 请重放", 409)
        self._mend(row, "message.skipped", "skipped", Delivered(row["step"]), None)
        return "skipped"

    def _dead(self, message_id: str) -> RowMapping:
        row = self._parts.ledger.read(partial(messages.get, message_id=message_id))
        if row is None:
            raise Refused("message_unknown", "no such message", "无此报文", 404)
        if row["state"] != "dead":
            raise _not_dead()
        return row

    def _case(self, row: RowMapping) -> CaseRow | None:
        return self._parts.ledger.read(partial(cases.get, no=row["case_no"])) if row["case_no"] else None

    def _mend(self, row: RowMapping, kind: str, state: str, event: Event, body: bodies.NewBody | None) -> None:
        for _ in range(TRIES):
            move = self._move(row, event)

            def work(connection: Connection, move: Move | None = move) -> None:
                at = ledger.now(connection)
                _write(connection, at, row, (kind, state), body)
                if move is not None:
                    self._casework.write(connection, at, move)

            try:
                self._parts.ledger.write(work)
            except ledger.Collision:
                continue
            for partner in {row["partner"], *(move.partners if move else ())}:
                self._parts.hints("courier", partner)
                self._parts.hints("airflow", partner)
            return
        raise ledger.busy()

    def _move(self, row: RowMapping, event: Event) -> Move | None:
        """The case's move, planned outside the transaction; announcements are no steps and move nothing."""
        case = self._case(row)
        if case is None or row["step"].startswith("announce."):
            return None
        return self._casework.plan(self._casework.load(case), event, self._parts.clock())


def _write(
    connection: Connection, at: int, row: RowMapping, becomes: tuple[str, str], body: bodies.NewBody | None
) -> None:
    held = messages.lock(connection, row["id"])
    if held is None or held["state"] != "dead" or held["fence"] != row["fence"]:
        raise _not_dead()
    kind, state = becomes
    changes: dict[str, object] = {"state": state, "reason": "", "due_at": at, "fence": held["fence"] + 1}
    if body is not None:
        bodies.add(connection, at, [body])
        kept = events.NewEvent("body.kept", row["tenant"], row["id"], row["case_no"], {}, body.id, body.digest)
        events.append(connection, at, [kept])
        changes["body_id"] = body.id
    messages.change(connection, at, held, kind, None, **changes)


def _not_dead() -> Refused:
    return Refused("state_conflict", "this is no dead letter", "该报文不是死信", 409)
