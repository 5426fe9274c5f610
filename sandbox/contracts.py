"""The contracts under ``schemas/`` as a stand-in checks them: data that both sides read, with a checker of its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator

if TYPE_CHECKING:
    from pathlib import Path


class Contracts:
    """Compiled JSON Schemas, read once each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._compiled: dict[str, Draft202012Validator] = {}

    def faults(self, contract: str, document: object) -> list[str]:
        """Every fault of a document as ``pointer: keyword``; never a value, which may be personal.

        Args:
            contract: a file under ``schemas/``, such as ``tax/taxable_case.json``.
            document: the parsed JSON.
        """
        found = self._validator(contract).iter_errors(document)
        return sorted("/" + "/".join(str(step) for step in error.absolute_path) + f": {error.validator}"
                      for error in found)  # fmt: skip

    def _validator(self, contract: str) -> Draft202012Validator:
        if contract not in self._compiled:
            schema: dict[str, Any] = json.loads((self._folder / contract).read_bytes())
            self._compiled[contract] = Draft202012Validator(schema)
        return self._compiled[contract]
