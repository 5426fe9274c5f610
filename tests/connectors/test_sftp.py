"""The SFTP wire against a real SFTP server that can be slow, stubborn, changed or killed at any byte."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import asyncssh
import jsonschema
import pytest
from lxml import etree

from connectors.protocols.sftp import SftpFeed, SftpWire
from hub.errors import HubError, Misconfigured, Unknown, Unsent
from hub.model.declarations import Exchange, Partner
from hub.ports import FeedItem, Outgoing

ROOT = Path(__file__).parents[2]
DELIVERY = "0197f0a0000070008000000000000001"
PERSONAL = "测试甲"
PASSWORD = "password-of-the-test"
NUMBER = "510199260315000001"
DOCUMENT: dict[str, Any] = {
    "Message": {
        "Head": {"BizMsgID": NUMBER, "AreaCode": "510199", "CertCount": 0, "DigitalSign": ""},
        "Data": {
            "ZTT_GY_QLR": [{"QLRMC": PERSONAL, "SXH": 1}, {"QLRMC": f'{PERSONAL}<&">', "SXH": 2}],
            "QLF_QL_DYAQ": [{"BDBZZQSE": 60.5, "FJ": None}],
        },
    }
}
WRITTEN = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Message>'
    f"<Head><BizMsgID>{NUMBER}</BizMsgID><AreaCode>510199</AreaCode><CertCount>0</CertCount><DigitalSign></DigitalSign></Head>"
    f'<Data><ZTT_GY_QLR QLRMC="{PERSONAL}" SXH="1"/><ZTT_GY_QLR QLRMC="{PERSONAL}&lt;&amp;&quot;&gt;" SXH="2"/>'
    '<QLF_QL_DYAQ BDBZZQSE="60.5"/></Data></Message>'
).encode()
LETTER = {
    "folder": "{/Message/Head/AreaCode}/BizMsg",
    "name": "Biz{/Message/Head/BizMsgID}.xml",
    "format": "xml_attributes",
}
BOX = {"folder": "RepMsg", "pattern": "Rep*.xml", "format": "xml_attributes", "settle_s": 0.1, "error_folder": "error"}
ANSWER = f"<respond><BizMsgID>{NUMBER}</BizMsgID><SuccessFlag>1</SuccessFlag><CertID/></respond>".encode()


@dataclass
class Server:
    """A partner's server; ``on`` names what happens at an operation (``write``, ``read``, ``rename`` …)."""

    root: Path
    key: Any = field(default_factory=lambda: asyncssh.generate_private_key("ssh-ed25519"))
    on: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    port: int = 0
    signed_in: int = 0
    made: list[Any] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    handles: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.start()

    def start(self) -> None:
        self.listener = self.ask(self._listen())
        self.port = self.listener.get_port()

    def ask(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def stop(self) -> None:
        async def stop() -> None:
            self.listener.close()
            for conn in self.made:
                conn.abort()
                await conn.wait_closed()
            await self.listener.wait_closed()
            # A transport closes its socket in the round after.
            await asyncio.sleep(0.01)
            for handle in self.handles:
                handle.close()

        self.ask(stop())

    def close(self) -> None:
        async def rest() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.stop()
        self.ask(rest())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    @property
    def connections(self) -> int:
        return len(self.made)

    @property
    def url(self) -> str:
        return f"sftp://dukou@127.0.0.1:{self.port}"

    @property
    def host_key(self) -> str:
        return str(self.key.export_public_key("openssh").decode())

    async def _listen(self) -> Any:
        outer = self

        class Door(asyncssh.SSHServer):
            def connection_made(self, conn: Any) -> None:
                outer.made.append(conn)

            def begin_auth(self, username: str) -> bool:
                return True

            def password_auth_supported(self) -> bool:
                return True

            def validate_password(self, username: str, password: str) -> bool:
                outer.signed_in += 1
                return (username, password) == ("dukou", PASSWORD)

        return await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_host_keys=[self.key],
            server_factory=Door,
            sftp_factory=lambda chan: Files(chan, self),
        )


class Files(asyncssh.SFTPServer):
    def __init__(self, chan: Any, server: Server) -> None:
        self.server = server
        super().__init__(chan, chroot=str(server.root).encode())

    async def _happens(self, name: str) -> None:
        self.server.done.append(name)
        if name in self.server.on:
            found = self.server.on[name](self)
            if asyncio.iscoroutine(found):
                await found

    async def _after(self, name: str, found: Any) -> Any:
        await self._happens(f"after_{name}")
        return found

    async def open(self, path: bytes, pflags: int, attrs: Any) -> Any:
        await self._happens("open")
        self.server.handles.append(super().open(path, pflags, attrs))
        return self.server.handles[-1]

    async def write(self, file_obj: Any, offset: int, data: bytes) -> int:
        await self._happens("write")
        return super().write(file_obj, offset, data)  # type: ignore[return-value]

    async def read(self, file_obj: Any, offset: int, size: int) -> bytes:
        await self._happens("read")
        return await self._after("read", super().read(file_obj, offset, size))  # type: ignore[no-any-return]

    async def fsync(self, file_obj: Any) -> None:
        await self._happens("fsync")
        super().fsync(file_obj)

    async def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        await self._happens("posix_rename")
        super().posix_rename(oldpath, newpath)
        await self._happens("after_posix_rename")

    async def rename(self, oldpath: bytes, newpath: bytes) -> None:
        await self._happens("rename")
        super().rename(oldpath, newpath)

    async def stat(self, path: bytes) -> Any:
        await self._happens("stat")
        return super().stat(path)


