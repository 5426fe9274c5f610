"""Code lists and maps: whole or not loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hub.errors import Misconfigured
from hub.validation.codes import Codes

ROOT = Path(__file__).parents[2]
FOLDER = "schemas/codes"
FILES = sorted(path.relative_to(ROOT / FOLDER).as_posix() for path in (ROOT / FOLDER).rglob("*.csv"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / FOLDER, tmp_path / FOLDER)
    return tmp_path


def test_the_lists_of_the_project_are_whole() -> None:
    codes = Codes.load(ROOT)
    assert codes.lists["ZJZL"].entries["1"] == ("身份证", "resident identity card")
    assert codes.maps["tax.GYFS"].out == {"0": "00", "1": "01", "2": "02", "3": "03"}
    assert codes.maps["tax.ZJZL"].back is None
    assert codes.maps["platform.BJZT"].back is not None


@pytest.mark.parametrize("file", FILES)
def test_every_removed_entry_is_seen(project: Path, file: str) -> None:
    path = project / FOLDER / file
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number in range(len(lines)):
        path.write_text("".join(lines[:number] + lines[number + 1 :]), encoding="utf-8")
        with pytest.raises(Misconfigured, match="codes_broken"):
            Codes.load(project)


@pytest.mark.parametrize("file", FILES)
def test_a_removed_file_is_seen(project: Path, file: str) -> None:
    (project / FOLDER / file).unlink()
    with pytest.raises(Misconfigured, match="codes_broken"):
        Codes.load(project)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("GYFS.csv", "3,其它共有,other co-ownership", "2,其它共有,other co-ownership"),
        ("GYFS.csv", "3,其它共有,other co-ownership", "3,其它共有,"),
        ("GYFS.csv", "3,其它共有,other co-ownership", "3 ,其它共有,other co-ownership"),
        ("GYFS.csv", "3,其它共有,other co-ownership", "3,其它共有"),
        ("GYFS.csv", "3,其它共有,other co-ownership", "4,其它共有,other co-ownership"),
        ("GYFS.csv", "code,zh,en", "code,en,zh"),
        ("maps/tax.GYFS.csv", "3,03,", "4,03,"),
        ("index.csv", "tax.GYFS,4,ours\n", ""),
        ("index.csv", "tax.GYFS,4,ours", "tax.NONE,4,ours"),
    ],
)
def test_a_changed_line_is_seen(project: Path, file: str, old: str, new: str) -> None:
    path = project / FOLDER / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(Misconfigured) as broken:
        Codes.load(project)
    assert broken.value.faults


def test_a_file_that_the_index_does_not_know_is_seen(project: Path) -> None:
    (project / FOLDER / "maps/tax.QSZT.csv").write_text("canonical,partner,zh\n", encoding="utf-8")
    with pytest.raises(Misconfigured, match=r"tax\.QSZT"):
        Codes.load(project)
