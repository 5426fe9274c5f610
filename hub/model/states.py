"""The states of a message and of a case. That a state is an end is a property of the state."""

from __future__ import annotations

from typing import Literal

MessageState = Literal[
    "applied",
    "refused",
    "asked",
    "answered",
    "failed",
    "ready",
    "leased",
    "waiting",
    "delivered",
    "confirmed",
    "dead",
    "cancelled",
    "skipped",
]
CaseState = Literal["accepted", "correction", "running", "finished", "refused", "stopped", "withdrawn"]

# What a worker may claim, what still holds back the messages behind it, and what is over.
CLAIMABLE: tuple[MessageState, ...] = ("ready", "asked", "waiting")
BLOCKING: tuple[MessageState, ...] = ("ready", "asked", "waiting", "leased", "dead")
OPEN: tuple[MessageState, ...] = ("ready", "asked", "waiting", "leased")
CASE_ENDS: tuple[CaseState, ...] = ("finished", "refused", "stopped", "withdrawn")

# Who has to act on a dead letter, by its reason; what is not listed is the operator's.
OWNERS = {
    "outcome_unknown": "operator",
    "answer_code_unknown": "integrator",
    "answer_invalid": "partner",
    "partner_rejected": "integrator",
    "credentials_refused": "operator",
    "mapping_fault": "integrator",
    "contract_fault": "integrator",
    "retries_exhausted": "partner",
    "endpoint_missing": "operator",
}