def kill(files: Any) -> None:
    files.connection.abort()
    raise asyncssh.SFTPConnectionLost("killed")


def stubborn(code: type[asyncssh.SFTPError]) -> Callable[[Any], None]:
    def refuse(_files: Any) -> None:
        raise code(f"{PERSONAL} no")

    return refuse


async def asleep(_files: Any) -> None:
    await asyncio.sleep(30)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    for folder in ("510199/BizMsg", "RepMsg"):
        (tmp_path / "files" / folder).mkdir(parents=True)
    found = Server(tmp_path / "files")
    yield found
    found.close()


@pytest.fixture
def opened() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def secrets(server: Server, **changes: str) -> dict[str, dict[str, str]]:
    return {"huijiao": {"password": PASSWORD, "host_key": server.host_key, **changes}}


@pytest.fixture
def open_wire(server: Server, opened: contextlib.ExitStack) -> Callable[..., SftpWire]:
    def make(url: str = "", **changes: str) -> SftpWire:
        wire = SftpWire(lambda _: url or server.url, secrets(server, **changes), lambda: 0)
        opened.callback(wire.close)
        return wire

    return make


@pytest.fixture
def open_feed(server: Server, opened: contextlib.ExitStack) -> Callable[..., SftpFeed]:
    def make(sleep: Callable[[float], None] = time.sleep) -> SftpFeed:
        feed = SftpFeed(lambda _: server.url, secrets(server), lambda: 0, sleep)
        opened.callback(feed.close)
        return feed

    return make


