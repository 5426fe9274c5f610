"""What readers are shown: never a body, never a name or a number of a document."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CaseView:
    """``GET /api/v1/cases/{no}``."""

    case: str
    unified_no: str
    matter: str
    matter_version: int
    tenant: str
    state: str
    step: str
    waiting_for: str
    reason: str
    updated: str


@dataclass(frozen=True, slots=True)
class TimelineRow:
    """One line of ``GET /api/v1/cases/{no}/timeline``."""

    at: str
    step: str
    partner: str
    exchange: str
    message: str
    state: str


@dataclass(frozen=True, slots=True)
class MessageView:
    """``dukou messages --json`` and ``GET /api/v1/messages/{id}``; times are ISO 8601 with +08:00."""

    id: str
    tenant: str
    partner: str
    exchange: str
    direction: str
    case: str
    state: str
    attempts: int
    reason: str
    created: str
    updated: str


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What one drain did: counts only, so that it may travel through XCom."""

    partner: str
    claimed: int = 0
    delivered: int = 0
    refused: int = 0
    waiting: int = 0
    dead: int = 0
    collected: int = 0
    down: bool = False
