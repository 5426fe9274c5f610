"""The two-step secret of domain.md §3.1: its published values, and both steps against the running platform."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest
import requests
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from sandbox import signing
from tests.sandbox.conftest import APPKEY, delivery, hmac64

if TYPE_CHECKING:
    from tests.sandbox.conftest import Sandbox

CHECK = {
    "xm": "测试甲", "gmsfhm": "510100190001010012", "zjlx": "111", "bus_sre_businesstypecode": "2000402",
    "MessageSequence": "0" * 32,
}  # fmt: skip


@pytest.mark.parametrize(
    ("rid", "sid", "rtime", "secret", "expected"),
    [
        (
            "demo-rid-0001",
            "s_demo_0001",
            "1700000000000",
            "demo-secret-0001",
            "ldEc7nqroU6YkITpyhtaMv6Qq8VEG0vXEyXlJhB1eM0=",
        ),
        (
            "demo-rid-0001",
            "s_demo_0001",
            "1700000000001",
            "demo-secret-0001",
            "SYKkv6tpF/5Q2jvrdvj7BLrNkbCrR+EW+y9cCnt9gAA=",
        ),
        (
            "demo-rid-0002",
            "s_demo_0002",
            "1700000000000",
            "demo-secret-0002",
            "YTP+QH8rtbyRUBioAEB28gh8Hi1x9iLA8uMknu3tdnI=",
        ),
    ],
)
def test_national_signature_values(rid: str, sid: str, rtime: str, secret: str, expected: str) -> None:
    assert signing.national_sign(secret, sid, rid, rtime) == expected


@pytest.mark.parametrize(
    ("appkey", "wrapped"),
    [
        ("demo-appkey-0001", "sDcxagqiau3ZUt1s8DnowG68EWzdT2lNuV+o/fkok9Y="),
        ("demo-appkey-0002", "RKN9tvYDwkS+vB3ZIrO580JOyePDXsQWkBtZ17VIgHQ="),
        ("demo-appkey-0003", "BoOM+dmkoNzM7kDl/8ZqvTPUI55TjAZWjfpcazG/Iss="),
    ],
)
def test_wrapped_secret_values(appkey: str, wrapped: str) -> None:
    assert signing.wrap_secret(appkey, "demo-secret-0001") == wrapped


def test_both_prefixes_and_dashes_are_the_same_headers() -> None:
    expected = {"rid": "r", "sid": "s", "rtime": "1", "sign": "x"}
    assert signing.signed_values({f"Gjzwfwpt-{name}": value for name, value in expected.items()}) == expected
    assert signing.signed_values({"gjgxjhpt_rid": "r"}) is None


def _signed(key: str, *, rid: str = "dukou-hub", rtime: str | None = None) -> dict[str, str]:
    rtime = rtime or str(int(time.time() * 1000))
    sign = hmac64(key, f"s_demo{rid}{rtime}")
    return {f"gjgxjhpt_{name}": value for name, value in zip(
        ("rid", "sid", "rtime", "sign"), (rid, "s_demo", rtime, sign), strict=True)}  # fmt: skip


def _refresh(sandbox: Sandbox, body: object) -> requests.Response:
    return requests.post(sandbox.of("platform", "/sysapi/auth/refreshappsecret"), json=body, timeout=5)


def _unwrap(text: str) -> str:
    key = hashlib.sha1(hashlib.sha1(APPKEY.encode()).digest()).digest()[:16]
    decryptor = Cipher(algorithms.AES(key), modes.ECB()).decryptor()
    padded = decryptor.update(base64.b64decode(text)) + decryptor.finalize()
    return padded[: -padded[-1]].decode()


def _check(sandbox: Sandbox, headers: dict[str, str], number: int = 1, **changes: str) -> requests.Response:
    return requests.post(
        sandbox.of("platform", "/httpproxy/identity"), json={**CHECK, **changes},
        headers={**headers, "X-Delivery-Id": delivery(number)}, timeout=5,
    )  # fmt: skip


def test_two_steps_and_the_three_answers(sandbox: Sandbox) -> None:
    secret = _unwrap(_refresh(sandbox, _signed(APPKEY)).json()["data"]["secret"])
    found = [
        _check(sandbox, _signed(secret), number, xm=name, MessageSequence=str(number)).json()["data"]["CheckCode"]
        for number, name in enumerate(("测试甲", "测试不一致", "测试查无"))
    ]
    assert found == ["1", "2", "3"]
    # The appKey is no working secret.
    denied = _check(sandbox, _signed(APPKEY))
    assert (denied.status_code, denied.json()["code"]) == (401, "4010")


def test_a_working_secret_survives_a_kill_and_ends_after_thirty_minutes(sandbox: Sandbox) -> None:
    secret = _unwrap(_refresh(sandbox, _signed(APPKEY)).json()["data"]["secret"])
    sandbox.kill()
    sandbox.start()
    assert _check(sandbox, _signed(secret)).status_code == 200
    with sqlite3.connect(sandbox.var / "sandbox" / "state.sqlite") as state:
        (issued, expires) = state.execute("SELECT issued, expires FROM working_secrets").fetchone()
        assert expires - issued == 1800
        state.execute("UPDATE working_secrets SET expires = ?", (time.time() - 1,))
    state.close()
    expired = _check(sandbox, _signed(secret))
    assert (expired.status_code, expired.json()["code"]) == (401, "4010")
    assert _unwrap(_refresh(sandbox, _signed(APPKEY)).json()["data"]["secret"]) != secret


def test_refused_refreshes(sandbox: Sandbox) -> None:
    assert _refresh(sandbox, _signed("demo-appkey-0002")).json()["code"] == "4001"
    assert _refresh(sandbox, _signed(APPKEY, rid="somebody")).json()["code"] == "4001"
    assert _refresh(sandbox, _signed(APPKEY, rtime="1700000000000")).json()["code"] == "4002"
    assert _refresh(sandbox, {"gjgxjhpt_rid": "dukou-hub"}).status_code == 422
    assert _refresh(sandbox, []).status_code == 422


def test_the_same_case_gets_the_same_number(sandbox: Sandbox) -> None:
    secret = _unwrap(_refresh(sandbox, _signed(APPKEY)).json()["data"]["secret"])
    document = {"ywh": "1", "distno": "510199000000", "servcode": "2000402", "servname": "测试", "caseregdate": "2026"}
    numbers = []
    for number, ywh in enumerate(("1", "1", "2")):
        headers = {**_signed(secret), "X-Delivery-Id": delivery(number)}
        address = sandbox.of("platform", "/httpproxy/unified-number")
        answer = requests.post(address, json={**document, "ywh": ywh}, headers=headers, timeout=5)
        numbers.append(answer.json()["data"]["caseno"])
    assert numbers[0] == numbers[1] != numbers[2]
    assert sandbox.effects()["platform/unified_number"] == {"1": 2, "2": 1}


def test_credentials_are_read_again_when_they_change(sandbox: Sandbox) -> None:
    path = sandbox.var / "demo" / "credentials.json"
    kept = json.loads(path.read_bytes())
    path.unlink()
    assert _refresh(sandbox, _signed(APPKEY)).status_code == 503
    kept["partners"]["platform"]["appkey"] = "demo-appkey-0003"
    path.write_text(json.dumps(kept))
    assert _refresh(sandbox, _signed("demo-appkey-0003")).status_code == 200
