"""The SFTP wire: a document becomes a file that appears whole or not at all, and a partner's files are taken once each."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import logging
import posixpath
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import orjson

from connectors.protocols import plain_xml
from connectors.protocols.sftp_link import Declined, Denied, Link, LinkError, Links, Lost, Missing, Seen
from hub.errors import HubError, Misconfigured, Unknown, Unsent
from hub.model.declarations import Exchange, Partner
from hub.ports import Clock, FeedItem, Incoming, Outgoing

Format = Literal["xml_attributes", "xml_elements", "json"]

_T = TypeVar("_T")
_PLACE: Final = re.compile(r"\{(delivery_id|/[^{}]*)\}")
_SAFE: Final = re.compile(r"[\w()（）.-]{1,120}")
_OURS: Final = (".tmp", ".ok", ".reason.txt")
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LARGEST: Final = 32 * 1024 * 1024
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Letter:
    """Options of an exchange that delivers (``schemas/declarations/options_sftp.json``)."""

    name: str
    format: Format
    folder: str = ""


@dataclass(frozen=True, slots=True)
class _Box:
    """Options of an exchange that fetches."""

    pattern: str
    format: Format
    error_folder: str
    folder: str = ""
    ready: Literal["settled", "ok_file", "renamed"] = "settled"
    settle_s: float = 2.0
    order: Literal["name", "mtime"] = "name"
    max_bytes: int = _LARGEST
    taken: Literal["move", "delete", "leave"] = "move"
    done_folder: str = "done"
    lists: tuple[str, ...] = ()


class SftpWire:
    """`hub.ports.Transport` for files: one document, one file.

    The file is written beside its place as ``<name>.tmp``, brought to the server's disk where the server can, measured,
    and only then given its name. Everything after the connection stands is over within the partner's ``read_s``.

    Args:
        base_of: where a partner lives, ``sftp://user@host:port/path``.
        secrets: slug → what `sftp_link.Links` needs.
        clock: not needed; every wire is opened alike.
    """

    def __init__(
        self, base_of: Callable[[Partner], str], secrets: Mapping[str, Mapping[str, str]], clock: Clock
    ) -> None:
        del clock
        self._links = Links(base_of, secrets)

    def __call__(self, outgoing: Outgoing) -> Incoming:
        """Deliver the file, or (purpose ``query``) say whether it is there: 200 or 404.

        The answer is ``{"state": "written" | "already_there", "file", "bytes", "sha256"}``: a file with this name and
        this content counts as delivered, whoever wrote it.

        Raises:
            Unsent: ``partner_unreachable``, ``lease_too_short``, ``folder_missing``, ``write_refused`` (a full disk, a
                quota): no file has the final name.
            Unknown: ``answer_lost``: the connection broke after writing began.
            Misconfigured: ``file_exists_differs``, ``file_name_invalid``, ``folder_forbidden``, ``document_unsendable`` and
                those of `sftp_link.Links.lent`.
        """
        options = _Letter(**outgoing.exchange.options)  # type: ignore[arg-type]
        partner, content = outgoing.partner, _encoded(outgoing.document, options.format)
        address = self._links.address(partner)
        name = _filled(options.name, outgoing)
        path = address.below(_filled(options.folder, outgoing), name)
        with self._links.lent(partner) as link, link.within(partner.read_s):
            _in_time(outgoing)
            letter = _Delivery(link, outgoing.exchange, path, content)
            state = letter.found() if outgoing.purpose == "query" else letter.deliver()
        if not state:
            return Incoming(404)
        digest = hashlib.sha256(content).hexdigest()
        return Incoming(200, {"state": state, "file": name, "bytes": len(content), "sha256": digest})

    def close(self) -> None:
        """Close every connection that is kept."""
        self._links.close()


class _Delivery:
    """One file on its way."""

    def __init__(self, link: Link, exchange: Exchange, path: str, content: bytes) -> None:
        self._link = link
        self._exchange = exchange
        self._path = path
        self._content = content

    def found(self) -> str:
        """``already_there``, or empty when no file has the name."""
        same = self._asked(self._same, _unreachable())
        if same is False:
            raise Misconfigured(
                "file_exists_differs",
                f"Exchange {self._exchange.key}: a file of this name with other content is there; it was left alone.",
                f"{self._exchange.key}：同名文件已存在且内容不同，未作改动。",
            )
        return "already_there" if same else ""

    def deliver(self) -> str:
        """``written``, or ``already_there``."""
        if state := self.found():
            return state
        beside = f"{self._path}.tmp"
        self._asked(lambda: self._link.write(beside, self._content), _lost())
        written = self._asked(lambda: self._link.stat(beside), _lost())
        if written is None or written.size != len(self._content):
            self._clear(beside)
            raise _write_refused()
        self._asked(lambda: self._link.replace(beside, self._path), _lost())
        return "written"

    def _same(self) -> bool | None:
        """Whether what has the name is this very content; ``None`` when nothing has it."""
        there = self._link.stat(self._path)
        if there is None:
            return None
        if there.size != len(self._content):
            return False
        at = 0
        for chunk in self._link.chunks(self._path):
            if chunk != self._content[at : at + len(chunk)]:
                return False
            at += len(chunk)
        return at == len(self._content)

    def _asked(self, work: Callable[[], _T], lost: HubError) -> _T:
        """What the server says, in the hub's words."""
        trouble: HubError
        try:
            return work()
        except Lost:
            trouble = lost
        except Missing:
            trouble = folder_missing(self._exchange)
        except Denied:
            trouble = folder_forbidden(self._exchange)
        except LinkError:
            trouble = _write_refused()
        if not isinstance(trouble, Unknown):
            self._clear(f"{self._path}.tmp")
        raise trouble

    def _clear(self, beside: str) -> None:
        """Half a file is of no use to anyone; the next attempt would write over it."""
        if self._link.alive:
            with contextlib.suppress(LinkError):
                self._link.remove(beside)


