import json
import re

import jsonschema
import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from lxml import etree

from hub.gateway.codes import CODES
from hub.validation.faults import known_codes
from tests.gateway.conftest import CALLERS, signature

LISTED = {
    ("post", "/api/v1/cases"),
    ("post", "/api/v1/cases/{no}/corrections"),
    ("post", "/api/v1/cases/{no}/withdrawal"),
    ("get", "/api/v1/cases/{no}"),
    ("get", "/api/v1/cases/{no}/timeline"),
    ("post", "/api/v1/exchanges/{partner}/{exchange}"),
    ("post", "/api/v1/messages/search"),
    ("get", "/api/v1/messages/{id}"),
    ("post", "/soap/{partner}"),
    ("get", "/soap/{partner}"),
    ("get", "/openapi.json"),
    ("get", "/docs"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
}


def operations(described):
    return {
        (method, path): operation
        for path, item in described["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }


def references(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_endpoint_is_listed_and_every_reference_leads_somewhere(gateway):
    described = gateway.raw("GET", "/openapi.json").json
    assert described == orjson.loads(orjson.dumps(gateway.described))
    assert set(operations(described)) == LISTED
    for reference in references(described):
        node = described
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    for schema in described["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    names = [operation["operationId"] for operation in operations(described).values()]
    assert len(set(names)) == len(names)


def test_every_code_is_told_with_its_status(gateway):
    described = gateway.described
    for (method, path), operation in operations(described).items():
        for status, answer in operation["responses"].items():
            codes = {code for code, entry in CODES.items() if entry.status == int(status)}
            assert codes <= set(re.split(r", ", answer["description"])), (method, path)
        placeholders = set(re.findall(r"{(\w+)}", path))
        assert {row["name"] for row in described["paths"][path].get("parameters", [])} == placeholders


def test_the_codes_of_documents_are_codes_of_the_gateway():
    assert set(known_codes()) <= set(CODES)


def test_signed_calls_name_their_headers(gateway):
    wanted = {f"#/components/parameters/gjgxjhpt_{name}" for name in ("rid", "sid", "rtime", "sign")}
    for (_, path), operation in operations(gateway.described).items():
        found = {row.get("$ref") for row in operation.get("parameters", [])}
        signed = path.startswith("/api/") or operation["operationId"] == "callSoap"
        assert (wanted <= found) is signed


def test_the_docs_page_needs_nothing_from_the_internet(gateway):
    page = gateway.raw("GET", "/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    text = page.body.decode()
    assert "/api/v1/exchanges/{partner}/{exchange}" in text
    assert "<script" not in text
    assert "http://" not in text
    assert "https://" not in text


SEGMENTS = st.one_of(
    st.sampled_from(["hall", "tax", "registry", "progress", "clearance", "case_query", "202600000001", "00000001"]),
    st.text(alphabet="abc019%-._~!$&'()*+,;=:@", min_size=1, max_size=12),
    st.binary(min_size=1, max_size=8).map(lambda raw: "".join(f"%{byte:02X}" for byte in raw)),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
BODIES = st.one_of(
    JSON.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=200),
    st.sampled_from([b"", b"{}", b"<a/>", b"<!DOCTYPE a><a/>", b"\xff", b'{"SJ":[]}', b'{"state":"applied"}']),
)
KEYS = {"/api/v1/messages": "messages", "/soap": "submitClearance", "/api/v1/exchanges": "progress"}
VISIBLE = st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=30)


def conforms(described, operation, answer):
    documented = operation["responses"]
    assert str(answer.status) in documented, answer.status
    content = documented[str(answer.status)]["content"]
    media = answer.headers["content-type"].partition(";")[0]
    assert media in content, (answer.status, media)
    if media.endswith("json"):
        schema = {**content[media]["schema"], "components": described["components"]}
        jsonschema.validate(answer.json, schema)
    elif media not in {"text/plain", "text/html"}:
        etree.fromstring(answer.body)


def test_no_call_meets_an_undocumented_answer_or_a_5xx(gateway):
    described = gateway.described
    table = sorted(operations(described))

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def run(data):
        method, template = data.draw(st.sampled_from(table))
        target = re.sub(r"{\w+}", lambda _: data.draw(SEGMENTS), template)
        target += data.draw(st.sampled_from(["", "", "?wsdl", "?xsd=tax.xsd", "?q=%ff&x", "?xsd=%00"]))
        body = data.draw(BODIES) if method == "post" else b""
        headers = data.draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "Idempotency-Key": VISIBLE,
                    "Content-Type": st.sampled_from(
                        ["application/json", "text/xml", "text/plain", "application/soap+xml"]
                    ),
                    "Content-Encoding": st.sampled_from(["gzip", "identity"]),
                },
            )
        )
        if data.draw(st.booleans()):
            who = data.draw(st.sampled_from(sorted(CALLERS)))
            key = next((key for start, key in KEYS.items() if template.startswith(start)), "cases")
            sid = CALLERS[who].sids.get(key, "s_none")
            headers = {**headers, **signature(CALLERS[who], sid, method.upper(), target, body)}
        answer = gateway.raw(method.upper(), target, body, headers)
        assert answer.status < 500
        if answer.status in (404, 405) and answer.headers["content-type"].endswith("json"):
            assert answer.code in CODES
            if answer.code in ("not_found", "method_not_allowed"):
                return  # a slash, a dot or nothing in a segment: another address
        conforms(described, described["paths"][template][method], answer)

    run()
