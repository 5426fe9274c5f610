import json
import shutil
import subprocess
from pathlib import Path

import pytest
import zeep
import zeep.exceptions
from lxml import etree

from hub.errors import Refused, Transient
from tests.gateway.conftest import CALLERS, ENVELOPES, NAMESPACE, envelope, signature

SUBMIT = f'<t:submitClearance xmlns:t="{NAMESPACE}"><t:ywsldh>1</t:ywsldh><t:wszt>1</t:wszt></t:submitClearance>'
QUERY = f'<t:queryCase xmlns:t="{NAMESPACE}"><t:ywsldh>{{}}</t:ywsldh></t:queryCase>'
MEDIA = {"1.1": "text/xml; charset=utf-8", "1.2": "application/soap+xml; charset=utf-8"}
VERSIONS = pytest.mark.parametrize("version", ["1.1", "1.2"])


def body_of(answer, version):
    assert answer.headers["content-type"] == MEDIA[version]
    root = etree.fromstring(answer.body)
    assert root.tag == f"{{{ENVELOPES[version]}}}Envelope"
    (child,) = root.find(f"{{{ENVELOPES[version]}}}Body")
    return child


def fault_of(answer, version):
    """(fault code, detail code, [(path, code)])"""
    fault = body_of(answer, version)
    space = f"{{{ENVELOPES[version]}}}"
    assert fault.tag == f"{space}Fault"
    if version == "1.1":
        value, detail = fault.findtext("faultcode"), fault.find("detail")
        zh, _, en = fault.findtext("faultstring").partition(" / ")
        assert zh
        assert en
    else:
        value, detail = fault.findtext(f"{space}Code/{space}Value"), fault.find(f"{space}Detail")
        texts = fault.findall(f"{space}Reason/{space}Text")
        assert [text.get("{http://www.w3.org/XML/1998/namespace}lang") for text in texts] == ["zh", "en"]
        subcode = fault.findtext(f"{space}Code/{space}Subcode/{space}Value")
        assert subcode.partition(":")[2] == detail.findtext("code")
    assert all(text.text for text in detail.findall("fault"))
    return value, detail.findtext("code"), [(row.get("path"), row.get("code")) for row in detail.findall("fault")]


@VERSIONS
def test_a_clearance_is_taken_and_answered_in_the_version_that_asked(gateway, version):
    answer = gateway.soap("submitClearance", SUBMIT, version)
    assert answer.status == 200
    element = body_of(answer, version)
    assert element.tag == f"{{{NAMESPACE}}}submitClearanceResponse"
    assert [(etree.QName(child).localname, child.text) for child in element] == [
        ("ticket", "00000001"),
        ("code", "0000"),
    ]
    (call,) = gateway.desk.calls
    assert (call.partner, call.exchange, call.document) == ("tax", "clearance", {"ywsldh": "1", "wszt": "1"})
    assert gateway.soap("submitClearance", SUBMIT, version).headers["idempotent-replayed"] == "true"


@VERSIONS
def test_a_state_is_asked(gateway, version):
    case = gateway.call("hall", "cases", "POST", "/api/v1/cases", {"SJ": [1]}).json["case"]
    element = body_of(gateway.soap("queryCase", QUERY.format(case), version), version)
    assert element.tag == f"{{{NAMESPACE}}}queryCaseResponse"
    assert element.findtext(f"{{{NAMESPACE}}}state") == "accepted"
    unknown = gateway.soap("queryCase", QUERY.format("404"), version)
    assert unknown.status == (500 if version == "1.1" else 400)
    assert fault_of(unknown, version)[1] == "case_unknown"


@pytest.mark.parametrize(("version", "sender", "status"), [("1.1", "soap:Client", 500), ("1.2", "env:Sender", 400)])
def test_every_fault_of_a_document_is_listed(gateway, version, sender, status):
    inner = f'<submitClearance xmlns="{NAMESPACE}"><ywsldh></ywsldh><nonsense/></submitClearance>'
    answer = gateway.soap("submitClearance", inner, version)
    assert answer.status == status
    value, code, faults = fault_of(answer, version)
    assert value == sender
    assert code == faults[0][1]
    assert set(faults) == {
        ("/submitClearance/ywsldh", "field_type"),
        ("/submitClearance/nonsense", "field_unknown"),
        ("/submitClearance/wszt", "field_missing"),
    }
    assert gateway.desk.calls == []
    assert gateway.desk.refusals == [(code, "tax")]


