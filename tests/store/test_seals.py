"""Seals: every committed event under exactly one, chained, whoever seals."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from hub.store import ledger as store
from hub.store import seals
from hub.store.ledger import Collision, Ledger
from hub.store.tables import leaves
from tests.store import rows


def seal(book: Ledger, limit: int = 20_000) -> seals.Seal | None:
    return book.write(lambda c: seals.seal_next(c, store.now(c), limit))


def anchors(book: Ledger) -> dict[int, str]:
    return {item.no: item.anchor for item in book.read(lambda c: seals.since(c, 0))}


def test_seals_cover_everything_once(ledger: Ledger) -> None:
    assert seal(ledger) is None
    rows.add(ledger, *(rows.message(case=f"C{n}") for n in range(5)))
    made = [seal(ledger, 2), seal(ledger, 2), seal(ledger, 2)]
    assert [item.events for item in made if item] == [2, 2, 1]
    assert seal(ledger) is None
    assert made[1] is not None
    assert made[0] is not None
    assert made[1].previous == made[0].chain
    rows.add(ledger, rows.message(case="tail"))
    found, figures = seals.examine(ledger, lambda: anchors(ledger))
    assert (found, figures) == ([], {"events": 6, "sealed": 5, "tail": 1})


def test_two_sealers_at_once(ledger: Ledger, other: Ledger) -> None:
    rows.add(ledger, *(rows.message(case=f"C{n}") for n in range(30)))

    def work(book: Ledger) -> None:
        for _ in range(40):
            try:
                if seal(book, 3) is None:
                    return
            except Collision:
                continue

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, book) for book in (ledger, other, ledger, other)]:
            future.result(60)
    assert ledger.read(lambda c: c.execute(select(func.count()).select_from(leaves)).scalar_one()) == 30
    found, figures = seals.examine(ledger, lambda: anchors(ledger))
    assert (found, figures["sealed"]) == ([], 30)


def plain_root(digests: list[str]) -> str:
    """RFC 6962's definition, recursively, by an own hand."""

    def node(part: list[bytes]) -> bytes:
        if len(part) == 1:
            return hashlib.sha256(b"\0" + part[0]).digest()
        k = 1
        while k * 2 < len(part):
            k *= 2
        return hashlib.sha256(b"\1" + node(part[:k]) + node(part[k:])).digest()

    return node([bytes.fromhex(d) for d in digests]).hex() if digests else hashlib.sha256(b"").hexdigest()


@given(st.lists(st.binary(min_size=32, max_size=32).map(bytes.hex), max_size=40))
def test_the_tree_is_that_of_rfc_6962(digests: list[Any]) -> None:
    assert seals.merkle_root(digests) == plain_root(digests)