class SftpFeed:
    """`hub.ports.Feed` over a folder: each file of the pattern once it is whole, under its name and digest.

    Files that end in ``.tmp``, ``.ok`` or ``.reason.txt`` are never taken. A file is whole when it looked the same twice,
    ``settle_s`` apart (both looks belong to one ``take``, so that it does not matter who took last time), or when its
    companion ``<name>.ok`` is there, or, for partners that rename, at once. What changes while it is read, or is gone
    then, is left for the next time. There is no mark: what is not settled is met again.

    Args:
        base_of: where a partner lives, ``sftp://user@host:port/path``.
        secrets: slug → what `sftp_link.Links` needs.
        clock: not needed; every feed is opened alike.
        sleep: waits between the two looks.
    """

    def __init__(
        self,
        base_of: Callable[[Partner], str],
        secrets: Mapping[str, Mapping[str, str]],
        clock: Clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        del clock
        self._links = Links(base_of, secrets)
        self._sleep = sleep
        # With "leave" files stay: what was settled in this process is not read again as long as it does not change.
        self._left: set[Seen] = set()

    def take(self, partner: Partner, exchange: Exchange, mark: str) -> Iterator[FeedItem]:
        """Every whole file, by name or by age. ``document`` is ``None`` where the content cannot be read.

        Raises:
            Unsent: ``partner_unreachable``, ``folder_missing``, ``answer_lost``.
            Misconfigured: ``file_forbidden`` after all files that could be read, ``folder_forbidden`` and those of
                `sftp_link.Links.lent`.
        """
        del mark
        box = _Box(**exchange.options)  # type: ignore[arg-type]
        forbidden = 0
        for seen in self._whole(partner, exchange, box):
            try:
                item = self._read(partner, exchange, box, seen)
            except Denied:
                forbidden += 1
                continue
            if item is not None:
                yield item
        if forbidden:
            raise Misconfigured(
                "file_forbidden",
                f"Exchange {exchange.key}: {forbidden} files may not be read by our user.",
                f"{exchange.key}：{forbidden} 个文件无读取权限。",
            )

    def settle(self, partner: Partner, exchange: Exchange, item: FeedItem) -> None:
        """Move the file to ``done_folder``, delete it or leave it; a file that has changed since is left for the next time."""
        box, seen = _Box(**exchange.options), _receipt(item)  # type: ignore[arg-type]
        if box.taken == "leave":
            self._left.add(seen)
            return
        digest = hashlib.sha256(item.raw).hexdigest()
        self._asked(partner, exchange, lambda link: _put_away(link, box, seen, digest))

    def refuse(self, partner: Partner, exchange: Exchange, item: FeedItem, code: str) -> None:
        """Move the file to ``error_folder``, the code beside it in ``<name>.reason.txt``."""
        box, seen = _Box(**exchange.options), _receipt(item)  # type: ignore[arg-type]
        digest = hashlib.sha256(item.raw).hexdigest()
        self._asked(partner, exchange, lambda link: _put_aside(link, box, seen, code, digest))

    def close(self) -> None:
        """Close every connection that is kept."""
        self._links.close()

    def _whole(self, partner: Partner, exchange: Exchange, box: _Box) -> list[Seen]:
        """Files that nobody writes any more, in the declared order."""
        first = self._look(partner, exchange, box)
        if first and box.ready == "settled":
            self._sleep(box.settle_s)
            first = self._look(partner, exchange, box) & first
        by_name = sorted(first, key=lambda seen: (seen.name, seen.path))
        return by_name if box.order == "name" else sorted(by_name, key=lambda seen: seen.mtime)

    def _look(self, partner: Partner, exchange: Exchange, box: _Box) -> set[Seen]:
        root = self._links.address(partner).path
        there = self._asked(
            partner,
            exchange,
            lambda link: [seen for folder in _folders(link, root, box.folder) for seen in link.files(folder)],
        )
        paths = {seen.path for seen in there}
        return {
            seen
            for seen in there
            if seen.regular
            and fnmatch.fnmatchcase(seen.name, box.pattern)
            and not seen.name.endswith(_OURS)
            and (box.ready != "ok_file" or f"{seen.path}.ok" in paths)
        } - self._left

    def _read(self, partner: Partner, exchange: Exchange, box: _Box, seen: Seen) -> FeedItem | None:
        """One file, or ``None`` if it is not what was seen, before and after reading."""
        if seen.size > box.max_bytes:
            log.warning("%s: a file over %d bytes is put aside", exchange.key, box.max_bytes)
            self._asked(partner, exchange, lambda link: _put_aside(link, box, seen, "file_too_large", ""))
            return None
        raw = self._asked(partner, exchange, lambda link: _content(link, seen), passing=(Denied,))
        if raw is None:
            log.info("%s: a file changed while it was read and is left for the next time", exchange.key)
            return None
        name = posixpath.relpath(
            seen.path, posixpath.join(self._links.address(partner).path or ".", _fixed(box.folder))
        )
        return FeedItem(f"{name}:{hashlib.sha256(raw).hexdigest()}", raw, _decoded(raw, box), receipt=seen)

    def _asked(
        self,
        partner: Partner,
        exchange: Exchange,
        work: Callable[[Link], _T],
        passing: tuple[type[LinkError], ...] = (),
    ) -> _T:
        """Work on a connection, what goes wrong on it said in the hub's words; ``passing`` goes through as it is."""
        trouble: HubError
        try:
            with self._links.lent(partner) as link, link.within(partner.read_s):
                return work(link)
        except passing:
            raise
        except Missing:
            trouble = folder_missing(exchange)
        except Denied:
            trouble = folder_forbidden(exchange)
        except Declined:
            trouble = _write_refused()
        except LinkError:
            trouble = _unreachable()
        raise trouble


def _content(link: Link, seen: Seen) -> bytes | None:
    """What stands in a file, if it is the file that was seen, from the first byte to the last."""
    raw = bytearray()
    try:
        for chunk in link.chunks(seen.path):
            raw += chunk
            if len(raw) > seen.size:
                return None
    except Missing:
        return None
    return bytes(raw) if len(raw) == seen.size and _unchanged(link, seen) else None


def _unchanged(link: Link, seen: Seen) -> bool:
    return link.stat(seen.path) == seen


def _put_away(link: Link, box: _Box, seen: Seen, digest: str) -> None:
    """Out of the partner's way, unless it is another file by now."""
    if not _unchanged(link, seen):
        return
    # First the companion: alone it would release the partner's next file of this name too early.
    if box.ready == "ok_file":
        link.remove(f"{seen.path}.ok")
    if box.taken == "delete":
        link.remove(seen.path)
    else:
        _move(link, seen, box.done_folder, digest)


def _put_aside(link: Link, box: _Box, seen: Seen, code: str, digest: str) -> None:
    """To the error folder, with its reason; the reason first, so that no file lies there without one."""
    if not _unchanged(link, seen):
        return
    aside = posixpath.join(seen.folder, box.error_folder)
    reason = code if _CODE.fullmatch(code) else "refused"
    link.make_folder(aside)
    link.write(posixpath.join(aside, f"{seen.name}.reason.txt"), f"{reason}\n".encode("ascii"))
    link.remove(f"{seen.path}.ok")
    _move(link, seen, box.error_folder, digest)


def _move(link: Link, seen: Seen, folder: str, digest: str) -> None:
    """Into a folder beside the file. A name that is taken there gets a piece of the digest; nothing is written over."""
    into = posixpath.join(seen.folder, folder)
    link.make_folder(into)
    for name in (seen.name, f"{seen.name}.{digest[:16] or seen.mtime}"):
        target = posixpath.join(into, name)
        if link.stat(target) is None:
            link.replace(seen.path, target)
            return
    # The same content under the same name was moved before: this is it again. Without a digest nobody knows.
    if digest:
        link.remove(seen.path)


def _folders(link: Link, root: str, declared: str) -> list[str]:
    """The folders that are meant: a part ``*`` stands for every folder at its place (one per district, say)."""
    found = [root or "."]
    for part in filter(None, declared.split("/")):
        if part == "*":
            found = [posixpath.join(above, name) for above in found for name in link.folders(above)]
        else:
            found = [posixpath.join(above, part) for above in found]
    if "*" not in declared.split("/"):
        return found
    return [folder for folder in found if link.stat(folder) is not None]


def _fixed(folder: str) -> str:
    """The part of a declared folder before the first ``*``: keys name what comes after it."""
    return folder.partition("*")[0].rstrip("/")


def _receipt(item: FeedItem) -> Seen:
    if not isinstance(item.receipt, Seen):
        message = "an item of another feed"
        raise TypeError(message)
    return item.receipt


def _encoded(document: object, wanted: Format) -> bytes:
    with contextlib.suppress(TypeError, plain_xml.NoPlainXml):
        if wanted == "json":
            return orjson.dumps(document)
        return plain_xml.write(document, "attributes" if wanted == "xml_attributes" else "elements")
    raise Misconfigured(
        "document_unsendable", f"The document cannot be written as {wanted}.", f"报文无法写成 {wanted}。"
    )


def _decoded(raw: bytes, box: _Box) -> object:
    with contextlib.suppress(orjson.JSONDecodeError, plain_xml.NoPlainXml):
        return orjson.loads(raw) if box.format == "json" else plain_xml.read(raw, frozenset(box.lists))
    return None


def _in_time(outgoing: Outgoing) -> None:
    """Connecting takes a while; what may now outlive the lease is not begun."""
    if time.monotonic() + outgoing.partner.longest_s > outgoing.until:
        raise Unsent("lease_too_short", "the lease is nearly over", "租约即将到期")


def _filled(template: str, outgoing: Outgoing) -> str:
    """A name or path with its placeholders filled: ``{delivery_id}``, or a JSON pointer into the document."""
    values = {found[0]: _value(found[1], outgoing) for found in _PLACE.finditer(template)}
    filled = _PLACE.sub(lambda found: values[found[0]], template)
    parts = [*values.values(), *(filled.split("/") if filled else ())]
    if any(not _SAFE.fullmatch(part) or not part.strip(".") for part in parts) or filled.endswith(_OURS):
        raise Misconfigured(
            "file_name_invalid",
            f"Exchange {outgoing.exchange.key}: {template} does not become a file name with this document.",
            f"{outgoing.exchange.key}：{template} 无法由报文得到文件名。",
        )
    return filled


def _value(place: str, outgoing: Outgoing) -> str:
    return outgoing.delivery_id if place == "delivery_id" else _pointed(outgoing.document, place)


def _pointed(document: object, pointer: str) -> str:
    at = document
    for part in pointer[1:].split("/"):
        if isinstance(at, Mapping):
            at = at.get(part)
        elif isinstance(at, list) and part.isascii() and part.isdigit() and int(part) < len(at):
            at = at[int(part)]
        else:
            return ""
    return str(at) if isinstance(at, str | int) else ""


def folder_missing(exchange: Exchange) -> Unsent:
    """A folder that was there may come back (a mount, a move): it is waited for, and the code says for what."""
    return Unsent(
        "folder_missing",
        f"Exchange {exchange.key}: the partner's folder {exchange.options.get('folder', '')} is not there.",
        f"{exchange.key}：对方目录 {exchange.options.get('folder', '')} 不存在。",
    )


def folder_forbidden(exchange: Exchange) -> Misconfigured:
    """Only the partner can change what our user may do."""
    return Misconfigured(
        "folder_forbidden",
        f"Exchange {exchange.key}: our user may not do that in the folder {exchange.options.get('folder', '')}.",
        f"{exchange.key}：我方用户对目录 {exchange.options.get('folder', '')} 权限不足。",
    )


def _write_refused() -> Unsent:
    return Unsent("write_refused", "The partner's server does not take the file.", "对方服务器拒绝写入文件。")


def _unreachable() -> Unsent:
    return Unsent("partner_unreachable", "The partner cannot be reached.", "无法连接对方。")


def _lost() -> Unknown:
    return Unknown("answer_lost", "The connection broke while the file was written.", "写文件时连接中断。")
