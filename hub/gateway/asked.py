"""One request and its answer as plain values, so that everything between the socket and the desk is a function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from hub.model.call import Caller

JSON_TYPE = "application/json"
PROBLEM_TYPE = "application/problem+json"


@dataclass(slots=True)
class Trace:
    """What the access log will say about a request. Filled on the way; never holds a path, a query or a body.

    ``handed`` turns true when the desk has a call to serve: from there on the desk counts and records a refusal itself.
    ``dialect`` is the SOAP namespace of the envelope that came, once it was read.
    """

    route: str = "-"
    caller: str = ""
    code: str = ""
    handed: bool = False
    dialect: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request whose body has arrived whole.

    Attributes:
        method: HTTP method as sent.
        target: path with query as sent, percent-encoding untouched: what was signed.
        headers: by lower-case name; the last one wins.
        path: the path's own parameters, decoded.
        query: the query string as sent.
        origin: ``scheme://host`` as the caller sees us.
        raw: the body.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    path: Mapping[str, str]
    query: str
    origin: str
    raw: bytes
    trace: Trace


@dataclass(frozen=True, slots=True)
class Signed:
    """A request whose signature held: who asks, and the keys of the services that the sid covers."""

    asked: Asked
    caller: Caller
    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back."""

    status: int
    body: bytes
    media: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> list[tuple[bytes, bytes]]:
        """The header lines as ASGI wants them."""
        found = {
            "content-type": self.media,
            "content-length": str(len(self.body)),
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            **self.headers,
        }
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in found.items()]


def as_json(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer in JSON (dataclasses are written as objects)."""
    return Answer(status, orjson.dumps(document), JSON_TYPE, headers or {})
