"""What the gateway needs from the rest of the hub: a desk that serves and reads, and a verifier of signatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from hub.errors import Refused
from hub.model.call import Call, Caller, Receipt
from hub.model.views import CaseView, MessageView, TimelineRow


class Verifier(Protocol):
    """Says who signed a request."""

    def verify(self, headers: Mapping[str, str], method: str, target: str, body: bytes) -> tuple[Caller, str]:
        """The caller and the sid that it used.

        Args:
            headers: header names in lower case.
            method: the HTTP method as sent.
            target: path with query exactly as sent, percent-encoding untouched.
            body: the body as sent.

        Raises:
            hub.errors.Refused: ``signature_invalid``, ``rtime_expired`` or ``caller_unknown``, status 401.
        """
        ...


class Desk(Protocol):
    """Everything that the gateway can ask of the hub. Every method may block: the gateway calls them in its threads.

    Raises:
        hub.errors.Refused: the caller must mend it (any method that takes a caller).
        hub.errors.Transient: busy; the caller is told to come again.
    """

    def serve(self, call: Call) -> Receipt:
        """Take one call on a ``serve`` exchange; it is durable when this returns."""
        ...

    def reject(self, call: Call, refusal: Refused) -> None:
        """Keep a call that the gateway had to refuse itself, because its document does not keep to the contract."""
        ...

    def case_state(self, caller: Caller, no: str) -> str:
        """The state of a case, by YWH or unified number."""
        ...

    def case(self, caller: Caller, no: str) -> CaseView:
        """One case, by YWH or unified number."""
        ...

    def timeline(self, caller: Caller, no: str) -> Sequence[TimelineRow]:
        """What happened in a case, oldest first."""
        ...

    def message(self, caller: Caller, message_id: str) -> MessageView:
        """One message of the caller's own traffic."""
        ...

    def search(self, caller: Caller, criteria: Mapping[str, object]) -> Sequence[MessageView]:
        """The caller's own traffic that meets the criteria."""
        ...

    def refused(self, code: str, caller: str) -> None:
        """Count a refusal that is not ledgered; ``caller`` is empty where nobody was authenticated."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """Figures by Prometheus sample name, labels included: ``dukou_messages{state="ready"}``."""
        ...

    def ready(self) -> bool:
        """Whether calls can be served now."""
        ...

    def known(self) -> Mapping[str, tuple[str, ...]]:
        """Partner to the names of its ``serve`` exchanges."""
        ...
