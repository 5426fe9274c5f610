"""The SOAP wire: an operation of a partner's WSDL called with plain values, and the answer or fault as plain values.

zeep knows the WSDL: it writes the envelope and reads the answer. It never touches the network: schemas come from files
of the project, and only `soap_http.Line` speaks HTTP.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from time import monotonic
from typing import Any, Final

import zeep
import zeep.exceptions
import zeep.helpers
import zeep.loader
import zeep.wsse
from lxml import etree

from connectors.protocols import plain_xml
from connectors.protocols.schemes import scheme_of
from connectors.protocols.soap_http import Line, Posting, Reply, answer_lost, credentials_refused, request_unsupported
from hub.errors import Misconfigured, Unknown, Unsent
from hub.model.declarations import Partner
from hub.ports import Clock, Incoming, Outgoing

ROOT: Final = Path(__file__).resolve().parents[2]

_ENVELOPES: Final = (
    "{http://schemas.xmlsoap.org/soap/envelope/}Envelope",
    "{http://www.w3.org/2003/05/soap-envelope}Envelope",
)
# WS-Security 1.1, section 12: the partner did not believe who we are.
_NOT_BELIEVED: Final = ("FailedAuthentication", "InvalidSecurityToken", "InvalidSecurity", "UnsupportedSecurityToken")
_OURS_TO_MEND: Final = ("Client", "Sender", "MustUnderstand", "VersionMismatch", "DataEncodingUnknown")
_CODE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_LONGEST_NUMBER: Final = 40
# What zeep raises for values and answers that do not fit: some of it its own, some of it whatever happened inside. Its
# words may quote values and are never chained to ours.
_NOT_THE_WSDL: Final = (
    zeep.exceptions.Error,
    etree.LxmlError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    AssertionError,
)


@dataclass(frozen=True, slots=True)
class _Options:
    """What ``schemas/declarations/options_soap.json`` allows, with its defaults."""

    port: str = ""
    path: str = ""
    body_arg: str = ""
    user_arg: str = ""
    encode: str = ""
    values: str = ""
    rows: plain_xml.Rows = "attributes"
    answer: str = "fields"
    lists: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    security: Mapping[str, Any] = field(default_factory=dict)
    fault_code: str = "code"
    query: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Fault:
    """A fault without its texts: those may quote what was sent."""

    code: str
    detail_code: str
    subcodes: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """The most precise code there is."""
        return self.detail_code or self.code

    @property
    def document(self) -> dict[str, object]:
        return {"fault": {"code": self.code, "detail_code": self.detail_code}}


class SoapWire:
    """`hub.ports.Transport` over SOAP 1.1 and 1.2, document or RPC style, by the partner's WSDL.

    zeep's clients are not safe between threads: each is lent to one caller at a time, and kept, because reading a WSDL is
    dear.

    Args:
        base_of: where a partner lives in this environment; the address in the WSDL is not used.
        secrets: slug → what the key file holds for that partner (``username`` and ``password`` for a UsernameToken).
        clock: wall clock.
        root: the directory below which WSDL and XSD files lie; nothing outside it is read.
    """

    def __init__(
        self,
        base_of: Callable[[Partner], str],
        secrets: Mapping[str, Mapping[str, str]],
        clock: Clock,
        root: Path = ROOT,
    ) -> None:
        self._base_of = base_of
        self._secrets = secrets
        self._clock = clock
        self._clients = _Clients(root)
        _quieten_zeep()

    def __call__(self, outgoing: Outgoing) -> Incoming:
        """Call the operation and give its answer; see `hub.ports.Transport` for what is raised.

        The answer is a dict of the response's fields: numbers as numbers, times as ISO texts, what is absent left out.
        A fault is given back as ``{"fault": {"code", "detail_code"}}``, status 400 when it says that the request is wrong;
        where the exchange declares an answer, the more precise code also stands where the answer's own code would. A
        fault of the partner's own side (Server, Receiver) is 500 if the exchange declares its code, else Unknown.

        Raises:
            Unsent: ``partner_unreachable``, ``partner_busy``, ``lease_too_short``.
            Unknown: ``answer_lost``, ``answer_unreadable``, ``partner_fault``.
            Misconfigured: ``credentials_refused``, ``credentials_missing``, ``endpoint_invalid``, ``certificate_untrusted``,
                ``request_unsupported``, ``query_undeclared``, ``document_unsendable``, ``wsdl_invalid``, ``auth_invalid``.
        """
        options = _Options(**outgoing.exchange.options)  # type: ignore[arg-type]
        partner = outgoing.partner
        headers = {**options.headers, **self._credentials(partner), "X-Delivery-Id": outgoing.delivery_id}
        with self._clients.lent(str(partner.wsdl)) as client:
            operation = client.operation(_operation_name(outgoing, options), options.port)
            arguments = self._arguments(outgoing, options)
            url = self._base_of(partner).rstrip("/") + options.path
            written = client.write(operation, url, arguments, self._token(partner, options))
            posting = Posting(
                url,
                written.message,
                {**written.headers, **headers},
                (partner.connect_s, partner.read_s),
                outgoing.exchange.redelivery == "manual",
            )
            _in_time(outgoing)
            reply = client.line.post(posting, self._clock())
            found = client.read(operation, reply, options.fault_code)
        if isinstance(found, _Fault):
            return _of_fault(found, reply, outgoing, options)
        return Incoming(reply.status, _of_text(found, options), _plain_headers(reply))

    def close(self) -> None:
        """Close every connection that is kept alive."""
        self._clients.close()

    def _credentials(self, partner: Partner) -> Mapping[str, str]:
        """HTTP headers of the partner's scheme; most SOAP partners declare ``none`` and look at the envelope."""

        def ask(path: str, document: object) -> object:
            del path, document
            raise Misconfigured(
                "auth_invalid",
                f"Partner {partner.slug}: a working secret cannot be asked for over SOAP.",
                f"{partner.slug}：SOAP 不支持换取会话密钥。",
            )

        return scheme_of(partner, self._secrets.get(partner.slug, {}), ask, self._clock).present("").headers

    def _token(self, partner: Partner, options: _Options) -> zeep.wsse.UsernameToken | None:
        declared = options.security.get("username_token")
        if declared is None:
            return None
        username, password = self._user(partner)
        created = datetime.fromtimestamp(self._clock() / 1000, UTC)
        return zeep.wsse.UsernameToken(  # type: ignore[no-untyped-call]
            username, password, use_digest=bool(declared.get("digest")), created=created, zulu_timestamp=True
        )

    def _user(self, partner: Partner) -> tuple[str, str]:
        mine = self._secrets.get(partner.slug, {})
        missing = [f"partners.{partner.slug}.{name}" for name in ("username", "password") if not mine.get(name)]
        if missing:
            listed = ", ".join(missing)
            raise Misconfigured("credentials_missing", f"The key file lacks {listed}.", f"密钥文件缺少 {listed}。")
        return mine["username"], mine["password"]

    def _arguments(self, outgoing: Outgoing, options: _Options) -> dict[str, object]:
        """What zeep is given: the document's fields, or one text, and the user where the partner wants one in the body."""
        if outgoing.purpose == "query":
            return {str(options.query["delivery_arg"]): outgoing.delivery_id}
        arguments: dict[str, object] = {}
        if options.user_arg:
            username, password = self._user(outgoing.partner)
            user = {options.user_arg.upper(): {"USERNAME": username, "PASSWORD": password}}
            arguments[options.user_arg] = _as_text(user, options)
        if options.body_arg:
            arguments[options.body_arg] = _as_text(outgoing.document, options)
        elif isinstance(outgoing.document, Mapping):
            arguments |= {str(name): _sendable(value) for name, value in outgoing.document.items()}
        else:
            raise _unsendable()
        # zeep gives a meaning of its own to names that begin so.
        if any(name.startswith("_") for name in arguments):
            raise _unsendable()
        return arguments


