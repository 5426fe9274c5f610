"""Describes every endpoint with every answer that it can give, as OpenAPI 3.1, from the same tables that answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hub.gateway.asked import JSON_TYPE, PROBLEM_TYPE
from hub.gateway.codes import by_status
from hub.gateway.settings import GatewaySettings
from hub.gateway.soap_port import SoapPort

Document = dict[str, Any]

TEXT: Document = {"type": "string"}
OBJECT: Document = {"type": "object"}
_ID_PREFIX = "/canonical/"
# What any signed call may meet, and what one with a document may meet besides.
_SIGNED = (400, 401, 403, 404, 408, 413, 429, 500, 503)
_WRITING = (*_SIGNED, 409, 415, 422)
_UNSIGNED = (408, 413, 500, 503)

_SIGNATURE_TEXTS = {
    "gjgxjhpt_rid": "Who calls (rid). The prefix gjzwfwpt_ and '-' for '_' are equal, in all four.",
    "gjgxjhpt_sid": "The service that is called (sid).",
    "gjgxjhpt_rtime": "When, in milliseconds since the epoch.",
    "gjgxjhpt_sign": "Base64(HMAC-SHA256(secret, sid+rid+rtime+LF+METHOD+LF+path-with-query+LF+hex(SHA-256(body)))).",
}


def openapi(soap: Mapping[str, SoapPort], settings: GatewaySettings) -> Document:
    """The document behind ``/openapi.json``.

    Args:
        soap: the ports, named in the SOAP endpoint's description.
        settings: the release and the request schemas.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Dukou 渡口",
            "version": settings.version,
            "description": "A data-exchange hub for internet + real-estate registration (互联网+不动产登记数据交换).",
        },
        "paths": {**_case_paths(settings), **_traffic_paths(settings), **_soap_paths(soap), **_own_paths()},
        "components": {
            "schemas": {**_ANSWERS, **_request_schemas(settings.schemas)},
            "parameters": {
                name: {"name": name, "in": "header", "required": True, "schema": TEXT, "description": text}
                for name, text in _SIGNATURE_TEXTS.items()
            }
            | {
                "IdempotencyKey": {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "required": False,
                    "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
                    "description": "The same key with the same body gives the first answer again.",
                }
            },
        },
    }


def _case_paths(settings: GatewaySettings) -> Document:
    number = _path_parameter("no", "YWH or unified number (业务号或接件统一编码)")
    return {
        "/api/v1/cases": {
            "post": _posting("applyForRegistration", "登记申请 / apply", "application", settings, ("202", "Accepted")),
        },
        "/api/v1/cases/{no}": {
            "parameters": [number],
            "get": _reading("readCase", "办件 / one case", "Case"),
        },
        "/api/v1/cases/{no}/timeline": {
            "parameters": [number],
            "get": _reading("readTimeline", "办件过程 / what happened in a case", "Timeline"),
        },
        "/api/v1/cases/{no}/corrections": {
            "parameters": [number],
            "post": _posting("correctCase", "补正 / correct", "correction", settings, ("202", "Accepted")),
        },
        "/api/v1/cases/{no}/withdrawal": {
            "parameters": [number],
            "post": _posting(
                "withdrawCase",
                "撤回 / withdraw (an empty body is allowed)",
                "withdrawal",
                settings,
                ("202", "Accepted"),
            ),
        },
    }


def _traffic_paths(settings: GatewaySettings) -> Document:
    exchange = _posting(
        "callExchange", "接入方交换 / a partner's declared exchange", "exchange", settings, ("200", "Exchanged")
    )
    exchange["requestBody"]["content"]["application/xml"] = {"schema": TEXT}
    search = _posting("searchMessages", "查询消息 / search one's own traffic", "search", settings, ("200", "Messages"))
    search["parameters"].pop()
    return {
        "/api/v1/exchanges/{partner}/{exchange}": {
            "parameters": [_path_parameter("partner", "接入方"), _path_parameter("exchange", "交换")],
            "post": exchange,
        },
        "/api/v1/messages/search": {"post": search},
        "/api/v1/messages/{id}": {
            "parameters": [_path_parameter("id", "消息标识")],
            "get": _reading("readMessage", "消息 / one message", "Message"),
        },
    }


def _soap_paths(soap: Mapping[str, SoapPort]) -> Document:
    listed = "; ".join(f"{partner}: {', '.join(sorted(port.operations))}" for partner, port in sorted(soap.items()))
    media = {"text/xml": {"schema": TEXT}, "application/soap+xml": {"schema": TEXT}}
    statuses = (200, *(status for status in _WRITING if status not in (409, 422)))
    return {
        "/soap/{partner}": {
            "parameters": [_path_parameter("partner", "接入方")],
            "post": {
                "operationId": "callSoap",
                "summary": "SOAP 1.1 and 1.2, document/literal",
                "description": f"Operations: {listed}. A SOAP 1.1 fault travels with 500, as its binding wants.",
                "parameters": _signature(),
                "requestBody": {"required": True, "content": media},
                "responses": {str(status): {"description": _says(status), "content": media} for status in statuses},
            },
            "get": {
                "operationId": "readContract",
                "summary": "The WSDL (?wsdl) and its schemas (?xsd=name); unsigned",
                "parameters": [_query_parameter("wsdl"), _query_parameter("xsd")],
                "responses": {
                    "200": {"description": "WSDL or XSD", "content": {"text/xml": {"schema": TEXT}}},
                    **_problems((404, *_UNSIGNED)),
                },
            },
        }
    }


