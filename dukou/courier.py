"""The courier: makes the first attempt of live lanes within milliseconds, and wakes Airflow for everything else that is due."""

from __future__ import annotations

import logging
import signal
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor

from connectors.hints import HintListener
from dukou.build import Hub
from dukou.hinting import transport_options
from hub.errors import Transient
from hub.pipeline.deliver import Verdict
from hub.store import ledger, messages
from hub.store.ledger import RowMapping

log = logging.getLogger(__name__)
LISTEN_S = 0.25
BEAT_S = 5.0
HINT_EVERY_S = 4.0
HINT_DOWN_EVERY_S = 15.0


class Courier:
    """One courier process. Any number may run on PostgreSQL; on SQLite one is enough."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        settings = hub.settings
        self._listener = HintListener(settings.broker_url, transport_options(settings), "courier")
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._running: dict[str, set[Future[Verdict]]] = {}
        self._paused: dict[str, float] = {}
        self._hinted: dict[str, float] = {}
        self._polled = 0.0
        self._stop = threading.Event()

    def run(self) -> None:
        """Work until ``stop``."""
        beaten = 0.0
        while not self._stop.is_set():
            try:
                if time.monotonic() - beaten > BEAT_S:
                    self._hub.upkeep.beat("courier")
                    beaten = time.monotonic()
                self._round()
            except Transient as error:
                # The database is busy or away: nothing is lost, the ledger keeps the work.
                log.warning("courier waits: %s", error.code)
                self._stop.wait(1.0)
            self._listener.wait(LISTEN_S)
        for pool in self._pools.values():
            pool.shutdown(wait=True)

    def stop(self) -> None:
        """Finish what is under way and return from ``run``."""
        self._stop.set()

    def _round(self) -> None:
        grace = self._hub.parts.pace.courier_grace
        due = self._hub.parts.ledger.read(lambda c: messages.backlog(c, ledger.now(c), grace))
        for item in due:
            if item.first_of_live:
                self._take(item.partner)
            if item.orchestrated:
                self._wake_airflow(item.partner)
        if time.monotonic() - self._polled > max(self._hub.parts.pace.poll_after / 1000, HINT_EVERY_S):
            self._polled = time.monotonic()
            for partner in self._hub.upkeep.polled_partners():
                self._wake_airflow(partner)

    def _take(self, partner: str) -> None:
        """Claim first attempts up to the partner's concurrency."""
        running = {item for item in self._running.get(partner, set()) if not item.done()}
        self._running[partner] = running
        concurrency = self._hub.parts.declarations.partner(partner).concurrency
        free = concurrency - len(running)
        if free <= 0 or time.monotonic() < self._paused.get(partner, 0.0):
            return
        pool = self._pools.setdefault(partner, ThreadPoolExecutor(concurrency, thread_name_prefix=f"to-{partner}"))
        for row in self._hub.deliverer.claim(self._hub.rule("courier", partner, first_of_live=True), free):
            running.add(pool.submit(self._attempt, partner, row))

    def _attempt(self, partner: str, row: RowMapping) -> Verdict:
        try:
            verdict = self._hub.deliverer.attempt(row)
        except Exception as error:
            # Nobody waits for this thread's result. The text may be personal: kind and place only; the lease gives the
            # message back.
            place = traceback.extract_tb(error.__traceback__)[-1]
            log.error("attempt of %s failed: %s at %s:%s", row["id"], type(error).__name__, place.name, place.lineno)  # noqa: TRY400
            raise
        if verdict.kind in ("retry", "unknown"):
            self._paused[partner] = time.monotonic() + self._hub.parts.pace.probe / 1000
        return verdict

    def _wake_airflow(self, partner: str) -> None:
        every = HINT_DOWN_EVERY_S if time.monotonic() < self._paused.get(partner, 0.0) else HINT_EVERY_S
        now = time.monotonic()
        if now - self._hinted.get(partner, -every) >= every:
            self._hinted[partner] = now
            self._hub.parts.hints("airflow", partner)


def run_until_signal(hub: Hub) -> None:
    """Run a courier until SIGTERM or SIGINT."""
    courier = Courier(hub)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: courier.stop())
    courier.run()
