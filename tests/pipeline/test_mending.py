"""Dead letters: replayed after the mapping was mended, skipped on an operator's word, never sent unmapped."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hub.errors import Refused, Unsent
from hub.mapping import MappingFault
from hub.mapping.faults import Slip
from hub.ports import Incoming, Outgoing
from hub.store.messages import Filter
from tests.pipeline.scripted import Stage, fast


class Broken:
    """A mapping that cannot map, in the place of the one that can."""

    def __init__(self, stage: Stage, path: str) -> None:
        self._real, self._path = stage.hub.parts.mappings, path
        self.broken = True

    def get(self, path: str) -> Any:
        """The mapping of a file; ours fails while it is broken."""
        return self if path == self._path and self.broken else self._real.get(path)

    def apply(self, _document: object) -> Any:
        """Fails."""
        raise MappingFault(
            self._path, [Slip("/application/ZL", "mapping_missing", "1", "application.ZL", "body.fwwzdz")]
        )


def _dead(stage: Stage, exchange: str) -> Any:
    found = stage.hub.reading.messages(Filter(state="dead", exchange=exchange))
    assert len(found) == 1
    return found[0]


def test_a_document_that_could_not_be_made_is_made_at_the_replay(stage: Stage) -> None:
    broken = Broken(stage, "mappings/tax/taxable_case.yaml")
    object.__setattr__(stage.hub.parts, "mappings", broken)
    receipt = stage.apply()
    stage.drain()
    dead = _dead(stage, "taxable_case")
    assert dead.reason == "mapping_fault"
    assert stage.view(receipt.case).reason == "mapping_fault"
    assert stage.hub.reading.dead_letters("", 10)[0]["owner"] == "integrator"
    with pytest.raises(Refused) as caught:
        stage.hub.mending.replay(dead.id)
    assert caught.value.code == "mapping_fault"
    assert not stage.wire.of("tax/taxable_case")
    broken.broken = False
    assert stage.hub.mending.replay(dead.id) == "ready"
    stage.drain()
    assert [sent["body"]["ywsldh"] for sent in stage.wire.of("tax/taxable_case")] == [receipt.case]
    assert stage.hub.verify().ok, stage.hub.verify().found


def test_a_skipped_letter_counts_as_done_on_the_operators_word(stage: Stage) -> None:
    stage.wire.rules["tax/taxable_case"] = lambda _: Incoming(200, {"head": {"rtn_code": "77"}})
    receipt = stage.apply()
    stage.drain()
    dead = _dead(stage, "taxable_case")
    assert dead.reason == "answer_code_unknown"
    assert stage.view(receipt.case).reason == "answer_code_unknown"
    assert stage.hub.mending.skip(dead.id) == "skipped"
    assert stage.view(receipt.case).reason == ""
    stage.clear(receipt.case)
    stage.drain()
    stage.register(receipt.case)
    assert stage.view(receipt.case).state == "finished"
    with pytest.raises(Refused) as caught:
        stage.hub.mending.skip(dead.id)
    assert caught.value.code == "state_conflict"


def test_a_question_cannot_be_skipped(stage: Stage) -> None:
    stage.wire.rules["platform/unified_number"] = lambda _: Incoming(200, {"code": "77"})
    stage.apply()
    stage.drain()
    dead = _dead(stage, "unified_number")
    with pytest.raises(Refused) as caught:
        stage.hub.mending.skip(dead.id)
    assert caught.value.code == "state_conflict"
    del stage.wire.rules["platform/unified_number"]
    assert stage.hub.mending.replay(dead.id) == "asked"
    stage.drain()
    assert not stage.hub.reading.dead_letters("", 10)


def test_a_question_of_a_case_that_is_over_may_be_skipped(stage: Stage) -> None:
    stage.wire.rules["platform/identity_check"] = lambda _: Incoming(200, {"code": "77"})
    receipt = stage.apply()
    stage.drain()
    stage.call("hall/withdrawal", {}, case=receipt.case)
    stage.drain()
    assert stage.hub.reading.open_messages() > 0
    for letter in stage.hub.reading.dead_letters("platform", 10):
        assert stage.hub.mending.skip(str(letter["id"])) == "skipped"
    stage.drain()
    assert stage.hub.reading.open_messages() == 0
    assert stage.view(receipt.case).state == "withdrawn"


def test_two_presses_at_once_send_once(stage: Stage) -> None:
    stage.wire.rules["tax/taxable_case"] = lambda _: Incoming(200, {"head": {"rtn_code": "77"}})
    stage.apply()
    stage.drain()
    dead = _dead(stage, "taxable_case")
    others = [stage.build() for _ in range(4)]
    barrier = threading.Barrier(len(others))

    def press(hub: Any) -> str:
        barrier.wait()
        try:
            return str(hub.mending.replay(dead.id))
        except Refused as error:
            return error.code

    with ThreadPoolExecutor(len(others)) as pool:
        answers = sorted(pool.map(press, others))
    for hub in others:
        hub.close()
    assert answers == ["ready", "state_conflict", "state_conflict", "state_conflict"]
    assert stage.hub.verify().ok, stage.hub.verify().found


def test_at_once_is_no_reason_to_call_in_a_loop(tmp_path: Path) -> None:
    stage = Stage(tmp_path, pace=fast(first_wait=400, longest_wait=800))

    def busy(_: Outgoing) -> Incoming:
        raise Unsent("partner_busy", "busy", "繁忙", 0)

    stage.wire.rules["platform/identity_check"] = busy
    stage.apply()
    stage.hub.drain("platform", "airflow", 1.0)
    assert len(stage.wire.of("platform/identity_check")) <= 4
    stage.close()
