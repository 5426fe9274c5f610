"""What an exchange over front-end tables declares (schemas/declarations/options_sql.json), as frozen values."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hub.errors import Misconfigured
from hub.model.declarations import Exchange


@dataclass(frozen=True, slots=True)
class Spec:
    """A table as the options name it. ``types`` is empty where it is to be reflected."""

    table: str
    schema: str | None = None
    types: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """One of the tables that a delivery is written to."""

    spec: Spec
    rows: str
    columns: Mapping[str, str]
    fixed: Mapping[str, object]
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """The table that is read."""

    spec: Spec
    key: tuple[str, ...]
    order_by: str
    columns: tuple[str, ...] = ()
    seconds: int = 0
    rows: int = 0
    where_new: Mapping[str, object] = field(default_factory=dict)
    taken: Mapping[str, object] = field(default_factory=dict)
    refused: Mapping[str, object] = field(default_factory=dict)
    error_column: str = ""
    decimals_as_text: bool = False
    page: int = 500

    @property
    def owned(self) -> frozenset[str]:
        """Columns that say how far we are: no part of the document, nor of what names the row."""
        named = {*self.where_new, *self.taken, *self.refused, self.error_column}
        return frozenset(named - {""})

    @property
    def marks_itself(self) -> bool:
        """Whether a row that was taken is no longer among the new ones: then no time and no sequence is relied on."""
        return any(column in self.taken and self.taken[column] != value for column, value in self.where_new.items())


def targets_of(exchange: Exchange) -> tuple[list[Target], str]:
    """The tables to write, and the column that takes the delivery id; raises Misconfigured ``options_invalid``."""
    options: Mapping[str, Any] = exchange.options
    try:
        targets = [
            Target(_spec_of(t), t["rows"], dict(t["columns"]), dict(t.get("set", {})), tuple(t["key"]))
            for t in options["tables"]
        ]
        column = str(options["delivery_column"])
    except (LookupError, TypeError, ValueError, AttributeError):
        targets, column = [], ""
    if not targets or not column:
        raise _options_invalid(exchange)
    return targets, column


def source_of(exchange: Exchange) -> Source:
    """The table to read; raises Misconfigured ``options_invalid``."""
    options: Mapping[str, Any] = exchange.options
    source = None
    with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError):
        overlap, refused = options.get("overlap", {}), options.get("mark_refused", {})
        source = Source(
            _spec_of(options),
            tuple(options["key"]),
            options["order_by"],
            tuple(options.get("columns", ())),
            overlap.get("seconds", 0),
            overlap.get("rows", 0),
            dict(options.get("where_new", {})),
            dict(options.get("mark_taken", {})),
            dict(refused.get("set", {})),
            refused.get("error_column", ""),
            options.get("decimals", "number") == "text",
            options.get("page", 500),
        )
    # What we write ourselves may not name a row, nor be a part of what it says.
    if source is None or source.owned & {*source.columns, *source.key, source.order_by}:
        raise _options_invalid(exchange)
    return source


def _spec_of(options: Mapping[str, Any]) -> Spec:
    return Spec(options["table"], options.get("schema"), tuple(dict(options.get("types", {})).items()))


def _options_invalid(exchange: Exchange) -> Misconfigured:
    return Misconfigured(
        "options_invalid",
        f"Exchange {exchange.key}: its options do not fit options_sql.json.",
        f"{exchange.key} 的 options 不符合 options_sql.json。",
    )
