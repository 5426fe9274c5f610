"""Receipts and effects: what is absorbed, what counts twice, and that all of it survives kill -9."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import requests

from tests.sandbox.conftest import YWH, delivery, eventually, notice, registry_case

if TYPE_CHECKING:
    from tests.sandbox.conftest import Sandbox

NOTICES = "/hall/notices"
IDENTITY = f"{YWH}|01|2026-01-01T09:00:00+08:00"


def test_a_repeat_is_absorbed_and_another_delivery_is_a_second_effect(sandbox: Sandbox) -> None:
    for number in (1, 1, 2):
        assert sandbox.post("hall", NOTICES, notice(), number).json()["code"] == "0"
    assert [(row["delivery_id"], row["applied"]) for row in sandbox.received("hall")] == [
        (delivery(1), True), (delivery(1), False), (delivery(2), True),
    ]  # fmt: skip
    assert sandbox.effects() == {"hall/notice": {IDENTITY: 2}}


def test_manual_redelivery_absorbs_nothing(sandbox: Sandbox) -> None:
    sandbox.set("hall", redelivery="manual")
    for _ in range(3):
        sandbox.post("hall", NOTICES, notice(), 1)
    assert sandbox.effects() == {"hall/notice": {IDENTITY: 3}}
    assert all(row["applied"] for row in sandbox.received("hall"))


def test_a_kill_between_receipt_and_answer_leaves_the_receipt(sandbox: Sandbox) -> None:
    sandbox.set("registry", latency_ms=20_000, times=1)
    failed: list[type[Exception]] = []

    def send() -> None:
        try:
            sandbox.post("registry", "/registry/cases", registry_case(), 7)
        except requests.ConnectionError as error:
            failed.append(type(error))

    thread = threading.Thread(target=send)
    thread.start()
    eventually(lambda: sandbox.received("registry"))
    sandbox.kill()
    thread.join()
    assert failed
    sandbox.start()
    headers = {"Authorization": "Bearer token-registry"}
    arrived = requests.get(sandbox.of("registry", f"/registry/deliveries/{delivery(7)}"), headers=headers, timeout=5)
    missing = requests.get(sandbox.of("registry", f"/registry/deliveries/{delivery(8)}"), headers=headers, timeout=5)
    assert (arrived.status_code, arrived.json()["code"]) == (200, "0000")
    assert (missing.status_code, missing.json()["code"]) == (404, "4004")
    assert sandbox.post("registry", "/registry/cases", registry_case(), 7).json()["code"] == "0000"
    assert sandbox.effects()["registry/case"] == {YWH: 1}


@pytest.mark.parametrize("kills", [3])
def test_no_answered_receipt_is_lost_under_kills(sandbox: Sandbox, kills: int) -> None:
    answered: set[str] = set()
    stop = threading.Event()

    def send(first: int) -> None:
        number = first
        while not stop.is_set():
            number += 10
            try:
                if sandbox.post("hall", NOTICES, notice(str(number)), number).status_code == 200:
                    answered.add(f"{YWH}|01|{number}")
            except requests.RequestException:
                continue

    with ThreadPoolExecutor(4) as pool:
        for first in range(4):
            pool.submit(send, first)
        for _ in range(kills):
            before = len(answered)
            eventually(lambda before=before: len(answered) > before + 20)
            sandbox.kill()
            sandbox.start()
        stop.set()
    effects = sandbox.effects()["hall/notice"]
    assert answered <= effects.keys()
    assert set(effects.values()) == {1}
