"""What the sandbox takes from its environment: where it listens, where its state lies, how fast its own clock runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOPBACK = "127.0.0.1"

PARTNERS = ("platform", "tax", "registry", "hall")
"""The partners in the order of their ports above the control port."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the sandbox listens and what it talks to.

    Args:
        var: the folder that holds ``demo/credentials.json`` and ``sandbox/state.sqlite``.
        port: the control port; the partners listen on the ports above it.
        gateway_port: the hub's gateway on loopback.
        retry_scale: divides the stand-ins' own delays.
        schemas: the folder of the contracts that stand-ins check against.
    """

    var: Path
    port: int
    gateway_port: int
    retry_scale: float
    schemas: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read ``DUKOU_VAR``, ``DUKOU_SANDBOX_PORT``, ``DUKOU_GATEWAY_PORT``, ``DUKOU_RETRY_SCALE``.

        Raises:
            ValueError: a port or the scale is no number, or the scale is not above zero.
        """
        scale = float(environment.get("DUKOU_RETRY_SCALE", "1"))
        if scale <= 0:
            message = "DUKOU_RETRY_SCALE must be above 0"
            raise ValueError(message)
        return cls(
            var=Path(environment.get("DUKOU_VAR", "var")),
            port=int(environment.get("DUKOU_SANDBOX_PORT", "8900")),
            gateway_port=int(environment.get("DUKOU_GATEWAY_PORT", "8800")),
            retry_scale=scale,
            schemas=Path(__file__).resolve().parent.parent / "schemas",
        )

    def port_of(self, partner: str) -> int:
        """The port on which a partner listens."""
        return self.port + 1 + PARTNERS.index(partner)

    @property
    def callback_delay_s(self) -> float:
        """How long a stand-in works before it calls back: about a second, never under 0.2 s."""
        return max(0.2, 1.0 / self.retry_scale)

    @property
    def retry_after_s(self) -> int:
        """What a closed office asks for in ``Retry-After``."""
        return max(1, round(5 / self.retry_scale))

    def backoff_s(self, attempts: int) -> float:
        """How long a callback that failed ``attempts`` times waits."""
        return min(10.0, max(0.1, 0.5 * (1 << min(attempts, 10)) / self.retry_scale))