def checked(options: dict[str, Any]) -> dict[str, Any]:
    """Options that the schema allows: what a test uses, a connector.yaml may say."""
    schema = json.loads((ROOT / "schemas/declarations/options_sftp.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(options, schema)
    return options


def exchange(**options: Any) -> Exchange:
    fetches = "pattern" in options
    return Exchange(
        partner="huijiao",
        name="report",
        title_zh="汇交",
        direction="fetch" if fetches else "deliver",
        lane="bulk",
        protocol="sftp",
        contract="",
        zones=("extranet",),
        source="domain.md §2",
        redelivery="query_first",
        options=checked(options),
    )


def partner(read_s: float = 10, connect_s: float = 10) -> Partner:
    return Partner("huijiao", "汇交", "Reporting", {}, connect_s, read_s, 2, {}, {})


def outgoing(document: Any = None, purpose: Any = "send", read_s: float = 10, **options: Any) -> Outgoing:
    document = DOCUMENT if document is None else document
    return Outgoing(partner(read_s), exchange(**{**LETTER, **options}), DELIVERY, document, purpose)


def trouble(work: Callable[[], object]) -> HubError:
    with pytest.raises(HubError) as caught:
        work()
    said = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    for secret in (PERSONAL, PASSWORD, "127.0.0.1:", NUMBER):
        assert secret not in said
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Delivering ------------------------------------------------------------------------------------------------------


def test_a_document_becomes_a_file(server: Server, open_wire: Any) -> None:
    incoming = open_wire()(outgoing())
    place = server.root / "510199/BizMsg"
    assert names(place) == [f"Biz{NUMBER}.xml"]
    raw = (place / f"Biz{NUMBER}.xml").read_bytes()
    assert raw.replace(b"<DigitalSign/>", b"<DigitalSign></DigitalSign>") == WRITTEN
    rows = etree.fromstring(raw).findall("Data/*")
    assert [row.get("QLRMC") for row in rows] == [PERSONAL, f'{PERSONAL}<&">', None]
    assert incoming.status == 200
    assert incoming.document == {
        "state": "written",
        "file": f"Biz{NUMBER}.xml",
        "bytes": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
    }
    order = [name for name in server.done if name in ("write", "fsync", "posix_rename")]
    assert order == ["write", "fsync", "posix_rename"]


def test_a_server_without_extensions(server: Server, open_wire: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(asyncssh.sftp.SFTPServerHandler, "_extensions", [])
    assert open_wire()(outgoing()).status == 200
    assert [name for name in server.done if "rename" in name or name == "fsync"] == ["rename"]


def test_again_is_well_and_other_content_is_not(server: Server, open_wire: Any) -> None:
    wire = open_wire()
    wire(outgoing())
    assert wire(outgoing()).document["state"] == "already_there"
    assert server.done.count("write") == 1
    other = {"Message": {**DOCUMENT["Message"], "Data": {"ZTT_GY_QLR": [{"QLRMC": "测试乙", "SXH": 1}]}}}
    same_size = json.loads(json.dumps(DOCUMENT).replace('"SXH": 2', '"SXH": 3'))
    for document in (other, same_size):
        error = trouble(lambda document=document: wire(outgoing(document)))
        assert (type(error), error.code) == (Misconfigured, "file_exists_differs")
        assert trouble(lambda document=document: wire(outgoing(document, "query"))).code == "file_exists_differs"
    assert (server.root / f"510199/BizMsg/Biz{NUMBER}.xml").read_bytes().count(b'SXH="2"') == 1


def test_a_query(server: Server, open_wire: Any) -> None:
    wire = open_wire()
    assert wire(outgoing(purpose="query")).status == 404
    wire(outgoing())
    incoming = wire(outgoing(purpose="query"))
    assert (incoming.status, incoming.document["state"]) == (200, "already_there")


def test_json_under_the_deliverys_name(server: Server, open_wire: Any) -> None:
    options = {"folder": "RepMsg", "name": "{delivery_id}.json", "format": "json"}
    open_wire(f"{server.url}/")(Outgoing(partner(), exchange(**options), DELIVERY, {"QLRMC": PERSONAL}))
    assert json.loads((server.root / f"RepMsg/{DELIVERY}.json").read_bytes()) == {"QLRMC": PERSONAL}
    deeper = open_wire(f"{server.url}/510199")
    deeper(Outgoing(partner(), exchange(folder="BizMsg", name="a", format="json"), DELIVERY, [1]))
    assert (server.root / "510199/BizMsg/a").read_bytes() == b"[1]"


@pytest.mark.parametrize("number", ["../x", "a/b", "..", ".", "", None, "a\x00", "x" * 200, {"a": 1}, "x.tmp", "a b"])
def test_a_name_cannot_leave_its_folder(server: Server, open_wire: Any, number: Any) -> None:
    document = {"Message": {"Head": {"BizMsgID": number, "AreaCode": "510199"}}}
    # A document that XML does not have is refused for that.
    error = trouble(lambda: open_wire()(outgoing(document, name="{/Message/Head/BizMsgID}", format="json")))
    assert (type(error), error.code) == (Misconfigured, "file_name_invalid")
    assert server.connections == 0


@pytest.mark.parametrize("document", [{"a": 1, "b": 2}, {}, [1], {"a b": 1}, {"a": "\x01"}, {"a": [[1]]}, {"a": float("inf")}, {"a": object()}])  # fmt: skip
def test_a_document_that_is_no_xml(server: Server, open_wire: Any, document: Any) -> None:
    error = trouble(lambda: open_wire()(outgoing(document, name="x.xml", folder="RepMsg")))
    assert (type(error), error.code) == (Misconfigured, "document_unsendable")
    assert server.connections == 0


def test_a_folder_that_vanished_and_came_back(server: Server, open_wire: Any) -> None:
    wire, place = open_wire(), server.root / "510199/BizMsg"
    wire(outgoing(name="first.xml"))
    shutil.rmtree(place)
    error = trouble(lambda: wire(outgoing()))
    assert (type(error), error.code) == (Unsent, "folder_missing")
    assert "huijiao/report" in error.zh
    place.mkdir()
    assert wire(outgoing()).status == 200
    assert server.connections == 1


@pytest.mark.parametrize(
    ("operation", "refusal", "kind", "code"),
    [
        ("write", asyncssh.SFTPFailure, Unsent, "write_refused"),
        ("fsync", asyncssh.SFTPFailure, Unsent, "write_refused"),
        ("posix_rename", asyncssh.SFTPFailure, Unsent, "write_refused"),
        ("open", asyncssh.SFTPPermissionDenied, Misconfigured, "folder_forbidden"),
        ("posix_rename", asyncssh.SFTPPermissionDenied, Misconfigured, "folder_forbidden"),
        ("stat", asyncssh.SFTPPermissionDenied, Misconfigured, "folder_forbidden"),
    ],
)
def test_a_server_that_refuses(
    server: Server, open_wire: Any, operation: str, refusal: Any, kind: type[HubError], code: str
) -> None:
    server.on[operation] = stubborn(refusal)
    wire = open_wire()
    error = trouble(lambda: wire(outgoing()))
    assert (type(error), error.code) == (kind, code)
    assert names(server.root / "510199/BizMsg") == []
    server.on.clear()
    assert wire(outgoing()).status == 200
    assert server.connections == 1


def test_words_in_gbk(server: Server, open_wire: Any, monkeypatch: Any) -> None:
    def encode(self: Any, version: int) -> bytes:
        return asyncssh.packet.UInt32(4) + asyncssh.packet.String("磁盘已满".encode("gbk")) + asyncssh.packet.String("")

    monkeypatch.setattr(asyncssh.SFTPError, "encode", encode)
    server.on["write"] = stubborn(asyncssh.SFTPFailure)
    server.on["stat"] = lambda _: None
    assert trouble(lambda: open_wire()(outgoing())).code == "write_refused"


# Connections -----------------------------------------------------------------------------------------------------


def test_nobody_is_there(server: Server, open_wire: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    wire = open_wire(f"sftp://dukou@127.0.0.1:{port}")
    error = trouble(lambda: wire(outgoing()))
    assert (type(error), error.code) == (Unsent, "partner_unreachable")


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad\r\n\r\n", b"SSH-2.0-x\r\n" + b"\x00" * 200])
def test_somebody_else_is_there(open_wire: Any, greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as one:
                one.sendall(greeting)
                one.recv(4096)
                time.sleep(0.1)

        thread = threading.Thread(target=answer)
        thread.start()
        sent = Outgoing(partner(connect_s=2), exchange(**LETTER), DELIVERY, DOCUMENT)
        wire = open_wire(f"sftp://dukou@127.0.0.1:{listener.getsockname()[1]}")
        error = trouble(lambda: wire(sent))
        thread.join()
    assert (type(error), error.code) == (Unsent, "partner_unreachable")


@pytest.mark.parametrize("url", ["http://127.0.0.1", "sftp://127.0.0.1", "sftp://a:b@127.0.0.1", "sftp://a@h:x", "sftp://a@h/../x", "", "sftp://a@[::1"])  # fmt: skip
def test_an_address_that_is_none(server: Server, opened: Any, url: str) -> None:
    wire = SftpWire(lambda _: url, secrets(server), lambda: 0)
    error = trouble(lambda: wire(outgoing()))
    assert (type(error), error.code) == (Misconfigured, "endpoint_invalid")


def test_a_host_key_that_changed(server: Server, open_wire: Any) -> None:
    wire = open_wire()
    assert wire(outgoing(name="a.xml")).status == 200
    server.stop()
    server.key = asyncssh.generate_private_key("ssh-ed25519")
    server.start()
    before = server.signed_in
    # The old connection is gone with the old server; the next one is not trusted.
    for connection in ("kept", "new"):
        error = trouble(lambda: wire(outgoing(name="b.xml")))
        assert (type(error), error.code) == (Misconfigured, "host_key_changed"), connection
    assert server.signed_in == before
    assert names(server.root / "510199/BizMsg") == ["a.xml"]
    both = open_wire(host_key=f"{wire._links._secrets['huijiao']['host_key']}\n{server.host_key}")
    assert both(outgoing(name="b.xml")).status == 200


def test_an_unknown_host_is_never_learnt(server: Server, open_wire: Any) -> None:
    for text in ("", "nonsense", "ssh-ed25519", "ssh-ed25519 !!!"):
        error = trouble(lambda text=text: open_wire(host_key=text)(outgoing()))
        assert (type(error), error.code) == (Misconfigured, "host_key_missing")
    assert server.connections == 0


def test_known_hosts(server: Server, open_wire: Any, tmp_path: Path) -> None:
    place = tmp_path / "known_hosts"
    place.write_text(f"[127.0.0.1]:{server.port} {server.host_key}")
    assert open_wire(host_key="", known_hosts=str(place))(outgoing()).status == 200
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key("openssh").decode()
    place.write_text(f"[127.0.0.1]:{server.port} {other}")
    assert trouble(lambda: open_wire(host_key="", known_hosts=str(place))(outgoing())).code == "host_key_changed"
    place.write_text(f"somewhere.else {server.host_key}")
    assert trouble(lambda: open_wire(host_key="", known_hosts=str(place))(outgoing())).code == "host_key_missing"
    missing = open_wire(host_key="", known_hosts=str(tmp_path / "none"))
    assert trouble(lambda: missing(outgoing())).code == "host_key_missing"


@pytest.mark.parametrize("kind", ["ssh-rsa", "ecdsa-sha2-nistp256"])
def test_other_kinds_of_host_keys(server: Server, open_wire: Any, kind: str) -> None:
    server.stop()
    server.key = asyncssh.generate_private_key(kind)
    server.start()
    assert open_wire()(outgoing()).status == 200


def test_credentials(server: Server, open_wire: Any) -> None:
    error = trouble(lambda: open_wire(password="wrong")(outgoing()))
    assert (type(error), error.code) == (Misconfigured, "credentials_refused")
    error = trouble(lambda: open_wire(password="")(outgoing()))
    assert (type(error), error.code) == (Misconfigured, "credentials_missing")
    error = trouble(lambda: open_wire(private_key="no key")(outgoing()))
    assert (type(error), error.code) == (Misconfigured, "credentials_missing")
    assert "partners.huijiao.private_key" in error.zh


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"])
def test_a_private_key(server: Server, open_wire: Any, kind: str) -> None:
    key = asyncssh.generate_private_key(kind)

    class Door(asyncssh.SSHServer):
        def connection_made(self, conn: Any) -> None:
            server.made.append(conn)

        def public_key_auth_supported(self) -> bool:
            return True

        def validate_public_key(self, username: str, shown: Any) -> bool:
            return username == "dukou" and shown == key.convert_to_public()

    server.stop()
    server.port = 0

    async def listen() -> Any:
        files = lambda chan: Files(chan, server)  # noqa: E731
        return await asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[server.key], server_factory=Door, sftp_factory=files
        )

    server.listener = server.ask(listen())
    server.port = server.listener.get_port()
    text = key.export_private_key("openssh").decode()
    assert open_wire(password="", private_key=text)(outgoing()).status == 200
    if kind != "ssh-ed25519":
        return
    # Opening a locked key takes its time, by design.
    locked = key.export_private_key("openssh", passphrase="open sesame").decode()
    assert open_wire(password="", private_key=locked, passphrase="open sesame")(outgoing(name="b.xml")).status == 200


def test_a_connection_is_kept_and_opened_again_when_it_is_dead(server: Server, open_wire: Any) -> None:
    wire = open_wire()
    for name in ("a.xml", "b.xml"):
        wire(outgoing(name=name))
    assert server.connections == 1
    server.on["stat"] = kill
    assert trouble(lambda: wire(outgoing(name="c.xml"))).code == "partner_unreachable"
    server.on.clear()
    assert wire(outgoing(name="c.xml")).status == 200
    assert server.connections == 2


def test_a_connection_that_died_unnoticed_is_asked_first(server: Server, open_wire: Any) -> None:
    wire = open_wire()
    wire(outgoing(name="a.xml"))
    (link,) = wire._links._idle["huijiao"]
    link.used_at -= 5
    server.on["stat"] = lambda files: (server.on.clear(), kill(files))[0]
    assert wire(outgoing(name="b.xml")).status == 200
    assert server.connections == 2
    (link,) = wire._links._idle["huijiao"]
    link.used_at -= 100
    assert wire(outgoing(name="c.xml")).status == 200
    assert server.connections == 3


def test_nothing_is_begun_that_outlives_the_lease(server: Server, open_wire: Any) -> None:
    wire = open_wire()
    error = trouble(lambda: wire(replace(outgoing(), until=time.monotonic() + 20)))
    assert (type(error), error.code) == (Unsent, "lease_too_short")
    assert names(server.root / "510199/BizMsg") == []
    assert wire(replace(outgoing(), until=time.monotonic() + 60)).status == 200


def test_threads_have_connections_of_their_own(server: Server, open_wire: Any) -> None:
    wire, states = open_wire(), []

    def work(number: int) -> None:
        for turn in range(3):
            states.append(wire(outgoing(name=f"{number}-{turn}.xml", read_s=30)).document["state"])  # noqa: PERF401

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states == ["written"] * 9
    assert len(names(server.root / "510199/BizMsg")) == 9
    assert server.connections <= 3


# Killed, slow, large ---------------------------------------------------------------------------------------------


def large(megabytes: int) -> dict[str, Any]:
    return {
        "Message": {
            "Head": DOCUMENT["Message"]["Head"],
            "Data": {"T": [{"A": "x" * 1000} for _ in range(megabytes * 1000)]},
        }
    }


@pytest.mark.parametrize("at", ["open", "write", "fsync", "posix_rename"])
def test_a_server_that_is_killed(server: Server, open_wire: Any, at: str) -> None:
    wire, sent = open_wire(), outgoing(large(1), name="big.xml")
    turns = iter([None] * (5 if at == "write" else 0))
    server.on[at] = lambda files: kill(files) if next(turns, "now") else None
    error = trouble(lambda: wire(sent))
    assert (type(error), error.code) == (Unknown, "answer_lost")
    assert "big.xml" not in names(server.root / "510199/BizMsg")
    server.on.clear()
    assert wire(outgoing(large(1), "query", name="big.xml")).status == 404
    assert wire(sent).document["state"] == "written"
    assert names(server.root / "510199/BizMsg") == ["big.xml"]


def test_an_answer_that_is_lost_after_the_name_was_given(server: Server, open_wire: Any) -> None:
    wire = open_wire()
    server.on["after_posix_rename"] = kill
    error = trouble(lambda: wire(outgoing()))
    assert (type(error), error.code) == (Unknown, "answer_lost")
    server.on.clear()
    assert wire(outgoing(purpose="query")).status == 200
    assert wire(outgoing()).document["state"] == "already_there"


@pytest.mark.parametrize(("at", "kind"), [("stat", Unsent), ("write", Unknown), ("posix_rename", Unknown)])
def test_a_server_that_is_slow(server: Server, open_wire: Any, at: str, kind: type[HubError]) -> None:
    server.on[at] = asleep
    wire, began = open_wire(), time.monotonic()
    error = trouble(lambda: wire(outgoing(read_s=0.7)))
    assert type(error) is kind
    assert time.monotonic() - began < 8
    assert names(server.root / "510199/BizMsg") in ([], [f"Biz{NUMBER}.xml.tmp"])
    server.on.clear()
    assert wire(outgoing(read_s=10)).status == 200


def test_drop_by_drop_is_slow_too(server: Server, open_wire: Any) -> None:
    async def slowly(_files: Any) -> None:
        await asyncio.sleep(0.15)

    server.on["write"] = slowly
    began = time.monotonic()
    error = trouble(lambda: open_wire()(outgoing(large(2), name="big.xml", read_s=1)))
    assert (type(error), error.code) == (Unknown, "answer_lost")
    assert time.monotonic() - began < 8


def test_twenty_megabytes(server: Server, open_wire: Any, open_feed: Any) -> None:
    document = ["x" * 1021] * (20 * 1024)
    options = {"folder": "RepMsg", "name": "big.json", "format": "json"}
    wire, sent = open_wire(), Outgoing(partner(120), exchange(**options), DELIVERY, document)
    tracemalloc.start()
    try:
        assert wire(sent).document["bytes"] == 20 * 1024 * 1024 + 1
        wrote = tracemalloc.get_traced_memory()[1]
        assert wire(sent).document["state"] == "already_there"
        compared = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # One copy of the bytes, in a buffer that grew by doubling; the server runs in this process and needs a little as well.
    assert wrote < 40 * 1024 * 1024
    assert compared < 40 * 1024 * 1024
    (server.root / "RepMsg/big.json").rename(server.root / "RepMsg/Rep.json")
    (item,) = open_feed().take(partner(120), exchange(**{**BOX, "pattern": "*.json", "format": "json"}), "")
    assert item.document == document


# Taking ----------------------------------------------------------------------------------------------------------


def take(feed: SftpFeed, **options: Any) -> list[FeedItem]:
    return list(feed.take(partner(), exchange(**{**BOX, **options}), ""))


def put(server: Server, name: str, content: bytes = ANSWER, folder: str = "RepMsg") -> Path:
    place = server.root / folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return place


def test_a_file_is_taken_and_settled(server: Server, open_feed: Any) -> None:
    put(server, f"Rep{NUMBER}.xml")
    feed = open_feed()
    (item,) = take(feed)
    assert item.key == f"Rep{NUMBER}.xml:{hashlib.sha256(ANSWER).hexdigest()}"
    assert item.raw == ANSWER
    assert item.document == {"respond": {"BizMsgID": NUMBER, "SuccessFlag": "1", "CertID": ""}}
    assert item.mark == ""
    # Not settled: another process meets it again, under the same key.
    (again,) = take(open_feed())
    assert again.key == item.key
    feed.settle(partner(), exchange(**BOX), item)
    assert names(server.root / "RepMsg") == ["done"]
    assert names(server.root / "RepMsg/done") == [f"Rep{NUMBER}.xml"]
    assert take(feed) == []
    feed.settle(partner(), exchange(**BOX), item)


def test_what_is_taken(server: Server, open_feed: Any) -> None:
    for name in ("Rep1.xml.tmp", "Rep2.tmp", "rep3.xml", "Other.xml", "Rep4.xml", "Rep5.xml.reason.txt", "Rep6.xml.ok"):
        put(server, name)
    (server.root / "RepMsg/Rep7.xml").mkdir()
    (server.root / "RepMsg/Rep8.xml").symlink_to("/etc/hostname")
    (server.root / os.fsdecode(b"RepMsg/Rep" + "九".encode("gbk") + b".xml")).write_bytes(ANSWER)
    feed = open_feed()
    assert [item.key.partition(":")[0] for item in take(feed)] == ["Rep4.xml"]
    assert [item.key.partition(":")[0] for item in take(feed, pattern="*")] == ["Other.xml", "Rep4.xml", "rep3.xml"]


def test_the_order(server: Server, open_feed: Any) -> None:
    for name, age in (("Rep1.xml", 10), ("Rep2.xml", 30), ("Rep3.xml", 10), ("Rep0.xml", 10)):
        os.utime(put(server, name), (1_700_000_000 - age,) * 2)
    feed = open_feed()

    def order(**options: Any) -> str:
        return "".join(item.key[3] for item in take(feed, **options))

    assert order() == "0123"
    assert order(order="mtime") == "2013"


def test_the_same_content_under_two_names(server: Server, open_feed: Any) -> None:
    put(server, "Rep1.xml")
    put(server, "Rep2.xml")
    keys = [item.key.split(":") for item in take(open_feed())]
    assert [name for name, _ in keys] == ["Rep1.xml", "Rep2.xml"]
    assert keys[0][1] == keys[1][1]


def test_the_same_name_again(server: Server, open_feed: Any) -> None:
    feed = open_feed()
    for content in (ANSWER, b"<respond/>", ANSWER, ANSWER):
        put(server, "Rep1.xml", content)
        (item,) = take(feed)
        assert item.raw == content
        feed.settle(partner(), exchange(**BOX), item)
    done = {path.name: path.read_bytes() for path in (server.root / "RepMsg/done").iterdir()}
    assert sorted(done.values()) == sorted([ANSWER, b"<respond/>", ANSWER])
    assert "Rep1.xml" in done


def test_a_file_that_is_still_written(server: Server, open_feed: Any) -> None:
    place = put(server, "Rep1.xml", ANSWER[:20])
    put(server, "Rep2.xml")

    def meanwhile(seconds: float) -> None:
        assert seconds == 0.1
        place.write_bytes(ANSWER[:40])

    assert [item.key[:8] for item in take(open_feed(meanwhile))] == ["Rep2.xml"]
    place.write_bytes(ANSWER)
    assert [item.raw for item in take(open_feed())] == [ANSWER, ANSWER]


def test_a_file_that_was_cut_is_handed_over_unread(server: Server, open_feed: Any) -> None:
    put(server, "Rep1.xml", ANSWER[:40])
    put(server, "Rep2.xml", b"")
    put(server, "Rep3.xml", b"<!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/hostname'>]><x>&y;</x>")
    put(server, "Rep4.xml")
    feed = open_feed()
    items = take(feed)
    assert [item.document is None for item in items] == [True, True, True, False]
    assert items[0].raw == ANSWER[:40]
    feed.refuse(partner(), exchange(**BOX), items[0], "malformed")
    error = server.root / "RepMsg/error"
    assert names(error) == ["Rep1.xml", "Rep1.xml.reason.txt"]
    assert (error / "Rep1.xml.reason.txt").read_bytes() == b"malformed\n"
    assert (error / "Rep1.xml").read_bytes() == ANSWER[:40]
    assert [item.key[:8] for item in take(feed)] == ["Rep2.xml", "Rep3.xml", "Rep4.xml"]
    feed.refuse(partner(), exchange(**BOX), items[1], f"{PERSONAL}")
    assert (error / "Rep2.xml.reason.txt").read_bytes() == b"refused\n"


def test_renamed_changed_or_gone_while_it_is_read(server: Server, open_feed: Any) -> None:
    size = 200_000
    place = put(server, "Rep1.xml", b"<a>" + b"x" * size + b"</a>")
    feed = open_feed()

    def at_the_third_read(change: Callable[[], object]) -> None:
        turns = iter([None, None])
        server.on["after_read"] = lambda _: change() if next(turns, "now") else None

    moved = place.with_name("elsewhere")
    changes: list[Callable[[], object]] = [
        lambda: place.rename(moved) if place.exists() else None,
        lambda: place.write_bytes(b"<a>" + b"y" * (size + 1) + b"</a>"),
        lambda: place.write_bytes(b"<a>cut"),
        lambda: place.unlink(missing_ok=True),
    ]
    for change in changes:
        at_the_third_read(change)
        assert take(feed) == []
        server.on.clear()
        if moved.exists():
            moved.rename(place)
    assert names(server.root / "RepMsg") == []


def test_a_file_that_changes_after_it_was_taken_is_left(server: Server, open_feed: Any) -> None:
    feed = open_feed()
    place = put(server, "Rep1.xml")
    (item,) = take(feed)
    place.write_bytes(b"<respond>new</respond>")
    for settled in ({}, {"taken": "delete"}):
        feed.settle(partner(), exchange(**BOX, **settled), item)
    feed.refuse(partner(), exchange(**BOX), item, "malformed")
    assert names(server.root / "RepMsg") == ["Rep1.xml"]
    (new,) = take(feed)
    assert new.key != item.key


def test_deleted_or_left(server: Server, open_feed: Any) -> None:
    feed = open_feed()
    put(server, "Rep1.xml")
    deleting, leaving = exchange(**BOX, taken="delete"), exchange(**BOX, taken="leave")
    (item,) = take(feed)
    feed.settle(partner(), deleting, item)
    assert names(server.root / "RepMsg") == []
    place = put(server, "Rep2.xml")
    (item,) = take(feed)
    feed.settle(partner(), leaving, item)
    assert names(server.root / "RepMsg") == ["Rep2.xml"]
    assert take(feed) == []
    place.write_bytes(b"<respond>new</respond>")
    assert len(take(feed)) == 1
    # Another process does not know: it meets the file again, and the hub knows the key.
    place.write_bytes(ANSWER)
    assert take(open_feed())[0].key == item.key


def test_a_companion_says_when(server: Server, open_feed: Any) -> None:
    def never(_seconds: float) -> None:
        raise AssertionError

    feed, options = open_feed(never), {**BOX, "ready": "ok_file"}
    put(server, "Rep1.xml")
    assert take(feed, ready="ok_file") == []
    put(server, "Rep1.xml.ok", b"")
    (item,) = take(feed, ready="ok_file")
    feed.settle(partner(), exchange(**options), item)
    assert names(server.root / "RepMsg") == ["done"]
    assert names(server.root / "RepMsg/done") == ["Rep1.xml"]
    put(server, "Rep2.xml")
    assert len(take(feed, ready="renamed")) == 1


def test_every_district_has_its_folder(server: Server, open_feed: Any) -> None:
    for area in ("510199", "510198"):
        put(server, "Rep1.xml", folder=f"{area}/RepMsg")
    feed = open_feed()
    items = take(feed, folder="*/RepMsg")
    assert [item.key.partition(":")[0] for item in items] == ["510198/RepMsg/Rep1.xml", "510199/RepMsg/Rep1.xml"]
    feed.settle(partner(), exchange(**{**BOX, "folder": "*/RepMsg"}), items[0])
    assert names(server.root / "510198/RepMsg/done") == ["Rep1.xml"]


def test_too_large(server: Server, open_feed: Any, caplog: Any) -> None:
    put(server, "Rep1.xml", b"<a>" + b"x" * 1000 + b"</a>")
    put(server, "Rep2.xml")
    assert [item.key[:8] for item in take(open_feed(), max_bytes=500)] == ["Rep2.xml"]
    assert names(server.root / "RepMsg/error") == ["Rep1.xml", "Rep1.xml.reason.txt"]
    assert (server.root / "RepMsg/error/Rep1.xml.reason.txt").read_bytes() == b"file_too_large\n"
    assert "Rep1" not in caplog.text


def test_a_directory_that_vanishes(server: Server, open_feed: Any) -> None:
    put(server, "Rep1.xml")
    place = server.root / "RepMsg"

    def gone(_seconds: float) -> None:
        place.rename(place.with_name("Other"))

    feed = open_feed(gone)
    for _ in range(2):
        error = trouble(lambda: take(feed))
        assert (type(error), error.code) == (Unsent, "folder_missing")
        assert "RepMsg" in error.en
    place.with_name("Other").rename(place)
    (item,) = take(open_feed())
    shutil.rmtree(place)
    feed.settle(partner(), exchange(**BOX), item)
    feed.refuse(partner(), exchange(**BOX), item, "malformed")


def test_files_that_may_not_be_read_do_not_stop_the_others(server: Server, open_feed: Any) -> None:
    for name in ("Rep1.xml", "Rep2.xml", "Rep3.xml"):
        put(server, name)
    turns = iter([True])
    server.on["open"] = lambda files: stubborn(asyncssh.SFTPPermissionDenied)(files) if next(turns, False) else None
    found: list[str] = []

    def work() -> None:
        found.extend(item.key[:8] for item in open_feed().take(partner(), exchange(**BOX), ""))

    error = trouble(work)
    assert (type(error), error.code) == (Misconfigured, "file_forbidden")
    assert found == ["Rep2.xml", "Rep3.xml"]


def test_a_server_that_is_killed_while_a_file_is_read(server: Server, open_feed: Any) -> None:
    put(server, "Rep1.xml")
    put(server, "Rep2.xml", b"<a>" + b"x" * 200_000 + b"</a>")
    turns = iter([None] * 3)
    server.on["read"] = lambda files: kill(files) if next(turns, "now") else None
    feed, found = open_feed(), []

    def work() -> None:
        for item in feed.take(partner(), exchange(**BOX), ""):
            found.append(item.key[:8])
            feed.settle(partner(), exchange(**BOX), item)

    error = trouble(work)
    assert (type(error), error.code) == (Unsent, "partner_unreachable")
    assert found == ["Rep1.xml"]
    server.on.clear()
    work()
    assert found == ["Rep1.xml", "Rep2.xml"]
    assert names(server.root / "RepMsg/done") == ["Rep1.xml", "Rep2.xml"]


def test_a_slow_source(server: Server, open_feed: Any) -> None:
    put(server, "Rep1.xml")
    server.on["read"] = asleep
    began = time.monotonic()
    error = trouble(lambda: list(open_feed().take(partner(read_s=0.7), exchange(**BOX), "")))
    assert (type(error), error.code) == (Unsent, "partner_unreachable")
    assert time.monotonic() - began < 8


@pytest.mark.parametrize(
    "options",
    [
        {"name": "x", "format": "pdf"},
        {"name": "../x", "format": "json"},
        {"name": "{/a/../b}", "format": "json"},
        {"pattern": "*", "format": "json"},
        {"pattern": "*", "format": "json", "error_folder": "../x"},
        {"pattern": "*", "format": "json", "error_folder": "e", "folder": "../x"},
        {"pattern": "*", "name": "x", "format": "json", "error_folder": "e"},
    ],
)
def test_options_are_closed(options: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        checked(options)


# OpenSSH ---------------------------------------------------------------------------------------------------------

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
PLACES = (
    os.environ.get("DUKOU_TEST_SFTP_SERVER", ""),
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
)
SFTP_SERVER = next((path for path in PLACES if path and Path(path).exists()), "")
needs_sftp_server = pytest.mark.skipif(not SFTP_SERVER, reason="no sftp-server of OpenSSH on this machine")


def a_whole_life(folder: Path, url: str, known: dict[str, dict[str, str]], opened: contextlib.ExitStack) -> None:
    (folder / "RepMsg").mkdir()
    wire, feed = SftpWire(lambda _: url, known, lambda: 0), SftpFeed(lambda _: url, known, lambda: 0)
    opened.callback(wire.close)
    opened.callback(feed.close)
    sent = outgoing(large(1), folder="RepMsg", name="Rep1.xml")
    state: Any = wire(sent).document
    assert state["state"] == "written"
    state = wire(sent).document
    assert state["state"] == "already_there"
    for turn in range(2):
        (item,) = take(feed)
        feed.settle(partner(), exchange(**BOX), item)
        assert len(names(folder / "RepMsg/done")) == turn + 1
        state = wire(sent).document
        assert state["state"] == "written"
    (item,) = take(feed)
    feed.refuse(partner(), exchange(**BOX), item, "malformed")
    assert names(folder / "RepMsg/error") == ["Rep1.xml", "Rep1.xml.reason.txt"]
    assert take(feed) == []
    shutil.rmtree(folder / "RepMsg")
    assert trouble(lambda: wire(sent)).code == "folder_missing"
    assert trouble(lambda: take(feed)).code == "folder_missing"


class Program(asyncssh.SSHServerSession):  # type: ignore[misc]
    """OpenSSH's own sftp-server behind asyncssh's SSH."""

    def connection_made(self, chan: Any) -> None:
        self.chan = chan

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp"

    def session_started(self) -> None:
        self.child = subprocess.Popen([SFTP_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pump = asyncio.ensure_future(self._pump())

    async def _pump(self) -> None:
        assert self.child.stdout is not None
        while raw := await asyncio.to_thread(self.child.stdout.read1, 65536):  # type: ignore[attr-defined]
            self.chan.write(raw)
        with self.child:
            pass

    def data_received(self, data: Any, datatype: Any) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(data)
        self.child.stdin.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.child.kill()


@needs_sftp_server
def test_the_sftp_server_of_openssh(server: Server, opened: contextlib.ExitStack) -> None:
    class Door(asyncssh.SSHServer):
        def connection_made(self, conn: Any) -> None:
            server.made.append(conn)

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == ("dukou", PASSWORD)

        def session_requested(self) -> Program:
            return Program()

    async def listen() -> Any:
        return await asyncssh.listen("127.0.0.1", 0, server_host_keys=[server.key], server_factory=Door, encoding=None)

    server.stop()
    server.listener = server.ask(listen())
    folder = server.root / "openssh"
    folder.mkdir()
    a_whole_life(folder, f"sftp://dukou@127.0.0.1:{server.listener.get_port()}{folder}", secrets(server), opened)


@needs_sftp_server
@pytest.mark.skipif(not SSHD, reason="no sshd on this machine")
def test_sshd(tmp_path: Path, opened: contextlib.ExitStack) -> None:
    host, mine = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (tmp_path / "host").write_bytes(host.export_private_key("openssh"))
    (tmp_path / "host").chmod(0o600)
    (tmp_path / "authorized").write_bytes(mine.export_public_key("openssh"))
    (tmp_path / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/authorized\n"
        f"StrictModes no\nUsePAM no\nPidFile none\nSubsystem sftp {SFTP_SERVER}\n"
    )
    daemon = subprocess.Popen([str(SSHD), "-D", "-e", "-f", tmp_path / "config"], stderr=subprocess.DEVNULL)
    opened.callback(daemon.wait)
    opened.callback(daemon.terminate)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and daemon.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            break
        time.sleep(0.05)
    if daemon.poll() is not None:
        pytest.skip("sshd does not start for this user (privilege separation)")
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    text = mine.export_private_key("openssh").decode()
    known = {"huijiao": {"host_key": host.export_public_key("openssh").decode(), "private_key": text}}
    a_whole_life(tmp_path, f"sftp://{user}@127.0.0.1:{port}{tmp_path}", known, opened)
