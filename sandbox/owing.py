"""How a stand-in comes to owe the gateway a call: written down with its time, in the transaction that caused it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandbox.state import Job

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.desk import Desk


@dataclass(frozen=True, slots=True)
class Debt:
    """One call that a partner owes about a case; ``kind`` is the hub's name of the exchange."""

    partner: str
    kind: str
    ywh: str
    unit: str
    content: Mapping[str, Any]


def owe(desk: Desk, debt: Debt, delay_s: float | None = None) -> float:
    """Write a debt down; must run inside a transaction.

    The control is asked now (and, where it says nothing, again when the call is made), so that a setting that is made
    before the case arrives and one that is made while it waits both work.

    Returns:
        The time, in epoch seconds, at which the call is due.
    """
    fate = desk.control.for_callback(debt.partner, debt.kind, debt.unit)
    usual = desk.settings.callback_delay_s if delay_s is None else delay_s
    due = desk.clock() + (fate["delay_ms"] / 1000 if "delay_ms" in fate else usual)
    job = Job(0, debt.partner, debt.kind, debt.ywh, debt.unit, debt.content, fate, 0)
    desk.state.add_job(job, due, "skipped" if fate.get("skip") else "pending")
    return due
