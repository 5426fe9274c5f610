"""How this installation carries hints: kombu's options for the broker that the settings name."""

from __future__ import annotations

from typing import Any

from dukou.settings import Settings


def transport_options(settings: Settings) -> dict[str, Any]:
    """Options of kombu's transport; the embedded default needs its folder, a real broker needs nothing."""
    if settings.broker_url.startswith("filesystem"):
        return {"data_folder_in": str(settings.var / "hints")}
    return {}
