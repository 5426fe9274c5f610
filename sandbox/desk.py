"""What every stand-in works with, and what a partner consists of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

    from sandbox.contracts import Contracts
    from sandbox.control import Control, Misbehaviour
    from sandbox.credentials import Credentials
    from sandbox.settings import Settings
    from sandbox.state import State

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Desk:
    """The parts that the stand-ins share; built once in ``sandbox.serving``."""

    settings: Settings
    state: State
    control: Control
    credentials: Credentials
    contracts: Contracts
    clock: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a stand-in answers: a result code of its own list, perhaps with data."""

    code: str
    message: str = ""
    data: Mapping[str, Any] | None = None
    http: int = 200


@dataclass(frozen=True, slots=True)
class Codes:
    """A partner's result codes."""

    done: str
    busy: str
    invalid: str
    denied: str
    unlisted: str


def _nothing_against(_desk: Desk, _document: Document, _found: Misbehaviour) -> Answer | None:
    return None


def _nothing_to_do(_desk: Desk, _document: Document) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Exchange:
    """One kind of request that a stand-in takes.

    Args:
        name: the hub's name of it.
        path: where it is taken.
        identity: pointers whose joined values name the business occurrence.
        answer: what is answered, for the first receipt and for each repeat alike.
        contract: the JSON Schema, relative to ``schemas/``.
        effect: whether a receipt does something; a query does not.
        refuse: what speaks against it as business, if anything (a seizure).
        apply: what it does to the stand-in's state, in the receipt's transaction.
        method: POST, or GET for a query whose document is its path.
    """

    name: str
    path: str
    identity: tuple[str, ...]
    answer: Callable[[Desk, Document], Answer]
    contract: str = ""
    effect: bool = True
    refuse: Callable[[Desk, Document, Misbehaviour], Answer | None] = _nothing_against
    apply: Callable[[Desk, Document], None] = _nothing_to_do
    method: str = "POST"

    def identity_of(self, document: Document) -> str:
        """The joined values of the identity pointers; what is missing is empty."""
        return "|".join(_at(document, pointer) for pointer in self.identity)


@dataclass(frozen=True, slots=True)
class Partner:
    """One stand-in: its exchanges, its codes, its envelope and who may call it."""

    name: str
    exchanges: tuple[Exchange, ...]
    codes: Codes
    render: Callable[[Answer, Document], Document]
    authenticate: Callable[[Desk, Request], Answer | None]
    extra_routes: Mapping[str, Callable[[Desk, Request, bytes], Answer]] = field(default_factory=dict)


def _at(document: object, pointer: str) -> str:
    value = document
    for step in pointer.split("/")[1:]:
        value = value.get(step, "") if isinstance(value, dict) else ""
    return str(value)


def number_from(purpose: str, text: str, digits: int) -> str:
    """A number of so many digits that is always the same for the same text."""
    digest = hashlib.sha256(f"{purpose}:{text}".encode()).digest()
    return str(int.from_bytes(digest[:12]) % 10**digits).zfill(digits)


def token_from(purpose: str, text: str) -> str:
    """32 hexadecimal characters that are always the same for the same text."""
    return hashlib.sha256(f"{purpose}:{text}".encode()).hexdigest()[:32]


def bearer(partner: str, denied: str) -> Callable[[Desk, Request], Answer | None]:
    """A guard that lets only the partner's bearer token pass."""

    def guard(desk: Desk, request: Request) -> Answer | None:
        expected = f"Bearer {desk.credentials.token(partner)}"
        if request.headers.get("authorization", "") == expected:
            return None
        return Answer(denied, "令牌无效 / invalid token", http=401)

    return guard


def flat(answer: Answer, _document: Document) -> Document:
    """The envelope ``{code, msg, data}``."""
    data = {"data": dict(answer.data)} if answer.data is not None else {}
    return {"code": answer.code, "msg": answer.message, **data}
