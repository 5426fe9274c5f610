"""The worker that makes the calls which stand-ins owe: in order per case, again and again until the gateway has it."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from sandbox import soap
from sandbox.credentials import CredentialsUnusable
from sandbox.gateway import JSON_HEADERS, Call, Gateway, GatewayUnreachable, json_bytes, verdict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sandbox.desk import Desk
    from sandbox.gateway import Reply
    from sandbox.state import Job

LOGGER = logging.getLogger(__name__)

POLL_S = 0.05
AT_ONCE = 8


def clearance_call(clearance: Mapping[str, Any], version: str) -> Call:
    """The tax bureau's SOAP call with a clearance."""
    envelope = soap.submit_clearance(clearance, version)
    return Call(("submitClearance", "clearance"), "POST", "/soap/tax", envelope.body, envelope.headers)


def registry_call(kind: str, content: Mapping[str, Any]) -> Call:
    """The registration system's REST call: ``progress`` or ``result``."""
    return Call((kind,), "POST", f"/api/v1/exchanges/registry/{kind}", json_bytes(content), JSON_HEADERS)


def call_for(job: Job) -> Call:
    """The request that settles a debt; the same bytes at each repeat."""
    if job.partner == "tax":
        wrong = {"wszt": job.fate["code_wrong"]} if "code_wrong" in job.fate else {}
        return clearance_call({**job.content, **wrong}, soap.version_for(job.ywh))
    return registry_call(job.kind, job.content)


class Caller:
    """Settles debts as they fall due.

    The state is touched by the event loop's thread alone; only the HTTP request itself runs in a thread.
    """

    def __init__(self, desk: Desk, gateway: Gateway) -> None:
        self._desk = desk
        self._gateway = gateway
        self._under_way: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            for job in self._desk.state.due_jobs(self._desk.clock()):
                if self._may_start(job):
                    task = asyncio.create_task(self._settle(job))
                    self._under_way[job.id] = task
                    task.add_done_callback(partial(self._finished, job))
            await asyncio.sleep(POLL_S)

    def _finished(self, job: Job, done: asyncio.Task[None]) -> None:
        del self._under_way[job.id]
        if not done.cancelled() and done.exception() is not None:
            # Our own mistake must neither spin nor stop the other calls; its kind is enough to find it.
            LOGGER.error("callback %s/%s broke: %r", job.partner, job.kind, type(done.exception()))
            self._again(job, 0, 0.0)

    def _may_start(self, job: Job) -> bool:
        # A dead office does not call anybody.
        return (
            job.id not in self._under_way
            and len(self._under_way) < AT_ONCE
            and not self._desk.control.dead(job.partner)
        )

    async def _settle(self, job: Job) -> None:
        fate = dict(job.fate)
        if not fate:
            fate = self._desk.control.for_callback(job.partner, job.kind, job.unit)
            if self._told_to_wait(job, fate):
                return
        reply = await self._send(job)
        if reply is None:
            self._again(job, 0, 0.0)
            return
        meaning = verdict(reply)
        if meaning == "again":
            self._again(job, reply.status, reply.retry_after_s)
        elif meaning == "done" and fate.get("copies", 1) > 1:
            self._desk.state.bind_fate(job, {**fate, "copies": fate["copies"] - 1})
        else:
            self._desk.state.end_job(job, "sent" if meaning == "done" else "failed", reply.status)

    def _told_to_wait(self, job: Job, fate: Mapping[str, Any]) -> bool:
        """Write down what the control says at the last moment; true if the call is not made now."""
        if not fate:
            return False
        self._desk.state.bind_fate(job, fate)
        if fate.get("skip"):
            self._desk.state.end_job(job, "skipped")
        else:
            # Picked up again with its fate bound, by and by or at once.
            self._desk.state.postpone_job(job, self._desk.clock() + fate.get("delay_ms", 0) / 1000)
        return True

    async def _send(self, job: Job) -> Reply | None:
        try:
            caller = self._desk.credentials.caller(job.partner)
            return await asyncio.to_thread(self._gateway.send, caller, call_for(job))
        except (GatewayUnreachable, CredentialsUnusable) as error:
            LOGGER.info("callback %s/%s waits: %s", job.partner, job.kind, error)
            return None

    def _again(self, job: Job, status: int, asked_s: float) -> None:
        wait = max(self._desk.settings.backoff_s(job.attempts), asked_s / self._desk.settings.retry_scale)
        self._desk.state.postpone_job(job, self._desk.clock() + wait, status)
