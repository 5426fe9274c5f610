"""Bodies at rest: what opens, what does not, and what stays within its limits."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import suites
from hub.errors import Broken, Misconfigured
from hub.security import keys
from hub.security.envelope import CaseKey, Envelope, Sealed, binding
from hub.security.keys import Keyring, KeySet

AAD = binding("510199", "case-1", "body-1")
BODY = '{"QLRMC":"测试甲"}'.encode() * 40


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    return keys.create(tmp_path_factory.mktemp("keys") / "keys.json", os.urandom)


@pytest.fixture(params=["intl", "gm"])
def envelope(request: pytest.FixtureRequest, keyring: Keyring) -> Envelope:
    return Envelope(keyring, suites.get(request.param), os.urandom)


def test_there_and_back_in_another_process(envelope: Envelope, keyring: Keyring) -> None:
    case_key = envelope.new_case_key("510199")
    sealed = envelope.seal(case_key, BODY, AAD)
    other = Envelope(keyring, suites.get("intl"), os.urandom)
    assert other.open(other.unwrap("510199", case_key.key_id, case_key.wrapped), sealed, AAD) == BODY
    assert "测试甲".encode() not in sealed.ciphertext
    assert "测试甲" not in repr(sealed)
    assert repr(case_key.plain) not in repr(case_key)


def test_compressed_only_where_that_helps(envelope: Envelope) -> None:
    case_key = envelope.new_case_key("510199")
    long, noise = envelope.seal(case_key, BODY, AAD), envelope.seal(case_key, os.urandom(500), AAD)
    assert long.encoding.endswith("+zstd")
    assert len(long.ciphertext) < len(BODY)
    assert noise.encoding.endswith("+plain")
    assert len(noise.ciphertext) == 500 + 28


@settings(max_examples=50, deadline=None)
@given(body=st.binary(max_size=2000))
def test_every_body_comes_back(keyring: Keyring, body: bytes) -> None:
    envelope = Envelope(keyring, suites.get("intl"), os.urandom)
    case_key = envelope.new_case_key("510198")
    assert envelope.open(case_key, envelope.seal(case_key, body, AAD), AAD) == body


@pytest.mark.parametrize(
    "aad",
    [
        binding("510198", "case-1", "body-1"),
        binding("510199", "case-2", "body-1"),
        binding("510199", "case-1", "body-2"),
        binding("510199c", "ase-1", "body-1"),
    ],
)
def test_a_body_in_another_place_does_not_open(envelope: Envelope, aad: bytes) -> None:
    case_key = envelope.new_case_key("510199")
    sealed = envelope.seal(case_key, BODY, AAD)
    with pytest.raises(Broken):
        envelope.open(case_key, sealed, aad)


@pytest.mark.parametrize("encoding", ["intl+plain", "intl+zstd", "gm+plain", "gm+zstd", "none+zstd", "intl", ""])
def test_the_encoding_is_authenticated(envelope: Envelope, encoding: str) -> None:
    case_key = envelope.new_case_key("510199")
    sealed = envelope.seal(case_key, BODY, AAD)
    if encoding != sealed.encoding:
        with pytest.raises(Broken) as caught:
            envelope.open(case_key, replace(sealed, encoding=encoding), AAD)
        assert caught.value.code == "body_broken"


def test_another_case_key_does_not_open(envelope: Envelope) -> None:
    sealed = envelope.seal(envelope.new_case_key("510199"), BODY, AAD)
    with pytest.raises(Broken):
        envelope.open(envelope.new_case_key("510199"), sealed, AAD)


def test_a_case_key_belongs_to_its_tenant(envelope: Envelope) -> None:
    case_key = envelope.new_case_key("510199")
    changed = case_key.wrapped[:-1] + bytes([case_key.wrapped[-1] ^ 1])
    for tenant, wrapped in (("510198", case_key.wrapped), ("510199", changed), ("510199", b""), ("510199", b"x:y")):
        with pytest.raises(Broken) as caught:
            envelope.unwrap(tenant, case_key.key_id, wrapped)
        assert caught.value.code == "case_key_broken"


def test_a_tenant_without_keys(envelope: Envelope) -> None:
    with pytest.raises(Misconfigured, match="tenant_key_missing"):
        envelope.new_case_key("110000")
    with pytest.raises(Misconfigured, match="tenant_key_missing"):
        envelope.unwrap("510199", "t0", envelope.new_case_key("510199").wrapped)


def test_an_old_tenant_key_still_unwraps(keyring: Keyring) -> None:
    case_key = Envelope(keyring, suites.get("intl"), os.urandom).new_case_key("510199")
    turned = KeySet("t2", {**keyring.tenants["510199"].keys, "t2": os.urandom(32)})
    later = Envelope(replace(keyring, tenants={"510199": turned}), suites.get("intl"), os.urandom)
    assert later.unwrap("510199", "t1", case_key.wrapped).plain == case_key.plain
    assert later.new_case_key("510199").key_id == "t2"


def test_a_body_that_would_unfold_without_end(envelope: Envelope) -> None:
    case_key = envelope.new_case_key("510199")
    sealed = envelope.seal(case_key, bytes(100_000), AAD)
    assert len(sealed.ciphertext) < 200
    assert len(envelope.open(case_key, sealed, AAD, limit=100_000)) == 100_000
    with pytest.raises(Broken):
        envelope.open(case_key, sealed, AAD, limit=99_999)


def test_a_frame_that_hides_its_size(envelope: Envelope) -> None:
    case_key = envelope.new_case_key("510199")
    suite = suites.get(case_key.suite)
    hidden = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    encoding = f"{suite.name}+zstd"
    for content in (hidden, b"no zstd"):
        sealed = Sealed(suite.seal(case_key.plain, content, binding("body", encoding) + AAD), encoding)
        with pytest.raises(Broken):
            envelope.open(case_key, sealed, AAD)


def test_the_cache_is_bounded_and_never_wrong(keyring: Keyring) -> None:
    envelope = Envelope(keyring, suites.get("intl"), os.urandom, cached_keys=4)
    made = [envelope.new_case_key("510199") for _ in range(20)]
    assert [envelope.unwrap("510199", one.key_id, one.wrapped).plain for one in made] == [one.plain for one in made]
    assert len(envelope._cache) == 4


def test_between_threads(envelope: Envelope) -> None:
    case_keys = [envelope.new_case_key("510199") for _ in range(4)]

    def work(number: int) -> bool:
        one: CaseKey = case_keys[number % 4]
        body = str(number).encode() * 50
        sealed = envelope.seal(envelope.unwrap("510199", one.key_id, one.wrapped), body, AAD)
        return envelope.open(one, sealed, AAD) == body

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(400)))


def test_the_address_is_keyed_and_a_tenants_own(envelope: Envelope, keyring: Keyring, tmp_path: Path) -> None:
    assert envelope.address(b"a") == envelope.address(b"a")
    other = Envelope(keys.create(tmp_path / "keys.json", os.urandom), suites.get("intl"), os.urandom)
    found = {
        envelope.address(b"a"),
        envelope.address(b"b"),
        envelope.address(b"a", "510199"),
        envelope.address(b"a", "510198"),
        other.address(b"a"),
    }
    assert len(found) == 5
    assert all(len(address) == 64 for address in found)
