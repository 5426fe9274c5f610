"""Listeners on loopback that can die and come back like a server: no listener, or a connection closed unanswered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from sandbox.settings import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.applications import Starlette

# Longer than any client keeps a connection, so that we do not close one at the moment of its use.
_KEEP_ALIVE_S = 120


class _Protocol(HttpToolsProtocol):
    """HTTP that hangs up before it has read anything while ``dies`` says so."""

    def __init__(self, config: Config, state: ServerState, dies: Callable[[], bool]) -> None:
        super().__init__(config, state, {})
        self._dies = dies

    def data_received(self, data: bytes) -> None:
        # Between requests only: what has begun to arrive is served.
        under_way: RequestResponseCycle | None = self.cycle
        if (under_way is None or under_way.response_complete) and self._dies():
            self.transport.abort()
            return
        super().data_received(data)


class Listener:
    """One port of the sandbox.

    Args:
        app: what is served there.
        port: where.
        dies: asked before each request; true closes the connection without any answer.
    """

    def __init__(self, app: Starlette, port: int, dies: Callable[[], bool] = lambda: False) -> None:
        self._config = Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        self._config.load()
        self._connections = ServerState()
        self._port = port
        self._dies = dies
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen, if not already.

        Raises:
            OSError: the port is taken.
        """
        if self._server is None:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: _Protocol(self._config, self._connections, self._dies), LOOPBACK, self._port, backlog=512
            )

    def close(self) -> None:
        """Stop listening and drop every connection as a dead process would."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for connection in list(self._connections.connections):
            cast("_Protocol", connection).transport.abort()

    async def finish(self, within_s: float) -> None:
        """Let what is being answered be answered, for so long at most."""
        if self._server is not None:
            self._server.close()
        if self._connections.tasks:
            await asyncio.wait(set(self._connections.tasks), timeout=within_s)
