"""The key file: made once, never overwritten, read whole or refused with everything that is wrong."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import orjson
import pytest

from hub.errors import Misconfigured
from hub.security import keys
from hub.security.keys import Keyring


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "keys.json"


def test_a_fresh_file_is_for_its_owner_alone(path: Path) -> None:
    made = keys.create(path, os.urandom)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in path.parent.iterdir()] == ["keys.json"]
    assert made == Keyring.load(path)
    assert set(made.tenants) == {"510199", "510198"}
    assert len(made.tenants["510199"].key) == 32
    assert made.tenants["510199"].key != made.tenants["510198"].key


def test_who_may_call(path: Path) -> None:
    callers = keys.create(path, os.urandom).callers
    assert set(callers) == {"hall", "hall_510198", "tax", "tax_national", "registry", "operator"}
    assert callers["hall"].sids["cases"] == "s_510199_cases"
    assert callers["hall_510198"].tenants == ("510198",)
    assert callers["tax"].services(callers["tax"].sids["clearance"]) == ("submitClearance", "clearance")
    assert callers["tax_national"].profile == "national"
    assert callers["registry"].sids.keys() >= {"progress", "result", "messages"}
    assert callers["operator"].partner == ""
    assert len({caller.secret for caller in callers.values()}) == len(callers)


def test_callers_by_rid(path: Path) -> None:
    keyring = keys.create(path, os.urandom)
    assert keyring.by_rid[keyring.callers["hall"].rid] is keyring.callers["hall"]


def test_an_existing_file_is_kept(path: Path) -> None:
    first = keys.create(path, os.urandom)
    assert keys.create(path, os.urandom) == first


def test_many_makers_agree_on_one_file(path: Path) -> None:
    made: list[Keyring] = []
    makers = [threading.Thread(target=lambda: made.append(keys.create(path, os.urandom))) for _ in range(8)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert len(made) == 8
    assert all(keyring == made[0] for keyring in made)
    assert len(list(path.parent.iterdir())) == 1


def test_nothing_secret_is_shown(path: Path) -> None:
    keyring = keys.create(path, os.urandom)
    assert repr(keyring) == "Keyring()"
    assert "keys" not in repr(keyring.index).replace("KeySet", "")


@pytest.mark.parametrize("setting", ["", "file:", "var/keys.json", "vault:secret/dukou"])
def test_an_unknown_source_names_the_known_form(setting: str) -> None:
    with pytest.raises(Misconfigured, match="file:<path>"):
        keys.key_path(setting)


def test_the_source_is_a_path() -> None:
    assert keys.key_path("file:/a/keys.json") == Path("/a/keys.json")


def test_no_file(path: Path) -> None:
    with pytest.raises(Misconfigured) as caught:
        Keyring.load(path)
    assert caught.value.code == "keys_missing"


def test_no_json(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("{")
    path.chmod(0o600)
    with pytest.raises(Misconfigured) as caught:
        Keyring.load(path)
    assert caught.value.code == "keys_unreadable"


def test_everything_that_is_wrong_at_once(path: Path) -> None:
    keys.create(path, os.urandom)
    document = orjson.loads(path.read_bytes())
    del document["digest"]
    document["version"] = 2
    document["tenants"]["510199"]["keys"]["t1"] = "c2hvcnQ="
    document["tenants"]["510198"]["current"] = "t9"
    document["index"]["keys"] |= {"i2": document["index"]["keys"]["i1"], "i3": document["index"]["keys"]["i1"]}
    document["callers"]["hall"]["secret"] = ""
    document["callers"]["tax"]["profile"] = "none"
    document["callers"]["registry"]["tenants"] = None
    document["partners"]["tax"] = {"token": 5}
    path.write_bytes(orjson.dumps(document))
    path.chmod(0o600)
    with pytest.raises(Misconfigured) as caught:
        Keyring.load(path)
    assert {fault.path for fault in caught.value.faults} == {
        "/digest",
        "/version",
        "/tenants/510199/keys/t1",
        "/tenants/510198/current",
        "/index/keys",
        "/callers/hall/secret",
        "/callers/tax/profile",
        "/callers/registry/tenants",
        "/partners/tax/token",
    }
    assert "c2hvcnQ=" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "{}", "null"])
def test_a_file_of_another_shape(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(Misconfigured) as caught:
        Keyring.load(path)
    assert {"/tenants", "/index", "/digest", "/callers", "/partners"} <= {fault.path for fault in caught.value.faults}


def test_a_rid_belongs_to_one_caller(path: Path) -> None:
    keys.create(path, os.urandom)
    document = orjson.loads(path.read_bytes())
    document["callers"]["tax"]["rid"] = document["callers"]["hall"]["rid"]
    path.write_bytes(orjson.dumps(document))
    path.chmod(0o600)
    with pytest.raises(Misconfigured, match="/callers has a rid twice"):
        Keyring.load(path)


def test_credentials_for_outsiders(path: Path) -> None:
    keyring = keys.create(path, os.urandom)
    airflow = {"url": "http://127.0.0.1:8080", "user": "admin", "password": "p"}
    given = keys.credentials(keyring, "http://127.0.0.1:8800", airflow)
    assert given.keys() == {"gateway", "airflow", "callers", "partners"}
    hall = given["callers"]["hall"]
    assert hall == {
        "rid": keyring.callers["hall"].rid,
        "secret": keyring.callers["hall"].secret,
        "tenants": ["510199"],
        "sids": {"cases": "s_510199_cases", "messages": "s_510199_messages"},
        "profile": "dukou",
    }
    assert given["partners"]["platform"].keys() == {"rid", "appkey"}
    # Neither the tenants' keys nor the index leave the hub.
    assert orjson.loads(path.read_bytes())["digest"].encode() not in orjson.dumps(given)
