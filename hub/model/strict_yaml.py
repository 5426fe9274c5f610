"""Reads what we declare in YAML: safe types only, and a repeated key is a fault instead of the last one winning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from hub.errors import Fault, Misconfigured

if TYPE_CHECKING:
    from pathlib import Path

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Strict(_Loader):  # type: ignore[misc]
    """Safe loader without merge keys, timestamps or repeated keys."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[str, object]:  # noqa: ANN401  # PyYAML has no type for it
    found: dict[str, object] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, "a key must be text", key_node.start_mark)
        if key in found:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is repeated", key_node.start_mark)
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# A date stays the text that was written: JSON has no dates, and neither have our declarations.
_Strict.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: loader.construct_scalar(node))


def load_yaml(path: Path, name: str) -> object:
    """The document in a declared YAML file.

    Args:
        path: the file.
        name: how faults call it (its path below the project).

    Raises:
        hub.errors.Misconfigured: ``declaration_unreadable``, with the line and what is wrong there.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Strict)  # noqa: S506  # derived from SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(name, type(error).__name__) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise _unreadable(name, f"{where}{getattr(error, 'problem', None) or 'no YAML'}") from error


def _unreadable(name: str, why: str) -> Misconfigured:
    fault = Fault(name, "declaration_unreadable", f"cannot be read: {why}", f"无法读取：{why}")
    return Misconfigured(fault.code, f"{name} {fault.en}", f"{name} {fault.zh}", (fault,))
