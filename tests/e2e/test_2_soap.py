"""The tax bureau's SOAP calls with a stock client (zeep), 1.1 and 1.2, against the running hub."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
import zeep
from zeep.exceptions import Fault
from zeep.transports import Transport

from tests.e2e.services import Services, application, wait_for

pytestmark = pytest.mark.e2e


class Signed(Transport):
    """zeep's transport with the four headers."""

    def __init__(self, hub: Services, service: str) -> None:
        super().__init__(session=hub.session)
        self._hub = hub
        self._service = service

    def post(self, address: str, message: bytes, headers: dict[str, str]) -> Any:
        """Sign the exact bytes."""
        signed = self._hub.headers("tax", self._service, "POST", urlsplit(address).path, message)
        return super().post(address, message, {**headers, **signed})


def client(hub: Services, port: str, service: str = "submitClearance") -> Any:
    """A zeep client of one port."""
    found = zeep.Client(f"{hub.gateway}/soap/tax?wsdl", transport=Signed(hub, service))
    return found.bind("TaxService", port)


@pytest.mark.parametrize("port", ["TaxSoap11", "TaxSoap12"])
def test_clearance_query_and_fault(hub: Services, port: str) -> None:
    hub.mood("tax", skip_callback=True)
    n = 300 + int(port[-2:])
    case = hub.apply(application(n)).json()["case"]
    assert wait_for(lambda: hub.states()[case]["waiting_for"] == "tax", 60)
    answer = client(hub, port).submitClearance(ywsldh=case, wszt="1", nsrxx=[{"nsrmc": "测试甲", "sphm": "SP-1"}])
    assert answer.code == "0000"
    again = client(hub, port).submitClearance(ywsldh=case, wszt="1", nsrxx=[{"nsrmc": "测试甲", "sphm": "SP-1"}])
    assert again.ticket == answer.ticket
    assert client(hub, port, "queryCase").queryCase(ywsldh=case) == "running"
    hub.mood("tax")
    with pytest.raises(Fault) as caught:
        client(hub, port).submitClearance(ywsldh=case, wszt="9")
    assert caught.value.detail.findtext("code") == "code_unknown"
    assert caught.value.detail.find("fault").get("path") == "/submitClearance/wszt"
    with pytest.raises(Fault) as caught:
        client(hub, port).submitClearance(ywsldh="no-such-case", wszt="1")
    assert caught.value.detail.findtext("code") == "case_unknown"
    assert wait_for(lambda: hub.states()[case]["state"] == "finished", 90)


def test_a_refused_clearance_is_in_the_ledger(hub: Services) -> None:
    before = len(hub.messages("--state", "refused", "--exchange", "clearance"))
    body = b'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><submitClearance xmlns="urn:dukou:tax:1"/></s:Body></s:Envelope>'
    answer = hub.call(
        "POST", "/soap/tax", body, caller="tax", service="submitClearance", **{"Content-Type": "text/xml"}
    )
    assert answer.status_code == 500
    assert b"/submitClearance/ywsldh" in answer.content
    rows = hub.messages("--state", "refused", "--exchange", "clearance")
    assert len(rows) == before + 1
    assert rows[0]["reason"] == "field_missing"
