"""One SSH connection to an SFTP server: opened only to a host whose key is known, lent to one caller at a time."""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import logging
import posixpath
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

import paramiko
import paramiko.sftp
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from paramiko.message import Message

from hub.errors import HubError, Misconfigured, Unsent
from hub.model.declarations import Partner

CHUNK: Final = 32 * 1024

_IDLE_S: Final = 60.0
_TRUSTED_S: Final = 1.0
_T = TypeVar("_T")
log = logging.getLogger(__name__)


class LinkError(OSError):
    """What a server said, or that it says nothing more; without its words, which may name files and people."""


class Missing(LinkError):
    """No such file or folder."""


class Denied(LinkError):
    """Permission denied."""


class Declined(LinkError):
    """Any other refusal; the connection is good."""


class Lost(LinkError):
    """The connection broke or took too long: what was asked for last may or may not have been done."""


_STATUS: Final[Mapping[int, type[LinkError]]] = {
    paramiko.sftp.SFTP_NO_SUCH_FILE: Missing,
    paramiko.sftp.SFTP_PERMISSION_DENIED: Denied,
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A file at one look."""

    path: str
    size: int
    mtime: int
    regular: bool = True

    @property
    def name(self) -> str:
        """The last part of the path."""
        return posixpath.basename(self.path)

    @property
    def folder(self) -> str:
        """The path without its last part."""
        return posixpath.dirname(self.path)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a partner's files lie: ``sftp://user@host:port/path``."""

    host: str
    port: int
    user: str
    path: str

    def below(self, *parts: str) -> str:
        """A path below the partner's own."""
        return posixpath.join(self.path, *(part for part in parts if part)) or "."


class Link:
    """An open SFTP session. Every method raises the `LinkError` that says what became of it.

    Args:
        transport: connected, its host key checked, authenticated.
        within_s: how long the server has to open its SFTP subsystem.
    """

    def __init__(self, transport: paramiko.Transport, within_s: float) -> None:
        self._transport = transport
        self.used_at = time.monotonic()
        with self.within(within_s):
            self._channel = self._asked(lambda: transport.open_session(timeout=within_s))
            self._client = self._asked(self._subsystem)

    @property
    def alive(self) -> bool:
        """Whether nothing is known against using it again."""
        return bool(self._transport.is_active()) and not self._channel.closed

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Everything inside is over after so many seconds: then the connection is cut, and who waits gets `Lost`."""
        watch = threading.Timer(seconds, self._transport.close)
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()
            self.used_at = time.monotonic()

    def close(self) -> None:
        """Close the session and its connection."""
        self._transport.close()

    def stat(self, path: str) -> Seen | None:
        """The file at a path, or ``None``."""
        try:
            found = self._asked(lambda: self._client.stat(path))
        except Missing:
            return None
        return _seen(path, found)

    def files(self, folder: str) -> list[Seen]:
        """What lies in a folder; links are left out."""
        rows = self._asked(lambda: self._client.entries(folder))
        return [_seen(posixpath.join(folder, name), row) for name, row in rows if not stat.S_ISLNK(row.st_mode or 0)]

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder."""
        rows = self._asked(lambda: self._client.entries(folder))
        return sorted(name for name, row in rows if stat.S_ISDIR(row.st_mode or 0))

    def chunks(self, path: str) -> Iterator[bytes]:
        """A file's content, piece by piece."""
        file = self._asked(lambda: self._client.open(path, "rb"))
        with contextlib.closing(file):
            while chunk := self._asked(lambda: file.read(CHUNK)):
                yield chunk

    def write(self, path: str, content: bytes) -> None:
        """Write a file anew, each piece confirmed before the next; on the server's disk where the server can."""
        file = self._asked(lambda: self._client.open(path, "wb"))
        with contextlib.closing(file):
            for at in range(0, len(content), CHUNK):
                piece = content[at : at + CHUNK]
                self._asked(lambda piece=piece: file.write(piece))  # type: ignore[misc]
            self._asked(lambda: self._client.sync(file))

    def replace(self, old: str, new: str) -> None:
        """Give a file its final name in one step, over whatever has it, where the server can."""
        if "posix-rename@openssh.com" in self._client.offered:
            self._asked(lambda: self._client.posix_rename(old, new))
        else:
            self._asked(lambda: self._client.rename(old, new))

    def remove(self, path: str) -> None:
        """Remove a file; that there is none is well."""
        with contextlib.suppress(Missing):
            self._asked(lambda: self._client.remove(path))

    def make_folder(self, path: str) -> None:
        """Make a folder, unless it is there."""
        with contextlib.suppress(Declined):
            self._asked(lambda: self._client.mkdir(path))

    def _subsystem(self) -> _Client:
        self._channel.invoke_subsystem("sftp")
        return _Client(self._channel)

    def _asked(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except LinkError:
            raise
        except (OSError, EOFError, paramiko.SSHException, paramiko.SFTPError):
            pass
        raise Lost


class _Client(paramiko.SFTPClient):
    """A client that remembers what a server offers beyond SFTP 3, and survives names and words that are no UTF-8."""

    offered: frozenset[str] = frozenset()

    def _send_version(self) -> int:
        hello = Message()
        hello.add_int(3)
        self._send_packet(paramiko.sftp.CMD_INIT, hello)  # type: ignore[attr-defined]
        kind, raw = self._read_packet()  # type: ignore[attr-defined]
        if kind != paramiko.sftp.CMD_VERSION:
            raise paramiko.SFTPError
        answer = Message(raw)
        version, names = answer.get_int(), []
        while answer.get_remainder():
            names.append(answer.get_text())
            answer.get_binary()
        self.offered = frozenset(names)
        return version

    def _convert_status(self, message: Message) -> None:
        """Tell the code only: paramiko takes a server's words into its exception, and falls over those in GBK."""
        code = message.get_int()
        if code == paramiko.sftp.SFTP_EOF:
            raise EOFError
        if code != paramiko.sftp.SFTP_OK:
            raise _STATUS.get(code, Declined)

    def entries(self, folder: str) -> list[tuple[str, paramiko.SFTPAttributes]]:
        """What lies in a folder. What has a name that is no UTF-8 is left there, and counted in the log."""
        kind, message = self._request(paramiko.sftp.CMD_OPENDIR, folder)  # type: ignore[attr-defined]
        if kind != paramiko.sftp.CMD_HANDLE:
            raise paramiko.SFTPError
        handle, found, odd = message.get_binary(), [], 0
        with contextlib.suppress(EOFError):
            while True:
                _, message = self._request(paramiko.sftp.CMD_READDIR, handle)  # type: ignore[attr-defined]
                for _ in range(message.get_int()):
                    name = message.get_binary().decode("utf-8", "replace")
                    message.get_binary()
                    row = paramiko.SFTPAttributes._from_msg(message)  # type: ignore[attr-defined]  # noqa: SLF001
                    if "\ufffd" in name:
                        odd += 1
                    elif name not in (".", ".."):
                        found.append((name, row))
        self._request(paramiko.sftp.CMD_CLOSE, handle)  # type: ignore[attr-defined]
        if odd:
            log.warning("sftp: %d names in a folder are no UTF-8; those files are left where they are", odd)
        return found

    def sync(self, file: paramiko.SFTPFile) -> None:
        """Have the file on the server's disk, where the server can."""
        if "fsync@openssh.com" in self.offered:
            self._request(paramiko.sftp.CMD_EXTENDED, "fsync@openssh.com", file.handle)  # type: ignore[attr-defined]


class Links:
    """Connections by partner, lent to one caller at a time and kept: threads come and go with every drain.

    Args:
        base_of: where a partner lives, ``sftp://user@host:port/path``.
        secrets: slug → ``host_key`` (one ``type base64`` line per key) or ``known_hosts`` (a file); ``password`` or
            ``private_key`` (its text, with ``passphrase`` where it has one); ``username`` if the address names none.
    """

    def __init__(self, base_of: Callable[[Partner], str], secrets: Mapping[str, Mapping[str, str]]) -> None:
        self._base_of = base_of
        self._secrets = secrets
        self._idle: dict[str, list[Link]] = {}
        self._lock = threading.Lock()
        # It logs what a server says, file names included.
        logging.getLogger("paramiko").setLevel(logging.CRITICAL)

    def address(self, partner: Partner) -> Address:
        """Where a partner's files lie.

        Raises:
            Misconfigured: ``endpoint_invalid``.
        """
        try:
            found = _address(self._base_of(partner), self._secrets.get(partner.slug, {}).get("username", ""))
        except ValueError:
            found = None
        if found is None:
            raise Misconfigured(
                "endpoint_invalid",
                f"Partner {partner.slug}: the address is sftp://user@host:port/path, the password stands in the key file.",
                f"{partner.slug}：地址应为 sftp://user@host:port/path，口令写在密钥文件中。",
            )
        return found

    @contextlib.contextmanager
    def lent(self, partner: Partner) -> Iterator[Link]:
        """A connection of one's own for a while.

        Raises:
            Unsent: ``partner_unreachable``.
            Misconfigured: ``host_key_changed``, ``host_key_missing``, ``credentials_refused``, ``credentials_missing``,
                ``endpoint_invalid``.
        """
        link = self._kept(partner) or self._opened(partner)
        try:
            yield link
        finally:
            if link.alive:
                with self._lock:
                    self._idle.setdefault(partner.slug, []).append(link)
            else:
                link.close()

    def close(self) -> None:
        """Close every connection that is kept."""
        with self._lock:
            links = [link for kept in self._idle.values() for link in kept]
            self._idle.clear()
        for link in links:
            link.close()

    def _kept(self, partner: Partner) -> Link | None:
        """A connection that still answers; those that do not, and those that nobody needed for long, are closed."""
        while True:
            with self._lock:
                kept = self._idle.get(partner.slug)
                link = kept.pop() if kept else None
            if link is None or _answers(link, partner.connect_s):
                return link
            link.close()

    def _opened(self, partner: Partner) -> Link:
        address = self.address(partner)
        mine = _Credentials(partner.slug, self._secrets.get(partner.slug, {}))
        known = mine.host_keys(address)
        mine.check()
        transport = _connected(address, partner.connect_s)
        try:
            _greeted(transport, known, partner)
            _signed_in(transport, address, mine, partner.connect_s)
            return _session(transport, partner.connect_s)
        except HubError:
            transport.close()
            raise


@dataclass(frozen=True, slots=True)
class _Credentials:
    """What the key file holds for one partner."""

    slug: str
    secrets: Mapping[str, str] = field(repr=False)

    def check(self) -> None:
        if not self.secrets.get("password") and not self.secrets.get("private_key"):
            raise self._missing("credentials_missing", "password", "private_key")

    def host_keys(self, address: Address) -> frozenset[tuple[str, str]]:
        """(type, base64) of every key that the host may show. Without any, nothing is opened: trust is never learnt."""
        found: set[tuple[str, str]] = set()
        with contextlib.suppress(OSError, binascii.Error, ValueError, paramiko.SSHException):
            for line in self.secrets.get("host_key", "").splitlines():
                found |= {_key_line(line)} if line.strip() else set()
            if not found and self.secrets.get("known_hosts"):
                place = address.host if address.port == 22 else f"[{address.host}]:{address.port}"
                keys = paramiko.HostKeys(self.secrets["known_hosts"]).lookup(place)
                found |= {(name, key.get_base64()) for name, key in keys.items()} if keys else set()
        if not found:
            raise self._missing("host_key_missing", "host_key", "known_hosts")
        return frozenset(found)

    def private_key(self) -> paramiko.PKey | None:
        text = self.secrets.get("private_key")
        if not text:
            return None
        secret = (self.secrets.get("passphrase") or "").encode() or None
        with contextlib.suppress(ValueError, TypeError, StopIteration, UnsupportedAlgorithm, paramiko.SSHException):
            return _private_key(text.encode(), secret)
        raise Misconfigured(
            "credentials_missing",
            f"partners.{self.slug}.private_key cannot be read.",
            f"无法读取 partners.{self.slug}.private_key。",
        )

    def _missing(self, code: str, *names: str) -> Misconfigured:
        listed = " / ".join(f"partners.{self.slug}.{name}" for name in names)
        return Misconfigured(code, f"The key file lacks a usable {listed}.", f"密钥文件缺少可用的 {listed}。")


def _private_key(text: bytes, secret: bytes | None) -> paramiko.PKey:
    """A private key of any usual format, in the one that paramiko surely reads: it stumbles over some of OpenSSH's."""
    try:
        key: Any = serialization.load_ssh_private_key(text, secret)
    except ValueError:
        key = serialization.load_pem_private_key(text, secret)
    kinds: tuple[tuple[type, Any, serialization.PrivateFormat], ...] = (
        (ed25519.Ed25519PrivateKey, paramiko.Ed25519Key, serialization.PrivateFormat.OpenSSH),
        (ec.EllipticCurvePrivateKey, paramiko.ECDSAKey, serialization.PrivateFormat.TraditionalOpenSSL),
        (rsa.RSAPrivateKey, paramiko.RSAKey, serialization.PrivateFormat.TraditionalOpenSSL),
    )
    paramikos, form = next((made, form) for kind, made, form in kinds if isinstance(key, kind))
    plain = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    found: paramiko.PKey = paramikos.from_private_key(io.StringIO(plain.decode("ascii")))
    return found


def _address(base: str, user: str) -> Address | None:
    url = urlsplit(base)
    path, user = unquote(url.path), unquote(url.username or "") or user
    if not url.hostname or not user or url.scheme != "sftp" or url.password or ".." in path.split("/"):
        return None
    return Address(url.hostname, url.port or 22, user, path.rstrip("/") or ("/" if path else ""))


def _key_line(line: str) -> tuple[str, str]:
    """(type, base64) of ``[host] type base64 [comment]``."""
    words = line.split()
    at = next(i for i, word in enumerate([*words, "ssh-"]) if word.startswith(("ssh-", "ecdsa-", "sk-")))
    if at + 1 >= len(words):
        raise ValueError
    base64.b64decode(words[at + 1], validate=True)
    return words[at], words[at + 1]


def _connected(address: Address, within_s: float) -> paramiko.Transport:
    trouble: HubError
    try:
        connection = socket.create_connection((address.host, address.port), timeout=within_s)
        # Each write waits for its answer; without this it also waits 40 ms for the acknowledgement of its last segment.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = paramiko.Transport(connection)
    except (OSError, UnicodeError, paramiko.SSHException):
        trouble = _unreachable()
    else:
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = within_s
        return transport
    raise trouble


def _greeted(transport: paramiko.Transport, known: frozenset[tuple[str, str]], partner: Partner) -> None:
    """Exchange keys and look at the host's own. Nothing of ours has been shown to it before that."""
    options: Any = transport.get_security_options()
    names = {name for name, _ in known}
    names |= {"rsa-sha2-512", "rsa-sha2-256"} if "ssh-rsa" in names else set()
    options.key_types = sorted(options.key_types, key=lambda name: name not in names)
    trouble: HubError | None = None
    try:
        transport.start_client(timeout=partner.connect_s)
        key = transport.get_remote_server_key()
    except (OSError, EOFError, paramiko.SSHException):
        trouble = _unreachable()
    else:
        if (key.get_name(), key.get_base64()) not in known:
            trouble = Misconfigured(
                "host_key_changed",
                f"Partner {partner.slug}: the host shows a key that is not in the key file; nothing was sent.",
                f"{partner.slug}：对方主机密钥与密钥文件不符，未发送任何数据。",
            )
    if trouble is not None:
        raise trouble


def _signed_in(transport: paramiko.Transport, address: Address, mine: _Credentials, within_s: float) -> None:
    key, began = mine.private_key(), time.monotonic()
    trouble: HubError | None = None
    try:
        if key is not None:
            transport.auth_publickey(address.user, key)
        else:
            transport.auth_password(address.user, mine.secrets["password"], fallback=False)
    except paramiko.AuthenticationException:
        # The same exception tells of a refusal, of a connection that broke and of a server that says nothing.
        refused = transport.is_active() and time.monotonic() - began < within_s
        trouble = (
            Misconfigured("credentials_refused", "The partner refuses our credentials.", "对方拒绝我方凭据。")
            if refused
            else _unreachable()
        )
    except (OSError, EOFError, paramiko.SSHException):
        trouble = _unreachable()
    if trouble is None and not transport.is_authenticated():
        trouble = Misconfigured(
            "credentials_refused", "The partner wants more than one proof of us.", "对方要求多重认证。"
        )
    if trouble is not None:
        raise trouble


def _session(transport: paramiko.Transport, within_s: float) -> Link:
    link = None
    with contextlib.suppress(LinkError):
        link = Link(transport, within_s)
    if link is None:
        raise _unreachable()
    return link


def _answers(link: Link, within_s: float) -> bool:
    idle = time.monotonic() - link.used_at
    if not link.alive or idle > _IDLE_S:
        return False
    if idle > _TRUSTED_S:
        with contextlib.suppress(LinkError), link.within(within_s):
            link.stat(".")
            return True
        return False
    return True


def _seen(path: str, found: paramiko.SFTPAttributes) -> Seen:
    return Seen(path, found.st_size or 0, found.st_mtime or 0, stat.S_ISREG(found.st_mode or 0))


def _unreachable() -> Unsent:
    return Unsent("partner_unreachable", "The partner cannot be reached.", "无法连接对方。")
