"""What a connector's declarations must say together, beyond what its JSON Schema can: one small rule each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from hub.errors import Fault

if TYPE_CHECKING:
    from hub.model.declarations import Exchange, Partner

Said = tuple[str, str]


def declaration_faults(file: str, folder: str, partner: Partner) -> list[Fault]:
    """Everything that a partner's exchanges say wrongly.

    Args:
        file: path of the connector, for the faults.
        folder: name of its folder, which must be the partner's slug.
        partner: what the file says.
    """
    found = []
    if folder != partner.slug:
        found.append(Fault(f"{file}#/partner", "declaration_invalid", "must be the folder's name", "应与文件夹同名"))
    if sum(1 for one in partner.exchanges.values() if one.operation) != len(
        {one.operation for one in partner.exchanges.values() if one.operation}
    ):
        found.append(
            Fault(f"{file}#/exchanges", "declaration_invalid", "a SOAP operation is served twice", "SOAP 操作重复")
        )
    for name, exchange in partner.exchanges.items():
        for en, zh in _said(partner, exchange):
            found.append(Fault(f"{file}#/exchanges/{name}", "declaration_invalid", en, zh))
    return found


def _said(partner: Partner, exchange: Exchange) -> Iterator[Said]:
    yield from _DIRECTIONS[exchange.direction](partner, exchange)
    yield from _redelivery(exchange)
    yield from _answers(exchange)
    if exchange.request is not None and "{" in exchange.request.path:
        yield "a request path has no placeholder", "请求路径不得含占位符"


def _served(partner: Partner, exchange: Exchange) -> Iterator[Said]:
    if exchange.request is not None or exchange.answer is not None or exchange.arrives_as or exchange.query is not None:
        yield (
            "serve has no request, answer, query line or arrives_as: the partner calls us",
            "serve 不得声明 request、answer、查询路径或 arrives_as",
        )
    if bool(exchange.event) == bool(exchange.query_kind):
        yield "serve declares either an event or a query", "serve 应声明 event 或 query 之一"
    if exchange.event and not exchange.canonical:
        yield "an event needs its canonical document", "event 需要 canonical"
    if exchange.event and not exchange.mapping and exchange.contract != f"schemas/{exchange.canonical}.json":
        yield "a contract that is not the canonical one needs a mapping", "契约与 canonical 不同时需要 mapping"
    if exchange.event and not exchange.identity:
        yield "an event needs its identity", "event 需要 identity"
    if (exchange.protocol == "soap") != bool(exchange.operation):
        yield "soap goes with an operation, and nothing else does", "soap 应与 operation 同时声明"
    if exchange.operation and not partner.wsdl:
        yield "a SOAP operation needs the partner's soap.wsdl", "SOAP 操作需要 soap.wsdl"


def _called(_partner: Partner, exchange: Exchange) -> Iterator[Said]:
    for name, there in (("request", exchange.request), ("mapping", exchange.mapping), ("answer", exchange.answer)):
        if not there:
            yield f"{exchange.direction} needs {name}", f"{exchange.direction} 需要 {name}"
    if exchange.event or exchange.operation or exchange.query_kind or exchange.revision:
        yield (
            "event, operation, query kind and revision belong to serve",
            "event、operation、query、revision 仅用于 serve",
        )
    if exchange.protocol != "rest":
        yield "we call partners by rest only", "目前只能以 rest 调用"
    if exchange.identity == "body":
        yield "what we send has named identity fields", "发出的报文应声明 identity 字段"
    if exchange.canonical:
        yield "what we send comes from the case file; canonical belongs to the answer", "canonical 应声明在 answer 中"


def _delivered(partner: Partner, exchange: Exchange) -> Iterator[Said]:
    yield from _called(partner, exchange)
    if exchange.arrives_as:
        yield "arrives_as belongs to fetch", "arrives_as 仅用于 fetch"
    if not exchange.identity:
        yield "deliver and ask need an identity", "deliver 与 ask 需要 identity"


def _asked(partner: Partner, exchange: Exchange) -> Iterator[Said]:
    yield from _delivered(partner, exchange)
    if exchange.answer is not None and not (exchange.answer.mapping and exchange.answer.canonical):
        yield "ask needs answer.mapping and answer.canonical", "ask 需要 answer.mapping 与 answer.canonical"


def _fetched(partner: Partner, exchange: Exchange) -> Iterator[Said]:
    yield from _called(partner, exchange)
    served = partner.exchanges.get(exchange.arrives_as)
    if served is None or served.direction != "serve" or not served.event:
        known = ", ".join(name for name, one in partner.exchanges.items() if one.direction == "serve" and one.event)
        yield (
            f"arrives_as must name a serve exchange with an event: {known}",
            f"arrives_as 应为带 event 的 serve 交换：{known}",
        )
    elif exchange.answer is not None and exchange.answer.canonical != served.canonical:
        yield "answer.canonical must be that of arrives_as", "answer.canonical 应与 arrives_as 相同"
    if exchange.answer is not None and not exchange.answer.mapping:
        yield "fetch needs answer.mapping", "fetch 需要 answer.mapping"


def _redelivery(exchange: Exchange) -> Iterator[Said]:
    if (exchange.redelivery == "query_first") != (exchange.query is not None):
        yield "query_first goes with a query line", "query_first 应与 query 同时声明"
    if exchange.query is not None and "{delivery_id}" not in exchange.query.path:
        yield "the query path must hold {delivery_id}", "查询路径应含 {delivery_id}"


def _answers(exchange: Exchange) -> Iterator[Said]:
    answer = exchange.answer
    if answer is None:
        return
    meanings = set(answer.codes.values())
    if "done" not in meanings:
        yield "no answer code means done", "没有表示完成的应答码"
    if "pending" in meanings and exchange.direction != "fetch":
        yield "only a fetch may be pending", "只有 fetch 可以 pending"
    if any(answer.codes.get(code) != "refused" for code in answer.reasons):
        yield "reasons are for codes that mean refused", "reasons 仅用于 refused 的应答码"
    if bool(answer.mapping) != bool(answer.canonical):
        yield "answer.mapping and answer.canonical go together", "answer.mapping 与 answer.canonical 应同时声明"


_DIRECTIONS: Mapping[str, Callable[[Partner, Exchange], Iterator[Said]]] = {
    "serve": _served,
    "deliver": _delivered,
    "ask": _asked,
    "fetch": _fetched,
}