class _Unreadable(logging.Filter):
    """Makes an error of what zeep only notes in its log, with the value in it, before it goes on as if nothing stood there."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Never lets anything pass; the caller inside zeep gets the error."""
        del record
        raise ValueError


def _quieten_zeep() -> None:
    """Keep nothing of a log that may hold envelopes and values."""
    logging.getLogger("zeep").setLevel(logging.CRITICAL)
    values = logging.getLogger("zeep.xsd.types.simple")
    values.setLevel(logging.ERROR)
    if not any(isinstance(found, _Unreadable) for found in values.filters):
        values.addFilter(_Unreadable())


@dataclass(frozen=True, slots=True)
class _Written:
    """An envelope with the headers that belong to its version of SOAP."""

    message: bytes = field(repr=False)
    headers: Mapping[str, str]


class _LocalFiles(zeep.Transport):
    """zeep's door to the world, walled up: it reads files of the project and hands back what it would have posted."""

    def __init__(self, root: Path) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.session.close()
        self._root = root

    def load(self, url: str) -> bytes:
        """A WSDL or XSD file."""
        path = Path(url.removeprefix("file://")).resolve()
        if not path.is_relative_to(self._root):
            raise zeep.exceptions.ExternalReferenceForbidden(url)  # type: ignore[no-untyped-call]
        return path.read_bytes()

    def post_xml(self, address: str, envelope: etree._Element, headers: Mapping[str, str]) -> _Written:
        """What was to be posted."""
        del address
        return _Written(etree.tostring(envelope, xml_declaration=True, encoding="utf-8"), dict(headers))

    def close(self) -> None:
        """Nothing is open."""


