"""The code lists of ``schemas/codes`` and the partners' maps of them, complete or not loaded at all.

``index.csv`` says how many entries each list and map has, so that a lost line is noticed. A list is
``<LIST>.csv`` (``code,zh,en``), a partner's map of it ``maps/<partner>.<LIST>.csv`` (``canonical,partner,zh``).
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hub.errors import Fault, Faults, Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FOLDER = "schemas/codes"
_LIST_COLUMNS = ("code", "zh", "en")
_MAP_COLUMNS = ("canonical", "partner", "zh")
_INDEX_COLUMNS = ("list", "entries", "source")


@dataclass(frozen=True, slots=True)
class CodeList:
    """One dictionary: code → (Chinese, English), and where it comes from."""

    name: str
    entries: Mapping[str, tuple[str, str]]
    source: str = ""

    def label(self) -> dict[str, str]:
        """Code → Chinese name."""
        return {code: zh for code, (zh, _) in self.entries.items()}


@dataclass(frozen=True, slots=True)
class CodeMap:
    """How one partner writes one list: ``out`` canonical → partner; ``back`` only where the map is one to one."""

    name: str
    code_list: str
    out: Mapping[str, str]
    back: Mapping[str, str] | None


class Codes:
    """All code lists and partner maps. Use ``Codes.load``."""

    def __init__(self, lists: Mapping[str, CodeList], maps: Mapping[str, CodeMap]) -> None:
        self.lists = lists
        self.maps = maps

    @classmethod
    def load(cls, root: Path) -> Codes:
        """Read and check everything under ``schemas/codes``.

        Args:
            root: the project's folder.

        Raises:
            hub.errors.Misconfigured: ``codes_broken`` with every fault: a line more or less than the index says, a
                repeated or empty cell, a file that the index does not know, a map that misses a code of its list.
        """
        return _Reader(root).load()


class _Reader:
    """Reads the folder once, collecting what is wrong."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._faults = Faults()

    def load(self) -> Codes:
        index = self._rows("index.csv", _INDEX_COLUMNS)
        self._strangers({row[0] for row in index})
        lists: dict[str, CodeList] = {}
        maps: dict[str, CodeMap] = {}
        for name, count, source in index:
            if "." not in name:
                rows = self._counted(f"{name}.csv", _LIST_COLUMNS, count)
                lists[name] = CodeList(name, {code: (zh, en) for code, zh, en in rows}, source)
        for name, count, _ in index:
            if "." in name:
                maps[name] = self._map(name, count, lists)
        if self._faults.found:
            first = self._faults.found[0]
            raise Misconfigured(
                "codes_broken", f"{first.path}: {first.en}", f"{first.path}：{first.zh}", tuple(self._faults.found)
            )
        return Codes(lists, maps)

    def _map(self, name: str, count: str, lists: Mapping[str, CodeList]) -> CodeMap:
        file = f"maps/{name}.csv"
        out = {row[0]: row[1] for row in self._counted(file, _MAP_COLUMNS, count)}
        code_list = name.partition(".")[2]
        known = lists.get(code_list)
        if known is None:
            self._fault(file, "maps a list that does not exist", "所映射的字典不存在")
        else:
            for code in known.entries.keys() - out.keys():
                self._fault(file, f"misses code {code} of {code_list}", f"缺少 {code_list} 的代码 {code}")
            for code in out.keys() - known.entries.keys():
                self._fault(file, f"{code} is not in {code_list}", f"{code} 不在 {code_list} 中")
        back = {partner: canonical for canonical, partner in out.items()}
        return CodeMap(name, code_list, out, back if len(back) == len(out) else None)

    def _counted(self, file: str, columns: tuple[str, ...], count: str) -> list[list[str]]:
        rows = self._rows(file, columns)
        if str(len(rows)) != count:
            self._fault(
                file, f"has {len(rows)} entries, the index says {count}", f"有 {len(rows)} 条，索引为 {count} 条"
            )
        return rows

    def _rows(self, file: str, columns: tuple[str, ...]) -> list[list[str]]:
        try:
            text = (self._root / FOLDER / file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            self._fault(file, "cannot be read", "无法读取")
            return []
        head, *rows = list(csv.reader(io.StringIO(text), strict=True)) or [[]]
        if tuple(head) != columns:
            self._fault(file, f"the first line must be {','.join(columns)}", f"首行应为 {','.join(columns)}")
        good = [row for row in rows if len(row) == len(columns) and all(cell and cell == cell.strip() for cell in row)]
        if len(good) != len(rows):
            self._fault(file, "has an empty cell, a stray space or a missing column", "存在空单元格、多余空格或缺列")
        keys = [row[0] for row in good]
        for key in sorted({key for key in keys if keys.count(key) > 1}):
            self._fault(file, f"{key} is repeated", f"{key} 重复")
        return good

    def _strangers(self, known: set[str]) -> None:
        folder = self._root / FOLDER
        there = {path.stem: path.name for path in folder.glob("*.csv") if path.name != "index.csv"}
        there |= {path.stem: f"maps/{path.name}" for path in folder.glob("maps/*.csv")}
        for name in sorted(there.keys() - known):
            self._fault(there[name], "is not in index.csv", "未列入 index.csv")

    def _fault(self, file: str, en: str, zh: str) -> None:
        self._faults.found.append(Fault(f"{FOLDER}/{file}", "codes_broken", en, zh))
