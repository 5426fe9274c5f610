"""Runs the gateway: uvicorn on loopback, one worker, the hub behind it."""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI

from dukou.build import Hub
from dukou.soap import soap_ports
from hub.gateway.app import create_app
from hub.gateway.settings import GatewaySettings
from hub.security.signing import Verifier

HOST = "127.0.0.1"


def gateway_app(hub: Hub) -> FastAPI:
    """The gateway on a built hub."""
    settings = hub.settings
    verifier = Verifier(hub.keyring.by_rid, settings.clock_window_s * 1000, hub.parts.clock)
    soap = soap_ports(settings.root, hub.parts.declarations, hub.parts.contracts)
    limits = GatewaySettings(max_body_bytes=settings.max_body_bytes)
    return create_app(hub.desk, verifier, soap, limits)


def serve(hub: Hub) -> None:
    """Serve until SIGTERM or SIGINT."""
    config = uvicorn.Config(
        gateway_app(hub),
        host=HOST,
        port=hub.settings.gateway_port,
        access_log=False,
        log_level="info",
        lifespan="on",
        timeout_graceful_shutdown=10,
    )
    uvicorn.Server(config).run()