class _Client:
    """One WSDL, read by zeep, and the line on which its operations are called."""

    def __init__(self, root: Path, wsdl: str) -> None:
        self.line = Line()
        settings = zeep.Settings(
            strict=True,
            raw_response=True,
            forbid_dtd=True,
            forbid_entities=True,
            forbid_external=True,
            force_https=False,
        )
        try:
            self._zeep = zeep.Client(  # type: ignore[no-untyped-call]
                str(root / wsdl), transport=_LocalFiles(root), settings=settings
            )
        except (zeep.exceptions.Error, etree.LxmlError, OSError, ValueError, AttributeError) as error:
            raise Misconfigured(
                "wsdl_invalid", f"{wsdl} cannot be read: {type(error).__name__}.", f"无法读取 {wsdl}。"
            ) from error
        self._wsdl = wsdl

    def operation(self, name: str, port: str) -> _Operation:
        """An operation by its name, in the version of SOAP that the port speaks."""
        ports = {
            found.name: found
            for service in self._zeep.wsdl.services.values()
            for found in service.ports.values()
            if hasattr(found.binding, "process_reply")
        }
        chosen = ports.get(port) if port else next(iter(ports.values()), None)
        if chosen is None:
            raise self._unknown("port", ports)
        if name not in chosen.binding.all():
            raise self._unknown("operation", chosen.binding.all())
        return _Operation(chosen.binding, name)

    def write(
        self,
        operation: _Operation,
        url: str,
        arguments: Mapping[str, object],
        token: zeep.wsse.UsernameToken | None,
    ) -> _Written:
        """The envelope."""
        self._zeep.wsse = token
        try:
            written = operation.binding.send(self._zeep, {"address": url}, operation.name, (), dict(arguments))
        except (
            zeep.exceptions.Error,
            etree.LxmlError,
            TypeError,
            ValueError,
            ArithmeticError,
            AttributeError,
            KeyError,
        ):
            written = None
        finally:
            self._zeep.wsse = None
        if not isinstance(written, _Written):
            raise _unsendable()
        return written

    def read(self, operation: _Operation, reply: Reply, fault_code: str) -> dict[str, object] | _Fault:
        """The answer's fields, or the fault."""
        if not reply.body.strip():
            if operation.silent and reply.status < 300:
                return {}
            raise answer_lost()
        root = _parsed(reply.body, self._zeep)
        fault = None if root is None else _fault(root, fault_code)
        if fault is not None:
            return fault
        if reply.status == 400:
            raise request_unsupported(reply.status)
        if reply.status >= 300:
            raise answer_lost()
        found = None if root is None else operation.fields(root)
        if found is None:
            raise _unreadable()
        return found

    def _unknown(self, what: str, known: Mapping[str, object]) -> Misconfigured:
        listed = ", ".join(known)
        return Misconfigured(
            "wsdl_invalid",
            f"{self._wsdl} has no such {what}; it has: {listed}.",
            f"{self._wsdl} 中无此 {what}；可用：{listed}。",
        )


