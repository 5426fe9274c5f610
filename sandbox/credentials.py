"""The secrets that stand-ins and hub share, read from ``demo/credentials.json`` whenever that file has changed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class CredentialsUnusable(Exception):
    """The file is not there (``make setup`` has not run) or does not name what is asked for."""


@dataclass(frozen=True, slots=True)
class Caller:
    """One party that may call the gateway: its ids, its secret, and how it signs."""

    name: str
    rid: str
    secret: str
    sids: Mapping[str, str]
    profile: str

    def sid(self, *keys: str) -> str:
        """The sid of the first of ``keys`` that this caller has.

        Raises:
            CredentialsUnusable: it has none of them.
        """
        for key in keys:
            if key in self.sids:
                return self.sids[key]
        message = f"caller {self.name} has no sid for {keys[0]}; it has: {', '.join(sorted(self.sids))}"
        raise CredentialsUnusable(message)


class Credentials:
    """Reads the credentials lazily, and again after each change of the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._content: Mapping[str, Any] = {}

    def caller(self, name: str) -> Caller:
        """A caller of the gateway by its name.

        Raises:
            CredentialsUnusable: it is not in the file; the message lists who is.
        """
        entry = self._entry("callers", name)
        return Caller(name, entry["rid"], entry["secret"], entry.get("sids", {}), entry.get("profile", "dukou"))

    def token(self, partner: str) -> str:
        """The bearer token that the hub shows to a partner."""
        return str(self._entry("partners", partner)["token"])

    def platform(self) -> tuple[str, str]:
        """The rid and the appKey under which the platform knows the hub."""
        entry = self._entry("partners", "platform")
        return str(entry["rid"]), str(entry["appkey"])

    def _entry(self, section: str, name: str) -> Mapping[str, Any]:
        entries: Mapping[str, Mapping[str, Any]] = self._read().get(section, {})
        if name not in entries:
            message = f"{self._path.name} has no {section} entry {name}; known: {', '.join(sorted(entries))}"
            raise CredentialsUnusable(message)
        return entries[name]

    def _read(self) -> Mapping[str, Any]:
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size)
            if stamp != self._stamp:
                self._content = json.loads(self._path.read_bytes())
                self._stamp = stamp
        except (OSError, ValueError) as error:
            message = f"{self._path} cannot be read: run `make setup`"
            raise CredentialsUnusable(message) from error
        return self._content
