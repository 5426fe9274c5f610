"""The composition root of the sandbox: one process, five ports, one state file."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from starlette.applications import Starlette

from sandbox import partners, receiving
from sandbox.calling import Caller
from sandbox.contracts import Contracts
from sandbox.control import Control
from sandbox.credentials import Credentials
from sandbox.desk import Desk
from sandbox.gateway import Gateway
from sandbox.listening import Listener
from sandbox.state import State
from sandbox.steering import Steering

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.settings import Settings

_FINISH_S = 2.0


def build_desk(settings: Settings) -> Desk:
    """Everything the stand-ins work with."""
    state = State(settings.var / "sandbox" / "state.sqlite")
    return Desk(
        settings=settings,
        state=state,
        control=Control(state),
        credentials=Credentials(settings.var / "demo" / "credentials.json"),
        contracts=Contracts(settings.schemas),
        clock=time.time,
    )


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        OSError: a port is taken.
    """
    desk = build_desk(settings)
    gateway = Gateway(settings.gateway_port, desk.clock)
    listeners = {name: _partner_listener(desk, name) for name in partners.ALL}
    follow = partial(_follow_settings, desk, listeners)
    control = Listener(Steering(desk, gateway, follow).app(), settings.port)
    # The control port opens last: who sees it may rely on the others.
    await follow()
    await control.open()
    worker = asyncio.create_task(Caller(desk, gateway).run())
    stop = asyncio.create_task(_told_to_stop())
    # Without its worker a stand-in would take cases and never call back: better to end and be started again.
    await asyncio.wait({worker, stop}, return_when=asyncio.FIRST_COMPLETED)
    worker.cancel()
    stop.cancel()
    for listener in (*listeners.values(), control):
        await listener.finish(_FINISH_S)
    with suppress(asyncio.CancelledError):
        await worker
    desk.state.close()


def _partner_listener(desk: Desk, name: str) -> Listener:
    def dies() -> bool:
        """Down for a number of requests: each of them finds the connection closed."""
        return desk.control.peek(name).down and desk.control.for_request(name).down

    app = Starlette(routes=receiving.routes(desk, partners.ALL[name]))
    return Listener(app, desk.settings.port_of(name), dies)


async def _follow_settings(desk: Desk, listeners: Mapping[str, Listener]) -> None:
    for name, listener in listeners.items():
        if desk.control.dead(name):
            listener.close()
        else:
            await listener.open()


async def _told_to_stop() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
