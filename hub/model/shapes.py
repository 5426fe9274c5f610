"""The shape of a document as a mapping sees it: which fields it has, which it must have, which values they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

ShapeKind = Literal["object", "list", "text", "number", "integer", "boolean", "any"]


def _anything(_value: object) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Shape:
    """One node of a document's shape, whatever language its contract is written in.

    Attributes:
        kind: what the node is; ``any`` for an object whose fields no contract names.
        fields: of an object, by name.
        required: names of the fields that an object must have.
        item: of a list.
        codes: name of the code list that the values come from, or empty.
        values: the only values allowed, or empty.
        accepts: whether a value would do for this leaf by itself (for constants of a mapping).
    """

    kind: ShapeKind
    fields: Mapping[str, Shape] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    item: Shape | None = None
    codes: str = ""
    values: tuple[str, ...] = ()
    accepts: Callable[[object], bool] = _anything

    @property
    def is_leaf(self) -> bool:
        """Whether it is written at once: a scalar, a list of scalars, or an object that no contract describes."""
        if self.kind == "list":
            return self.item is None or self.item.kind not in ("object", "list")
        return self.kind != "object"

    def at(self, path: str) -> Shape | None:
        """The node at a path such as ``application.QLR[].ZJH``, or ``None``."""
        node: Shape | None = self
        for name, many in steps(path):
            node = node.fields.get(name) if node is not None else None
            if many:
                node = node.item if node is not None and node.kind == "list" else None
        return node

    def leaves(self, prefix: str = "") -> Iterator[tuple[str, Shape]]:
        """Every leaf with its path (``NSR[].SPHM``; a list of scalars is one leaf without ``[]``)."""
        for name, node in self.fields.items():
            path = f"{prefix}{name}"
            if node.is_leaf:
                yield path, node
            elif node.kind == "list" and node.item is not None:
                yield from node.item.leaves(f"{path}[].")
            else:
                yield from node.leaves(f"{path}.")


def steps(path: str) -> tuple[tuple[str, bool], ...]:
    """Cut ``application.QLR[].ZJH`` into ``(("application", False), ("QLR", True), ("ZJH", False))``."""
    return tuple((part.removesuffix("[]"), part.endswith("[]")) for part in path.split(".")) if path else ()
