"""The four stand-ins, one module each, by the hub's slug."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox.partners import hall, platform, registry, tax

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.desk import Partner

ALL: Mapping[str, Partner] = {
    partner.name: partner for partner in (platform.PARTNER, tax.PARTNER, registry.PARTNER, hall.PARTNER)
}
