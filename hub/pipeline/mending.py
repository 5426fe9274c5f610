"""What an operator does with dead letters: send again, or give up so that what stands behind may go."""

from __future__ import annotations

from functools import partial

from hub.cases.machine import Delivered, Event, Revived
from hub.errors import Refused
from hub.pipeline.casework import Casework
from hub.pipeline.parts import Parts
from hub.store import bodies, events, ledger, messages
from hub.store.ledger import Connection, RowMapping

UNMADE = ("mapping_fault", "contract_fault")


class Mending:
    """Replays and skips dead letters. Both are safe to press twice: the second press is a ``state_conflict``."""

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
        self._parts.ledger.write(partial(self._write, row=row, kind="message.replayed", state=state, body=body))
        self._tell(row, Revived(row["step"]))
        for audience in ("courier", "airflow"):
            self._parts.hints(audience, row["partner"])
        return state

    def skip(self, message_id: str) -> str:
        """Give a dead letter up. The operator vouches that the partner knows: the step counts as done.

        Raises:
            Refused: ``message_unknown``, or ``state_conflict``: no dead letter, or a question, whose answer nobody can give
                in the partner's place.
        """
        row = self._dead(message_id)
        if row["direction"] == "ask":
            raise Refused("state_conflict", "a question cannot be skipped: replay it", "询问不能跳过, 请重放", 409)
        self._parts.ledger.write(partial(self._write, row=row, kind="message.skipped", state="skipped", body=None))
        self._tell(row, Delivered(row["step"]))
        return "skipped"

    def _dead(self, message_id: str) -> RowMapping:
        row = self._parts.ledger.read(partial(messages.get, message_id=message_id))
        if row is None:
            raise Refused("message_unknown", "no such message", "无此报文", 404)
        if row["state"] != "dead":
            raise _not_dead()
        return row

    def _write(
        self, connection: Connection, row: RowMapping, kind: str, state: str, body: bodies.NewBody | None
    ) -> None:
        at = ledger.now(connection)
        held = messages.get(connection, row["id"])
        if held is None or held["state"] != "dead" or held["fence"] != row["fence"]:
            raise _not_dead()
        changes: dict[str, object] = {"state": state, "reason": "", "due_at": at, "fence": held["fence"] + 1}
        if body is not None:
            bodies.add(connection, at, [body])
            kept = events.NewEvent("body.kept", row["tenant"], row["id"], row["case_no"], {}, body.id, body.digest)
            events.append(connection, at, [kept])
            changes["body_id"] = body.id
        messages.change(connection, at, held, kind, None, **changes)

    def _tell(self, row: RowMapping, event: Event) -> None:
        if row["case_no"] and not row["step"].startswith("announce."):
            self._casework.tell(row["case_no"], event)


def _not_dead() -> Refused:
    return Refused("state_conflict", "this is no dead letter", "该报文不是死信", 409)
