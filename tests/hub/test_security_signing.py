"""The signature of calls: test values of domain.md §3.1, and every way in which a call is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hub.errors import Refused
from hub.model.call import Caller
from hub.security.signing import (
    Request,
    Verifier,
    aes128_ecb_plain,
    aes128_ecb_secret,
    headers,
    sign,
)

NOW = 1_700_000_000_000
HALL = Caller("hall", "hall", "hall-rid-1", "hall-secret", ("510199",), {"cases": "s_510199_cases"})
TAX = replace(HALL, name="tax", rid="tax-rid-1", secret="tax-secret", profile="national")
REQUEST = Request("POST", "/api/v1/cases?x=%E7%94%B2", '{"QLRMC":"测试甲"}'.encode())


def _verifier(now: int = NOW) -> Verifier:
    return Verifier({HALL.rid: HALL, TAX.rid: TAX}, 300_000, lambda: now)


def _code(given: dict[str, str], request: Request = REQUEST, now: int = NOW) -> str:
    with pytest.raises(Refused) as caught:
        _verifier(now).verify(given, request.method, request.target, request.body)
    assert caught.value.status == 401
    return caught.value.code


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
def test_national_values(rid: str, sid: str, rtime: str, secret: str, expected: str) -> None:
    assert sign("national", secret, (rid, sid, rtime), Request()) == expected


@pytest.mark.parametrize(
    ("appkey", "expected"),
    [
        ("demo-appkey-0001", "sDcxagqiau3ZUt1s8DnowG68EWzdT2lNuV+o/fkok9Y="),
        ("demo-appkey-0002", "RKN9tvYDwkS+vB3ZIrO580JOyePDXsQWkBtZ17VIgHQ="),
        ("demo-appkey-0003", "BoOM+dmkoNzM7kDl/8ZqvTPUI55TjAZWjfpcazG/Iss="),
    ],
)
def test_two_step_secret_values(appkey: str, expected: str) -> None:
    assert aes128_ecb_secret(appkey, "demo-secret-0001") == expected
    assert aes128_ecb_plain(appkey, expected) == "demo-secret-0001"


@pytest.mark.parametrize("text", ["", "%%%", "YWJj", "sDcxagqiau3ZUt1s8DnowG68EWzdT2lNuV+o/fkok9Y="])
def test_a_secret_of_another_appkey_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="not "):
        aes128_ecb_plain("demo-appkey-0009", text)


def test_dukou_profile_covers_method_target_and_body() -> None:
    # Computed by hand with openssl: HMAC over sid+rid+rtime, METHOD, target, hex SHA-256 of the body.
    value = sign(
        "dukou", "demo-secret-0001", ("demo-rid-0001", "s_demo_0001", "1700000000000"), Request("post", "/a?b=1", b"{}")
    )
    assert value == "NWJjTIRNTyNUd5ussdCLly0KDdwLl4Yh+DQVU/YxGD0="


@pytest.mark.parametrize("caller", [HALL, TAX])
@pytest.mark.parametrize("prefix", ["gjgxjhpt_", "gjzwfwpt_"])
def test_a_signed_call_is_known(caller: Caller, prefix: str) -> None:
    given = headers(caller, "s_510199_cases", NOW, REQUEST, prefix)
    found, sid = _verifier().verify(given, REQUEST.method, REQUEST.target, REQUEST.body)
    assert (found, sid) == (caller, "s_510199_cases")


def test_names_in_any_case_and_with_dashes() -> None:
    given = {name.upper().replace("_", "-"): value for name, value in headers(HALL, "s", NOW, REQUEST).items()}
    assert _verifier().verify(given, "POST", REQUEST.target, REQUEST.body)[0] is HALL


def test_target_as_bytes_is_the_same() -> None:
    given = headers(HALL, "s", NOW, REQUEST)
    assert _verifier().verify(given, "POST", str(REQUEST.target).encode(), REQUEST.body)[0] is HALL


@pytest.mark.parametrize(
    "altered",
    [
        replace(REQUEST, body=REQUEST.body + b" "),
        replace(REQUEST, method="PUT"),
        replace(REQUEST, target="/api/v1/cases?x=甲"),
        replace(REQUEST, target="/api/v1/cases"),
    ],
)
def test_an_altered_request(altered: Request) -> None:
    assert _code(headers(HALL, "s", NOW, REQUEST), altered) == "signature_invalid"


@pytest.mark.parametrize("part", ["rid", "sid", "rtime", "sign"])
def test_a_missing_or_empty_header(part: str) -> None:
    given = headers(HALL, "s", NOW, REQUEST)
    assert _code({**given, f"gjgxjhpt_{part}": ""}) == "signature_invalid"
    del given[f"gjgxjhpt_{part}"]
    assert _code(given) == "signature_invalid"


def test_two_different_values_for_one_name_are_no_signature() -> None:
    given = headers(HALL, "s", NOW, REQUEST)
    assert _code({**given, "gjzwfwpt-sid": "another"}) == "signature_invalid"


def test_unknown_caller_comes_before_the_signature() -> None:
    assert _code(headers(replace(HALL, rid="nobody"), "s", NOW, REQUEST)) == "caller_unknown"


def test_profile_national_is_only_for_those_declared_so() -> None:
    assert _code(headers(replace(HALL, profile="national"), "s", NOW, REQUEST)) == "signature_invalid"


@pytest.mark.parametrize("shift", [-300_001, 300_001])
def test_a_stale_but_right_signature_says_so(shift: int) -> None:
    assert _code(headers(HALL, "s", NOW, REQUEST), now=NOW + shift) == "rtime_expired"


@pytest.mark.parametrize("shift", [-300_000, 300_000])
def test_the_edge_of_the_window_is_inside(shift: int) -> None:
    given = headers(HALL, "s", NOW, REQUEST)
    assert _verifier(NOW + shift).verify(given, "POST", REQUEST.target, REQUEST.body)[0] is HALL


@pytest.mark.parametrize("rtime", ["-1", "1e12", "17000000000000000000", "１７０００００００００００", "abc"])
def test_an_unreadable_rtime(rtime: str) -> None:
    value = sign("dukou", HALL.secret, (HALL.rid, "s", rtime), REQUEST)
    given = {"gjgxjhpt_rid": HALL.rid, "gjgxjhpt_sid": "s", "gjgxjhpt_rtime": rtime, "gjgxjhpt_sign": value}
    assert _code(given) == "rtime_expired"


def test_stale_and_wrong_is_wrong() -> None:
    given = {**headers(HALL, "s", NOW, REQUEST), "gjgxjhpt_sign": "签"}
    assert _code(given, now=NOW + 999_999_999) == "signature_invalid"