def _own_paths() -> Document:
    texts = {
        "/openapi.json": ("readDescription", JSON_TYPE, OBJECT),
        "/docs": ("readDocs", "text/html", TEXT),
        "/healthz": ("isAlive", JSON_TYPE, OBJECT),
        "/readyz": ("isReady", JSON_TYPE, OBJECT),
        "/metrics": ("readMetrics", "text/plain", TEXT),
    }
    return {
        path: {
            "get": {
                "operationId": name,
                "summary": path.strip("/"),
                "responses": {
                    "200": {"description": "as asked", "content": {media: {"schema": schema}}},
                    **_problems(_UNSIGNED),
                },
            }
        }
        for path, (name, media, schema) in texts.items()
    }


def _posting(name: str, summary: str, schema: str, settings: GatewaySettings, good: tuple[str, str]) -> Document:
    status, answer = good
    body = {"$ref": f"#/components/schemas/{schema}"} if schema in settings.schemas else OBJECT
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [*_signature(), {"$ref": "#/components/parameters/IdempotencyKey"}],
        "requestBody": {"required": schema != "withdrawal", "content": {JSON_TYPE: {"schema": body}}},
        "responses": {
            status: {
                "description": "taken; a repeat carries Idempotent-Replayed: true",
                "headers": {"Idempotent-Replayed": {"schema": TEXT}},
                "content": {JSON_TYPE: {"schema": {"$ref": f"#/components/schemas/{answer}"}}},
            },
            **_problems(_WRITING),
        },
    }


def _reading(name: str, summary: str, answer: str) -> Document:
    content = {JSON_TYPE: {"schema": {"$ref": f"#/components/schemas/{answer}"}}}
    return {
        "operationId": name,
        "summary": summary,
        "parameters": _signature(),
        "responses": {"200": {"description": "found", "content": content}, **_problems(_SIGNED)},
    }


def _problems(statuses: tuple[int, ...]) -> Document:
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {str(status): {"description": _says(status), "content": content} for status in sorted(statuses)}


def _says(status: int) -> str:
    return ", ".join(by_status().get(status, ["answered"]))


def _signature() -> list[Document]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in _SIGNATURE_TEXTS]


def _path_parameter(name: str, text: str) -> Document:
    return {"name": name, "in": "path", "required": True, "schema": TEXT, "description": text}


def _query_parameter(name: str) -> Document:
    return {"name": name, "in": "query", "required": False, "allowEmptyValue": True, "schema": TEXT}


def _request_schemas(schemas: Mapping[str, Mapping[str, object]]) -> Document:
    return {_component(name): _placed(schema, _component(name)) for name, schema in schemas.items()}


def _component(name: str) -> str:
    # A component's name may not hold a slash: registry/progress is shown as registry.progress.
    return name.replace("/", ".")


def _placed(node: object, home: str) -> Any:  # noqa: ANN401 - a JSON document
    """A contract as a component: its identifier goes, its references point to where its parts now stand."""
    if isinstance(node, Mapping):
        return {
            key: _reference(value, home) if key == "$ref" and isinstance(value, str) else _placed(value, home)
            for key, value in node.items()
            if key not in ("$id", "$schema")
        }
    if isinstance(node, list | tuple):
        return [_placed(item, home) for item in node]
    return node


def _reference(reference: str, home: str) -> str:
    address, _, pointer = reference.partition("#")
    target = _component(address.removeprefix(_ID_PREFIX)) if address else home
    return f"#/components/schemas/{target}{pointer}"


def _row(**fields: str) -> Document:
    return {
        "type": "object",
        "required": list(fields),
        "additionalProperties": False,
        "properties": {name: {"type": kind} for name, kind in fields.items()},
    }


_FAULT = _row(path="string", code="string", en="string", zh="string")
_MESSAGE = _row(
    id="string",
    tenant="string",
    partner="string",
    exchange="string",
    direction="string",
    case="string",
    state="string",
    attempts="integer",
    reason="string",
    created="string",
    updated="string",
)
_PROBLEM = _row(type="string", title="string", title_zh="string", status="integer", code="string", faults="array")
_PROBLEM["properties"]["faults"]["items"] = _FAULT
_ACCEPTED = _row(case="string", message="string", state="string", missing="array", status_url="string")
_ACCEPTED["properties"]["missing"]["items"] = TEXT
_ANSWERS: Document = {
    "Problem": _PROBLEM,
    "Accepted": _ACCEPTED,
    "Exchanged": _row(message="string", state="string", code="string"),
    "Case": _row(
        case="string",
        unified_no="string",
        matter="string",
        matter_version="integer",
        tenant="string",
        state="string",
        step="string",
        waiting_for="string",
        reason="string",
        updated="string",
    ),
    "Timeline": {
        "type": "array",
        "items": _row(
            at="string", step="string", partner="string", exchange="string", message="string", state="string"
        ),
    },
    "Message": _MESSAGE,
    "Messages": {
        "type": "object",
        "required": ["messages"],
        "additionalProperties": False,
        "properties": {"messages": {"type": "array", "items": {"$ref": "#/components/schemas/Message"}}},
    },
}
