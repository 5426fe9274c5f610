"""The one table of protocol names: what a ``connector.yaml`` may write under ``protocol``, and the wire behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from connectors.protocols.rest import RestWire
from hub.model.declarations import Partner
from hub.ports import Clock, Transport

BaseOf = Callable[[Partner], str]
Secrets = Mapping[str, Mapping[str, str]]

PROTOCOLS: Final[Mapping[str, Callable[[BaseOf, Secrets, Clock], Transport]]] = {"rest": RestWire}
"""Wires on which we call. SOAP is served by the gateway and needs none."""


def open_wires(base_of: BaseOf, secrets: Secrets, clock: Clock) -> Mapping[str, Transport]:
    """Every wire by its protocol's name; nothing connects before it is used.

    Args:
        base_of: where a partner lives in this environment; raises Misconfigured when it lives nowhere.
        secrets: slug → what the key file holds for that partner.
        clock: wall clock.
    """
    return {name: open_wire(base_of, secrets, clock) for name, open_wire in PROTOCOLS.items()}
