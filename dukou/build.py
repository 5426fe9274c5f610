"""The composition root: builds the hub from its settings. Nothing opens before it is used; production parts are the defaults."""

from __future__ import annotations

import os
import random
import socket
import time
from dataclasses import dataclass

import suites
from connectors.hints import KombuHints
from connectors.opening import open_wires
from dukou.hinting import transport_options
from dukou.settings import Settings
from hub.errors import Misconfigured
from hub.mapping import Mappings
from hub.model.declarations import Partner
from hub.model.identity import new_id
from hub.model.views import DrainReport
from hub.pipeline.accept import Reception
from hub.pipeline.casework import Casework
from hub.pipeline.collect import Collector
from hub.pipeline.deliver import Deliverer
from hub.pipeline.desk import PipelineDesk
from hub.pipeline.mending import Mending
from hub.pipeline.parts import Pace, Parts, Vault
from hub.pipeline.reading import Reading
from hub.pipeline.upkeep import Report, Upkeep
from hub.ports import Clock, Hints
from hub.registry.declarations import Declarations, endpoint_base
from hub.registry.matters import Matters
from hub.security.blind import BlindIndex
from hub.security.envelope import Envelope
from hub.security.keys import Keyring, key_path
from hub.store.ledger import Ledger
from hub.store.messages import ClaimRule
from hub.validation.codes import Codes
from hub.validation.contracts import Contracts

LEASE_MARGIN_S = 3.0


def wall_clock() -> int:
    """The system's clock in milliseconds since the epoch: the one place where it is read for the hub."""
    return int(time.time() * 1000)


def pace_of(scale: float) -> Pace:
    """The pipeline's times with every wait divided by ``scale``. Leases are no waits and keep their length."""
    plain = Pace()
    return Pace(
        lease=plain.lease,
        first_wait=max(int(plain.first_wait / scale), 50),
        longest_wait=max(int(plain.longest_wait / scale), 500),
        give_up=plain.give_up,
        courier_grace=plain.courier_grace,
        poll_after=max(int(plain.poll_after / scale), 1_000),
        probe=max(int(plain.probe / scale), 200),
        hour=max(int(plain.hour / scale), 1_000),
    )


@dataclass(frozen=True, slots=True)
class Hub:
    """The hub as processes, tasks and commands use it. One per process, never shared across a fork."""

    settings: Settings
    keyring: Keyring
    parts: Parts
    desk: PipelineDesk
    reading: Reading
    deliverer: Deliverer
    collector: Collector
    upkeep: Upkeep
    mending: Mending

    def partners(self) -> tuple[str, ...]:
        """Slugs of every declared partner."""
        return tuple(partner.slug for partner in self.parts.declarations.partners())

    def rule(self, by: str, partner: str = "", *, first_of_live: bool = False) -> ClaimRule:
        """Which messages a worker of this process may take."""
        pace = self.parts.pace
        grace = 0 if first_of_live or self.upkeep.courier_silent(3 * pace.courier_grace) else pace.courier_grace
        owner = f"{by}@{socket.gethostname()}:{os.getpid()}"
        return ClaimRule(by, owner, pace.lease, partner, first_of_live, grace)

    def drain(self, partner: str, by: str, seconds: float) -> DrainReport:
        """Deliver what is due for a partner: lost leases first, then retries, bulk lanes and what the courier left."""
        self.deliverer.recover(partner)
        workers = self.parts.declarations.partner(partner).concurrency
        return self.deliverer.drain(self.rule(by, partner), seconds, workers)

    def collect(self, partner: str, seconds: float) -> DrainReport:
        """Fetch what a partner should have reported."""
        return self.collector.collect(partner, seconds)

    def reconcile(self, partner: str) -> dict[str, int]:
        """Recover lost leases and mark overdue cases of a partner."""
        return self.upkeep.reconcile(partner)

    def seal(self) -> dict[str, int]:
        """Seal new events and write anchors."""
        return self.upkeep.seal()

    def sweep(self) -> dict[str, int]:
        """Recover lost leases of everyone and wake whoever has work."""
        return self.upkeep.sweep()

    def prune(self) -> dict[str, int]:
        """Forget what need not be kept."""
        return self.upkeep.prune()

    def verify(self) -> Report:
        """Compare the ledger with itself and its anchors."""
        return self.upkeep.verify()

    def close(self) -> None:
        """Send the last hints and close every connection."""
        for part in (self.parts.hints, *self.parts.wires.values()):
            stop = getattr(part, "close", None)
            if stop is not None:
                stop()
        self.parts.ledger.close()


def build(settings: Settings, *, clock: Clock = wall_clock, hints: Hints | None = None) -> Hub:
    """Build the hub.

    Args:
        settings: from ``Settings.from_env``.
        clock: wall clock in milliseconds.
        hints: who is woken; kombu when absent.

    Raises:
        Misconfigured: declarations, keys or settings do not fit together, with everything that is wrong.
    """
    root = settings.root

    def base_of(partner: Partner) -> str:
        return endpoint_base(partner, settings.environment, settings.sandbox_port)

    keyring = Keyring.load(key_path(settings.keys))
    suite = suites.get("intl")
    codes = Codes.load(root)
    contracts = Contracts(root, codes)
    mappings = Mappings(root, contracts, codes)
    declarations = Declarations.load(root)
    _check_leases(declarations, pace_of(settings.retry_scale))
    ledger = Ledger(settings.database_url)
    envelope = Envelope(keyring, suite, os.urandom)
    parts = Parts(
        ledger=ledger,
        declarations=declarations,
        matters=Matters.load(root, declarations),
        contracts=contracts,
        mappings=mappings,
        envelope=envelope,
        blind=BlindIndex(keyring.index, suite),
        wires=open_wires(base_of, keyring.partners, clock),
        hints=hints or KombuHints(settings.broker_url, transport_options(settings), clock),
        clock=clock,
        new_id=new_id,
        chance=random.Random(),  # noqa: S311 - jitter, not secrets
        pace=pace_of(settings.retry_scale),
    )
    return assemble(settings, keyring, parts)


def _check_leases(declarations: Declarations, pace: Pace) -> None:
    """A partner whose slowest answer outlives the lease would never be called: say so at the start."""
    slow = [p.slug for p in declarations.partners() if (p.longest_s + LEASE_MARGIN_S) * 1000 > pace.lease]
    if slow:
        limit = pace.lease / 1000 - LEASE_MARGIN_S
        named = ", ".join(slow)
        raise Misconfigured(
            "timeouts_too_long",
            f"connect_s + 2 * read_s of {named} must stay below {limit:.0f} s",
            f"{named} 的 connect_s + 2 * read_s 须小于 {limit:.0f} 秒",
        )


def assemble(settings: Settings, keyring: Keyring, parts: Parts) -> Hub:
    """Put the pipeline together on given parts."""
    vault = Vault(parts.ledger, parts.envelope, parts.new_id)
    casework = Casework(parts, vault)
    reception = Reception(parts, vault, casework)
    reading = Reading(parts)
    deliverer = Deliverer(parts, vault, casework)
    return Hub(
        settings=settings,
        keyring=keyring,
        parts=parts,
        desk=PipelineDesk(parts, reception, reading),
        reading=reading,
        deliverer=deliverer,
        collector=Collector(parts, casework, reception, deliverer),
        mending=Mending(parts, casework),
        upkeep=Upkeep(parts, casework, deliverer, settings.var / "anchors"),
    )