class _Clients:
    """Clients that are lent to one caller at a time. Threads come and go with every drain; clients stay."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._idle: dict[str, list[_Client]] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def lent(self, wsdl: str) -> Iterator[_Client]:
        with self._lock:
            waiting = self._idle.setdefault(wsdl, [])
            client = waiting.pop() if waiting else None
        if client is None:
            if not wsdl:
                raise Misconfigured("wsdl_invalid", "The partner declares no soap.wsdl.", "未声明 soap.wsdl。")
            client = _Client(self._root, wsdl)
        try:
            yield client
        finally:
            with self._lock:
                self._idle[wsdl].append(client)

    def close(self) -> None:
        with self._lock:
            clients = [client for waiting in self._idle.values() for client in waiting]
        for client in clients:
            client.line.close()


class _Operation:
    """One operation of one binding."""

    def __init__(self, binding: Any, name: str) -> None:  # noqa: ANN401 # zeep's bindings carry no types
        self.binding = binding
        self.name = name
        self._operation = binding.get(name)

    @property
    def silent(self) -> bool:
        """Whether it answers nothing."""
        output = self._operation.output
        return output is None or output.body is None

    def fields(self, root: etree._Element) -> dict[str, object] | None:
        """The response's fields by name, ``None`` where they are not the WSDL's."""
        output = self._operation.output
        if self.silent:
            return {}
        try:
            (body,) = root.findall("soap-env:Body", namespaces={"soap-env": self.binding.nsmap["soap-env"]})
            # Not zeep's public way: that one takes the only field out of its element, and its only field out of that.
            value = output._deserialize_body(body)["body"] if self._is_expected(body) else None  # noqa: SLF001
            plain = _plain(zeep.helpers.serialize_object(value, dict))  # type: ignore[no-untyped-call]
        except _NOT_THE_WSDL:
            return None
        if plain is None or isinstance(plain, dict):
            return plain
        return {str(output.body.attr_name): plain}

    def _is_expected(self, body: etree._Element) -> bool:
        """Whether the body holds the declared element: zeep would read another as if it were empty. RPC may name it freely."""
        if self._operation.style == "rpc":
            return len(body) > 0
        wanted = self._operation.output.body.qname
        return wanted == etree.QName(body) or [child.tag for child in body][:1] == [wanted.text]


def _in_time(outgoing: Outgoing) -> None:
    """Reading a WSDL for the first time takes a while; what may now outlive the lease is not begun."""
    if monotonic() + outgoing.partner.longest_s > outgoing.until:
        raise Unsent("lease_too_short", "the lease is nearly over", "租约即将到期")


def _operation_name(outgoing: Outgoing, options: _Options) -> str:
    if outgoing.purpose == "send":
        return outgoing.exchange.operation
    if not options.query:
        key = outgoing.exchange.key
        raise Misconfigured("query_undeclared", f"Exchange {key} declares no query.", f"{key} 未声明查询操作。")
    return str(options.query["operation"])


def _as_text(document: object, options: _Options) -> str:
    """A document as one text argument: XML, as it is or in Base64."""
    raw: bytes | None = None
    with contextlib.suppress(plain_xml.NoPlainXml, UnicodeError):
        if isinstance(document, str):
            raw = document.encode()
        else:
            raw = plain_xml.write(document, options.rows, base64_values=options.values == "base64")
    if raw is None:
        raise _unsendable()
    return base64.b64encode(raw).decode("ascii") if options.encode == "base64" else raw.decode()


def _of_text(found: dict[str, object], options: _Options) -> dict[str, object]:
    """Where the answer is one text argument with XML in it: what stands in that XML."""
    if options.answer != "xml" or not found:
        return found
    (text, *more) = found.values()
    if not more and isinstance(text, str):
        with contextlib.suppress(binascii.Error, ValueError):
            raw = base64.b64decode("".join(text.split()), validate=True) if options.encode else text.encode()
            return plain_xml.read(raw, frozenset(options.lists), base64_values=options.values == "base64")
    raise _unreadable()


def _sendable(value: object) -> object:
    """Numbers as XML writes them (Python's own text may have an exponent); nothing that JSON does not have."""
    if isinstance(value, Mapping):
        return {str(name): _sendable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_sendable(one) for one in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _unsendable()
        return f"{Decimal(repr(value)):f}"
    if value is None or isinstance(value, str | int):
        return value
    raise _unsendable()


def _plain(value: object) -> object:
    """What zeep read, JSON-like: what is absent left out, numbers as numbers, times as ISO texts, bytes as Base64."""
    if isinstance(value, dict):
        plain = {name: _plain(one) for name, one in value.items()}
        return {name: one for name, one in plain.items() if one is not None and one != []}
    if isinstance(value, list):
        return [_plain(one) for one in value if one is not None]
    if value is None or isinstance(value, str | bool | int):
        return value
    return _plain_leaf(value)


def _plain_leaf(value: object) -> object:
    if isinstance(value, Decimal | float):
        return _number(value)
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, etree._Element):  # noqa: SLF001 # lxml's only name for the type
        return etree.tostring(value, encoding="unicode")
    return str(value)


def _number(value: Decimal | float) -> int | float:
    """A number of a sane size: an exponent of a million would fill the memory when it becomes an integer."""
    exact = value if isinstance(value, Decimal) else Decimal(repr(value))
    if not exact.is_finite() or abs(exact.adjusted()) > _LONGEST_NUMBER:
        raise ValueError
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return int(value)
    return float(value)


def _parsed(body: bytes, client: zeep.Client) -> etree._Element | None:
    """The envelope of an answer, of either version; ``None`` for what is none, or has a DOCTYPE."""
    try:
        # bytes, whatever zeep's annotation says: the encoding is the document's own.
        root = zeep.loader.parse_xml(body, client.transport, settings=client.settings)  # type: ignore[arg-type]
    except _NOT_THE_WSDL:
        return None
    return root if root is not None and root.tag in _ENVELOPES else None


def _fault(root: etree._Element, wanted: str) -> _Fault | None:
    """The fault of an answer of either version, read by local names: partners are careless with namespaces here."""
    name = etree.QName(root)
    faults = [
        found
        for body in root
        if _local(body) == "Body"
        for found in body
        if _local(found) == "Fault" and etree.QName(found).namespace == name.namespace
    ]
    if not faults:
        return None
    parts = {_local(part): part for part in faults[0]}
    code = parts.get("faultcode", parts.get("Code"))
    codes = [] if code is None else [_code(part.text) for part in code.iter() if _local(part) in ("faultcode", "Value")]
    detail = parts.get("detail", parts.get("Detail"))
    named = [] if detail is None else [_code(part.text) for part in detail.iter() if _local(part) == wanted]
    subcodes = tuple(codes[1:])
    return _Fault(
        codes[0] if codes else "", next((one for one in named if one), subcodes[-1] if subcodes else ""), subcodes
    )


def _local(element: etree._Element) -> str:
    is_element = isinstance(element.tag, str)  # type: ignore[redundant-expr,unused-ignore]  # not of an instruction
    return etree.QName(element).localname if is_element else ""


def _code(text: str | None) -> str:
    """The local part of a code; what does not look like one may be anything, also personal, and is not told."""
    found = (text or "").strip().rpartition(":")[2]
    return found if _CODE.fullmatch(found) else ""


def _of_fault(fault: _Fault, reply: Reply, outgoing: Outgoing, options: _Options) -> Incoming:
    if any(code in _NOT_BELIEVED for code in (fault.code, *fault.subcodes)):
        raise credentials_refused()
    told = (fault.told, fault.code)
    if outgoing.purpose == "query" and any(code in options.query.get("missing", ()) for code in told):
        return Incoming(404, fault.document, _plain_headers(reply))
    rule = outgoing.exchange.answer
    declared = rule is not None and fault.told in rule.codes
    ours = fault.code.partition(".")[0] in _OURS_TO_MEND
    if not ours and not declared:
        raise Unknown("partner_fault", "The partner answers with a fault of its own.", "对方返回自身故障。")
    document = fault.document if rule is None else _placed(fault.document, rule.code_at, fault.told)
    return Incoming(400 if ours else 500, document, _plain_headers(reply))


def _placed(document: dict[str, object], code_at: str, code: str) -> dict[str, object]:
    """The fault with its code also where the exchange's answers carry theirs: one declaration reads both."""
    *above, last = code_at.removeprefix("/").split("/")
    if code_at.startswith("/fault/"):
        return document
    at = document
    for name in above:
        inner: dict[str, object] = {}
        at[name] = inner
        at = inner
    at[last] = code
    return document


def _plain_headers(reply: Reply) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if name != "set-cookie"}


def _unsendable() -> Misconfigured:
    return Misconfigured(
        "document_unsendable", "The document does not fit the WSDL's operation.", "报文与 WSDL 操作不符。"
    )


def _unreadable() -> Unknown:
    return Unknown("answer_unreadable", "The partner's answer is no answer of its WSDL.", "对方应答与 WSDL 不符。")
