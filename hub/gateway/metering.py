"""Counts requests by route and status, and writes them with the desk's figures as Prometheus text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hub.gateway.asked import Answer

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(slots=True)
class Meter:
    """Requests of this process. Written by the event loop alone; a reader may see a request late, never torn."""

    requests: dict[tuple[str, str, int], int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def note(self, route: str, method: str, status: int, seconds: float) -> None:
        """One answered request."""
        key = (route, method, status)
        self.requests[key] = self.requests.get(key, 0) + 1
        self.seconds[route] = self.seconds.get(route, 0.0) + seconds

    def samples(self) -> dict[str, float]:
        """Sample name with labels → value."""
        found: dict[str, float] = {}
        for (route, method, status), count in list(self.requests.items()):
            labels = f'{{route="{route}",method="{method}",status="{status}"}}'
            found[f"dukou_gateway_requests_total{labels}"] = count
        for route, total in list(self.seconds.items()):
            found[f'dukou_gateway_request_seconds_sum{{route="{route}"}}'] = round(total, 6)
        return found


def exposition(samples: Mapping[str, float]) -> Answer:
    """Prometheus text format 0.0.4: samples of one name together, each name typed once."""
    families: dict[str, list[str]] = {}
    for sample, value in samples.items():
        families.setdefault(sample.partition("{")[0], []).append(f"{sample} {float(value)}")
    lines: list[str] = []
    for name, rows in sorted(families.items()):
        lines.append(f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}")
        lines.extend(sorted(rows))
    return Answer(200, ("\n".join(lines) + "\n").encode(), TEXT_TYPE)
