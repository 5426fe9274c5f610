"""The SOAP wire against the project's own gateway, and against a server that misbehaves at any byte."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from lxml import etree

from connectors.protocols.soap import SoapWire
from connectors.protocols.soap_http import ANSWER_LIMIT
from hub.errors import HubError, Misconfigured, Refused, Transient, Unknown, Unsent
from hub.model.declarations import AnswerRule, Exchange, Partner
from hub.ports import Incoming, Outgoing
from tests.connectors.test_rest import Script, Seen, Server, reset, say, send_raw
from tests.gateway.conftest import CALLERS, ENVELOPES, Served, now_ms, signature, started

ROOT = Path(__file__).parents[2]
NOW = 1_700_000_000_000
DELIVERY = "0197f0a0000070008000000000000001"
PERSONAL = "测试甲"
PASSWORD = "password-of-the-test"
SECRETS = {"housing": {"username": "dukou", "password": PASSWORD, "token": "token-of-the-test"}}
PORTS = {"1.1": "Soap11", "1.2": "Soap12"}
VERSIONS = pytest.mark.parametrize("version", ["1.1", "1.2"])
SPACE = "urn:test:housing"

WSDL = f"""<?xml version="1.0" encoding="UTF-8"?>
<wsdl:definitions xmlns:wsdl="http://schemas.xmlsoap.org/wsdl/" xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/"
    xmlns:soap12="http://schemas.xmlsoap.org/wsdl/soap12/" xmlns:xs="http://www.w3.org/2001/XMLSchema"
    xmlns:t="{SPACE}" targetNamespace="{SPACE}" name="housing">
  <wsdl:types><xs:schema targetNamespace="{SPACE}" elementFormDefault="qualified"><xs:include schemaLocation="housing.xsd"/></xs:schema></wsdl:types>
  %(messages)s
  <wsdl:portType name="P">%(operations)s</wsdl:portType>
  <wsdl:binding name="Soap11" type="t:P"><soap:binding style="document" transport="http://schemas.xmlsoap.org/soap/http"/>%(bound11)s</wsdl:binding>
  <wsdl:binding name="Soap12" type="t:P"><soap12:binding style="document" transport="http://schemas.xmlsoap.org/soap/http"/>%(bound12)s</wsdl:binding>
  <wsdl:service name="S">
    <wsdl:port name="Soap11" binding="t:Soap11"><soap:address location="http://wsdl.invalid/nowhere"/></wsdl:port>
    <wsdl:port name="Soap12" binding="t:Soap12"><soap12:address location="http://wsdl.invalid/nowhere"/></wsdl:port>
  </wsdl:service>
</wsdl:definitions>"""
OPERATIONS = ("contract", "kzBdcQL", "delivery")
XSD = f"""<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="{SPACE}" elementFormDefault="qualified">
  <xs:element name="contract"><xs:complexType><xs:sequence>
    <xs:element name="HTBH" type="xs:string"/><xs:element name="JE" type="xs:decimal" minOccurs="0"/>
    <xs:element name="QLR" minOccurs="0" maxOccurs="unbounded"><xs:complexType><xs:sequence><xs:element name="QLRMC" type="xs:string"/></xs:sequence></xs:complexType></xs:element>
  </xs:sequence></xs:complexType></xs:element>
  <xs:element name="contractResponse"><xs:complexType><xs:sequence>
    <xs:element name="code" type="xs:string"/><xs:element name="JE" type="xs:decimal" minOccurs="0"/><xs:element name="TS" type="xs:integer" minOccurs="0"/>
    <xs:element name="BARQ" type="xs:date" minOccurs="0"/><xs:element name="BASJ" type="xs:dateTime" minOccurs="0"/>
    <xs:element name="YX" type="xs:boolean" minOccurs="0"/><xs:element name="FJ" type="xs:base64Binary" minOccurs="0"/>
    <xs:element name="BZ" type="xs:string" minOccurs="0" nillable="true"/>
    <xs:element name="DY" minOccurs="0" maxOccurs="unbounded"><xs:complexType><xs:sequence><xs:element name="MJ" type="xs:decimal"/></xs:sequence><xs:attribute name="DYH" type="xs:string"/></xs:complexType></xs:element>
  </xs:sequence></xs:complexType></xs:element>
  <xs:element name="kzBdcQL"><xs:complexType><xs:sequence><xs:element name="usermarker" type="xs:string"/><xs:element name="text" type="xs:string" minOccurs="0"/></xs:sequence></xs:complexType></xs:element>
  <xs:element name="kzBdcQLResponse"><xs:complexType><xs:sequence><xs:element name="return" type="xs:string" minOccurs="0"/></xs:sequence></xs:complexType></xs:element>
  <xs:element name="delivery"><xs:complexType><xs:sequence><xs:element name="id" type="xs:string"/></xs:sequence></xs:complexType></xs:element>
  <xs:element name="deliveryResponse"><xs:complexType><xs:sequence><xs:element name="code" type="xs:string"/></xs:sequence></xs:complexType></xs:element>
