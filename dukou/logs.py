"""Logging of our own processes: one line per record to standard error, where the supervisor keeps it."""

from __future__ import annotations

import logging
import sys


def log_to_stderr() -> None:
    """Send warnings of everyone and information of our own to standard error."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    for name in ("hub", "dukou", "connectors", "access"):
        logging.getLogger(name).setLevel(logging.INFO)