@pytest.mark.parametrize(("version", "receiver"), [("1.1", "soap:Server"), ("1.2", "env:Receiver")])
def test_our_own_failures_are_the_servers(gateway, version, receiver):
    gateway.desk.failure = Transient("locked", "locked", "锁", 7)
    answer = gateway.soap("submitClearance", SUBMIT, version)
    assert (answer.status, answer.headers["retry-after"]) == (500, "7")
    assert fault_of(answer, version)[:2] == (receiver, "busy")
    gateway.desk.failure = RuntimeError("测试甲")
    answer = gateway.soap("submitClearance", SUBMIT, version)
    assert answer.status == 500
    assert fault_of(answer, version)[:2] == (receiver, "internal")
    assert "测试甲" not in answer.body.decode()
    gateway.desk.failure = Refused("tenant_forbidden", "no", "否", 404)
    answer = gateway.soap("submitClearance", SUBMIT, version)
    assert answer.status == (500 if version == "1.1" else 400)
    assert fault_of(answer, version)[1] == "tenant_forbidden"


@VERSIONS
def test_who_may_not_is_told_by_a_fault(gateway, version):
    sender = "soap:Client" if version == "1.1" else "env:Sender"
    media = {"Content-Type": MEDIA[version]}
    unsigned = gateway.raw("POST", "/soap/tax", envelope(SUBMIT, version), media)
    assert unsigned.status == 401
    assert fault_of(unsigned, version)[:2] == (sender, "signature_invalid")
    foreign = gateway.soap("progress", SUBMIT, version, who="registry")
    assert foreign.status == 403
    assert fault_of(foreign, version)[:2] == (sender, "service_forbidden")
    uncovered = gateway.soap("queryCase", SUBMIT, version)
    assert uncovered.status == 403
    assert fault_of(uncovered, version)[:2] == (sender, "service_forbidden")
    body = envelope(SUBMIT, version)
    nowhere = gateway.call("tax", "submitClearance", "POST", "/soap/court", body, media)
    assert nowhere.status == 404
    assert fault_of(nowhere, version)[:2] == (sender, "partner_unknown")
    assert gateway.desk.calls == []


@VERSIONS
@pytest.mark.parametrize(
    ("inner", "code"),
    [
        ("", "malformed"),
        (SUBMIT + SUBMIT, "malformed"),
        ("text only", "malformed"),
        (f'<t:dropTable xmlns:t="{NAMESPACE}"/>', "exchange_unknown"),
        ("<submitClearance/>", "exchange_unknown"),
    ],
)
def test_bodies_that_are_no_call(gateway, version, inner, code):
    answer = gateway.soap("submitClearance", inner, version)
    assert answer.status == (500 if version == "1.1" else 400)
    assert fault_of(answer, version)[:2] == ("soap:Client" if version == "1.1" else "env:Sender", code)
    if code == "exchange_unknown":
        assert "queryCase, submitClearance" in answer.body.decode()


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"{}", "malformed"),
        (b"", "malformed"),
        (b"<a/>", "malformed"),
        (b"<!DOCTYPE a [<!ENTITY x 'y'>]>" + envelope(SUBMIT), "xml_doctype"),
        (b"<?xml version='1.0' encoding='nonsense'?>" + envelope(SUBMIT), "malformed"),
        (envelope(SUBMIT)[:-5], "malformed"),
    ],
)
def test_what_is_no_soap_is_a_client_fault_with_400(gateway, raw, code):
    answer = gateway.call("tax", "submitClearance", "POST", "/soap/tax", raw, {"Content-Type": "text/xml"})
    assert answer.status == 400
    assert fault_of(answer, "1.1")[:2] == ("soap:Client", code)


def test_an_envelope_of_another_namespace_is_a_version_mismatch(gateway):
    for version, media in MEDIA.items():
        body = envelope(SUBMIT, "urn:soap:2")
        answer = gateway.call("tax", "submitClearance", "POST", "/soap/tax", body, {"Content-Type": media})
        assert answer.status == 500
        prefix = "soap" if version == "1.1" else "env"
        assert fault_of(answer, version)[:2] == (f"{prefix}:VersionMismatch", "soap_version_mismatch")


@VERSIONS
def test_headers_that_must_be_understood(gateway, version):
    space = ENVELOPES[version]
    block = '<x:tongtechheader xmlns:x="urn:x" xmlns:e="{}" {}/>'
    answer = gateway.soap("submitClearance", SUBMIT, version, soap_headers=block.format(space, 'e:mustUnderstand="1"'))
    assert answer.status == 500
    value, code, faults = fault_of(answer, version)
    assert value.partition(":")[2] == "MustUnderstand"
    assert code == "soap_must_understand"
    assert faults == [("/Header/tongtechheader", "soap_must_understand")]
    role = "actor" if version == "1.1" else "role"
    for harmless in ("", 'e:mustUnderstand="0"', f'e:mustUnderstand="1" e:{role}="urn:someone-else"'):
        headers = block.format(space, harmless)
        assert gateway.soap("submitClearance", SUBMIT, version, soap_headers=headers).status == 200


