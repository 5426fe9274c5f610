"""One process of the three-process test: accepts, couriers or drains until it is killed. Run as a script, never imported."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import suites
from connectors.opening import open_wires
from dukou.build import Hub, assemble, wall_clock
from dukou.settings import Settings
from hub.errors import HubError, Transient
from hub.mapping import Mappings
from hub.model.call import Call
from hub.model.declarations import Partner
from hub.model.identity import new_id
from hub.pipeline.parts import Pace, Parts
from hub.registry.declarations import Declarations
from hub.registry.matters import Matters
from hub.security.blind import BlindIndex
from hub.security.envelope import Envelope
from hub.security.keys import Keyring
from hub.store.ledger import Ledger
from hub.validation.codes import Codes
from hub.validation.contracts import Contracts
from tests.pipeline.scripted import ROOT, application

# Short leases, so that a stopped process loses them soon; timeouts that fit into them.
PACE = Pace(lease=4_000, first_wait=30, longest_wait=300, courier_grace=300, poll_after=1_500, probe=200, give_up=10**9)


def declarations() -> Declarations:
    """The shipped ones with short timeouts, and a bearer token for all: the checker is no cryptographer."""
    shipped = Declarations.load(ROOT).partners()
    return Declarations(
        {one.slug: replace(one, connect_s=0.3, read_s=0.6, auth={"scheme": "bearer"}) for one in shipped}
    )


def open_hub(place: Path, base: str) -> Hub:
    """A hub of this process."""
    settings = Settings.from_env({"DUKOU_VAR": str(place), "DUKOU_ROOT": str(ROOT)})
    keyring = Keyring.load(place / "keys.json")
    codes = Codes.load(ROOT)
    contracts = Contracts(ROOT, codes)
    declared = declarations()
    suite = suites.get("intl")

    def base_of(partner: Partner) -> str:
        return f"{base}/{partner.slug}"

    secrets = {slug: {"token": f"token-{slug}"} for slug in ("platform", "tax", "registry", "hall")}
    parts = Parts(
        ledger=Ledger(settings.database_url),
        declarations=declared,
        matters=Matters.load(ROOT, declared),
        contracts=contracts,
        mappings=Mappings(ROOT, contracts, codes),
        envelope=Envelope(keyring, suite, os.urandom),
        blind=BlindIndex(keyring.index, suite),
        wires=open_wires(base_of, secrets, wall_clock),
        hints=lambda _audience, _partner: None,
        clock=wall_clock,
        new_id=new_id,
        chance=random.Random(),
        pace=PACE,
    )
    return assemble(settings, keyring, parts)


def accept(hub: Hub, place: Path) -> None:
    """Apply, repeat, and carry what tax and registry report: what the gateway would do.

    What it has been told is accepted it writes down for the checker, in a file of its own, after the answer.
    """
    number = int(sys.argv[4])
    while True:
        if not (place / "stop").exists():
            apply(hub, place, number)
            number += 1
        report(hub)
        time.sleep(0.25)


def apply(hub: Hub, place: Path, number: int) -> None:
    """One application, now and then a second time."""
    body = application(number % 10_000, HTBH=f"HT-{number}")
    for _ in range(2 if number % 3 == 0 else 1):
        receipt = serve(hub, "hall/application", body)
        if receipt is not None:
            with (place / "accepted.txt").open("a") as file:
                file.write(f"{number} {receipt.case} {receipt.message}\n")


def report(hub: Hub) -> None:
    """The callbacks for what is waiting."""
    for case in hub.reading.cases(None, "running", 200):
        # Every fifth clearance is not called in: collecting finds it.
        if case.step == "clearance" and int(case.case[-6:]) % 5:
            tell(hub, "tax/clearance", clearance(case.case))
        if case.step == "registration":
            tell(hub, "registry/result", registration(case.case))


def tell(hub: Hub, exchange: str, document: dict[str, Any]) -> None:
    """A callback, twice: departments repeat themselves."""
    serve(hub, exchange, document)
    serve(hub, exchange, document)


def serve(hub: Hub, exchange: str, document: dict[str, Any]) -> Any:
    """One call; busy is said and tried again next time."""
    partner, _, name = exchange.partition("/")
    raw = json.dumps(document).encode()
    parsed = document if name == "clearance" else None
    try:
        return hub.desk.serve(Call(hub.keyring.callers[partner], partner, name, raw, parsed))
    except Transient:
        return None


def clearance(case: str) -> dict[str, Any]:
    """Tax's report."""
    return {"ywsldh": case, "wszt": "1", "nsrxx": [{"sphm": f"SP{case[-6:]}"}]}


def registration(case: str) -> dict[str, Any]:
    """The registry's report."""
    return {
        "ywh": case,
        "bdcdyh": "510199001001GB00001F00010001",
        "bdcqzh": "川(2026)测试市不动产权第0000002号",
        "djsj": "2026-03-15T10:30:18+08:00",
        "qszt": "1",
    }


def courier(hub: Hub) -> None:
    """First attempts of live lanes."""
    while True:
        try:
            hub.upkeep.beat("courier")
            hub.deliverer.drain(hub.rule("courier", first_of_live=True), 1.0, 4)
        except Transient:
            time.sleep(0.1)
        time.sleep(0.02)


def airflow(hub: Hub) -> None:
    """What the DAGs do: collect, deliver, reconcile, seal."""
    while True:
        for partner in hub.partners():
            try:
                hub.collect(partner, 2.0)
                hub.drain(partner, "airflow", 1.0)
                hub.reconcile(partner)
            except Transient:
                time.sleep(0.1)
        try:
            hub.seal()
            hub.sweep()
        except Transient:
            time.sleep(0.1)


def main() -> None:
    """``live_process.py ROLE PLACE BASE [NUMBER]``."""
    role, place, base = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    hub = open_hub(place, base)
    try:
        if role == "accept":
            accept(hub, place)
        elif role == "courier":
            courier(hub)
        else:
            airflow(hub)
    except HubError as error:
        # Anything but busy ends the test: the checker reads this.
        (place / "broken.txt").open("a").write(f"{role}: {error.code}\n")
        raise


if __name__ == "__main__":
    main()
