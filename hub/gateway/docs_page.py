"""Writes the OpenAPI document as one HTML page that needs nothing from the Internet."""

from __future__ import annotations

from html import escape
from typing import Any

_HEAD = """<!doctype html>
<html lang="zh"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Dukou 渡口</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; } td, th { border-bottom: 1px solid #ccc; padding: .3rem; text-align: left; }
code { background: #f3f3f3; padding: 0 .2rem; } h2 code { background: none; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } code { background: #333; } }
</style></head><body>
<h1>Dukou 渡口</h1>
<p>机器可读的说明 / machine-readable: <a href="/openapi.json">/openapi.json</a></p>
"""


def docs_page(described: dict[str, Any]) -> bytes:
    """The page behind ``/docs``."""
    parts = [_HEAD, "<h2>签名 / Signature</h2>", _signature(described)]
    for path, item in described["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                parts.append(_operation(path, method, operation))
    parts.append("</body></html>")
    return "\n".join(parts).encode()


def _signature(described: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{escape(parameter['description'])}</td></tr>"
        for parameter in described["components"]["parameters"].values()
    )
    return f"<table>{rows}</table>"


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(status)}</td><td>{escape(answer['description'])}</td></tr>"
        for status, answer in operation["responses"].items()
    )
    text = escape(operation.get("description", ""))
    title = f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
    return f"{title}<p>{escape(operation['summary'])}</p><p>{text}</p><table>{rows}</table>"