def test_media_types_and_encodings(gateway):
    for media in ("", "application/xml", "text/xml;charset=UTF-8", "application/soap+xml; action=x"):
        assert gateway.soap("submitClearance", SUBMIT, headers={"Content-Type": media}).status == 200
    answer = gateway.soap("submitClearance", SUBMIT, headers={"Content-Type": "multipart/related"})
    assert answer.status == 415
    assert fault_of(answer, "1.1")[1] == "media_type_unsupported"
    assert gateway.soap("submitClearance", SUBMIT, headers={"Content-Encoding": "gzip"}).status == 415


def test_the_national_profile_signs_no_body(gateway):
    assert gateway.soap("submitClearance", SUBMIT, who="tax_national").status == 200


def test_the_wsdl_says_where_it_was_asked(gateway, serving):
    wsdl = gateway.raw("GET", "/soap/tax?wsdl", headers={"Host": "hub.example:81"})
    assert wsdl.status == 200
    assert wsdl.headers["content-type"] == "text/xml; charset=utf-8"
    text = wsdl.body.decode()
    assert text.count('location="http://hub.example:81/soap/tax"') == 2
    assert 'schemaLocation="http://hub.example:81/soap/tax?xsd=tax.xsd"' in text
    assert "127.0.0.1:8800" not in text
    assert gateway.raw("GET", "/soap/tax?WSDL").status == 200
    assert gateway.raw("GET", "/soap/tax?xsd=tax.xsd").status == 200
    odd = gateway.raw("GET", "/soap/tax?wsdl", headers={"Host": '"><x'}).body.decode()
    assert f'location="http://127.0.0.1:{gateway.port}/soap/tax"' in odd
    public = serving(public_url="https://hub.gov.invalid/").raw("GET", "/soap/tax?wsdl").body.decode()
    assert 'location="https://hub.gov.invalid/soap/tax"' in public


class Signing(zeep.Transport):
    """How an integration engineer signs with zeep: the bytes that go out are the bytes that are signed."""

    def __init__(self, caller, sid):
        super().__init__()
        self.caller = caller
        self.sid = sid

    def post(self, address, message, headers):
        target = "/" + address.split("/", 3)[3]
        return super().post(address, message, {**headers, **signature(self.caller, self.sid, "POST", target, message)})


@pytest.mark.parametrize("port", ["TaxSoap11", "TaxSoap12"])
def test_zeep_round_trip(gateway, port):
    transport = Signing(CALLERS["tax"], "s_s")
    client = zeep.Client(gateway.url("/soap/tax?wsdl"), transport=transport, port_name=port)
    answer = client.service.submitClearance(
        ywsldh="2026000001", wszt="1", thyy="", nsrxx=[{"nsrmc": "测试甲", "sjyzhj": "12.50"}]
    )
    assert (answer.ticket, answer.code) == ("00000001", "0000")
    assert gateway.desk.calls[0].document == {
        "ywsldh": "2026000001",
        "wszt": "1",
        "thyy": "",
        "nsrxx": [{"nsrmc": "测试甲", "sjyzhj": 12.5}],
    }
    with pytest.raises(zeep.exceptions.Fault) as refused:
        client.service.submitClearance(ywsldh="1" * 51, wszt="1")
    fault = refused.value
    assert fault.code == ("soap:Client" if port == "TaxSoap11" else "env:Sender")
    assert fault.detail.findtext("code") == "field_type"
    assert fault.detail.find("fault").get("path") == "/submitClearance/ywsldh"
    if port == "TaxSoap12":
        assert [name.localname for name in fault.subcodes] == ["field_type"]
    with pytest.raises(zeep.exceptions.Fault) as forbidden:
        client.service.queryCase(ywsldh="1")
    assert forbidden.value.detail.findtext("code") == "service_forbidden"
    transport.sid = "s_q"
    with pytest.raises(zeep.exceptions.Fault) as unknown:
        client.service.queryCase(ywsldh="1")
    assert unknown.value.detail.findtext("code") == "case_unknown"
    transport.session.close()


@pytest.mark.skipif(shutil.which("node") is None, reason="no other language here")
@VERSIONS
def test_a_client_of_another_language(gateway, version):
    caller = CALLERS["tax"]
    job = {
        "wsdl": gateway.url("/soap/tax?wsdl"),
        "rid": caller.rid,
        "sid": "s_s",
        "secret": caller.secret,
        "envelope": envelope(SUBMIT, version).decode(),
        "media": MEDIA[version],
    }
    script = Path(__file__).with_name("client.mjs")
    done = subprocess.run(
        ["node", script], input=json.dumps(job), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["location"] == gateway.url("/soap/tax")
    assert told["xsd"] == 200
    assert told["status"] == 200
    assert "<r:code>0000</r:code>" in told["body"]
