"""Wakes a partner's DAG: one listener on the hint queue for all partners, and a filter per partner."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer

from dukou.hinting import transport_options
from dukou.settings import Settings

if TYPE_CHECKING:
    from connectors.hints import HintListener

# How long one look at the queue waits for a hint; an acknowledgement waits behind it.
WAIT_S = 0.5
T = TypeVar("T")


class HintTrigger(BaseEventTrigger):
    """Fires when a hint says that there is work for one partner.

    Its only argument is the partner's slug, because arguments are stored in Airflow's database: the broker's address and
    password are read from the settings by the process that listens.
    """

    def __init__(self, partner: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.partner = partner

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class and arguments, as Airflow stores them."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"partner": self.partner}

    def shared_stream_key(self) -> Hashable:
        """The same for every partner: one listener, so that no trigger takes another's hints."""
        return "dukou-hints"

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SharedStreamProducer:  # noqa: ARG003 - the same for all
        """The listener, opened when the stream is."""
        return HintStream()

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """An event for every hint that names our partner."""
        async for partners in shared_stream:
            if self.partner in partners:
                yield TriggerEvent({"partner": self.partner})

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Listen alone: what happens when a triggerer does not share streams."""
        stream = HintStream()
        try:
            async for partners, ack in stream.open_stream():
                if self.partner in partners:
                    yield TriggerEvent({"partner": self.partner})
                await stream.ack(ack)
        finally:
            await stream.aclose()


class HintStream(SharedStreamProducer):
    """The hint queue as a stream of lists of partners; a hint is acknowledged once Airflow has stored what it caused.

    A broker's connection blocks and belongs to one thread, so all of it lives in an executor with one. The listener itself
    reopens a connection that breaks.
    """

    def __init__(self, listen: Callable[[], HintListener] | None = None) -> None:
        self._listen = listen or _listener
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dukou-hints")
        self._listener: HintListener | None = None

    async def open_stream(self) -> AsyncIterator[tuple[Any, Any]]:
        """Yield ``(partners, ack)`` for ever."""
        self._listener = listener = await self._in_thread(self._listen)
        while True:
            taken = await self._in_thread(lambda: listener.take(WAIT_S))
            if taken.partners:
                yield sorted(taken.partners), taken.ack

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """Acknowledge what was broadcast, whatever came of it: a hint that nobody took is not worth a second try."""
        for item in batch:
            await self.ack(item.broker_payload)

    async def ack(self, ack: Callable[[], None]) -> None:
        """Acknowledge, in the thread that took it."""
        await self._in_thread(ack)

    async def aclose(self) -> None:
        """Let the connection go; what was not acknowledged comes again."""
        if self._listener is not None:
            await self._in_thread(self._listener.close)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _listener() -> HintListener:
    from connectors.hints import HintListener  # noqa: PLC0415 - DAG files are parsed without loading kombu

    settings = Settings.from_env(os.environ)
    return HintListener(settings.broker_url, transport_options(settings), audience="airflow")
