"""Runs the gateway: uvicorn on loopback, one worker, the hub behind it."""

from __future__ import annotations

import json

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
    limits = GatewaySettings(max_body_bytes=settings.max_body_bytes, schemas=_request_schemas(hub))
    return create_app(hub.desk, verifier, soap, limits)


def _request_schemas(hub: Hub) -> dict[str, dict[str, object]]:
    """What the openapi document shows as request bodies: the contracts themselves."""
    root = hub.settings.root / "schemas"
    names = {"application": "canonical/application"}
    for exchange in hub.parts.declarations.exchanges():
        if exchange.direction == "serve" and exchange.event != "application" and exchange.contract.endswith(".json"):
            key = exchange.name if exchange.event in ("correction", "withdrawal") else exchange.key
            names.setdefault(key, exchange.contract.removeprefix("schemas/").removesuffix(".json"))
    found: dict[str, dict[str, object]] = {
        name: json.loads((root / f"{path}.json").read_text(encoding="utf-8")) for name, path in names.items()
    }
    for name in ("correction", "withdrawal"):
        # The case's number stands in the path, not in the body.
        found[name] = {**found[name], "required": [f for f in found[name]["required"] if f != "YWH"]}  # type: ignore[attr-defined]
        found[name]["properties"] = {k: v for k, v in found[name]["properties"].items() if k != "YWH"}  # type: ignore[attr-defined]
    return found


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
