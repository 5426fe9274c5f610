"""What YAML declares about partners and exchanges, as frozen values. Built by ``hub.registry`` only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Direction = Literal["serve", "deliver", "ask", "fetch"]
Lane = Literal["live", "bulk"]
Redelivery = Literal["idempotent", "query_first", "manual"]
Outcome = Literal["done", "refused", "pending", "retry"]


@dataclass(frozen=True, slots=True)
class RequestLine:
    """How a REST exchange is called: path below the partner's base; ``{delivery_id}`` is the only placeholder."""

    method: str
    path: str
    sid: str = ""


@dataclass(frozen=True, slots=True)
class AnswerRule:
    """How an answer is read.

    ``code_at`` is a JSON Pointer to the partner's result code; ``codes`` says what each code means. A code that is
    not listed is a fault (``answer_code_unknown``), never a default. ``reasons`` names the stable reason of a refusal.
    """

    contract: str
    code_at: str
    codes: Mapping[str, Outcome]
    reasons: Mapping[str, str] = field(default_factory=dict)
    mapping: str = ""
    canonical: str = ""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One declared kind of traffic with a partner (``tax/clearance``).

    ``options`` are what only the exchange's protocol understands (a table's name, a folder, a queue); their closed schema
    is ``schemas/declarations/options_<protocol>.json``.
    """

    partner: str
    name: str
    title_zh: str
    direction: Direction
    lane: Lane
    protocol: str
    contract: str
    zones: tuple[str, ...]
    source: str
    redelivery: Redelivery
    identity: tuple[str, ...] | Literal["body"] = ()
    mapping: str = ""
    canonical: str = ""
    event: str = ""
    operation: str = ""
    query_kind: str = ""
    revision: bool = False
    arrives_as: str = ""
    request: RequestLine | None = None
    query: RequestLine | None = None
    answer: AnswerRule | None = None
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """``partner/name``."""
        return f"{self.partner}/{self.name}"


@dataclass(frozen=True, slots=True)
class Partner:
    """A party that exchanges, with where it lives in each environment."""

    slug: str
    name_zh: str
    name_en: str
    endpoints: Mapping[str, str]
    connect_s: float
    read_s: float
    concurrency: int
    auth: Mapping[str, object]
    exchanges: Mapping[str, Exchange]
    wsdl: str = ""

    @property
    def longest_s(self) -> float:
        """The longest that one request may take: connect, wait for the answer's beginning, read it to its end."""
        return self.connect_s + 2 * self.read_s
