"""Known answers of both suites, and what a seal promises."""

from __future__ import annotations

import itertools
import os

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import suites
from suites.suite import KeySizeWrong, SealBroken, SuiteUnknown

NAMES = ["intl", "gm"]


def test_sha256_abc() -> None:
    # FIPS 180-4 example
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert suites.get("intl").digest(b"abc").hex() == expected


def test_sm3_abc_and_the_second_example() -> None:
    # GB/T 32905-2016, annex A
    gm = suites.get("gm")
    assert gm.digest(b"abc").hex() == "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"
    assert gm.digest(b"abcd" * 16).hex() == "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732"


def test_hmac_sha256() -> None:
    # RFC 4231, case 2
    mac = suites.get("intl").mac(b"Jefe", b"what do ya want for nothing?")
    assert mac.hex() == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


def test_hmac_sm3_is_the_hmac_construction_over_sm3() -> None:
    gm = suites.get("gm")
    key, data = b"k" * 20, "测试甲".encode()
    block = key.ljust(64, b"\0")
    inner = gm.digest(bytes(b ^ 0x36 for b in block) + data)
    assert gm.mac(key, data) == gm.digest(bytes(b ^ 0x5C for b in block) + inner)


def test_sm4_block() -> None:
    # GB/T 32907-2016, annex A.1: the cipher that the suite stands on
    key = bytes.fromhex("0123456789abcdeffedcba9876543210")
    encryptor = Cipher(algorithms.SM4(key), modes.ECB()).encryptor()
    assert encryptor.update(key).hex() == "681edf34d206965e86b3e94f536e4246"


def test_sm4_gcm() -> None:
    # RFC 8998, appendix A.1
    nonce = bytes.fromhex("00001234567800000000abcd")
    key = bytes.fromhex("0123456789abcdeffedcba9876543210")
    plaintext = bytes.fromhex("aa" * 8 + "bb" * 8 + "cc" * 8 + "dd" * 8 + "ee" * 8 + "ff" * 8 + "ee" * 8 + "aa" * 8)
    aad = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    sealed = suites.get("gm").seal(key, plaintext, aad, lambda _: nonce)
    assert sealed.hex() == nonce.hex() + (
        "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735"
        "d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d"
        "83de3541e4c2b58177e065a9bf7b62ec"
    )
    assert suites.get("gm").open(key, sealed, aad) == plaintext


def test_aes_256_gcm() -> None:
    # The GCM specification (McGrew, Viega), test case 16
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)
    nonce = bytes.fromhex("cafebabefacedbaddecaf888")
    aad = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    plaintext = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    sealed = suites.get("intl").seal(key, plaintext, aad, lambda _: nonce)
    assert sealed.hex() == nonce.hex() + (
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b"
    )
    assert suites.get("intl").open(key, sealed, aad) == plaintext


@pytest.mark.parametrize("name", NAMES)
def test_any_changed_byte_breaks_the_seal(name: str) -> None:
    suite = suites.get(name)
    key = suite.new_key(os.urandom)
    sealed = suite.seal(key, b"body", b"aad")
    assert suite.open(key, sealed, b"aad") == b"body"
    for at in range(len(sealed)):
        with pytest.raises(SealBroken):
            suite.open(key, sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], b"aad")
    with pytest.raises(SealBroken):
        suite.open(key, sealed, b"bad")
    with pytest.raises(SealBroken):
        suite.open(suite.new_key(os.urandom), sealed, b"aad")
    for short in (b"", sealed[:27]):
        with pytest.raises(SealBroken):
            suite.open(key, short, b"aad")


@pytest.mark.parametrize("name", NAMES)
def test_seals_of_the_same_text_differ(name: str) -> None:
    suite = suites.get(name)
    key = suite.new_key(os.urandom)
    first, second = (suite.seal(key, b"", b"") for _ in range(2))
    assert first != second
    assert suite.open(key, first, b"") == b""


@pytest.mark.parametrize(("name", "size"), list(itertools.product(NAMES, [0, 15, 24, 33])))
def test_a_key_of_another_length_is_refused(name: str, size: int) -> None:
    with pytest.raises(KeySizeWrong):
        suites.get(name).seal(bytes(size), b"", b"")


def test_intl_does_not_fall_back_to_aes_128() -> None:
    with pytest.raises(KeySizeWrong):
        suites.get("intl").seal(bytes(16), b"", b"")


def test_a_wrong_name_is_answered_with_the_right_ones() -> None:
    with pytest.raises(SuiteUnknown, match="intl, gm"):
        suites.get("sm")