</xs:schema>"""


def wsdl_text() -> str:
    def bound(soap: str) -> str:
        return "".join(
            f'<wsdl:operation name="{n}"><{soap}:operation soapAction="{SPACE}/{n}"/><wsdl:input><{soap}:body use="literal"/></wsdl:input>'
            f'<wsdl:output><{soap}:body use="literal"/></wsdl:output></wsdl:operation>'
            for n in OPERATIONS
        )

    messages = "".join(
        f'<wsdl:message name="{n}{end}"><wsdl:part name="parameters" element="t:{n}{tail}"/></wsdl:message>'
        for n in OPERATIONS
        for end, tail in (("In", ""), ("Out", "Response"))
    )
    operations = "".join(
        f'<wsdl:operation name="{n}"><wsdl:input message="t:{n}In"/><wsdl:output message="t:{n}Out"/></wsdl:operation>'
        for n in OPERATIONS
    )
    return WSDL % {
        "messages": messages,
        "operations": operations,
        "bound11": bound("soap"),
        "bound12": bound("soap12"),
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project" / "schemas" / "housing"
    folder.mkdir(parents=True)
    (folder / "housing.wsdl").write_text(wsdl_text(), "utf-8")
    (folder / "housing.xsd").write_text(XSD, "utf-8")
    return tmp_path / "project"


@pytest.fixture
def serve() -> Iterator[Callable[[Script], Server]]:
    servers: list[Server] = []

    def start(script: Script) -> Server:
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def open_wire(root: Path) -> Iterator[Callable[..., SoapWire]]:
    wires: list[SoapWire] = []

    def make(url: str, secrets: Any = SECRETS, **more: Any) -> SoapWire:
        wires.append(SoapWire(lambda _: url, secrets, lambda: NOW, **{"root": root, **more}))
        return wires[-1]

    yield make
    for wire in wires:
        wire.close()


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    for start in started():
        yield start()


def checked(options: dict[str, Any]) -> dict[str, Any]:
    """Options that the schema allows: what a test uses, a connector.yaml may say."""
    schema = json.loads((ROOT / "schemas/declarations/options_soap.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(options, schema)
    return options


def outgoing(version: str = "1.1", document: object = None, **changes: Any) -> Outgoing:
    options = checked({"port": PORTS[version], **changes.pop("options", {})})
    exchange = Exchange(
        partner="housing",
        name="contract",
        title_zh="合同查询",
        direction="ask",
        lane="live",
        protocol="soap",
        contract="",
        zones=("extranet",),
        source="ours",
        redelivery="query_first",
        operation="contract",
        options=options,
    )
    purpose = changes.pop("purpose", "send")
    auth = changes.pop("auth", {"scheme": "none"})
    wsdl = changes.pop("wsdl", "schemas/housing/housing.wsdl")
    partner = Partner("housing", "住建", "Housing", {}, 0.5, 0.6, 4, auth, {}, wsdl)
    document = {"HTBH": "H1", "QLR": [{"QLRMC": PERSONAL}]} if document is None else document
    return Outgoing(partner, replace(exchange, **changes), DELIVERY, document, purpose)


def envelope(inner: str, version: str = "1.1", before: str = "") -> bytes:
    return f'{before}<e:Envelope xmlns:e="{ENVELOPES[version]}"><e:Body>{inner}</e:Body></e:Envelope>'.encode()


def answer(fields: str, version: str = "1.1", name: str = "contractResponse", status: int = 200) -> Script:
    inner = f'<r:{name} xmlns:r="{SPACE}" xmlns="{SPACE}">{fields}</r:{name}>'
    return say(status, raw=envelope(inner, version))


def fault(version: str, code: str, detail: str = "", status: int = 500, subcode: str = "") -> Script:
    if version == "1.1":
        inner = f"<e:Fault><faultcode>e:{code}</faultcode><faultstring>{PERSONAL}</faultstring>{detail and f'<detail>{detail}</detail>'}</e:Fault>"
    else:
        sub = subcode and f"<e:Subcode><e:Value>x:{subcode}</e:Value></e:Subcode>"
        inner = (
            f"<e:Fault><e:Code><e:Value>e:{code}</e:Value>{sub}</e:Code><e:Reason><e:Text xml:lang='zh'>{PERSONAL}</e:Text></e:Reason>"
            f"{detail and f'<e:Detail>{detail}</e:Detail>'}</e:Fault>"
        )
    return say(status, raw=envelope(inner, version))


def trouble(wire: SoapWire, sent: Outgoing | None = None) -> HubError:
    with pytest.raises(HubError) as caught:
        wire(sent or outgoing())
    said = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    for secret in (PERSONAL, PASSWORD, "127.0.0.1:", DELIVERY):
        assert secret not in said
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value


# The project's own gateway ---------------------------------------------------------------------------------------


def to_gateway(version: str, document: object, operation: str = "submitClearance") -> Outgoing:
    signed = signature(CALLERS["tax_national"], "s_s", "POST", "/soap/tax", b"", now_ms())
    options = {"port": f"Tax{PORTS[version]}", "headers": signed, "path": "/soap/tax"}
    sent = outgoing("1.1", document, operation=operation)
    # The national profile signs no body; the gateway's own headers are what the schema of options does not let pass.
    exchange = replace(sent.exchange, options=options)
    return replace(sent, exchange=exchange, partner=replace(sent.partner, wsdl="schemas/tax/tax.wsdl", read_s=10))


@VERSIONS
def test_the_gateway_takes_what_the_wire_sends(gateway: Served, open_wire: Any, version: str) -> None:
    wire = open_wire(gateway.url(""), root=ROOT)
    clearance = {"ywsldh": f"2026-{version}", "wszt": "1", "nsrxx": [{"nsrmc": PERSONAL, "sjyzhj": 1e-7}]}
    incoming = wire(to_gateway(version, clearance))
    assert incoming.status == 200
    assert isinstance(incoming.document, dict)
    assert incoming.document["code"] == "0000"
    assert set(incoming.document) == {"ticket", "code"}
    assert gateway.desk.calls[-1].document == clearance
    assert gateway.desk.calls[-1].exchange == "clearance"


@VERSIONS
def test_the_gateways_faults_are_read(gateway: Served, open_wire: Any, version: str) -> None:
    wire = open_wire(gateway.url(""), root=ROOT)
    sender = {"1.1": "Client", "1.2": "Sender"}[version]
    incoming = wire(to_gateway(version, {"ywsldh": "1" * 51, "wszt": "1"}))
    assert (incoming.status, incoming.document) == (400, {"fault": {"code": sender, "detail_code": "field_type"}})
    gateway.desk.failure = Refused("tenant_forbidden", PERSONAL, PERSONAL, 404)
    incoming = wire(to_gateway(version, {"ywsldh": "1", "wszt": "1"}))
    assert incoming.document == {"fault": {"code": sender, "detail_code": "tenant_forbidden"}}
    gateway.desk.failure = Transient("locked", "locked", "锁", 7)
    error = trouble(wire, to_gateway(version, {"ywsldh": "1", "wszt": "1"}))
    assert (type(error), error.code) == (Unknown, "partner_fault")
    gateway.desk.failure = None
    error = trouble(wire, to_gateway(version, {"ywsldh": "1"}, "queryCase"))
    assert (type(error), error.code) == (Misconfigured, "credentials_refused")


# On the wire -----------------------------------------------------------------------------------------------------


@VERSIONS
def test_what_travels(serve: Any, open_wire: Any, version: str) -> None:
    server = serve(answer("<code>0000</code>", version))
    sent = outgoing(
        version,
        {"HTBH": "H1", "JE": 1e20, "QLR": [{"QLRMC": f"{PERSONAL}<&"}]},
        options={"path": "/ws/contract", "headers": {"X-Area": "510199"}},
        auth={"scheme": "bearer"},
    )
    assert open_wire(server.url + "/base/")(sent).document == {"code": "0000"}
    (seen,) = server.seen
    assert (seen.method, seen.target) == ("POST", "/base/ws/contract")
    assert seen.headers["x-delivery-id"] == DELIVERY
    assert seen.headers["x-area"] == "510199"
    assert seen.headers["authorization"] == "Bearer token-of-the-test"
    assert seen.headers["user-agent"] == "dukou"
    media, action = seen.headers["content-type"], f'"{SPACE}/contract"'
    if version == "1.1":
        assert media.startswith("text/xml")
        assert seen.headers["soapaction"] == action
    else:
        assert media.startswith("application/soap+xml")
        assert f"action={action}" in media
    tree = etree.fromstring(seen.body)
    assert tree.tag == f"{{{ENVELOPES[version]}}}Envelope"
    assert tree.findtext(f".//{{{SPACE}}}JE") == "100000000000000000000"
    assert tree.findtext(f".//{{{SPACE}}}QLRMC") == f"{PERSONAL}<&"
    assert tree.find(f"{{{ENVELOPES[version]}}}Header") is None


def test_an_answer_becomes_plain_values(serve: Any, open_wire: Any) -> None:
    fields = (
        "<code>0000</code><JE>12.50</JE><TS>3</TS><BARQ>2026-03-15</BARQ><BASJ>2026-03-15T10:30:18+08:00</BASJ><YX>true</YX>"
        '<FJ>AAE=</FJ><BZ xmlns:i="http://www.w3.org/2001/XMLSchema-instance" i:nil="true"/><DY DYH="1"><MJ>80</MJ></DY>'
    )
    assert open_wire(serve(answer(fields)).url)(outgoing()).document == {
        "code": "0000",
        "JE": 12.5,
        "TS": 3,
        "BARQ": "2026-03-15",
        "BASJ": "2026-03-15T10:30:18+08:00",
        "YX": True,
        "FJ": "AAE=",
        "DY": [{"MJ": 80, "DYH": "1"}],
    }


@pytest.mark.parametrize("digest", [True, False])
@VERSIONS
def test_the_username_token_on_the_wire(serve: Any, open_wire: Any, version: str, digest: bool) -> None:
    server = serve(answer("<code>0000</code>", version))
    wire = open_wire(server.url)
    sent = outgoing(version, options={"security": {"username_token": {"digest": digest}}})
    wire(sent)
    wire(sent)
    nonces = []
    for seen in server.seen:
        tree = etree.fromstring(seen.body)
        oasis = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-"
        (header,) = tree.findall(f"{{{ENVELOPES[version]}}}Header")
        (token,) = header.iter(f"{{{oasis}wssecurity-secext-1.0.xsd}}UsernameToken")
        part = {etree.QName(child).localname: child for child in token}
        assert part["Username"].text == "dukou"
        if not digest:
            assert part["Password"].get("Type") == f"{oasis}username-token-profile-1.0#PasswordText"
            assert part["Password"].text == PASSWORD
            continue
        assert part["Password"].get("Type") == f"{oasis}username-token-profile-1.0#PasswordDigest"
        assert part["Created"].text == "2023-11-14T22:13:20Z"
        nonce = base64.b64decode(part["Nonce"].text or "")
        nonces.append(nonce)
        made = hashlib.sha1(nonce + b"2023-11-14T22:13:20Z" + PASSWORD.encode()).digest()
        assert part["Password"].text == base64.b64encode(made).decode()
        assert PASSWORD.encode() not in seen.body
    assert len(set(nonces)) == len(nonces)
    missing = trouble(open_wire(server.url, {}), sent)
    assert (type(missing), missing.code) == (Misconfigured, "credentials_missing")
    assert "partners.housing.username, partners.housing.password" in missing.en
    # A call without a token after one with it: nothing of it stays behind.
    wire(outgoing(version))
    assert b"UsernameToken" not in server.seen[-1].body


def test_a_court_talks_in_texts(serve: Any, open_wire: Any) -> None:
    def b64(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    inside = f'<Message ErrorMSG=""><Data><BDCKZQQ XM="{b64(PERSONAL)}"/><LB>{b64("11")}</LB></Data></Message>'
    server = serve(answer(f"<return>\n{b64(inside)}</return>", name="kzBdcQLResponse"))
    options = {"user_arg": "usermarker", "body_arg": "text", "encode": "base64", "values": "base64", "answer": "xml"}
    document = {"CXQQDHINFO": {"CXQQDH": PERSONAL}}
    incoming = open_wire(server.url)(outgoing("1.1", document, operation="kzBdcQL", options=options))
    row = {"ErrorMSG": "", "Data": {"BDCKZQQ": [{"XM": PERSONAL}], "LB": "11"}}
    assert incoming.document == {"Message": [row]}
    tree = etree.fromstring(server.seen[0].body)
    user = base64.b64decode(tree.findtext(f".//{{{SPACE}}}usermarker") or "").decode()
    text = base64.b64decode(tree.findtext(f".//{{{SPACE}}}text") or "").decode()
    assert user.endswith(
        f"<USERMARKER><USERNAME>{b64('dukou')}</USERNAME><PASSWORD>{b64(PASSWORD)}</PASSWORD></USERMARKER>"
    )
    assert text.endswith(f"<CXQQDHINFO><CXQQDH>{b64(PERSONAL)}</CXQQDH></CXQQDHINFO>")


def test_a_text_as_it_is_and_an_answer_of_one_field(serve: Any, open_wire: Any) -> None:
    server = serve(answer("<return>0000</return>", name="kzBdcQLResponse"))
    sent = outgoing("1.1", "plain", operation="kzBdcQL", options={"body_arg": "usermarker"})
    assert open_wire(server.url)(sent).document == {"return": "0000"}
    assert etree.fromstring(server.seen[0].body).findtext(f".//{{{SPACE}}}usermarker") == "plain"
    nothing = serve(answer("", name="kzBdcQLResponse"))
    assert open_wire(nothing.url)(sent).document == {}


@pytest.mark.parametrize("text", ["no base64!", base64.b64encode(b"<!DOCTYPE a><a/>").decode(), "PGE+"])
def test_a_text_that_is_no_xml(serve: Any, open_wire: Any, text: str) -> None:
    server = serve(answer(f"<return>{text}</return>", name="kzBdcQLResponse"))
    options = {"body_arg": "usermarker", "encode": "base64", "answer": "xml"}
    error = trouble(open_wire(server.url), outgoing("1.1", "x", operation="kzBdcQL", options=options))
    assert (type(error), error.code) == (Unknown, "answer_unreadable")


# Faults ----------------------------------------------------------------------------------------------------------

CODES = AnswerRule("", "/head/code", {"0000": "done", "sealed": "refused"})


@VERSIONS
@pytest.mark.parametrize("status", [500, 400, 200])
def test_a_fault_of_ours(serve: Any, open_wire: Any, version: str, status: int) -> None:
    sender = {"1.1": "Client", "1.2": "Sender"}[version]
    script = fault(version, sender, f"<x:why xmlns:x='urn:x'><x:code>2001</x:code>{PERSONAL}</x:why>", status)
    incoming = open_wire(serve(script).url)(outgoing(version))
    assert (incoming.status, incoming.document) == (400, {"fault": {"code": sender, "detail_code": "2001"}})
    assert PERSONAL not in repr(incoming)


@VERSIONS
def test_a_fault_of_theirs_counts_only_where_it_is_declared(serve: Any, open_wire: Any, version: str) -> None:
    receiver = {"1.1": "Server", "1.2": "Receiver"}[version]
    wire = open_wire(serve(fault(version, receiver, "<code>sealed</code>")).url)
    error = trouble(wire, outgoing(version))
    assert (type(error), error.code) == (Unknown, "partner_fault")
    incoming = wire(outgoing(version, answer=CODES))
    told = {"code": receiver, "detail_code": "sealed"}
    assert (incoming.status, incoming.document) == (500, {"fault": told, "head": {"code": "sealed"}})
    beside = replace(CODES, code_at="/fault/detail_code")
    assert wire(outgoing(version, answer=beside)).document == {"fault": told}


def test_codes_that_may_be_anything_are_not_told(serve: Any, open_wire: Any) -> None:
    wire = open_wire(serve(fault("1.1", "Client", f"<code>{PERSONAL}</code>")).url)
    assert wire(outgoing()).document == {"fault": {"code": "Client", "detail_code": ""}}
    named = open_wire(serve(fault("1.1", "Client.Data", "<code>1</code><errcode>E7</errcode>")).url)
    incoming = named(outgoing(options={"fault_code": "errcode"}))
    assert incoming.document == {"fault": {"code": "Client.Data", "detail_code": "E7"}}
    sub = open_wire(serve(fault("1.2", "Sender", subcode="sealed")).url)
    assert sub(outgoing("1.2")).document == {"fault": {"code": "Sender", "detail_code": "sealed"}}


def test_a_fault_in_the_default_namespace(serve: Any, open_wire: Any) -> None:
    raw = (
        f'<Envelope xmlns="{ENVELOPES["1.1"]}"><Body><Fault><faultcode xmlns="">Client</faultcode>'
        '<detail xmlns=""><code>2001</code></detail></Fault></Body></Envelope>'
    )
    incoming = open_wire(serve(say(500, raw=raw.encode())).url)(outgoing())
    assert incoming.document == {"fault": {"code": "Client", "detail_code": "2001"}}


@VERSIONS
def test_a_token_that_is_not_believed(serve: Any, open_wire: Any, version: str) -> None:
    if version == "1.1":
        script = say(500, raw=envelope("<e:Fault><faultcode>wsse:FailedAuthentication</faultcode></e:Fault>"))
    else:
        script = fault("1.2", "Sender", subcode="FailedAuthentication")
    error = trouble(open_wire(serve(script).url), outgoing(version))
    assert (type(error), error.code) == (Misconfigured, "credentials_refused")


def test_a_query(serve: Any, open_wire: Any) -> None:
    query = {"operation": "delivery", "delivery_arg": "id", "missing": ["4004"]}
    server = serve(answer("<code>0000</code>", name="deliveryResponse"))
    incoming = open_wire(server.url)(outgoing(purpose="query", options={"query": query}))
    assert (incoming.status, incoming.document) == (200, {"code": "0000"})
    assert etree.fromstring(server.seen[0].body).findtext(f".//{{{SPACE}}}id") == DELIVERY
    assert PERSONAL.encode() not in server.seen[0].body
    missing = serve(fault("1.1", "Client", "<code>4004</code>"))
    assert open_wire(missing.url)(outgoing(purpose="query", options={"query": query})).status == 404
    other = serve(fault("1.1", "Client", "<code>4005</code>"))
    assert open_wire(other.url)(outgoing(purpose="query", options={"query": query})).status == 400
    error = trouble(open_wire(server.url), outgoing(purpose="query"))
    assert (type(error), error.code) == (Misconfigured, "query_undeclared")


# Bad answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(send_raw(1.5), id="silence"),
        pytest.param(send_raw(), id="closed without an answer"),
        pytest.param(reset, id="reset"),
        pytest.param(send_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n<e:"), id="half a body"),
        pytest.param(
            send_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n", *[b" ", 0.1] * 12), id="a body drop by drop"
        ),
        pytest.param(send_raw(b"not HTTP at all\r\n\r\n"), id="not HTTP"),
        pytest.param(say(200, raw=b""), id="empty"),
        pytest.param(say(204), id="204"),
        pytest.param(say(500, raw=b"<html>"), id="500 without a fault"),
        pytest.param(answer("<code>0000</code>", status=500), id="500 with an answer"),
        pytest.param(say(502, raw=b"<html>"), id="502"),
        pytest.param(say(504), id="504"),
        pytest.param(say(408), id="408"),
        pytest.param(say(200, raw=b" " * (ANSWER_LIMIT + 1)), id="too long"),
    ],
)
def test_an_answer_that_is_lost(serve: Any, open_wire: Any, script: Script) -> None:
    error = trouble(open_wire(serve(script).url))
    assert (type(error), error.code) == (Unknown, "answer_lost")


DOCTYPE = "<!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/hostname'>]>"
BOMB = "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>]>"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"<html/>", id="no envelope"),
        pytest.param(b"\xff\xfe\x00", id="garbage"),
        pytest.param(b'{"code": "0000"}', id="JSON"),
        pytest.param(envelope("<code/>"), id="another element"),
        pytest.param(envelope(""), id="no element"),
        pytest.param(b'<e:Envelope xmlns:e="urn:soap:3"/>', id="another version"),
        pytest.param(envelope(f'<r:contractResponse xmlns:r="{SPACE}"/>', "1.2"), id="1.2 to 1.1"),
        pytest.param(envelope(f'<r:contractResponse xmlns:r="{SPACE}"><r:x/></r:contractResponse>'), id="unknown field"),
        pytest.param(envelope(f'<contractResponse xmlns="{SPACE}"><code>1</code><JE>viel</JE></contractResponse>'), id="no number"),
        pytest.param(envelope(f'<contractResponse xmlns="{SPACE}"><code>1</code><JE>1E999999</JE></contractResponse>'), id="a bomb of a number"),
        pytest.param(envelope(f'<contractResponse xmlns="{SPACE}"><code>1</code><BARQ>gestern</BARQ></contractResponse>'), id="no date"),
        pytest.param(envelope(f'<contractResponse xmlns="{SPACE}"><code>&y;</code></contractResponse>', before=DOCTYPE), id="entity of a file"),
        pytest.param(envelope(f'<contractResponse xmlns="{SPACE}"><code>&b;</code></contractResponse>', before=BOMB), id="entities"),
        pytest.param(envelope(f'<contractResponse xmlns="{SPACE}"><code>0</code></contractResponse>', before="<!DOCTYPE x>"), id="DOCTYPE"),
        pytest.param(envelope("<a>" * 300 + "</a>" * 300), id="too deep"),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_the_wsdls(serve: Any, open_wire: Any, raw: bytes, caplog: Any) -> None:
    caplog.set_level("DEBUG")
    error = trouble(open_wire(serve(say(200, raw=raw)).url))
    assert "zeep" not in {record.name.partition(".")[0] for record in caplog.records}
    assert (type(error), error.code) == (Unknown, "answer_unreadable")


@pytest.mark.parametrize(("header", "wait"), [("Retry-After: 7\r\n", 7.0), ("", None)])
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_partner(serve: Any, open_wire: Any, status: int, header: str, wait: float | None) -> None:
    error = trouble(open_wire(serve(say(status, raw=b"x", headers=header)).url))
    assert isinstance(error, Unsent)
    assert (error.code, error.retry_after_s) == ("partner_busy", wait)


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "credentials_refused"), (403, "credentials_refused")]
    + [(status, "request_unsupported") for status in (301, 307, 400, 404, 405, 415)],
)
def test_an_operator_must_act(serve: Any, open_wire: Any, status: int, code: str) -> None:
    server = serve(say(status, raw=b"<html>", headers="Location: /elsewhere\r\n"))
    error = trouble(open_wire(server.url))
    assert (type(error), error.code) == (Misconfigured, code)
    assert len(server.seen) == 1


def test_nobody_listens(open_wire: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = trouble(open_wire(f"http://127.0.0.1:{port}"))
    assert (type(error), error.code) == (Unsent, "partner_unreachable")
    odd = trouble(open_wire("sftp://x"))
    assert (type(odd), odd.code) == (Misconfigured, "endpoint_invalid")


# Documents and WSDLs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        {"HTBH": "H1", "nonsense": PERSONAL},
        {"JE": 1.0},
        {"HTBH": "H1", "_soapheaders": [PERSONAL]},
        {"HTBH": "H1", "JE": float("nan")},
        {"HTBH": {"a": PERSONAL}},
        {"HTBH": "H1\x00"},
        {"HTBH": object()},
        [PERSONAL],
        PERSONAL,
    ],
)
def test_a_document_that_does_not_fit(serve: Any, open_wire: Any, document: object) -> None:
    server = serve(answer("<code>0000</code>"))
    error = trouble(open_wire(server.url), outgoing("1.1", document))
    assert (type(error), error.code) == (Misconfigured, "document_unsendable")
    assert server.connections == 0


def test_names_are_answered_with_the_right_ones(serve: Any, open_wire: Any) -> None:
    server = serve(answer("<code>0000</code>"))
    wire = open_wire(server.url)
    unknown = trouble(wire, outgoing(options={"port": "Soap13"}))
    assert unknown.code == "wsdl_invalid"
    assert "Soap11, Soap12" in unknown.en
    unknown = trouble(wire, outgoing(operation="dropTable"))
    assert unknown.code == "wsdl_invalid"
    assert ", ".join(OPERATIONS) in unknown.en
    assert trouble(wire, outgoing(wsdl="")).code == "wsdl_invalid"


@pytest.mark.parametrize("location", ["http://127.0.0.1:{port}/x.xsd", "../../../outside.xsd", "/etc/passwd", "no.xsd"])
def test_a_wsdl_reads_files_of_the_project_only(serve: Any, open_wire: Any, root: Path, location: str) -> None:
    server = serve(say(200, raw=XSD.encode()))
    (root.parent / "outside.xsd").write_text(XSD, "utf-8")
    place = root / "schemas/housing/housing.wsdl"
    address = location.format(port=server.listener.getsockname()[1])
    place.write_text(place.read_text("utf-8").replace("housing.xsd", address), "utf-8")
    with pytest.raises(Misconfigured) as caught:
        open_wire(server.url)(outgoing())
    assert caught.value.code == "wsdl_invalid"
    assert server.connections == 0


def test_a_working_secret_cannot_be_had_over_soap(open_wire: Any) -> None:
    auth = {"scheme": "national_two_step", "refresh_path": "/x", "secret_minutes": 30}
    wire = open_wire("http://127.0.0.1:9", {"housing": {"rid": "r", "appkey": "demo-appkey-0001"}})
    error = trouble(wire, outgoing(auth=auth))
    assert (type(error), error.code) == (Misconfigured, "auth_invalid")


# Threads, connections, the environment ---------------------------------------------------------------------------


def test_many_threads(serve: Any, open_wire: Any) -> None:
    def script(connection: socket.socket, seen: Seen) -> bool:
        number = etree.fromstring(seen.body).findtext(f".//{{{SPACE}}}HTBH")
        time.sleep(0.01)
        return answer(f"<code>{number}</code>")(connection, seen)

    server, results = serve(script), []
    wire = open_wire(server.url)

    def work(first: int) -> None:
        numbers = [str(number) for number in range(first, first + 5)]
        results.extend((number, wire(outgoing("1.1", {"HTBH": number})).document) for number in numbers)

    for _ in range(2):
        threads = [threading.Thread(target=work, args=(100 * i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 40
    assert all(document == {"code": number} for number, document in results)
    # New threads found the clients of those that are gone: their WSDL is read, their connections are open.
    assert server.connections <= 4


def test_nothing_is_begun_that_outlives_the_lease(serve: Any, open_wire: Any) -> None:
    server = serve(answer("<code>0000</code>"))
    wire = open_wire(server.url)
    error = trouble(wire, replace(outgoing(), until=time.monotonic() + 1))
    assert (type(error), error.code) == (Unsent, "lease_too_short")
    assert server.connections == 0
    assert wire(replace(outgoing(), until=time.monotonic() + 30)).status == 200


def test_a_manual_exchange_has_a_connection_of_its_own(serve: Any, open_wire: Any) -> None:
    server = serve(answer("<code>0000</code>"))
    wire = open_wire(server.url)
    for redelivery in ("idempotent", "idempotent", "manual"):
        wire(outgoing(redelivery=redelivery))
    assert [seen.headers.get("connection") for seen in server.seen] == [None, None, "close"]
    assert server.seen[0].connection == server.seen[1].connection


def test_after_a_failure_the_next_call_is_whole(serve: Any, open_wire: Any) -> None:
    turns = iter([say(200, raw=b" " * (ANSWER_LIMIT + 1)), say(503, raw=b"x" * 100_000), send_raw()])
    good = answer("<code>0000</code>")

    def script(connection: socket.socket, seen: Seen) -> bool:
        return next(turns, good)(connection, seen)

    wire = open_wire(serve(script).url)
    assert [trouble(wire).code for _ in range(3)] == ["answer_lost", "partner_busy", "answer_lost"]
    found: Incoming = wire(outgoing())
    assert found.document == {"code": "0000"}


def test_the_environment_has_no_say(serve: Any, open_wire: Any, monkeypatch: Any, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server = serve(answer("<code>0000</code>"))
    assert open_wire(server.url)(outgoing()).status == 200
    assert "authorization" not in server.seen[0].headers


@pytest.mark.parametrize(
    "options",
    [{"nonsense": 1}, {"headers": {"Authorization": "x"}}, {"security": {}}, {"encode": "rot13"}, {"path": "x"}],
)
def test_options_are_closed(options: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        checked(options)
