"""Kombu's filesystem transport with whole files: written aside and renamed, taken by a rename in the same folder.

The transport as shipped opens the file under its final name before it writes (a reader may take half a message) and moves
what it reads to the system's temporary folder (between file systems that is a copy, which two readers can both make).
"""
# kombu carries no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import os
import time
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps, loads


class Channel(filesystem.Channel):
    """Puts and gets one message per file."""

    def _put(self, queue: str, payload: object, **_: object) -> None:  # type: ignore[override] # kombu names it twice
        name = f"{time.time_ns():020d}_{os.urandom(8).hex()}.{queue}.msg"
        written = Path(self.data_folder_out, f"{name}.part")
        written.write_text(dumps(payload), "utf-8")
        written.rename(written.with_suffix(""))

    def _get(self, queue: str, timeout: float | None = None) -> Any:  # noqa: ANN401 - as kombu has it
        del timeout
        for name in sorted(os.listdir(self.data_folder_in)):  # noqa: PTH208 - names, not paths, at every poll
            # What is being written or was taken ends otherwise.
            if name.partition(".")[2] == f"{queue}.msg" and (content := self._taken(name)) is not None:
                return loads(content)
        raise Empty

    def _taken(self, name: str) -> str | None:
        file = Path(self.data_folder_in, name)
        taken = file.with_name(f"{name}.taken")
        try:
            file.rename(taken)
        except FileNotFoundError:
            return None  # another listener was quicker
        content = taken.read_bytes()
        taken.unlink()
        return content.decode()


class Transport(filesystem.Transport):
    """Give it to `kombu.Connection` as ``transport``."""

    Channel = Channel
