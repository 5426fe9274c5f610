"""The online hall: it takes notices; applications start from it through ``/_do/hall/…``."""

from __future__ import annotations

from sandbox.desk import Answer, Codes, Desk, Document, Exchange, Partner, bearer, flat

CODES = Codes(done="0", busy="9", invalid="1", denied="4", unlisted="77")


def _thanks(_desk: Desk, _document: Document) -> Answer:
    return Answer(CODES.done, "已收到 / received")


PARTNER = Partner(
    name="hall",
    exchanges=(
        Exchange(
            name="notice",
            path="/hall/notices",
            identity=("/ywh", "/kind", "/at"),
            answer=_thanks,
            contract="hall/notice.json",
        ),
    ),
    codes=CODES,
    render=flat,
    authenticate=bearer("hall", CODES.denied),
)
