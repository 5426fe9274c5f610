"""Every error of the hub, grouped by what we do about it.

Tree::

    HubError
    ├── Refused        the sender must mend it (4xx, SOAP Client/Sender)
    ├── Transient      we try again later (5xx with Retry-After, waiting)
    │   ├── Unsent     nothing reached the partner: always safe to send again
    │   └── Unknown    it may have reached the partner: the exchange's redelivery policy decides
    ├── Misconfigured  an operator must act (dead letter, failed check)
    └── Broken         our own evidence does not agree with itself

Each carries a stable ``code`` that documents, logs, SOAP faults and REST problems share. Texts never contain
the offending value: it may be personal.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of one document: where it is, what it is, in both languages.

    ``path`` is a JSON Pointer (``/QLR/0/ZJH``) or, for XML, ``/element/element``; empty for the whole document.
    """

    path: str
    code: str
    en: str
    zh: str


class HubError(Exception):
    """Root of the tree: a stable code and two texts, never a value."""

    def __init__(self, code: str, en: str, zh: str) -> None:
        super().__init__(f"{code}: {en}")
        self.code = code
        self.en = en
        self.zh = zh


class Refused(HubError):
    """The sender must mend it.

    Args:
        code: stable code of INTERFACES (``signature_invalid``, ``field_unknown`` …).
        en: English title.
        zh: Chinese title.
        status: the HTTP status that a REST caller sees.
        faults: every fault of the document at once.
    """

    def __init__(self, code: str, en: str, zh: str, status: int = 422, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(code, en, zh)
        self.status = status
        self.faults = faults


class Transient(HubError):
    """We try again. ``retry_after_s`` is what the other side asked for, if it did."""

    def __init__(self, code: str, en: str, zh: str, retry_after_s: float | None = None) -> None:
        super().__init__(code, en, zh)
        self.retry_after_s = retry_after_s


class Unsent(Transient):
    """Nothing reached the partner (connection refused, 429, 503): sending again cannot make a second effect."""


class Unknown(Transient):
    """The partner may have acted (timeout, reset, unreadable answer): the redelivery policy decides."""


class Misconfigured(HubError):
    """An operator must act; ``faults`` list everything that is wrong at once."""

    def __init__(self, code: str, en: str, zh: str, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(code, en, zh)
        self.faults = faults


class Broken(HubError):
    """Stored evidence does not agree with itself."""


@dataclass(slots=True)
class Faults:
    """Collects the faults of one document so that all are reported at once."""

    found: list[Fault] = field(default_factory=list)

    def add(self, path: str, code: str, en: str, zh: str) -> None:
        """Note one fault."""
        self.found.append(Fault(path, code, en, zh))

    def refuse(self) -> None:
        """Raise ``Refused`` with everything found, or return if nothing was.

        The problem's own code is that of the first fault (cheap checks come first).
        """
        if self.found:
            first = self.found[0]
            raise Refused(first.code, first.en, first.zh, 422, tuple(self.found))
