"""``python -m sandbox``: run the stand-ins until told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from sandbox.serving import serve
from sandbox.settings import Settings


def main() -> int:
    """Run; 1 if a port is taken, 2 if a setting cannot be read."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        settings = Settings.from_environment(os.environ)
    except ValueError as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 2
    try:
        asyncio.run(serve(settings))
    except OSError as error:
        sys.stderr.write(f"sandbox: cannot start on {settings.port} and the four ports above: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
